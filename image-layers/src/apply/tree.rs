//! The index: a tree of names and metadata in memory, without the contents.
//!
//! It holds one layer's changes while the layer is read, and the merged view of several layers afterwards. About 80
//! bytes an entry in three flat allocations, because it is the one thing whose size follows the layer's.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use hashbrown::HashTable;

use crate::tar::{Timestamp, Xattrs};
use crate::{Error, Result};

/// An entry of a [`Tree`]; stays valid when the entry moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The entry that had this number.
    pub(crate) fn from_number(number: u32) -> NodeId {
        NodeId(number)
    }
}

/// No node; a plain `Option<NodeId>` would take twice the space.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeKind {
    File,
    Directory,
    Symlink,
    Char,
    Block,
    Fifo,
    /// Hides what is below (only in a layer's changes).
    Whiteout,
    /// A hard link whose target is not in its own layer (only until the layer is settled).
    Link,
}

/// What is known of an entry beyond its metadata.
pub(crate) mod flags {
    /// A directory with an entry of its own; others are only implied by what is in them.
    pub(crate) const EXPLICIT: u8 = 1;
    /// A directory with an opaque marker: what is below it is hidden.
    pub(crate) const OPAQUE: u8 = 2;
    /// A directory whose own name is whited out as well: nothing of what was there remains.
    pub(crate) const FRESH: u8 = 4;
    /// Exists on disk already.
    pub(crate) const MADE: u8 = 8;
    /// Has, or had, other names for the same inode.
    pub(crate) const LINKED: u8 = 16;
    /// Exists on disk with another mode than it should have.
    pub(crate) const STALE: u8 = 32;
    /// A directory in the place of something below that must not show through.
    pub(crate) const HIDES: u8 = 64;
}

/// Metadata of one entry.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    parent: u32,
    prev: u32,
    next: u32,
    first: u32,
    name: u32,
    name_len: u8,
    /// Directories above it.
    depth: u16,
    pub(crate) kind: NodeKind,
    pub(crate) flags: u8,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nanos: u32,
    pub(crate) secs: i64,
    /// Bytes of a file.
    pub(crate) size: u64,
    /// Device number of a device (major in the high half), text of a symlink or pending link, and for a file whatever the
    /// backend needs to find its content.
    pub(crate) data: u64,
    xattrs: u32,
    /// Entries with the same number in the same layer are the same inode.
    pub(crate) inode: u32,
    /// Which layer it is from.
    pub(crate) layer: u32,
}

impl Node {
    pub(crate) fn new(kind: NodeKind) -> Node {
        Node {
            parent: NONE,
            prev: NONE,
            next: NONE,
            first: NONE,
            name: 0,
            name_len: 0,
            depth: 0,
            kind,
            flags: 0,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nanos: 0,
            secs: 0,
            size: 0,
            data: 0,
            xattrs: 0,
            inode: NONE,
            layer: 0,
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        Timestamp { secs: self.secs, nanos: self.nanos }
    }

    pub(crate) fn device(&self) -> (u32, u32) {
        ((self.data >> 32) as u32, self.data as u32)
    }
}

/// A step of [`Walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    Enter(NodeId),
    /// A directory is left again, after all that is in it.
    Leave(NodeId),
}

/// Names and metadata by path.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// By parent and name; with half of the hash, so that neither growing nor a name that is not there touches the nodes.
    table: HashTable<Slot>,
    hasher: RandomState,
    /// Names and link targets, one behind the other.
    text: Vec<u8>,
    xattrs: Vec<Xattrs>,
    xattr_bytes: usize,
    /// Why the tree cannot be used any more.
    fault: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    id: u32,
}

impl Slot {
    /// Spread over all 64 bits: the table takes its position from the low ones and a tag from the high ones.
    fn hash(&self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

/// Directories below each other; no program can open what is much deeper by its path.
const MAX_DEPTH: u16 = 4096;

impl Tree {
    /// Only a root, implied.
    pub(crate) fn new() -> Tree {
        let mut root = Node::new(NodeKind::Directory);
        root.inode = 0;
        Tree {
            nodes: vec![root],
            table: HashTable::new(),
            hasher: RandomState::default(),
            text: Vec::new(),
            xattrs: Vec::new(),
            xattr_bytes: 0,
            fault: None,
        }
    }

    /// Whether everything could be taken in, within `limit` bytes of memory. To be asked after each entry that comes from
    /// outside: what did not fit has lost its name until then, so that nothing can be made of it.
    pub(crate) fn check(&self, limit: u64) -> Result<()> {
        if let Some(reason) = self.fault {
            return Err(Error::InvalidLayer {
                entry: "index of the layer".to_owned(),
                reason: reason.to_owned(),
            });
        }
        let bytes = self.nodes.len() * size_of::<Node>() + self.text.len() + self.xattr_bytes;
        if bytes as u64 > limit {
            let what = "index of names and metadata".to_owned();
            return Err(Error::LimitExceeded { what, name: "index_bytes", limit });
        }
        Ok(())
    }

    /// Adds to the text; its place, which has to fit 32 bits.
    fn add_text(&mut self, text: &[u8]) -> Option<u32> {
        let offset = u32::try_from(self.text.len()).ok()?;
        offset.checked_add(u32::try_from(text.len()).ok()?)?;
        self.text.extend_from_slice(text);
        Some(offset)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// All nodes that ever were, removed ones included.
    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut()
    }

    /// How many of them there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn name(&self, id: NodeId) -> &[u8] {
        let node = self.node(id);
        &self.text[node.name as usize..node.name as usize + usize::from(node.name_len)]
    }

    pub(crate) fn parent(&self, id: NodeId) -> Option<NodeId> {
        some(self.node(id).parent)
    }

    pub(crate) fn xattrs(&self, id: NodeId) -> &[(Vec<u8>, Vec<u8>)] {
        match self.node(id).xattrs {
            0 => &[],
            n => &self.xattrs[n as usize - 1],
        }
    }

    pub(crate) fn set_xattrs(&mut self, id: NodeId, xattrs: Xattrs) {
        self.node_mut(id).xattrs = if xattrs.is_empty() {
            0
        } else {
            self.xattr_bytes +=
                xattrs.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
            self.xattrs.push(xattrs);
            self.xattrs.len() as u32
        };
    }

    /// The target of a symlink or pending link.
    pub(crate) fn target(&self, id: NodeId) -> &[u8] {
        let data = self.node(id).data;
        &self.text[(data >> 32) as usize..][..data as u32 as usize]
    }

    pub(crate) fn set_target(&mut self, id: NodeId, target: &[u8]) {
        let place = self.add_text(target);
        if place.is_none() {
            self.fault = Some("too many names");
        }
        self.node_mut(id).data = place.map_or(0, |offset| u64::from(offset) << 32 | target.len() as u64);
    }

    /// Path from the root, components joined by `/`; empty for the root.
    pub(crate) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = id;
        while let Some(parent) = self.parent(at) {
            parts.push(self.name(at));
            at = parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let sought = self.slot(parent, name);
        let found = self
            .table
            .find(sought.hash(), |slot| slot.hash == sought.hash && self.is(NodeId(slot.id), parent, name));
        found.map(|slot| NodeId(slot.id))
    }

    /// The entry at `parts` below the root, without following anything.
    #[cfg(test)]
    pub(crate) fn lookup(&self, parts: &[&[u8]]) -> Option<NodeId> {
        parts.iter().try_fold(NodeId::ROOT, |at, part| self.child(at, part))
    }

    /// Adds an entry; there must be none of that name.
    pub(crate) fn insert(&mut self, parent: NodeId, name: &[u8], node: Node) -> NodeId {
        let depth = self.node(parent).depth + 1;
        let id = u32::try_from(self.nodes.len()).unwrap_or(NONE);
        let place = is_component(name).then(|| self.add_text(name)).flatten();
        if place.is_none() || id == NONE {
            self.fault = Some("names that are none, or too many");
        }
        if depth >= MAX_DEPTH {
            self.fault = Some("directories more than 4096 deep");
        }
        let (name, name_len) = place.map_or((0, 0), |offset| (offset, name.len() as u8));
        // Depth counts no further where it has failed already.
        self.nodes.push(Node { name, name_len, depth: depth.min(MAX_DEPTH), ..node });
        if self.nodes[id as usize].inode == NONE {
            self.nodes[id as usize].inode = id;
        }
        self.attach(NodeId(id), parent);
        NodeId(id)
    }

    /// Takes an entry out, with all below it. Ids stay used up.
    pub(crate) fn remove(&mut self, id: NodeId) {
        // Below it, only the table has to forget: nothing leads to those nodes any more.
        let mut walk = Walk::new(id);
        while let Some(visit) = walk.next(self) {
            if let Visit::Enter(inner) = visit
                && inner != id
            {
                self.forget(inner);
            }
        }
        self.detach(id);
    }

    /// Puts an entry, with all below it, under another parent; the name must be free there.
    pub(crate) fn relocate(&mut self, id: NodeId, parent: NodeId) {
        self.detach(id);
        self.attach(id, parent);
    }

    pub(crate) fn first_child(&self, id: NodeId) -> Option<NodeId> {
        some(self.node(id).first)
    }

    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.first_child(id), |&at| some(self.node(at).next))
    }

    /// Copies metadata, attributes and target of an entry of another tree.
    pub(crate) fn copy_node(&mut self, id: NodeId, from: &Tree, source: NodeId) {
        let other = from.node(source);
        let node = self.node_mut(id);
        node.kind = other.kind;
        node.mode = other.mode;
        node.uid = other.uid;
        node.gid = other.gid;
        node.secs = other.secs;
        node.nanos = other.nanos;
        node.size = other.size;
        node.data = other.data;
        if matches!(other.kind, NodeKind::Symlink | NodeKind::Link) {
            self.set_target(id, from.target(source));
        }
        self.set_xattrs(id, from.xattrs(source).to_vec());
    }

    fn attach(&mut self, id: NodeId, parent: NodeId) {
        let next = std::mem::replace(&mut self.node_mut(parent).first, id.0);
        if let Some(next) = some(next) {
            self.node_mut(next).prev = id.0;
        }
        let node = self.node_mut(id);
        (node.parent, node.prev, node.next) = (parent.0, NONE, next);
        let slot = Slot { id: id.0, ..self.slot(parent, self.name(id)) };
        self.table.insert_unique(slot.hash(), slot, Slot::hash);
    }

    fn detach(&mut self, id: NodeId) {
        self.forget(id);
        let &Node { parent, prev, next, .. } = self.node(id);
        match some(prev) {
            Some(prev) => self.node_mut(prev).next = next,
            None => {
                if let Some(parent) = some(parent) {
                    self.node_mut(parent).first = next;
                }
            }
        }
        if let Some(next) = some(next) {
            self.node_mut(next).prev = prev;
        }
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(parent) = self.parent(id)
            && let hash = self.slot(parent, self.name(id)).hash()
            && let Ok(entry) = self.table.find_entry(hash, |slot| slot.id == id.0)
        {
            entry.remove();
        }
    }

    /// Where a name would be in the table.
    fn slot(&self, parent: NodeId, name: &[u8]) -> Slot {
        Slot { hash: (self.hasher.hash_one((parent.0, name)) >> 32) as u32, id: NONE }
    }

    fn is(&self, id: NodeId, parent: NodeId, name: &[u8]) -> bool {
        self.node(id).parent == parent.0 && self.name(id) == name
    }
}

/// What may be handed to a system call as a name in a directory.
fn is_component(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= 255
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

fn some(id: u32) -> Option<NodeId> {
    (id != NONE).then_some(NodeId(id))
}

/// Visits an entry and all below it, directories before and after their content. It needs no stack, however deep the
/// tree is. While it runs, the tree may change only below entries that were left already, or not entered yet.
#[derive(Debug)]
pub(crate) struct Walk {
    root: NodeId,
    next: Option<Visit>,
}

impl Walk {
    pub(crate) fn new(root: NodeId) -> Walk {
        Walk { root, next: Some(Visit::Enter(root)) }
    }

    pub(crate) fn next(&mut self, tree: &Tree) -> Option<Visit> {
        let visit = self.next?;
        self.next = match visit {
            Visit::Enter(id) if tree.node(id).kind == NodeKind::Directory => {
                Some(tree.first_child(id).map_or(Visit::Leave(id), Visit::Enter))
            }
            Visit::Enter(id) | Visit::Leave(id) => self.after(tree, id),
        };
        Some(visit)
    }

    /// Goes on behind `id` without visiting what is in it.
    pub(crate) fn skip(&mut self, tree: &Tree, id: NodeId) {
        self.next = self.after(tree, id);
    }

    fn after(&self, tree: &Tree, id: NodeId) -> Option<Visit> {
        if id == self.root {
            return None;
        }
        match some(tree.node(id).next) {
            Some(sibling) => Some(Visit::Enter(sibling)),
            None => tree.parent(id).map(Visit::Leave),
        }
    }
}

#[cfg(test)]
mod tests;
