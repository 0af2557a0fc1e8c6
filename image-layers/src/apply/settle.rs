//! Settling: a staged layer meets the index of the layers below it.
//!
//! Only now it is known where names of the layer that lead through symlinks of lower layers belong, what directories it
//! implies look like, which deletions hide anything, and what its hard links to lower files are. What is written for
//! overlayfs follows from that: a whiteout only where something is below, an opaque marker wherever a directory takes the
//! place of something.

use std::collections::HashMap;

use crate::{Error, Result};

use super::merge::Merged;
use super::path::{invalid, lossy};
use super::stage::{MAX_LINKS, Sink, find};
use super::tree::{Node, NodeId, NodeKind, Tree, Visit, Walk, flags};

/// Completes the changes of a layer. Afterwards they hold no pending links, every directory has its metadata, and only
/// whiteouts that hide something are left.
pub(crate) fn settle(own: &mut Tree, below: &Merged, sink: &mut impl Sink) -> Result<()> {
    graft(own, below, sink)?;
    let mut linked = HashMap::new();
    let mut walk = Walk::new(NodeId::ROOT);
    let mut stack = Counterparts::new(below);
    while let Some(visit) = walk.next(own) {
        match visit {
            Visit::Enter(id) => {
                let lower = stack.enter(own, id);
                match own.node(id).kind {
                    NodeKind::Whiteout if lower.is_none() => own.remove(id),
                    NodeKind::Directory => inherit(own, id, below, lower),
                    NodeKind::Link => resolve_link(own, id, below, &mut linked, sink)?,
                    _ => {}
                }
            }
            Visit::Leave(id) => {
                stack.leave();
                let node = own.node(id);
                if id == NodeId::ROOT || node.has(flags::EXPLICIT) || own.first_child(id).is_some() {
                    continue;
                }
                // Only markers were in it, or all that was in it went elsewhere; that makes no directory.
                let (fresh, opaque) = (node.has(flags::FRESH), node.has(flags::OPAQUE));
                let lower = counterpart(own, id, below).map(|lower| below.tree.node(lower).kind);
                if opaque && !fresh && lower == Some(NodeKind::Directory) {
                    continue;
                }
                sink.remove(own, id)?;
                if fresh && lower.is_some() {
                    let node = own.node_mut(id);
                    (node.kind, node.flags) = (NodeKind::Whiteout, 0);
                } else {
                    own.remove(id);
                }
            }
        }
    }
    sink.finish(own)
}

/// Which entries of the layers below lie under those that are being walked over.
struct Counterparts<'a> {
    below: &'a Merged,
    /// For each open directory: what is visible under it, if anything is.
    stack: Vec<Option<NodeId>>,
}

impl<'a> Counterparts<'a> {
    fn new(below: &'a Merged) -> Counterparts<'a> {
        Counterparts { below, stack: Vec::new() }
    }

    fn enter(&mut self, own: &Tree, id: NodeId) -> Option<NodeId> {
        let lower = match self.stack.last() {
            None => (!self.below.is_empty()).then_some(NodeId::ROOT),
            Some(parent) => parent.and_then(|parent| self.below.tree.child(parent, own.name(id))),
        };
        if own.node(id).kind == NodeKind::Directory {
            self.stack.push(lower.filter(|_| !own.node(id).has(flags::OPAQUE | flags::FRESH)));
        }
        lower
    }

    fn leave(&mut self) {
        self.stack.pop();
    }
}

/// What lies under one entry; slower than walking along.
fn counterpart(own: &Tree, id: NodeId, below: &Merged) -> Option<NodeId> {
    let way: Vec<NodeId> = std::iter::successors(Some(id), |&at| own.parent(at)).collect();
    let mut counterparts = Counterparts::new(below);
    way.into_iter().rev().map(|id| counterparts.enter(own, id)).last().flatten()
}

/// A directory that is only implied is the one below, or root's with mode 0755.
fn inherit(own: &mut Tree, id: NodeId, below: &Merged, lower: Option<NodeId>) {
    let node = own.node(id);
    let kind = lower.map(|lower| below.tree.node(lower).kind);
    let hides =
        lower.is_some() && (node.has(flags::OPAQUE | flags::FRESH) || kind != Some(NodeKind::Directory));
    if !node.has(flags::EXPLICIT)
        && !node.has(flags::FRESH)
        && let Some(lower) = lower
        && kind == Some(NodeKind::Directory)
    {
        let mode = node.mode;
        own.copy_node(id, &below.tree, lower);
        let node = own.node_mut(id);
        if node.has(flags::MADE) && node.mode != mode {
            node.flags |= flags::STALE;
        }
    }
    if hides {
        own.node_mut(id).flags |= flags::HIDES;
    }
}

/// A hard link whose target was not in its own layer when it was read.
fn resolve_link(
    own: &mut Tree,
    id: NodeId,
    below: &Merged,
    linked: &mut HashMap<(u32, u32), NodeId>,
    sink: &mut impl Sink,
) -> Result<()> {
    let target = own.target(id).to_vec();
    let parts: Vec<&[u8]> = target.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
    let source = if below.is_empty() { None } else { find(&below.tree, &parts) };
    let Some(source) = source else {
        // It came later in the layer.
        return match find(own, &parts).filter(|&own_target| own_target != id) {
            Some(target) if own.node(target).kind == NodeKind::Directory => {
                Err(invalid(&own.path(id), "a hard link to a directory"))
            }
            Some(target) if !matches!(own.node(target).kind, NodeKind::Link | NodeKind::Whiteout) => {
                same_inode(own, id, target);
                sink.link(own, target, id)
            }
            _ => Err(Error::LinkTargetNotFound { entry: lossy(&own.path(id)), target: lossy(&target) }),
        };
    };
    let node = below.tree.node(source);
    if node.kind == NodeKind::Directory {
        return Err(invalid(&own.path(id), "a hard link to a directory"));
    }
    if let Some(&first) = linked.get(&(node.layer, node.inode)) {
        same_inode(own, id, first);
        return sink.link(own, first, id);
    }
    linked.insert((node.layer, node.inode), id);
    own.copy_node(id, &below.tree, source);
    own.node_mut(id).inode = id.number();
    own.node_mut(id).flags = 0;
    sink.copy_up(own, id, below, source)
}

fn same_inode(own: &mut Tree, id: NodeId, target: NodeId) {
    own.node_mut(target).flags |= flags::LINKED;
    let Node { kind, mode, uid, gid, secs, nanos, size, data, inode, .. } = *own.node(target);
    let xattrs = own.xattrs(target).to_vec();
    let node = own.node_mut(id);
    (node.kind, node.mode, node.uid, node.gid, node.secs, node.nanos) = (kind, mode, uid, gid, secs, nanos);
    (node.size, node.data, node.inode, node.flags) = (size, data, inode, flags::LINKED);
    own.set_xattrs(id, xattrs);
}

/// Moves what stands under a name that is a symlink below to where that link leads, with the root as `/`.
fn graft(own: &mut Tree, below: &Merged, sink: &mut impl Sink) -> Result<()> {
    if below.is_empty() {
        return Ok(());
    }
    // What was moved may lead through further links; each round gets at least one level deeper.
    for _ in 0..MAX_LINKS {
        let mut found = Vec::new();
        let mut walk = Walk::new(NodeId::ROOT);
        let mut stack = Counterparts::new(below);
        while let Some(visit) = walk.next(own) {
            match visit {
                Visit::Enter(id) => {
                    let lower = stack.enter(own, id);
                    if is_through(own, id, below, lower) {
                        found.push(id);
                        stack.leave();
                        walk.skip(own, id);
                    }
                }
                Visit::Leave(_) => stack.leave(),
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        for id in found {
            // An earlier one of this round may have moved it, or merged it away.
            if is_attached(own, id) && is_through(own, id, below, counterpart(own, id, below)) {
                let target = resolve(own, id, below, sink)?;
                own.check(u64::MAX)?;
                own.node_mut(target).flags |= own.node(id).flags & flags::OPAQUE;
                move_content(own, id, target, sink)?;
            }
        }
    }
    Err(Error::LinkLoop { path: "symbolic links across layers".to_owned() })
}

/// Whether a directory is only implied and a symlink below.
fn is_through(own: &Tree, id: NodeId, below: &Merged, lower: Option<NodeId>) -> bool {
    let node = own.node(id);
    node.kind == NodeKind::Directory
        && !node.has(flags::EXPLICIT | flags::FRESH)
        && lower.is_some_and(|lower| below.tree.node(lower).kind == NodeKind::Symlink)
}

fn is_attached(own: &Tree, id: NodeId) -> bool {
    let mut at = id;
    while let Some(parent) = own.parent(at) {
        if own.child(parent, own.name(at)) != Some(at) {
            return false;
        }
        at = parent;
    }
    at == NodeId::ROOT
}

/// The directory that the symlink under `id` leads to, in the view of this layer over those below; made if need be.
fn resolve(own: &mut Tree, id: NodeId, below: &Merged, sink: &mut impl Sink) -> Result<NodeId> {
    let lossy_path = || lossy(&own.path(id));
    let path = lossy_path();
    let mut at = own.parent(id).unwrap_or(NodeId::ROOT);
    let mut pending = vec![own.name(id).to_vec()];
    let mut links = 0;
    while let Some(part) = pending.pop() {
        match &part[..] {
            b"" | b"." => continue,
            b".." => {
                at = own.parent(at).unwrap_or(NodeId::ROOT);
                continue;
            }
            _ => {}
        }
        let child = own.child(at, &part);
        let link = match child {
            Some(own_child) => match own.node(own_child).kind {
                NodeKind::Symlink => Some(own.target(own_child).to_vec()),
                NodeKind::Directory => {
                    let lower = counterpart(own, own_child, below);
                    let through = is_through(own, own_child, below, lower);
                    lower.filter(|_| through).map(|lower| below.tree.target(lower).to_vec())
                }
                _ => None,
            },
            None => visible_child(own, at, &part, below)
                .filter(|&lower| below.tree.node(lower).kind == NodeKind::Symlink)
                .map(|lower| below.tree.target(lower).to_vec()),
        };
        if let Some(target) = link {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::LinkLoop { path });
            }
            pending.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
            if target.starts_with(b"/") {
                at = NodeId::ROOT;
            }
            continue;
        }
        at = match child {
            Some(own_child) if own.node(own_child).kind == NodeKind::Directory => own_child,
            existing => {
                if part.len() > 255 {
                    return Err(invalid(&part, "a name longer than 255 bytes"));
                }
                let mut node = Node::new(NodeKind::Directory);
                if let Some(existing) = existing {
                    node.flags = flags::FRESH;
                    sink.remove(own, existing)?;
                    own.remove(existing);
                }
                own.insert(at, &part, node)
            }
        };
    }
    Ok(at)
}

/// What shows through from below at a name that the layer does not have in its directory `dir`.
fn visible_child(own: &Tree, dir: NodeId, name: &[u8], below: &Merged) -> Option<NodeId> {
    if own.node(dir).has(flags::OPAQUE | flags::FRESH) {
        return None;
    }
    below.tree.child(counterpart(own, dir, below)?, name)
}

/// Moves all that is in a directory into another one. What the layer has there under its own name stays.
fn move_content(own: &mut Tree, from: NodeId, to: NodeId, sink: &mut impl Sink) -> Result<()> {
    let mut pairs = vec![(from, to)];
    let mut emptied = Vec::new();
    while let Some((from, to)) = pairs.pop() {
        emptied.push(from);
        let children: Vec<_> = own.children(from).collect();
        for child in children {
            let Some(there) = own.child(to, own.name(child)) else {
                sink.relocate(own, child, to)?;
                continue;
            };
            match (own.node(child).kind, own.node(there).kind) {
                (NodeKind::Directory, NodeKind::Directory) => {
                    if own.node(child).has(flags::EXPLICIT) && !own.node(there).has(flags::EXPLICIT) {
                        let Node { mode, uid, gid, secs, nanos, .. } = *own.node(child);
                        let xattrs = own.xattrs(child).to_vec();
                        let node = own.node_mut(there);
                        (node.mode, node.uid, node.gid, node.secs, node.nanos) =
                            (mode, uid, gid, secs, nanos);
                        node.flags |= flags::EXPLICIT | flags::STALE;
                        own.set_xattrs(there, xattrs);
                    }
                    own.node_mut(there).flags |= own.node(child).flags & (flags::OPAQUE | flags::FRESH);
                    pairs.push((child, there));
                }
                (NodeKind::Whiteout, NodeKind::Directory) => {
                    own.node_mut(there).flags |= flags::FRESH;
                    own.remove(child);
                }
                (kind, NodeKind::Whiteout) => {
                    own.remove(there);
                    if kind == NodeKind::Directory {
                        own.node_mut(child).flags |= flags::FRESH;
                    }
                    sink.relocate(own, child, to)?;
                }
                _ => {
                    sink.remove(own, child)?;
                    own.remove(child);
                }
            }
        }
    }
    // Deeper ones were found later.
    for dir in emptied.into_iter().rev() {
        sink.remove(own, dir)?;
        own.remove(dir);
    }
    Ok(())
}
