//! Snapshots: the layers of images, each unpacked once.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::owners::Owners;
use crate::progress::{Control, Step};
use crate::snapshot::{self, LayerJob, SnapshotKind};
use crate::{Digest, Error, Image, Result, UnpackOptions};

use super::layers::discard_broken;
use super::lease::{Lease, Root, Trash};
use super::{Store, lock, names_in, sync_directory, write_file};

/// `snapshot.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SnapshotDocument {
    pub(super) diff_id: Option<Digest>,
    pub(super) parent: Option<Digest>,
    pub(super) owners: Owners,
    /// The boot in which it was written. Once it is known to be on the disk, it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
}

impl SnapshotDocument {
    pub(super) fn read(snapshot: &Path) -> Result<SnapshotDocument> {
        let path = snapshot.join("snapshot.json");
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::InvalidDocument { what: path.display().to_string(), reason: e.to_string() })
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Store {
    /// Where the snapshot with this ChainID is, or would be.
    pub(super) fn snapshot_path(&self, chain_id: &Digest) -> PathBuf {
        self.snapshots_directory().join(chain_id.hex())
    }

    pub(super) fn snapshots_directory(&self) -> PathBuf {
        self.path().join("snapshots").join(self.snapshots_name())
    }

    /// The backend, and whose files they are: see [`backend_of`].
    fn snapshots_name(&self) -> String {
        format!("{}{}", self.backend(), self.owners().suffix())
    }

    /// Unpacks the layers of `image` that are not unpacked yet, side by side. [`prepare`](Store::prepare) and
    /// [`view`](Store::view) do this when it is needed; doing it before makes them quick.
    ///
    /// When it fails or is cancelled, the layers that were complete stay.
    ///
    /// # Errors
    /// Whatever is wrong with a layer, as [`Error::Layer`]; [`Error::Cancelled`], [`Error::Io`].
    pub fn unpack(&self, image: &Image, options: &UnpackOptions) -> Result<()> {
        let lease = self.lease()?;
        self.unpack_under(&lease, image, &options.control).map(|_| ())
    }

    /// The data directories of an image's snapshots, the lowest first, all of them made where they were missing. They stay
    /// for as long as `lease` lives.
    pub(super) fn unpack_under(
        &self,
        lease: &Lease,
        image: &Image,
        control: &Control,
    ) -> Result<Vec<PathBuf>> {
        let chain_ids = image.config().chain_ids();
        lease.protect(
            chain_ids.iter().cloned().map(Root::Snapshot).chain([Root::Image(image.digest().clone())]),
        )?;
        super::make_directory(&self.snapshots_directory())?;
        let data = |chain_id: &Digest| self.snapshot_path(chain_id).join("data");
        // Who makes a snapshot holds its lock. Images that share layers share them from the bottom, and locks are taken
        // from the bottom, so that two never wait for each other.
        let mut locks = Vec::new();
        let mut below = Vec::new();
        for chain_id in &chain_ids {
            control.check()?;
            if locks.is_empty() && data(chain_id).exists() {
                below.push(data(chain_id));
                continue;
            }
            let name = format!("snapshot-{}-{}", self.snapshots_name(), chain_id.hex());
            let guard = lock::named(&self.path().join("locks").join(name), control)?;
            match locks.is_empty() && data(chain_id).exists() {
                true => below.push(data(chain_id)),
                false => locks.push(Some(guard)),
            }
        }
        let first = below.len();
        if first == chain_ids.len() {
            return Ok(below);
        }
        self.owners().require()?;
        if self.backend() == SnapshotKind::Erofs && *self.owners() != Owners::Plain {
            let what = "owners of a user namespace in EROFS images (the backend overlay has them)".to_owned();
            return Err(Error::UnsupportedLayer { what });
        }
        let layers = image.layers();
        let mut jobs = Vec::new();
        let mut scratches = Vec::new();
        for (index, layer) in layers.iter().enumerate().skip(first) {
            let (store, digest) = (self.clone(), layer.digest.clone());
            let scratch = lease.fresh_directory()?;
            super::make_directory(&scratch.join("data"))?;
            jobs.push(LayerJob {
                open: Box::new(move || Ok(Box::new(store.open_blob(&digest)?))),
                diff_id: image.config().diff_ids[index].clone(),
                scratch: scratch.join("data"),
                control: control.layer(Step::Unpack, index, layers.len(), layer.size),
            });
            scratches.push(scratch);
        }
        let boot = boot_id();
        let mut committed = Vec::new();
        let backend = snapshot::snapshotter(self.backend(), self.owners());
        let result = snapshot::unpack(&*backend, &below, jobs, &mut |job, _| {
            let index = first + job;
            let document = SnapshotDocument {
                diff_id: Some(image.config().diff_ids[index].clone()),
                parent: index.checked_sub(1).map(|below| chain_ids[below].clone()),
                owners: self.owners().clone(),
                boot: boot.clone(),
            };
            let path = self.commit_snapshot(&scratches[job], &chain_ids[index], &document)?;
            // Whoever waits for this layer need not wait for the rest.
            locks[job] = None;
            committed.push(path.clone());
            Ok(path)
        });
        result.map_err(|error| offset_layer(error, first))?;
        below.extend(committed);
        Ok(below)
    }

    /// Gives a finished snapshot its name; returns its data directory.
    fn commit_snapshot(
        &self,
        scratch: &Path,
        chain_id: &Digest,
        document: &SnapshotDocument,
    ) -> Result<PathBuf> {
        let place = self.snapshot_path(chain_id);
        let path = scratch.join("snapshot.json");
        fs::write(&path, document.to_bytes()).map_err(Error::io("write", &path))?;
        match fs::rename(scratch, &place) {
            Ok(()) => {}
            // It was there, above one that was missing: a store that was repaired. What is there is the same.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => {}
            Err(e) => return Err(Error::io("rename", &place)(e)),
        }
        Ok(place.join("data"))
    }

    /// Writes everything the store holds to the disk, and notes that snapshots made so far need not be made again after a
    /// crash of the machine.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        // What is marked must have been complete before the synchronisation began.
        let fresh = self.unsynced(|_| true)?;
        let root = fs::File::open(self.path()).map_err(Error::io("open", self.path()))?;
        rustix::fs::syncfs(&root).map_err(Error::io("sync", self.path()))?;
        let lease = self.lease()?;
        for (path, mut document) in fresh {
            document.boot = None;
            let new = lease.fresh_path();
            write_file(&new, &document.to_bytes())?;
            match fs::rename(&new, path.join("snapshot.json")) {
                // Collected meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("rename", &path))?,
            }
            sync_directory(&path).or_else(|e| if path.exists() { Err(e) } else { Ok(()) })?;
        }
        Ok(())
    }

    /// Snapshots of all backends that may not be on the disk yet, and were written in a boot that `boot` accepts.
    fn unsynced(&self, boot: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, SnapshotDocument)>> {
        let mut found = Vec::new();
        for path in all_snapshots(self)? {
            match SnapshotDocument::read(&path) {
                Ok(document) if document.boot.as_deref().is_some_and(&boot) => found.push((path, document)),
                Ok(_) => {}
                Err(_) if !path.exists() => {}
                // Cut short by a crash.
                Err(_) => found.push((path, SnapshotDocument::default())),
            }
        }
        Ok(found)
    }
}

/// The directories of all snapshots of all backends.
pub(super) fn all_snapshots(store: &Store) -> Result<Vec<PathBuf>> {
    let top = store.path().join("snapshots");
    let mut found = Vec::new();
    for kind in names_in(&top)? {
        let directory = top.join(kind);
        found.extend(names_in(&directory)?.into_iter().map(|name| directory.join(name)));
    }
    Ok(found)
}

/// The backend of a snapshot, by its path.
pub(super) fn backend_of(snapshot: &Path) -> &str {
    let directory = snapshot.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    directory.and_then(|name| name.split('-').next()).unwrap_or_default()
}

/// Drops what another boot wrote and perhaps never got to the disk. Under the exclusive lock, on opening a store.
///
/// Layers of containers over such a snapshot keep working: it is made again when they are opened.
pub(super) fn discard_unsynced(store: &Store, trash: &Trash) -> Result<()> {
    let Some(boot) = boot_id() else { return Ok(()) };
    // Once for each boot; to look at every snapshot would make every open slow.
    let path = store.path().join("boot");
    if fs::read_to_string(&path).is_ok_and(|seen| seen == boot) {
        return Ok(());
    }
    for (snapshot, _) in store.unsynced(|written| written != boot)? {
        trash.discard(&snapshot)?;
    }
    discard_broken(store, trash)?;
    // On a full disk it is done again next time.
    let _ = write_file(&path, boot.as_bytes());
    Ok(())
}

/// What tells one run of the kernel from the next. `None` where /proc is not to be had: then nothing is dropped.
fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// The jobs were numbered from the first missing layer.
fn offset_layer(error: Error, by: usize) -> Error {
    match error {
        Error::Layer { index, digest, source } => Error::Layer { index: index + by, digest, source },
        other => other,
    }
}
