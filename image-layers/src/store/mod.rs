//! The store: a directory that holds images, their unpacked layers and the writable layers of containers.
//!
//! # Layout on disk, version 1
//!
//! ```text
//! version              "image-layers store 1\n"; a store of another version is refused
//! oci-layout           \
//! index.json            } together an OCI image layout, so that every tool that reads one can read the images of a
//! blobs/sha256/HEX     /  store; index.json lists them, `org.opencontainers.image.ref.name` holding the full reference
//! snapshots/KIND/HEX/  an unpacked layer, named by its ChainID; in KIND-MAPS/ with the owners that it has in a user namespace
//!                      of certain id maps, MAPS being their fingerprint
//!     snapshot.json    its parent, its owners, and the boot in which it was written, while it is not known to be on the disk
//!     data/            what the snapshot backend KIND keeps: the tree or image file, and its index
//! layers/KEY/          the writable layer of a container
//!     layer.json       the image and ChainID it is over, and its owners
//!     data/            what the snapshot backend keeps: for overlay the upper and work directories
//! leases/ID/           what one piece of work uses: locked by its owner for as long as it lives
//!     roots            one line for each thing that garbage collection must leave alone
//!     ...              files and trees under construction
//! locks/NAME           taken by whoever makes the blob or snapshot NAME, so that it is made once
//! lock                 see below
//! boot                 the boot in which the store was opened last
//! ```
//!
//! # How nothing gets lost, half done or removed under somebody's feet
//!
//! - A blob, snapshot or writable layer is made inside of a lease directory and renamed to its place when it is complete
//!   and checked. What has a name is whole.
//! - All locks are `flock`s. They belong to open descriptors, so they go when their owner dies, however it dies, and they
//!   exclude threads as well as processes. Where a lock on a file that may be removed is taken, the taker looks whether the
//!   file is still there afterwards.
//! - `lock` is held for moments only: shared to begin a lease and to note roots in it, exclusively to change `index.json` and
//!   to collect garbage. A root is noted *before* one looks whether the thing exists, so either the collector sees the
//!   root, or the looker sees that the thing is gone.
//! - A lease that nobody holds any more is rubbish, with all in it; the next one that opens the store sweeps it away. What is
//!   removed is first moved there as a whole, which needs no space, and deleted without any lock.
//! - Blobs and `index.json` are synchronised to the disk before they get their names. Snapshots are not: that can cost as
//!   much as the unpacking, and they can be made again. They carry the boot in which they were written instead, and when
//!   the machine went down before [`Store::sync`] was called, the next open drops them. Writable layers are not waited
//!   for either, as little as what containers write there.

mod compare;
mod export;
mod gc;
pub(crate) mod import;
pub(crate) mod index;
pub(crate) mod ingest;
pub(crate) mod layer_writer;
mod layers;
mod lease;
mod lock;
mod snapshots;
mod usage;
mod verify;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use export::Export;
pub use gc::Collected;
pub use layers::{View, WritableLayer};
pub use lease::Lease;
pub use usage::{ImageUsage, LayerUsage, SnapshotUsage, Usage};
pub use verify::{Damage, Subject};

use crate::owners::Owners;
use crate::snapshot::{SnapshotKind, probe_snapshots};
use crate::{Digest, Error, Image, Reference, Result};

/// What the file `oci-layout` of an OCI image layout says.
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

const VERSION: &str = "image-layers store 1\n";

/// A directory of images, snapshots and writable layers. Clones are handles to the same store; any number of handles,
/// threads and processes can use one directory at once.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    kind: SnapshotKind,
    owners: Owners,
}

/// How to open a [`Store`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct StoreOptions {
    backend: Option<SnapshotKind>,
    owners: Option<Owners>,
}

impl StoreOptions {
    /// The snapshot backend that fits the host best.
    pub fn new() -> StoreOptions {
        StoreOptions::default()
    }

    /// Unpacks with this backend. By default the store asks the host: overlay where overlayfs can be mounted, else copy.
    pub fn backend(mut self, backend: SnapshotKind) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Unpacks for these owners. By default the store finds out what the caller can do, as [`Owners::of_caller`] says.
    pub fn owners(mut self, owners: Owners) -> Self {
        self.owners = Some(owners);
        self
    }

    /// Opens the store in `directory`, and makes it where the directory is missing or empty.
    ///
    /// # Errors
    /// As [`Store::open_or_create`].
    pub fn open_or_create(&self, directory: impl AsRef<Path>) -> Result<Store> {
        let directory = directory.as_ref();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(Error::io("create", directory))?;
        let path = directory.canonicalize().map_err(Error::io("open", directory))?;
        match fs::read_to_string(path.join("version")) {
            Ok(version) if version == VERSION => {}
            Ok(version) => {
                let reason = format!("its version is {:?}", version.trim_end());
                return Err(Error::NotAStore { path, reason });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(&path)?,
            Err(e) => return Err(Error::io("read", path.join("version"))(e)),
        }
        let kind = match self.backend {
            Some(kind) => kind,
            None => default_backend(&path),
        };
        let owners = match &self.owners {
            Some(owners) => owners.clone(),
            None => Owners::of_caller()?,
        };
        let store = Store { inner: Arc::new(Inner { path, kind, owners }) };
        store.recover()?;
        Ok(store)
    }
}

/// Overlay where it can be had, else copy. Where neither can, the first use says why.
fn default_backend(path: &Path) -> SnapshotKind {
    let probes = probe_snapshots(path);
    let usable = |kind| probes.iter().any(|p| p.kind == kind && p.refused.is_none());
    let kinds = [SnapshotKind::Overlay, SnapshotKind::Copy];
    kinds.into_iter().find(|kind| usable(*kind)).unwrap_or(SnapshotKind::Overlay)
}

/// Makes an empty store. Two processes may do so at once; `version` comes last, and all before can be done twice.
fn create(path: &Path) -> Result<()> {
    let mut present = fs::read_dir(path).map_err(Error::io("read", path))?;
    let ours = [
        "oci-layout",
        "index.json",
        "index.json.new",
        "blobs",
        "snapshots",
        "layers",
        "leases",
        "locks",
        "lock",
        "boot",
        "version",
        "version.new",
    ];
    if let Some(Ok(stranger)) =
        present.find(|e| !e.as_ref().is_ok_and(|e| ours.iter().any(|o| e.file_name() == *o)))
    {
        let reason = format!("the directory is not empty, it holds {:?}", stranger.file_name());
        return Err(Error::NotAStore { path: path.to_owned(), reason });
    }
    for name in ["blobs", "blobs/sha256", "blobs/sha512", "snapshots", "layers", "leases", "locks"] {
        make_directory(&path.join(name))?;
    }
    let _guard = lock::exclusive(&path.join("lock"))?;
    if path.join("version").exists() {
        return Ok(());
    }
    write_file(&path.join("oci-layout"), OCI_LAYOUT)?;
    index::create(path)?;
    // Renamed into place, so that nobody reads half of it.
    let new = path.join("version.new");
    write_file(&new, VERSION.as_bytes())?;
    fs::rename(&new, path.join("version")).map_err(Error::io("rename", &new))?;
    sync_directory(path)
}

impl Store {
    /// Opens the store in `directory`, and makes it where the directory is missing or empty.
    ///
    /// Opening sweeps away what killed processes left, and after a crash of the machine the snapshots that may not have
    /// reached the disk.
    ///
    /// # Errors
    /// [`Error::NotAStore`] for a directory that holds something else or a store of another version; [`Error::Io`].
    pub fn open_or_create(directory: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::new().open_or_create(directory)
    }

    /// Where the store is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// With which backend this handle unpacks.
    pub fn backend(&self) -> SnapshotKind {
        self.inner.kind
    }

    /// For whom this handle unpacks.
    pub fn owners(&self) -> &Owners {
        &self.inner.owners
    }

    /// The same store, unpacking for other owners.
    pub fn with_owners(&self, owners: Owners) -> Store {
        self.with(self.backend(), owners)
    }

    fn with(&self, kind: SnapshotKind, owners: Owners) -> Store {
        Store { inner: Arc::new(Inner { path: self.path().to_owned(), kind, owners }) }
    }

    /// All images, in the order in which they came.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidDocument`].
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for record in self.index()?.records() {
            // One that was removed and collected since is none any more; one that is damaged is for `verify` to tell.
            if let Ok(image) = Image::load(self, record) {
                images.push(image);
            }
        }
        Ok(images)
    }

    /// Finds an image by its name (completed as in [`Reference`]) or by the digest of its manifest.
    ///
    /// # Errors
    /// [`Error::ReferenceNotFound`], [`Error::InvalidReference`]; [`Error::BlobNotFound`] for a damaged store.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let index = self.index()?;
        let record = match name.parse::<Digest>() {
            Ok(digest) => index.by_digest(&digest),
            Err(_) => index.by_reference(&name.parse()?),
        };
        match record {
            Some(record) => Image::load(self, record),
            None => {
                let available = index.names();
                Err(Error::ReferenceNotFound { reference: name.to_owned(), available })
            }
        }
    }

    /// Gives an image of this store one more name. The name is taken from the image that had it.
    ///
    /// # Errors
    /// [`Error::ReferenceNotFound`] when the image is not in the store any more; [`Error::Io`].
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<()> {
        self.update_index(|index| match index.by_digest(image.digest()) {
            Some(mut record) => {
                record.references = vec![name.clone()];
                index.add(record);
                Ok(())
            }
            None => {
                let (reference, available) = (image.digest().to_string(), index.names());
                Err(Error::ReferenceNotFound { reference, available })
            }
        })
    }

    /// Removes a name; with its last name the image is removed too.
    ///
    /// Blobs and snapshots go with the next [`collect_garbage`](Store::collect_garbage), unless something else needs them.
    /// Containers over the image go on.
    ///
    /// # Errors
    /// [`Error::ReferenceNotFound`], [`Error::Io`].
    pub fn remove_reference(&self, name: &Reference) -> Result<()> {
        self.update_index(|index| match index.remove_reference(name) {
            true => Ok(()),
            false => Err(Error::ReferenceNotFound { reference: name.to_string(), available: index.names() }),
        })
    }

    /// Removes an image with all of its names.
    ///
    /// # Errors
    /// [`Error::ReferenceNotFound`] when it is gone already; [`Error::Io`].
    pub fn remove_image(&self, image: &Image) -> Result<()> {
        self.update_index(|index| match index.remove_digest(image.digest()) {
            true => Ok(()),
            false => Err(Error::ReferenceNotFound {
                reference: image.digest().to_string(),
                available: index.names(),
            }),
        })
    }

    /// Removes the whole store, with what containers wrote. An ordinary user with subordinate ids cannot do that by other means:
    /// files that were given to those ids are not his to remove.
    ///
    /// # Errors
    /// [`Error::InUse`] while a writable layer, lease or view is open in this or another process; then everything stays.
    /// [`Error::Io`].
    pub fn destroy(self) -> Result<()> {
        let _guard = self.lock_exclusive()?;
        for part in ["layers", "leases"] {
            let directory = self.path().join(part);
            for name in names_in(&directory)? {
                let path = directory.join(name);
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                if lock::try_exclusive_soon(file).map_err(Error::io("lock", &path))?.is_none() {
                    return Err(Error::InUse { what: format!("{}", path.display()) });
                }
            }
        }
        // Without its version it is no store any more, however far the rest gets.
        let version = self.path().join("version");
        fs::remove_file(&version).map_err(Error::io("remove", &version))?;
        crate::snapshot::remove_tree(self.path())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.path.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn lock_shared(&self) -> Result<lock::Guard> {
        lock::shared(&self.inner.path.join("lock"))
    }

    fn lock_exclusive(&self) -> Result<lock::Guard> {
        lock::exclusive(&self.inner.path.join("lock"))
    }

    /// What an open does before anything else: sweep dead leases, drop snapshots that a crash of the machine may have
    /// left incomplete.
    fn recover(&self) -> Result<()> {
        let trash = lease::Trash::new(self);
        let _guard = self.lock_exclusive()?;
        lease::discard_dead(self, &trash)?;
        snapshots::discard_unsynced(self, &trash)
    }
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a new file and synchronises it to the disk.
fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(Error::io("create", path))?;
    file.write_all(content).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// Makes the names in a directory lasting.
fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(Error::io("sync", path))
}

/// The names in a directory; none where it is missing.
fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("read", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
