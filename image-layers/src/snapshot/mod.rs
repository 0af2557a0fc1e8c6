//! Snapshots: one immutable result for each layer of an image, and a writable layer for each container on top.
//!
//! A committed snapshot is a directory with the layer's content in the backend's own form and the `index` of its changes
//! (names and metadata, see [`index`](crate::apply::index)). Around that directory everything is the store's business:
//! where it lies, what it is called, when it may go.

mod copy;
mod directory;
mod erofs;
mod overlay;
mod probe;
mod unpack;

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::apply::merge::Merged;
use crate::apply::metadata::Ownership;
use crate::apply::tree::Tree;
pub(crate) use crate::diff::DiffStats;
use crate::owners::Owners;
use crate::progress::LayerControl;
use crate::{Digest, Error, Result, RootfsMount};

pub(crate) use crate::apply::remove::remove_tree;
pub(crate) use directory::unpack_to_directory;
pub use probe::{SnapshotProbe, probe_snapshots};
pub(crate) use unpack::{LayerJob, unpack};

/// How unpacked layers are kept and put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SnapshotKind {
    /// Each layer a directory, stacked by overlayfs when a container starts. The default.
    Overlay,
    /// Each layer's result a whole directory tree, copied for every container: for hosts without overlayfs.
    Copy,
    /// Each layer an EROFS image, mounted from the file (Linux 6.12, root) and stacked by overlayfs: fastest to unpack and
    /// to remove, and the file system itself guards it against changes.
    Erofs,
}

impl SnapshotKind {
    /// All kinds.
    pub const ALL: [SnapshotKind; 3] = [SnapshotKind::Overlay, SnapshotKind::Copy, SnapshotKind::Erofs];

    /// The kind in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            SnapshotKind::Overlay => "overlay",
            SnapshotKind::Copy => "copy",
            SnapshotKind::Erofs => "erofs",
        }
    }
}

impl fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SnapshotKind {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::UnsupportedLayer`] for anything but `overlay`, `copy` and `erofs`.
    fn from_str(name: &str) -> Result<SnapshotKind> {
        let found = SnapshotKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| Error::UnsupportedLayer {
            what: format!("snapshot kind {name:?} (overlay, copy or erofs)"),
        })
    }
}

/// What a layer is being read from and how far it has got.
pub(crate) struct Blob<'a> {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) diff_id: &'a Digest,
    pub(crate) control: &'a LayerControl,
    /// Writer threads beside the reader.
    pub(crate) writers: usize,
    /// Whether modes given at creation hold in the calling thread.
    pub(crate) umask_is_zero: bool,
}

/// A backend. Calls of `stage` may run side by side; `settle` follows in the order of the layers.
pub(crate) trait Snapshotter: fmt::Debug + Send + Sync {
    /// What the content of a snapshot is called inside its directory.
    fn content(&self) -> &'static str;

    /// Reads one layer by itself into the empty directory `scratch`, checking its DiffID.
    fn stage(&self, blob: Blob<'_>, scratch: &Path) -> Result<Tree>;

    /// Completes a staged layer for its place above `below`.
    fn settle(&self, tree: &mut Tree, below: &Merged, scratch: &Path, umask_is_zero: bool) -> Result<()>;

    /// Writes what follows from the settled tree alone, while the index is written.
    fn seal(&self, _tree: &Tree, _scratch: &Path) -> Result<()> {
        Ok(())
    }

    /// Sets up a container's writable layer in the empty directory `writable`.
    fn prepare(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount>;

    /// The mount of a writable layer that was prepared before.
    fn mount(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount>;

    /// A read-only mount of committed snapshots.
    fn view(&self, chain: &[PathBuf]) -> Result<RootfsMount>;

    /// Writes what changed in a writable layer as a layer.
    fn diff(&self, chain: &[PathBuf], writable: &Path, out: &mut dyn Write) -> Result<DiffStats>;
}

/// The backend of a kind, for files of these owners.
pub(crate) fn snapshotter(kind: SnapshotKind, owners: &Owners) -> Box<dyn Snapshotter> {
    let owners = Ownership::new(owners);
    match kind {
        SnapshotKind::Overlay => Box::new(overlay::Overlay { owners }),
        SnapshotKind::Copy => Box::new(copy::Copy { owners }),
        SnapshotKind::Erofs => Box::new(erofs::Erofs { owners }),
    }
}

#[cfg(test)]
mod tests;
