//! Finding damage, and making it good.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::owners::Owners;
use crate::owners::reach::Reach;
use crate::progress::{Control, Step};
use crate::snapshot::{self, LayerJob, SnapshotKind, remove_tree};
use crate::{Class, Digest, Error, Image, Result, Verifier};

use super::compare::difference;
use super::layers::LayerDocument;
use super::lease::{Lease, Root, Trash};
use super::snapshots::{SnapshotDocument, all_snapshots, backend_of};
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
    /// Compares every blob with its digest, and every unpacked layer with what its blob unpacks to. This takes as long as
    /// unpacking everything again, and for a while the space of one more layer.
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
        let trash = Trash::new(self);
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
        found.extend(self.examine_snapshots(&trash, repair)?);
        for record in self.index()?.records() {
            let digest = record.digest.clone();
            let result = Image::load(self, record).and_then(|image| image.check_blobs());
            if let Err(error) = result {
                found.push(Damage { subject: Subject::Image(digest), error, repaired: false });
            }
        }
        Ok(found)
    }

    /// Unpacks every layer again and compares. What is above a damaged layer is judged against the damaged one.
    fn examine_snapshots(&self, trash: &Trash, repair: bool) -> Result<Vec<Damage>> {
        let mut found = Vec::new();
        let lease = self.lease()?;
        let mut seen = HashSet::new();
        let mut images = self.index()?.records().into_iter().map(|r| r.digest).collect::<Vec<_>>();
        for key in self.layers()? {
            images.extend(LayerDocument::read(&self.path().join("layers").join(key)).map(|d| d.image));
        }
        let _reach = Reach::keep();
        for (kind, owners) in self.unpacked_for()? {
            let store = self.with(kind, owners);
            for digest in &images {
                // A damaged image is told of elsewhere, and its snapshots cannot be made again.
                let Ok(image) = Image::by_digest(&store, digest) else { continue };
                let chain_ids = image.config().chain_ids();
                lease.protect(chain_ids.iter().cloned().map(Root::Snapshot))?;
                for (index, chain_id) in chain_ids.iter().enumerate() {
                    let path = store.snapshot_path(chain_id);
                    if !path.exists() || !seen.insert(path.clone()) {
                        continue;
                    }
                    let below = store.chain_paths(&chain_ids[..index]);
                    let damage = store.snapshot_damage(&lease, &image, index, &below, &path)?;
                    let Some(error) = damage else { continue };
                    let chain_id = chain_id.hex().to_owned();
                    let mut repaired = false;
                    if repair {
                        let _guard = self.lock_exclusive()?;
                        if !self.is_mounted(&chain_id)? {
                            trash.discard(&path)?;
                            repaired = true;
                        }
                    }
                    let subject = Subject::Snapshot { backend: kind.to_string(), chain_id };
                    found.push(Damage { subject, error, repaired });
                }
            }
        }
        Ok(found)
    }

    /// Each backend and whose files its snapshots are, as far as there are any.
    fn unpacked_for(&self) -> Result<Vec<(SnapshotKind, Owners)>> {
        let mut found: Vec<(SnapshotKind, Owners)> = Vec::new();
        for path in all_snapshots(self)? {
            let (Ok(kind), Ok(document)) = (backend_of(&path).parse(), SnapshotDocument::read(&path)) else {
                continue;
            };
            if !found.contains(&(kind, document.owners.clone())) {
                found.push((kind, document.owners));
            }
        }
        Ok(found)
    }

    fn snapshot_damage(
        &self,
        lease: &Lease,
        image: &Image,
        index: usize,
        below: &[PathBuf],
        path: &Path,
    ) -> Result<Option<Error>> {
        let layer = &image.layers()[index];
        if !self.has_blob(&layer.digest, layer.size)? || !below.iter().all(|p| p.exists()) {
            return Ok(None);
        }
        let (store, digest) = (self.clone(), layer.digest.clone());
        let again = lease.fresh_directory()?;
        let job = LayerJob {
            open: Box::new(move || Ok(Box::new(store.open_blob(&digest)?))),
            diff_id: image.config().diff_ids[index].clone(),
            scratch: again.clone(),
            control: Control::default().layer(Step::Unpack, index, image.layers().len(), layer.size),
        };
        let backend = snapshot::snapshotter(self.backend(), self.owners());
        match snapshot::unpack(&*backend, below, vec![job], &mut |_, scratch| Ok(scratch.to_owned())) {
            Ok(()) => {}
            // The blob is damaged, or a layer below is. Both are told of by themselves.
            Err(error) if error.class() != Class::Io => return Ok(None),
            Err(error) => return Err(error),
        }
        let damage = match difference(&again, &path.join("data")) {
            Ok(None) => None,
            Ok(Some(reason)) => {
                let path = path.to_owned();
                Some(Error::DamagedSnapshot { path, reason })
            }
            // Collected meanwhile.
            Err(_) if !path.exists() => None,
            Err(error) => return Err(error),
        };
        remove_tree(&again)?;
        Ok(damage)
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
            let Ok(document) = LayerDocument::read(&path) else { continue };
            if !document.chain_ids.iter().any(|id| id.hex() == chain_id) {
                continue;
            }
            let Ok(file) = fs::File::open(&path) else { continue };
            if lock::try_exclusive(file).map_err(Error::io("lock", &path))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
