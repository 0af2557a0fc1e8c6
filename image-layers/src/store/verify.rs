//! Finding damage, and making it good.

use std::fs;

use crate::snapshot;
use crate::{Digest, Error, Image, Result, Verifier};

use super::lease::Lease;
use super::snapshots::{SnapshotDocument, all_snapshots};
use super::{Store, lock, names_in};

/// Something in a store that is not as it was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// What is damaged.
    pub subject: Subject,
    /// In which way.
    pub error: Error,
    /// Whether [`Store::repair`] has made it good, or taken it away so that it is made again when it is needed.
    pub repaired: bool,
}

/// What can be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// A blob. Importing its image again brings it back.
    Blob(Digest),
    /// An unpacked layer, by its backend and the hex of its ChainID. It is unpacked again from its blob.
    Snapshot {
        /// The backend's name.
        backend: String,
        /// The ChainID as hex.
        chain_id: String,
    },
    /// An image that lacks a blob.
    Image(Digest),
}

impl Store {
    /// Reads everything in the store and compares it with its digests and indexes. This takes as long as reading it takes.
    ///
    /// # Errors
    /// [`Error::Io`] when something cannot be read at all. Damage is no error, it is the result.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        self.examine(false)
    }

    /// As [`verify`](Store::verify), and takes away what is damaged: blobs, which importing the image again restores (the
    /// image stays listed meanwhile), and snapshots, which are unpacked again when they are needed. A snapshot under a
    /// writable layer that is in use stays.
    ///
    /// # Errors
    /// As [`verify`](Store::verify).
    pub fn repair(&self) -> Result<Vec<Damage>> {
        self.examine(true)
    }

    fn examine(&self, repair: bool) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        let trash = Lease::begin(self)?;
        for algorithm in ["sha256", "sha512"] {
            for name in names_in(&self.path().join("blobs").join(algorithm))? {
                let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else { continue };
                let Some(error) = self.blob_damage(&digest)? else { continue };
                if repair {
                    trash.discard(&self.blob_path(&digest))?;
                }
                found.push(Damage { subject: Subject::Blob(digest), error, repaired: repair });
            }
        }
        for path in all_snapshots(self)? {
            let name = |p: Option<&std::ffi::OsStr>| p.unwrap_or_default().to_string_lossy().into_owned();
            let (backend, chain_id) = (name(path.parent().and_then(|p| p.file_name())), name(path.file_name()));
            let result = SnapshotDocument::read(&path)
                .and_then(|_| backend.parse())
                .and_then(|kind| snapshot::snapshotter(kind).verify(&path.join("data")));
            let Err(error) = result else { continue };
            if !path.exists() {
                continue;
            }
            let mut repaired = false;
            if repair {
                let _guard = self.lock_exclusive()?;
                if !self.is_mounted(&chain_id)? {
                    trash.discard(&path)?;
                    repaired = true;
                }
            }
            found.push(Damage { subject: Subject::Snapshot { backend, chain_id }, error, repaired });
        }
        for record in self.index()?.records() {
            let digest = record.digest.clone();
            let result = Image::load(self, record).and_then(|image| image.check_blobs());
            if let Err(error) = result {
                found.push(Damage { subject: Subject::Image(digest), error, repaired: false });
            }
        }
        Ok(found)
    }

    fn blob_damage(&self, digest: &Digest) -> Result<Option<Error>> {
        let file = match self.open_blob(digest) {
            Err(Error::BlobNotFound { .. }) => return Ok(None),
            other => other?,
        };
        let path = self.blob_path(digest);
        let size = file.metadata().map_err(Error::io("stat", &path))?.len();
        let mut verifier = Verifier::new(file, "blob", digest.clone(), size);
        match std::io::copy(&mut verifier, &mut std::io::sink()) {
            Ok(_) => Ok(None),
            Err(e) => match Error::from_io("read", &path, e) {
                error @ Error::Io { .. } => Err(error),
                damage => Ok(Some(damage)),
            },
        }
    }

    /// Whether a writable layer over this snapshot is open somewhere. Under the exclusive lock.
    fn is_mounted(&self, chain_id: &str) -> Result<bool> {
        for key in self.layers()? {
            let path = self.path().join("layers").join(key);
            let Ok(document) = super::layers::LayerDocument::read(&path) else { continue };
            if !document.chain_ids.iter().any(|id| id.hex() == chain_id) {
                continue;
            }
            let Ok(file) = fs::File::open(&path) else { continue };
            if !lock::try_exclusive(&file).map_err(Error::io("lock", &path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

