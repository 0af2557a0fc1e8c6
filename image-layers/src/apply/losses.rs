//! What the file system below cannot store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::progress::LayerControl;
use crate::{Loss, Result};

use super::path::lossy;
use super::tree::{NodeId, Tree, Visit, Walk};

/// Goes through the extended attributes of a staged layer, whose files are in `dir`. Those that the file system has no place
/// for were left out, and a container would miss them: a program its capabilities, for instance. That fails, unless the caller
/// said that it may happen.
///
/// Asked for each namespace once. What an ordinary user may not set is another matter: as with owners, everybody knows that he
/// cannot.
pub(crate) fn check(tree: &Tree, dir: &Path, control: &LayerControl) -> Result<()> {
    let mut namespaces: Vec<(&[u8], bool)> = Vec::new();
    let mut walk = Walk::new(NodeId::ROOT);
    while let Some(visit) = walk.next(tree) {
        let Visit::Enter(id) = visit else { continue };
        for (name, _) in tree.xattrs(id) {
            let namespace = name.split(|&b| b == b'.').next().unwrap_or_default();
            let known = namespaces.iter().find(|(n, _)| *n == namespace).map(|(_, stored)| *stored);
            let stored = known.unwrap_or_else(|| {
                let stored = is_stored(namespace, dir);
                namespaces.push((namespace, stored));
                stored
            });
            if !stored {
                let entry = OsStr::from_bytes(&tree.path(id)).into();
                control.lose(Loss { entry, attribute: lossy(name) }, dir)?;
            }
        }
    }
    Ok(())
}

/// Whether the file system of `dir` has a place for attributes of this namespace.
fn is_stored(namespace: &[u8], dir: &Path) -> bool {
    let (name, value): (&[u8], &[u8]) = match namespace {
        // Of the security attributes only this one comes with images, and its value is judged.
        b"security" => {
            (b"security.capability", &[1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        b"user" => (b"user.image-layers.probe", b"1"),
        b"trusted" => (b"trusted.image-layers.probe", b"1"),
        _ => return true,
    };
    // A capability belongs on a file, and a directory of the layer must not be touched for the others.
    let probe = dir.with_extension("probe");
    let made = std::fs::File::create(&probe);
    let refused = made.is_ok()
        && rustix::fs::setxattr(&probe, name, value, XattrFlags::empty()) == Err(Errno::OPNOTSUPP);
    if made.is_ok() {
        let _ = std::fs::remove_file(&probe);
    }
    !refused
}
