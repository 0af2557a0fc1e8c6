//! Layers as directories, however they are put together later; and whole images as one directory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::apply::losses;
use crate::apply::merge::Merged;
use crate::apply::metadata::{Ownership, failed, open_directory, open_for_reading};
use crate::apply::onto::lay_onto;
use crate::apply::place::{Directory, Markers};
use crate::apply::remove::remove_at;
use crate::apply::settle::settle;
use crate::apply::stage::stage;
use crate::apply::tree::{NodeId, Tree, flags};
use crate::apply::writers::Writers;
use crate::decode::run_ahead;
use crate::owners::Owners;
use crate::owners::reach::Reach;
use crate::tar::Reader;
use crate::{Digest, Error, Result};

use super::unpack::{LayerJob, in_our_thread, stage_all};
use super::{Blob, remove_tree};

/// Where layers are staged inside of the target: a name that no layer can have.
const STAGING: &str = ".wh..wh.staging";

/// Unpacks the layers of an image, bottom first, into one directory that shows the whole. `target` is made if it is not
/// there; otherwise it has to be empty. After a failure it is as it was.
///
/// # Errors
///
/// Those of the lowest layer that fails.
pub(crate) fn unpack_to_directory(mut jobs: Vec<LayerJob>, target: &Path) -> Result<()> {
    let made = match rustix::fs::mkdir(target, rustix::fs::Mode::RWXU) {
        Err(Errno::EXIST) => false,
        other => other.map(|()| true).map_err(Error::io("mkdir", target))?,
    };
    if !made && std::fs::read_dir(target).map_err(Error::io("read", target))?.next().is_some() {
        let source = Errno::NOTEMPTY.into();
        return Err(Error::Io { action: "unpack into", path: target.to_path_buf(), source });
    }
    let _reach = Reach::keep();
    let staging = target.join(STAGING);
    let result = unpack_within(&mut jobs, target, &staging);
    let removed = remove_tree(&staging);
    if result.is_err() {
        if made {
            let _ = remove_tree(target);
        } else {
            let _ = empty(target, None);
        }
    }
    result.and(removed)
}

fn unpack_within(jobs: &mut Vec<LayerJob>, target: &Path, staging: &Path) -> Result<()> {
    let mkdir = |dir: &Path| rustix::fs::mkdir(dir, rustix::fs::Mode::RWXU).map_err(Error::io("mkdir", dir));
    mkdir(staging)?;
    for (number, job) in jobs.iter_mut().enumerate() {
        job.scratch = staging.join(number.to_string());
        mkdir(&job.scratch)?;
    }
    let controls: Vec<_> = jobs.iter().map(|job| job.control.clone()).collect();
    // A directory for anybody's use: an ordinary user could not even remove what others own.
    let owners = Ownership::new(&Owners::Plain);
    if jobs.is_empty() {
        // An image without layers is an empty root.
        remove_tree(staging)?;
        return Directory::complete_root(&Tree::new(), open(target)?, &owners);
    }
    let mut merged = Merged::new();
    let stage = |blob: Blob<'_>, scratch: &Path| stage_directory(blob, &scratch.join("fs"), &owners);
    stage_all(&stage, std::mem::take(jobs), |number, mut tree| {
        let scratch = staging.join(number.to_string());
        let last = number + 1 == controls.len();
        in_our_thread(|umask_is_zero| {
            let layer = scratch.join("fs");
            settle_layer(&mut tree, &merged, &layer, &owners, umask_is_zero)?;
            if tree.node(NodeId::ROOT).has(flags::HIDES) {
                empty(target, Some(STAGING))?;
            }
            lay_onto(&mut tree, open(&layer)?, open(target)?, &owners, umask_is_zero)?;
            remove_tree(&scratch)?;
            if last {
                remove_tree(staging)?;
                Directory::complete_root(&tree, open(target)?, &owners)?;
            }
            Ok(())
        })?;
        controls[number].done();
        if !last {
            merged.push(tree, target)?;
        }
        Ok(())
    })
}

/// Removes all that is in a directory, but for one name.
fn empty(dir: &Path, keep: Option<&str>) -> Result<()> {
    let root = open(dir)?;
    for entry in std::fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        if keep.is_some_and(|keep| name == keep) {
            continue;
        }
        remove_at(root.as_fd(), name.as_encoded_bytes()).map_err(Error::io("remove", dir))?;
    }
    Ok(())
}

pub(super) fn open(dir: &Path) -> Result<OwnedFd> {
    open_directory(rustix::fs::CWD, dir.as_os_str().as_encoded_bytes()).map_err(Error::io("open", dir))
}

/// Reads a layer into a new directory.
pub(super) fn stage_directory(blob: Blob<'_>, dir: &Path, owners: &Ownership) -> Result<Tree> {
    let Blob { reader, diff_id, control, writers, umask_is_zero } = blob;
    let root = new_root(dir)?;
    let writers = Writers::new(writers, owners);
    let (tree, digest) = run_ahead(reader, control, diff_id.algorithm(), |ahead| {
        writers.run(|| {
            let mut sink = Directory::new(root, &writers, owners, umask_is_zero);
            stage(Reader::new(ahead, control.limits()), &mut sink, control)
        })
    })?;
    check_diff_id(diff_id, digest)?;
    losses::check(&tree, dir, control)?;
    Ok(tree)
}

pub(super) fn settle_directory(
    tree: &mut Tree,
    below: &Merged,
    dir: &Path,
    markers: Markers,
    owners: &Ownership,
    umask_is_zero: bool,
) -> Result<()> {
    let writers = Writers::new(0, owners);
    let mut sink = Directory::new(open(dir)?, &writers, owners, umask_is_zero);
    settle(tree, below, &mut sink)?;
    sink.complete(tree, markers)?;
    Directory::complete_root(tree, open(dir)?, owners)
}

/// Settles without the final touch, for a layer that moves on.
pub(super) fn settle_layer(
    tree: &mut Tree,
    below: &Merged,
    dir: &Path,
    owners: &Ownership,
    umask_is_zero: bool,
) -> Result<()> {
    let writers = Writers::new(0, owners);
    settle(tree, below, &mut Directory::new(open(dir)?, &writers, owners, umask_is_zero))
}

pub(super) fn check_diff_id(expected: &Digest, actual: Digest) -> Result<()> {
    if *expected == actual {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        what: "decoded layer (DiffID)".to_owned(),
        expected: expected.clone(),
        actual,
    })
}

/// Makes the root of a tree. Whatever the store's directory hands down (a set-group-id bit, default ACLs) is taken off,
/// or all entries would inherit it.
pub(super) fn new_root(dir: &Path) -> Result<OwnedFd> {
    let make = || {
        rustix::fs::mkdir(dir, rustix::fs::Mode::RWXU)?;
        let root = open_directory(rustix::fs::CWD, dir.as_os_str().as_encoded_bytes())?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::RWXU)?;
        for acl in ["system.posix_acl_default", "system.posix_acl_access"] {
            let _ = rustix::fs::fremovexattr(&root, acl);
        }
        Ok(root)
    };
    make().map_err(Error::io::<Errno>("make", dir))
}

/// Opens a file of the layers below, kept as directories.
pub(super) fn open_content(below: &Merged, id: NodeId) -> Result<Box<dyn std::io::Read>> {
    let (dir, name) = below.open_parent(id)?;
    let mode = rustix::fs::Mode::from_raw_mode(u32::from(below.tree.node(id).mode));
    let file = open_for_reading(dir.as_fd(), name, mode, rustix::fs::FileType::RegularFile)
        .map_err(|e| failed("open", &below.tree.path(id))(e))?;
    Ok(Box::new(std::fs::File::from(file)))
}
