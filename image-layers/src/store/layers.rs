//! Writable layers: what a container changes, over the snapshots of an image that nobody changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::owners::Owners;
use crate::progress::Control;
use crate::snapshot::{self, SnapshotKind};
use crate::{Digest, Error, Image, Result, RootfsMount, UnpackOptions};

use super::lease::{Lease, Root, Trash};
use super::{Store, lock, names_in};

/// `layer.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerDocument {
    pub(super) image: Digest,
    pub(super) chain_ids: Vec<Digest>,
    pub(super) backend: String,
    #[serde(default)]
    pub(super) owners: Owners,
}

/// The writable layer of one container. While it is open, no process can remove it.
///
/// Dropping it leaves the layer in the store, from where [`Store::layer`] gets it back by its key.
#[derive(Debug)]
pub struct WritableLayer {
    pub(crate) store: Store,
    key: String,
    image: Digest,
    chain_ids: Vec<Digest>,
    mount: RootfsMount,
    /// Locked, shared, for as long as this lives.
    lock: lock::Guard,
}

/// A read-only root filesystem of an image, kept for as long as this lives.
#[derive(Debug)]
pub struct View {
    mount: RootfsMount,
    _lease: Lease,
}

impl View {
    /// How to mount it.
    pub fn mount(&self) -> &RootfsMount {
        &self.mount
    }
}

impl Store {
    /// Makes a writable layer over `image` for a container called `key`, after unpacking what is not unpacked yet.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::KeyExists`]; whatever is wrong with the layers, as [`Error::Layer`];
    /// [`Error::Io`].
    pub fn prepare(&self, image: &Image, key: &str) -> Result<WritableLayer> {
        self.prepare_with(image, key, &UnpackOptions::new())
    }

    /// As [`prepare`](Store::prepare), with limits, a cancel flag and progress for the unpacking.
    ///
    /// # Errors
    /// As [`prepare`](Store::prepare); [`Error::LimitExceeded`], [`Error::Cancelled`].
    pub fn prepare_with(&self, image: &Image, key: &str, options: &UnpackOptions) -> Result<WritableLayer> {
        let place = self.layer_path(key)?;
        // A copy takes too long to keep others from changing the store meanwhile.
        if self.backend() != SnapshotKind::Copy {
            let rest = Trash::new(self);
            // Neither the snapshots nor the unfinished layer can be collected under the lock.
            let _guard = self.lock_shared()?;
            if let Some(layer) = self.make_layer(image, key, &place, || rest.fresh_directory())? {
                return Ok(layer);
            }
        }
        let lease = self.lease()?;
        self.unpack_under(&lease, image, &options.control)?;
        // Nor while the lease lives.
        let made = self.make_layer(image, key, &place, || lease.fresh_directory())?;
        made.ok_or_else(|| Error::BlobNotFound {
            digest: image.digest().clone(),
            path: self.path().to_owned(),
        })
    }

    /// Makes a writable layer over snapshots that are there, in a directory by `fresh`; `None` when one is missing.
    ///
    /// Nothing here waits for the disk, since containers should start quickly and what they write is not waited for either. A
    /// layer that was made right before the machine crashed may be unreadable afterwards, and is dropped then.
    fn make_layer(
        &self,
        image: &Image,
        key: &str,
        place: &Path,
        fresh: impl FnOnce() -> Result<PathBuf>,
    ) -> Result<Option<WritableLayer>> {
        let chain_ids = image.config().chain_ids();
        let chain = self.chain_paths(&chain_ids);
        let exists = || Error::KeyExists { key: key.to_owned() };
        if place.exists() {
            return Err(exists());
        }
        if !chain.iter().all(|path| path.exists()) {
            return Ok(None);
        }
        let scratch = fresh()?;
        let lock = File::open(&scratch).map_err(Error::io("open", &scratch))?;
        let lock = lock::try_shared(lock).map_err(Error::io("lock", &scratch))?.ok_or_else(exists)?;
        super::make_directory(&scratch.join("data"))?;
        let backend = snapshot::snapshotter(self.backend(), self.owners());
        check_depth(&backend.prepare(&chain, &scratch.join("data"))?)?;
        let document = LayerDocument {
            image: image.digest().clone(),
            chain_ids: chain_ids.clone(),
            backend: self.backend().to_string(),
            owners: self.owners().clone(),
        };
        let path = scratch.join("layer.json");
        let bytes = serde_json::to_vec(&document)
            .map_err(|e| Error::InvalidDocument { what: format!("layer {key}"), reason: e.to_string() })?;
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        match renameat_with(CWD, &scratch, CWD, place, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(exists()),
            Err(e) => return Err(Error::io("rename", place)(e)),
        }
        let mount = backend.mount(&chain, &place.join("data"))?;
        let (store, key, image) = (self.clone(), key.to_owned(), image.digest().clone());
        Ok(Some(WritableLayer { store, key, image, chain_ids, mount, lock }))
    }

    /// Opens the writable layer `key` again.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::KeyNotFound`]; [`Error::InUse`] while it is being removed; [`Error::Io`].
    pub fn layer(&self, key: &str) -> Result<WritableLayer> {
        let path = self.layer_path(key)?;
        let missing = || Error::KeyNotFound { key: key.to_owned() };
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(Error::io("open", &path)(e)),
        };
        let Some(lock) = lock::try_shared(lock).map_err(Error::io("lock", &path))? else {
            return Err(Error::InUse { what: format!("writable layer {key:?}") });
        };
        let document = LayerDocument::read(&path).map_err(|e| if path.exists() { e } else { missing() })?;
        let kind = document.kind()?;
        let store = self.with(kind, document.owners.clone());
        // They are there, unless the machine crashed or the store was repaired. Then they are made again.
        let chain_ids = &document.chain_ids;
        if !chain_ids.iter().all(|id| store.snapshot_path(id).join("data").exists()) {
            let lease = store.lease()?;
            let image = Image::by_digest(&store, &document.image)?;
            store.unpack_under(&lease, &image, &Control::default())?;
        }
        let chain = store.chain_paths(chain_ids);
        let mount = snapshot::snapshotter(kind, store.owners()).mount(&chain, &path.join("data"))?;
        let LayerDocument { image, chain_ids, .. } = document;
        Ok(WritableLayer { store, key: key.to_owned(), image, chain_ids, mount, lock })
    }

    /// The keys of all writable layers.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn layers(&self) -> Result<Vec<String>> {
        names_in(&self.path().join("layers"))
    }

    /// A read-only root filesystem of `image`, after unpacking what is not unpacked yet.
    ///
    /// # Errors
    /// Whatever is wrong with the layers, as [`Error::Layer`]; [`Error::Io`].
    pub fn view(&self, image: &Image) -> Result<View> {
        let lease = self.lease()?;
        let chain = self.unpack_under(&lease, image, &Control::default())?;
        let mount = match chain.is_empty() {
            // An image without layers is an empty directory.
            true => RootfsMount::Directory { source: lease.fresh_directory()?, read_only: true },
            false => snapshot::snapshotter(self.backend(), self.owners()).view(&chain)?,
        };
        check_depth(&mount)?;
        Ok(View { mount, _lease: lease })
    }

    fn layer_path(&self, key: &str) -> Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let valid = (1..=128).contains(&key.len())
            && key.bytes().all(plain)
            && key.as_bytes()[0].is_ascii_alphanumeric();
        match valid {
            true => Ok(self.path().join("layers").join(key)),
            false => Err(Error::InvalidKey { key: key.chars().take(200).collect() }),
        }
    }

    pub(super) fn chain_paths(&self, chain_ids: &[Digest]) -> Vec<PathBuf> {
        chain_ids.iter().map(|id| self.snapshot_path(id).join("data")).collect()
    }
}

impl LayerDocument {
    pub(super) fn read(layer: &Path) -> Result<LayerDocument> {
        let path = layer.join("layer.json");
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::InvalidDocument { what: path.display().to_string(), reason: e.to_string() })
    }

    fn kind(&self) -> Result<SnapshotKind> {
        self.backend.parse()
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = Root> {
        self.chain_ids.iter().cloned().map(Root::Snapshot).chain([Root::Image(self.image.clone())])
    }
}

impl WritableLayer {
    /// The name it was made with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The digest of the image it is over. The image's content stays while the layer exists.
    pub fn image(&self) -> &Digest {
        &self.image
    }

    /// Whom its files belong to.
    pub fn owners(&self) -> &Owners {
        self.store.owners()
    }

    /// How to mount the root filesystem of the container.
    pub fn mount(&self) -> &RootfsMount {
        &self.mount
    }

    /// Removes the layer with all that was written to it.
    ///
    /// # Errors
    /// [`Error::InUse`] while another handle, in this process or another one, has it open; then it stays. [`Error::Io`]; when
    /// files cannot be deleted, the layer is gone nevertheless, and they are tried again whenever the store is opened.
    pub fn remove(self) -> Result<()> {
        let path = self.path();
        if !self.lock.try_exclusive_soon().map_err(Error::io("lock", &path))? {
            return Err(Error::InUse { what: format!("writable layer {:?}", self.key) });
        }
        let trash = Trash::new(&self.store);
        trash.discard(&path)?;
        trash.empty()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.store.path().join("layers").join(&self.key)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn chain(&self) -> Vec<PathBuf> {
        self.store.chain_paths(&self.chain_ids)
    }
}

/// Overlayfs says no more than "invalid argument" to a stack that is too deep.
fn check_depth(mount: &RootfsMount) -> Result<()> {
    /// `OVL_MAX_STACK` of the kernel.
    const DEEPEST: usize = 500;
    match mount {
        RootfsMount::Overlay { lower, .. } if lower.len() > DEEPEST => {
            let what = format!(
                "an overlay of {} layers (the kernel stacks at most {DEEPEST}; the copy backend has no such limit)",
                lower.len()
            );
            Err(Error::UnsupportedLayer { what })
        }
        _ => Ok(()),
    }
}

/// Drops layers that a crash of the machine left unreadable. Under the exclusive lock, once for each boot.
pub(super) fn discard_broken(store: &Store, trash: &Trash) -> Result<()> {
    for key in store.layers()? {
        let path = store.layer_path(&key)?;
        if let Err(Error::InvalidDocument { .. }) = LayerDocument::read(&path) {
            trash.discard(&path)?;
        }
    }
    Ok(())
}
