//! Each layer's result as a whole directory tree, and a copy of it for every container.
//!
//! Needs nothing of the host but a file system. Snapshots of one chain share the files that did not change through hard
//! links, so an image costs its size once; a container costs its own copy, except where the file system can share blocks
//! (btrfs, xfs, bcachefs).

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::apply::merge::Merged;
use crate::apply::metadata::Ownership;
use crate::apply::onto::lay_onto;
use crate::apply::place::{Directory, Markers};
use crate::apply::stage::Sink;
use crate::apply::tree::{NodeId, NodeKind, Tree, Visit, Walk, flags};
use crate::apply::writers::Writers;
use crate::diff::{Form, diff};
use crate::owners::reach::Reach;
use crate::tar::Timestamp;
use crate::{Error, Result, RootfsMount};

use super::directory::{new_root, open, open_content, settle_directory, settle_layer, stage_directory};
use super::overlay::no_layers;
use super::unpack::in_our_thread;
use super::{Blob, DiffStats, Snapshotter, remove_tree};

#[derive(Debug)]
pub(super) struct Copy {
    pub(super) owners: Ownership,
}

/// Name of the content inside a snapshot, and of a container's copy.
const CONTENT: &str = "fs";

/// A file that is made after the copy: what has changed since is newer.
const COPIED: &str = "copied";

impl Snapshotter for Copy {
    fn content(&self) -> &'static str {
        CONTENT
    }

    fn stage(&self, blob: Blob<'_>, scratch: &Path) -> Result<Tree> {
        stage_directory(blob, &scratch.join(CONTENT), &self.owners)
    }

    fn settle(&self, tree: &mut Tree, below: &Merged, scratch: &Path, umask_is_zero: bool) -> Result<()> {
        let content = scratch.join(CONTENT);
        let owners = &self.owners;
        if below.is_empty() || tree.node(NodeId::ROOT).has(flags::OPAQUE) {
            return settle_directory(tree, below, &content, Markers::None, owners, umask_is_zero);
        }
        let layer = scratch.join("layer");
        std::fs::rename(&content, &layer).map_err(Error::io("rename", &content))?;
        settle_layer(tree, below, &layer, owners, umask_is_zero)?;
        new_root(&content)?;
        populate(below, &content, true, owners, umask_is_zero)?;
        lay_onto(tree, open(&layer)?, open(&content)?, owners, umask_is_zero)?;
        Directory::complete_root(tree, open(&content)?, owners)?;
        remove_tree(&layer)
    }

    fn prepare(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        let below = Merged::load(chain, CONTENT)?;
        let copy = writable.join(CONTENT);
        new_root(&copy)?;
        in_our_thread(|umask_is_zero| {
            populate(&below, &copy, false, &self.owners, umask_is_zero)?;
            Directory::complete_root(&below.tree, open(&copy)?, &self.owners)
        })?;
        let copied = writable.join(COPIED);
        std::fs::File::create_new(&copied).map_err(Error::io("create", &copied))?;
        self.mount(chain, writable)
    }

    fn mount(&self, _: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        Ok(RootfsMount::Directory { source: writable.join(CONTENT), read_only: false })
    }

    fn view(&self, chain: &[PathBuf]) -> Result<RootfsMount> {
        let top = chain.last().ok_or_else(no_layers)?;
        Ok(RootfsMount::Directory { source: top.join(CONTENT), read_only: true })
    }

    fn diff(&self, chain: &[PathBuf], writable: &Path, out: &mut dyn Write) -> Result<DiffStats> {
        let below = Merged::load(chain, CONTENT)?;
        let copied = writable.join(COPIED);
        let info = rustix::fs::stat(&copied).map_err(Error::io("stat", &copied))?;
        let since = Timestamp { secs: info.st_ctime, nanos: info.st_ctime_nsec as u32 };
        let content = |id| open_content(&below, id);
        diff(open(&writable.join(CONTENT))?, Form::Copy(since), &self.owners, &below, &content, out)
    }
}

/// Fills an empty directory with all that is visible in `view`; `share` lets both have the same inodes, which then must
/// never be changed.
fn populate(view: &Merged, dir: &Path, share: bool, owners: &Ownership, umask_is_zero: bool) -> Result<()> {
    let mut tree = view.tree.clone();
    let _reach = Reach::keep();
    let writers = Writers::new(0, owners);
    let mut sink = Directory::new(open(dir)?, &writers, owners, umask_is_zero);
    sink.share(share);
    let mut first_of_inode = HashMap::new();
    let mut walk = Walk::new(NodeId::ROOT);
    while let Some(visit) = walk.next(&tree) {
        let Visit::Enter(id) = visit else { continue };
        let node = tree.node(id);
        if node.kind == NodeKind::Directory {
            continue;
        }
        if node.has(flags::LINKED) {
            let first = *first_of_inode.entry((node.layer, node.inode)).or_insert(id);
            if first != id {
                sink.link(&mut tree, first, id)?;
                continue;
            }
        }
        sink.copy_up(&mut tree, id, view, id)?;
    }
    sink.finish(&mut tree)?;
    sink.complete(&mut tree, Markers::None)
}
