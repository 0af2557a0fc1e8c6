//! Laying a settled layer over a directory tree that shows all layers below it.
//!
//! The layer was staged beside the tree on the same file system, so contents move by rename: a whole directory at once
//! where the tree has none of that name, entry by entry where it has.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;

use crate::owners::reach;
use crate::{Error, Result};

use super::metadata::{Ownership, failed};
use super::place::{Directory, Markers};
use super::remove::{make_accessible, remove_at};
use super::tree::{NodeId, NodeKind, Tree, Visit, Walk, flags};
use super::writers::Writers;

/// Moves the content of the layer `tree`, staged in `from`, over what is in `onto`. Afterwards only rubbish is left in
/// `from`.
pub(crate) fn lay_onto(
    tree: &mut Tree,
    from: OwnedFd,
    onto: OwnedFd,
    owners: &Ownership,
    umask_is_zero: bool,
) -> Result<()> {
    let writers = Writers::new(0, owners);
    let mut from = Directory::new(from, &writers, owners, umask_is_zero);
    let mut onto = Directory::new(onto, &writers, owners, umask_is_zero);
    let mut walk = Walk::new(NodeId::ROOT);
    while let Some(visit) = walk.next(tree) {
        let Visit::Enter(id) = visit else { continue };
        let Some(parent) = tree.parent(id) else { continue };
        let to = onto.directory(tree, parent)?;
        let kind = tree.node(id).kind;
        let replaces =
            kind == NodeKind::Whiteout || kind == NodeKind::Directory && tree.node(id).has(flags::HIDES);
        if replaces {
            match remove_at(to.as_fd(), tree.name(id)) {
                Err(Errno::NOENT) => {}
                other => other.map_err(fail("remove", tree, id))?,
            }
        }
        let name = tree.name(id).to_vec();
        match kind {
            NodeKind::Whiteout => {}
            NodeKind::Directory => {
                let moved = if tree.node(id).has(flags::MADE) {
                    let source = from.directory(tree, parent)?;
                    reach::renameat(&source, &name, &to, &name)
                } else {
                    reach::mkdirat(&to, &name, Mode::RWXU)
                };
                let node = tree.node_mut(id);
                node.flags |= flags::MADE | flags::STALE;
                match moved {
                    // Nothing was there, so nothing below it has to be taken away or merged.
                    Ok(()) => walk.skip(tree, id),
                    Err(Errno::EXIST | Errno::NOTEMPTY) => {
                        make_accessible(to.as_fd(), &name).map_err(fail("open", tree, id))?;
                    }
                    Err(e) => return Err(fail("rename", tree, id)(e)),
                }
            }
            _ => {
                let source = from.directory(tree, parent)?;
                let moved = match reach::renameat(&source, &name, &to, &name) {
                    Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => remove_at(to.as_fd(), &name)
                        .and_then(|()| reach::renameat(&source, &name, &to, &name)),
                    other => other,
                };
                moved.map_err(fail("rename", tree, id))?;
            }
        }
    }
    onto.complete(tree, Markers::None)
}

fn fail(action: &'static str, tree: &Tree, id: NodeId) -> impl FnOnce(Errno) -> Error + use<> {
    failed(action, &tree.path(id))
}
