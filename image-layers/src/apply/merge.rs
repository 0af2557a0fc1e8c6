//! The merged view of a chain of layers, as far as names and metadata go.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::owners::reach;
use crate::{Error, Result};

use super::index;
use super::tree::{Node, NodeId, NodeKind, Tree, Visit, Walk, flags};

/// What is visible with all layers on top of each other.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) tree: Tree,
    /// Where the content of each layer is, bottom first; `Node::layer` counts them.
    layers: Vec<PathBuf>,
}

impl Merged {
    /// No layer yet: an empty root.
    pub(crate) fn new() -> Merged {
        Merged { tree: Tree::new(), layers: Vec::new() }
    }

    /// Reads the indexes of committed snapshots, bottom first, whose content goes by the name `content`.
    pub(crate) fn load(chain: &[PathBuf], content: &str) -> Result<Merged> {
        let mut merged = Merged::new();
        for dir in chain {
            merged.push(index::read(&dir.join(index::FILE))?, &dir.join(content))?;
        }
        Ok(merged)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Where the content of a layer is.
    pub(crate) fn root_of(&self, layer: u32) -> &Path {
        &self.layers[layer as usize]
    }

    /// Puts a settled layer, whose content is at `root`, on top.
    pub(crate) fn push(&mut self, mut changes: Tree, root: &Path) -> Result<()> {
        let layer = self.layers.len() as u32;
        self.layers.push(root.to_path_buf());
        if layer == 0 {
            // Nothing to merge with: the changes are the view.
            let mut walk = Walk::new(NodeId::ROOT);
            while let Some(visit) = walk.next(&changes) {
                if let Visit::Enter(id) = visit {
                    let node = changes.node_mut(id);
                    (node.layer, node.flags) = (0, node.flags & flags::LINKED);
                    if changes.node(id).kind == NodeKind::Whiteout {
                        changes.remove(id);
                    }
                }
            }
            self.tree = changes;
            return Ok(());
        }
        // Where each directory that was entered is in the view.
        let mut stack: Vec<NodeId> = Vec::new();
        let mut walk = Walk::new(NodeId::ROOT);
        while let Some(visit) = walk.next(&changes) {
            let id = match visit {
                Visit::Enter(id) => id,
                Visit::Leave(_) => {
                    stack.pop();
                    continue;
                }
            };
            let place = match stack.last() {
                None => NodeId::ROOT,
                Some(&parent) => match self.replace(&changes, id, parent) {
                    Some(place) => place,
                    None => continue,
                },
            };
            let from = changes.node(id);
            if from.kind == NodeKind::Directory {
                if from.has(flags::OPAQUE | flags::FRESH) {
                    let hidden: Vec<_> = self.tree.children(place).collect();
                    hidden.into_iter().for_each(|child| self.tree.remove(child));
                }
                stack.push(place);
            }
            self.tree.copy_node(place, &changes, id);
            let node = self.tree.node_mut(place);
            node.layer = layer;
            node.inode = from.inode;
            node.flags = from.flags & flags::LINKED;
        }
        self.tree.check(u64::MAX)
    }

    /// Makes room for an entry; directories keep what is in them. `None` for a whiteout.
    fn replace(&mut self, changes: &Tree, id: NodeId, parent: NodeId) -> Option<NodeId> {
        let (kind, name) = (changes.node(id).kind, changes.name(id));
        if let Some(there) = self.tree.child(parent, name) {
            if kind == NodeKind::Directory && self.tree.node(there).kind == NodeKind::Directory {
                return Some(there);
            }
            self.tree.remove(there);
        }
        (kind != NodeKind::Whiteout).then(|| self.tree.insert(parent, name, Node::new(kind)))
    }

    /// Opens the directory on disk that holds an entry's content, component by component, and gives the entry's name.
    pub(crate) fn open_parent(&self, id: NodeId) -> Result<(OwnedFd, &[u8])> {
        let root = self.root_of(self.tree.node(id).layer).to_path_buf();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir =
            reach::openat(rustix::fs::CWD, root.as_os_str().as_encoded_bytes(), flags, Mode::empty())
                .map_err(Error::io("open", &root))?;
        let mut parents: Vec<NodeId> =
            std::iter::successors(self.tree.parent(id), |&at| self.tree.parent(at)).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            dir = reach::openat(&dir, self.tree.name(parent), flags, Mode::empty())
                .map_err(|e| super::metadata::failed("open", &self.tree.path(parent))(e))?;
        }
        Ok((dir, self.tree.name(id)))
    }
}
