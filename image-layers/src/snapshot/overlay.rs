//! Each layer a directory with overlayfs markers.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::apply::index;
use crate::apply::merge::Merged;
use crate::apply::metadata::{self, Ownership, open_directory};
use crate::apply::place::{Directory, Markers, metadata_of};
use crate::apply::settle::settle;
use crate::apply::stage::stage;
use crate::apply::tree::{NodeId, Tree};
use crate::diff::{Form, diff};
use crate::tar::Reader;
use crate::{Digest, Error, LowerLayer, Result, RootfsMount};

use super::directory::{new_root, open, open_content, settle_directory, stage_directory};
use super::{Blob, DiffStats, SnapshotKind, Snapshotter};

#[derive(Debug)]
pub(super) struct Overlay;

/// Name of the content inside a snapshot.
const CONTENT: &str = "fs";

impl Snapshotter for Overlay {
    fn kind(&self) -> SnapshotKind {
        SnapshotKind::Overlay
    }

    fn content(&self) -> &'static str {
        CONTENT
    }

    fn stage(&self, blob: Blob<'_>, scratch: &Path) -> Result<Tree> {
        stage_directory(blob, &scratch.join(CONTENT))
    }

    fn settle(&self, tree: &mut Tree, below: &Merged, scratch: &Path, umask_is_zero: bool) -> Result<()> {
        settle_directory(tree, below, &scratch.join(CONTENT), markers(), umask_is_zero)
    }

    fn prepare(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        prepare_upper(chain, writable)?;
        self.mount(chain, writable)
    }

    fn mount(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        Ok(mount(lower(chain, |dir| LowerLayer::Directory(dir.join(CONTENT)))?, Some(writable)))
    }

    fn view(&self, chain: &[PathBuf]) -> Result<RootfsMount> {
        let mut lower = lower(chain, |dir| LowerLayer::Directory(dir.join(CONTENT)))?;
        match (lower.pop(), lower.is_empty()) {
            (Some(LowerLayer::Directory(source)), true) => {
                Ok(RootfsMount::Directory { source, read_only: true })
            }
            (Some(bottom), false) => {
                lower.push(bottom);
                Ok(mount(lower, None))
            }
            _ => Err(no_layers()),
        }
    }

    fn diff(&self, chain: &[PathBuf], writable: &Path, out: &mut dyn Write) -> Result<DiffStats> {
        let below = Merged::load(chain, CONTENT)?;
        let content = |id| open_content(&below, id);
        diff(open(&writable.join("upper"))?, Form::Upper(markers()), &below, &content, out)
    }
}

/// The upper and work directories of an overlay. The upper root is what the container sees as its root, so it gets the
/// metadata of the image's.
pub(super) fn prepare_upper(chain: &[PathBuf], writable: &Path) -> Result<()> {
    let upper = new_root(&writable.join("upper"))?;
    drop(new_root(&writable.join("work"))?);
    let root = match chain.last() {
        Some(top) => index::read_root(&top.join(index::FILE))?,
        None => Tree::new(),
    };
    let meta = metadata_of(&root, NodeId::ROOT);
    metadata::finish_file(std::os::fd::AsFd::as_fd(&upper), &meta, Ownership::of_process(), false)
        .map_err(Error::io("set metadata of", writable))
}

/// What is to be stacked, the top one first. An opaque root hides all below it; overlayfs does not know that for roots.
pub(super) fn lower(chain: &[PathBuf], layer: impl Fn(&Path) -> LowerLayer) -> Result<Vec<LowerLayer>> {
    let mut lower = Vec::new();
    for dir in chain.iter().rev() {
        lower.push(layer(dir));
        let root = index::read_root(&dir.join(index::FILE))?;
        if root.node(NodeId::ROOT).has(crate::apply::tree::flags::OPAQUE) {
            break;
        }
    }
    Ok(lower)
}

pub(super) fn mount(lower: Vec<LowerLayer>, writable: Option<&Path>) -> RootfsMount {
    let (upper, work) = (writable.map(|dir| dir.join("upper")), writable.map(|dir| dir.join("work")));
    match upper {
        Some(source) if lower.is_empty() => RootfsMount::Directory { source, read_only: false },
        upper => RootfsMount::Overlay {
            lower,
            upper,
            work,
            userxattr: markers() == Markers::User,
            volatile: false,
        },
    }
}

pub(super) fn no_layers() -> Error {
    Error::UnsupportedLayer { what: "a read-only root of an image without layers".to_owned() }
}

/// Which attributes overlayfs will look at: those of the initial user namespace's root, or anybody's.
pub(super) fn markers() -> Markers {
    if Ownership::of_process().is_root() && in_initial_user_namespace() {
        Markers::Trusted
    } else {
        Markers::User
    }
}

fn in_initial_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}
