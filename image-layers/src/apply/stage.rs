//! Staging: one layer's entries become a set of changes, and their contents find their place, before anything is known
//! of the layers below. That is why several layers can be staged at the same time.
//!
//! A layer is a set, not a script: deletions concern what is below, additions win, and the order of entries inside a
//! layer does not matter. Only for a name that occurs twice the last entry counts.

use crate::decode::Ahead;
use crate::progress::LayerControl;
use crate::tar::{Entry, Extent, Kind, Reader, Xattrs};
use crate::{Error, Result};

use super::merge::Merged;
use super::path::{AUFS_LINKS, EntryPath, Name, invalid, lossy};
use super::tree::{Node, NodeId, NodeKind, Tree, flags};

/// Where contents go: a directory tree or an image file. Metadata of directories is not its business yet, it is final
/// only when the layer is settled.
pub(crate) trait Sink {
    /// Writes a file, all of whose body is still in the reader.
    fn file(
        &mut self,
        tree: &mut Tree,
        node: NodeId,
        sparse: Option<&[Extent]>,
        reader: &mut Reader<Ahead>,
    ) -> Result<()>;

    /// Makes a symlink, device or fifo.
    fn special(&mut self, tree: &mut Tree, node: NodeId) -> Result<()>;

    /// Makes `node` another name of `target`.
    fn link(&mut self, tree: &mut Tree, target: NodeId, node: NodeId) -> Result<()>;

    /// An entry is about to leave the tree, with all below it.
    fn remove(&mut self, tree: &mut Tree, node: NodeId) -> Result<()>;

    /// Everything has to be in place when this returns.
    fn finish(&mut self, tree: &mut Tree) -> Result<()>;

    /// Moves an entry to another directory, with all below it.
    fn relocate(&mut self, tree: &mut Tree, node: NodeId, parent: NodeId) -> Result<()>;

    /// Makes `node`, whose metadata is complete, the same as `source` of the layers below.
    fn copy_up(&mut self, tree: &mut Tree, node: NodeId, below: &Merged, source: NodeId) -> Result<()>;
}

/// What the kernel takes as a link target, with the NUL behind it.
const PATH_MAX: usize = 4096;

/// Symlinks on the way of one name; the kernel's own limit.
pub(super) const MAX_LINKS: usize = 40;

/// Reads a layer into `sink` and returns its changes.
pub(crate) fn stage(mut reader: Reader<Ahead>, sink: &mut impl Sink, control: &LayerControl) -> Result<Tree> {
    let mut stage = Stage { tree: Tree::new(), sink, parent: None };
    while let Some(entry) = reader.next()? {
        stage.entry(entry, &mut reader)?;
        stage.tree.check(control.limits().index_bytes)?;
        control.entries(1);
    }
    reader.drain()?;
    if let Some(links) = stage.tree.child(NodeId::ROOT, AUFS_LINKS) {
        stage.clear(Some(links))?;
    }
    stage.sink.finish(&mut stage.tree)?;
    Ok(stage.tree)
}

struct Stage<'a, S> {
    tree: Tree,
    sink: &'a mut S,
    /// The directory part of the last name, and where it led: entries mostly come directory by directory.
    parent: Option<(Vec<u8>, NodeId)>,
}

impl<S: Sink> Stage<'_, S> {
    fn entry(&mut self, entry: Entry, reader: &mut Reader<Ahead>) -> Result<()> {
        let path = EntryPath::parse(&entry.name)?;
        let Some((last, parents)) = path.split() else { return self.root(entry) };
        if parents == [AUFS_LINKS] && entry.kind == Kind::File {
            // Until the end of the layer, as long as something may link to it.
            let dir = self.directory(&entry.name, parents)?;
            return self.place(dir, last, &entry, reader);
        }
        for part in parents {
            match Name::classify(part) {
                Name::Plain(_) => {}
                Name::Reserved => return Ok(()),
                _ => return Err(invalid(&entry.name, "an entry below a whiteout")),
            }
        }
        match Name::classify(last) {
            Name::Reserved => Ok(()),
            Name::Nothing => Err(invalid(&entry.name, "a whiteout that names nothing")),
            Name::Opaque => {
                let dir = self.directory(&entry.name, parents)?;
                self.tree.node_mut(dir).flags |= flags::OPAQUE;
                Ok(())
            }
            Name::Whiteout(hidden) => {
                let dir = self.directory(&entry.name, parents)?;
                match self.tree.child(dir, hidden) {
                    None => {
                        self.tree.insert(dir, hidden, Node::new(NodeKind::Whiteout));
                    }
                    Some(own) if self.tree.node(own).kind == NodeKind::Directory => {
                        self.tree.node_mut(own).flags |= flags::FRESH;
                    }
                    // What the layer itself brings is shown.
                    Some(_) => {}
                }
                Ok(())
            }
            Name::Plain(name) => {
                let dir = self.directory(&entry.name, parents)?;
                self.place(dir, name, &entry, reader)
            }
        }
    }

    fn root(&mut self, entry: Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(invalid(&entry.name, "the root can only be a directory"));
        }
        self.describe(NodeId::ROOT, &entry);
        Ok(())
    }

    fn place(&mut self, dir: NodeId, name: &[u8], entry: &Entry, reader: &mut Reader<Ahead>) -> Result<()> {
        let existing = self.tree.child(dir, name);
        let kind = match &entry.kind {
            Kind::Directory => return self.place_directory(dir, name, existing, entry),
            Kind::HardLink { target } => return self.place_link(dir, name, existing, entry, target),
            // To overlayfs this would be an order to hide something; an image has no business giving it.
            Kind::Char { major: 0, minor: 0 } => return Ok(()),
            Kind::File => NodeKind::File,
            Kind::Symlink { .. } => NodeKind::Symlink,
            Kind::Char { .. } => NodeKind::Char,
            Kind::Block { .. } => NodeKind::Block,
            Kind::Fifo => NodeKind::Fifo,
        };
        self.clear(existing)?;
        let node = self.tree.insert(dir, name, Node::new(kind));
        self.describe(node, entry);
        match &entry.kind {
            Kind::File => {
                self.tree.node_mut(node).size = entry.size;
                return self.sink.file(&mut self.tree, node, entry.sparse.as_deref(), reader);
            }
            Kind::Symlink { target } => {
                if target.contains(&0) {
                    return Err(invalid(&entry.name, "a link target with a NUL in it"));
                }
                if target.len() >= PATH_MAX {
                    return Err(invalid(&entry.name, "a link target of more than 4095 bytes"));
                }
                self.tree.set_target(node, target);
            }
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                self.tree.node_mut(node).data = u64::from(*major) << 32 | u64::from(*minor);
            }
            _ => {}
        }
        self.sink.special(&mut self.tree, node)
    }

    fn place_directory(
        &mut self,
        dir: NodeId,
        name: &[u8],
        existing: Option<NodeId>,
        entry: &Entry,
    ) -> Result<()> {
        let node = match existing {
            Some(own) if self.tree.node(own).kind == NodeKind::Directory => own,
            _ => self.new_directory(dir, name, existing)?,
        };
        self.describe(node, entry);
        Ok(())
    }

    fn place_link(
        &mut self,
        dir: NodeId,
        name: &[u8],
        existing: Option<NodeId>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<()> {
        let path = EntryPath::parse(target).map_err(|_| Error::LayerEscape { entry: lossy(&entry.name) })?;
        let found = self.find(path.parts());
        if found.is_some() && found == existing {
            return Ok(());
        }
        self.clear(existing)?;
        // Again, for the target may have been below what was just replaced.
        match self.find(path.parts()) {
            Some(own) => match self.tree.node(own).kind {
                NodeKind::Directory
                    if self.tree.node(own).has(flags::EXPLICIT) || path.parts().is_empty() =>
                {
                    Err(invalid(&entry.name, "a hard link to a directory"))
                }
                NodeKind::Directory | NodeKind::Whiteout => self.pending_link(dir, name, path.parts()),
                kind => {
                    let mut node = self.tree.node(own).clone();
                    node.flags = flags::LINKED;
                    self.tree.node_mut(own).flags |= flags::LINKED;
                    let node = self.tree.insert(dir, name, node);
                    if kind == NodeKind::Link { Ok(()) } else { self.sink.link(&mut self.tree, own, node) }
                }
            },
            None => self.pending_link(dir, name, path.parts()),
        }
    }

    /// The target can only be in a layer below.
    fn pending_link(&mut self, dir: NodeId, name: &[u8], target: &[&[u8]]) -> Result<()> {
        let node = self.tree.insert(dir, name, Node::new(NodeKind::Link));
        self.tree.set_target(node, &target.join(&b'/'));
        Ok(())
    }

    /// What this layer has at a path, following its own symlinks on the way but not the last one.
    fn find(&self, parts: &[&[u8]]) -> Option<NodeId> {
        find(&self.tree, parts)
    }

    /// The directory at `parts`, made if need be. Symlinks of this layer are followed with the root as `/`; those of
    /// layers below are not known yet and sorted out when the layer is settled.
    fn directory(&mut self, name: &[u8], parts: &[&[u8]]) -> Result<NodeId> {
        if let Some((last, id)) = &self.parent
            && is_joined(last, parts)
        {
            return Ok(*id);
        }
        let mut at = NodeId::ROOT;
        let mut pending: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        let mut rest = parts.iter();
        loop {
            let owned;
            let part = match pending.pop() {
                Some(part) => {
                    owned = part;
                    &owned[..]
                }
                None => match rest.next() {
                    Some(part) => part,
                    None => break,
                },
            };
            match part {
                b"" | b"." => continue,
                b".." => {
                    at = self.tree.parent(at).unwrap_or(NodeId::ROOT);
                    continue;
                }
                _ => {}
            }
            at = match self.tree.child(at, part) {
                Some(own) if self.tree.node(own).kind == NodeKind::Directory => own,
                Some(own) if self.tree.node(own).kind == NodeKind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::LinkLoop { path: lossy(name) });
                    }
                    let target = self.tree.target(own);
                    pending.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
                    if target.starts_with(b"/") { NodeId::ROOT } else { at }
                }
                existing => self.new_directory(at, part, existing)?,
            };
        }
        let (mut joined, _) = self.parent.take().unwrap_or((Vec::new(), at));
        joined.clear();
        for part in parts {
            joined.extend_from_slice(part);
            joined.push(b'/');
        }
        self.parent = Some((joined, at));
        Ok(at)
    }

    /// A directory in place of nothing, of a whiteout or of something else.
    fn new_directory(&mut self, parent: NodeId, name: &[u8], existing: Option<NodeId>) -> Result<NodeId> {
        if name.len() > 255 {
            return Err(invalid(name, "a name longer than 255 bytes"));
        }
        self.clear(existing)?;
        let mut node = Node::new(NodeKind::Directory);
        if existing.is_some() {
            node.flags = flags::FRESH;
        }
        Ok(self.tree.insert(parent, name, node))
    }

    fn clear(&mut self, existing: Option<NodeId>) -> Result<()> {
        if let Some(existing) = existing {
            self.parent = None;
            if self.tree.node(existing).kind != NodeKind::Whiteout {
                self.sink.remove(&mut self.tree, existing)?;
            }
            self.tree.remove(existing);
        }
        Ok(())
    }

    fn describe(&mut self, id: NodeId, entry: &Entry) {
        let node = self.tree.node_mut(id);
        if node.kind == NodeKind::Directory {
            if node.has(flags::MADE) && node.mode != entry.mode {
                node.flags |= flags::STALE;
            }
            node.flags |= flags::EXPLICIT;
        }
        node.mode = entry.mode;
        node.uid = entry.uid;
        node.gid = entry.gid;
        node.secs = entry.mtime.secs;
        node.nanos = entry.mtime.nanos;
        self.tree.set_xattrs(
            id,
            entry.xattrs.iter().filter(|(name, _)| !is_overlay_xattr(name)).cloned().collect(),
        );
    }
}

/// What a tree has at a path, following symlinks on the way but not the last one.
pub(crate) fn find(tree: &Tree, parts: &[&[u8]]) -> Option<NodeId> {
    let mut at = NodeId::ROOT;
    let mut links = 0;
    let mut pending: Vec<&[u8]> = parts.iter().rev().copied().collect();
    while let Some(part) = pending.pop() {
        match part {
            b"" | b"." => continue,
            b".." => {
                at = tree.parent(at).unwrap_or(NodeId::ROOT);
                continue;
            }
            _ => {}
        }
        let child = tree.child(at, part)?;
        at = match tree.node(child).kind {
            NodeKind::Symlink if !pending.is_empty() => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                let target = tree.target(child);
                pending.extend(target.split(|&b| b == b'/').rev());
                if target.starts_with(b"/") { NodeId::ROOT } else { at }
            }
            _ => child,
        };
    }
    Some(at)
}

/// Whether `joined` is `parts`, each with a slash behind it.
fn is_joined(joined: &[u8], parts: &[&[u8]]) -> bool {
    let rest = parts.iter().try_fold(joined, |rest, part| rest.strip_prefix(*part)?.strip_prefix(b"/"));
    rest.is_some_and(<[u8]>::is_empty)
}

/// Overlay's own attributes in a layer are content of somebody's disk, not orders for ours.
pub(crate) fn is_overlay_xattr(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"user.fuseoverlayfs."].iter().any(|p| name.starts_with(p))
}

/// Drops the attributes that never leave a machine.
pub(crate) fn without_overlay(xattrs: Xattrs) -> Xattrs {
    xattrs.into_iter().filter(|(name, _)| !is_overlay_xattr(name)).collect()
}
