//! Leases: what a piece of work needs stays while it lives, and what it left goes when it is dead.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::owners::reach::Reach;
use crate::snapshot::remove_tree;
use crate::{Digest, Error, Image, Result};

use super::{Store, lock, names_in};

/// Keeps images from being removed by a garbage collection, until it is dropped or its process ends.
///
/// ```no_run
/// # fn main() -> image_layers::Result<()> {
/// # let store = image_layers::Store::open_or_create("store")?;
/// let lease = store.lease()?;
/// let image = store.resolve("alpine")?;
/// lease.keep(&image)?;
/// // Whoever removes the image now, its content stays until the lease ends.
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lease {
    store: Store,
    path: PathBuf,
    roots: File,
    /// Held for as long as this lives.
    _lock: lock::Guard,
    count: AtomicU64,
}

/// Something that garbage collection leaves alone, with all it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Root {
    /// A blob.
    Blob(Digest),
    /// A manifest, with its configuration, layers and their snapshots.
    Image(Digest),
    /// The snapshot with this ChainID, of any backend.
    Snapshot(Digest),
}

impl Store {
    /// Begins a lease that keeps nothing yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn lease(&self) -> Result<Lease> {
        Lease::begin(self)
    }
}

impl Lease {
    pub(super) fn begin(store: &Store) -> Result<Lease> {
        let leases = store.path().join("leases");
        // Nobody can take the new directory for a dead lease between its making and its locking.
        let _guard = store.lock_shared()?;
        loop {
            let path = leases.join(unique_name());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(Error::io("create", &path))?,
            }
            let directory = File::open(&path).map_err(Error::io("open", &path))?;
            let lock = lock::try_exclusive(directory).map_err(Error::io("lock", &path))?;
            // Nobody else can have it.
            let Some(_lock) = lock else { continue };
            let roots = File::options()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(path.join("roots"))
                .map_err(Error::io("create", path.join("roots")))?;
            return Ok(Lease { store: store.clone(), path, roots, _lock, count: AtomicU64::new(0) });
        }
    }

    /// Keeps this image, its layers and their snapshots.
    ///
    /// # Errors
    /// [`Error::BlobNotFound`] when the image was collected already; [`Error::Io`].
    pub fn keep(&self, image: &Image) -> Result<()> {
        self.protect([Root::Image(image.digest().clone())])?;
        match self.store.blob_path(image.digest()).exists() {
            true => Ok(()),
            false => Err(Error::BlobNotFound {
                digest: image.digest().clone(),
                path: self.store.path().to_owned(),
            }),
        }
    }

    /// Notes roots. To be called before one looks whether the things exist.
    pub(super) fn protect(&self, roots: impl IntoIterator<Item = Root>) -> Result<()> {
        let mut text = String::new();
        for root in roots {
            let (kind, digest) = match &root {
                Root::Blob(digest) => ("blob", digest),
                Root::Image(digest) => ("image", digest),
                Root::Snapshot(digest) => ("snapshot", digest),
            };
            text += &format!("{kind} {digest}\n");
        }
        let _guard = self.store.lock_shared()?;
        (&self.roots).write_all(text.as_bytes()).map_err(Error::io("write", self.path.join("roots")))
    }

    /// Its directory: for files under construction, on the file system of the store.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path in its directory that is not in use.
    pub(super) fn fresh_path(&self) -> PathBuf {
        self.path.join(self.count.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A fresh directory in its directory.
    pub(super) fn fresh_directory(&self) -> Result<PathBuf> {
        let path = self.fresh_path();
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next open.
        let _ = remove_tree(&self.path);
    }
}

/// What was taken away from its place, to be deleted when this is dropped: by then without any lock.
///
/// It lies among the leases, where it looks like one whose owner is dead, so a kill leaves it to the next open. Taking
/// something away needs neither space nor an inode: it works on a full disk.
#[derive(Debug)]
pub(super) struct Trash {
    leases: PathBuf,
    taken: Mutex<Vec<PathBuf>>,
}

impl Trash {
    pub(super) fn new(store: &Store) -> Trash {
        Trash { leases: store.path().join("leases"), taken: Mutex::default() }
    }

    /// A fresh directory, deleted in the end unless it is moved to its place. To be used under the lock only: nothing tells
    /// it from what a dead owner left.
    pub(super) fn fresh_directory(&self) -> Result<PathBuf> {
        let path = self.leases.join(unique_name());
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(Error::io("create", &path))?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        Ok(path)
    }

    /// Takes a file or tree away from its place, as a whole.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let place = self.leases.join(unique_name());
        match fs::rename(path, &place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("rename", path))?,
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        Ok(())
    }

    /// Deletes it now, to be told of what cannot be: without any lock.
    pub(super) fn empty(mut self) -> Result<()> {
        self.delete()
    }

    fn delete(&mut self) -> Result<()> {
        let _reach = Reach::keep();
        let taken = std::mem::take(self.taken.get_mut().unwrap_or_else(PoisonError::into_inner));
        let remove = |path: &PathBuf| {
            // Another process may sweep at the same time, and then it is gone by whoever was first.
            remove_tree(path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })
        };
        // All of them, whichever fails.
        let removed: Vec<Result<()>> = taken.iter().map(remove).collect();
        removed.into_iter().collect()
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        // What cannot be deleted now is swept by the next open.
        let _ = self.delete();
    }
}

/// Takes away what dead owners left. Under the exclusive lock.
pub(super) fn discard_dead(store: &Store, trash: &Trash) -> Result<()> {
    let leases = store.path().join("leases");
    for name in names_in(&leases)? {
        let path = leases.join(name);
        if is_dead(&path)? {
            trash.discard(&path)?;
        }
    }
    Ok(())
}

/// The roots of all living leases. Under the exclusive lock.
pub(super) fn living_roots(store: &Store) -> Result<HashSet<Root>> {
    let leases = store.path().join("leases");
    let mut roots = HashSet::new();
    for name in names_in(&leases)? {
        let Ok(text) = fs::read_to_string(leases.join(name).join("roots")) else { continue };
        // A last line that was cut by a kill is of a dead lease.
        for line in text.lines() {
            let Some((kind, digest)) = line.split_once(' ') else { continue };
            let Ok(digest) = digest.parse() else { continue };
            roots.insert(match kind {
                "image" => Root::Image(digest),
                "snapshot" => Root::Snapshot(digest),
                _ => Root::Blob(digest),
            });
        }
    }
    Ok(roots)
}

fn is_dead(path: &Path) -> Result<bool> {
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("open", path)(e)),
    };
    Ok(lock::try_exclusive(directory).map_err(Error::io("lock", path))?.is_some())
}

fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{:x}-{}", std::process::id(), now.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}
