//! Removing trees: by descriptor and single component, whatever their modes and depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::Error;
use crate::owners::reach::{self, Reach};

use super::metadata::open_directory;

/// The directory that a path is in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes `path` with all below it; nothing is followed, and it is no error if it is not there.
pub(crate) fn remove_tree(path: &Path) -> crate::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let _reach = Reach::keep();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let removed = rustix::fs::open(parent(path), flags, Mode::empty())
        .and_then(|dir| remove_at(dir.as_fd(), std::os::unix::ffi::OsStrExt::as_bytes(name)));
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other.map_err(Error::io("remove", path)),
    }
}

/// Removes an entry of an open directory with all below it.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match reach::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    match reach::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => {}
        other => return other,
    }
    // A stack of open directories would be as deep as the tree; instead every directory is emptied of what is not a
    // directory, and the deeper ones are hoisted into the first, so that two descriptors do.
    let top = accessible(dir, name)?;
    let mut hoisted = 0u64;
    loop {
        let mut inner = None;
        for entry in entries(&top)? {
            let (entry, kind) = entry?;
            if kind != FileType::Directory {
                reach::unlinkat(&top, &entry, AtFlags::empty())?;
            } else if reach::unlinkat(&top, &entry, AtFlags::REMOVEDIR).is_err() {
                inner = Some(entry);
                break;
            }
        }
        let Some(inner) = inner else { break };
        let opened = accessible(top.as_fd(), &inner)?;
        for entry in entries(&opened)? {
            let (entry, kind) = entry?;
            if kind != FileType::Directory {
                reach::unlinkat(&opened, &entry, AtFlags::empty())?;
            } else if reach::unlinkat(&opened, &entry, AtFlags::REMOVEDIR).is_err() {
                // Renaming a directory needs write permission on it, for its `..`.
                drop(accessible(opened.as_fd(), &entry)?);
                loop {
                    let name = format!(".removed-{hoisted}");
                    hoisted += 1;
                    match reach::renameat(&opened, &entry, &top, name.as_bytes()) {
                        Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                        other => break other?,
                    }
                }
            }
        }
        reach::unlinkat(&top, &inner, AtFlags::REMOVEDIR)?;
    }
    reach::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Opens a directory for emptying it, even if its mode locks its owner out.
fn accessible(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    make_accessible(dir, name)?;
    open_directory(dir, name)
}

/// Lets an ordinary user into a directory of his own, whatever its mode says; root needs nothing, and of others' there is
/// more to be had than the mode says.
pub(crate) fn make_accessible(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let own = rustix::process::geteuid();
    if own.is_root() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = reach::openat(dir, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&opened)?.st_uid != own.as_raw() {
        return Ok(());
    }
    let path = super::metadata::through_proc(opened.as_fd(), b"");
    rustix::fs::chmod(&path[..path.len() - 1], Mode::RWXU)
}

/// Names and kinds, without `.` and `..`.
fn entries(dir: &OwnedFd) -> Result<impl Iterator<Item = Result<(Vec<u8>, FileType)>>> {
    let listed = reach::entries(dir.as_fd())?;
    let dir = dir.try_clone().map_err(|_| Errno::MFILE)?;
    Ok(listed.filter_map(move |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            return None;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match reach::statat(&dir, name) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(error) => return Some(Err(error)),
            },
            kind => kind,
        };
        Some(Ok((name.to_vec(), kind)))
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn deep_wide_and_locked_trees_go() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        let mut at = root.clone();
        for i in 0..60 {
            fs::create_dir_all(at.join("side/x/y")).unwrap();
            fs::write(at.join("side/x/file"), b"").unwrap();
            fs::write(at.join(".removed-0"), b"").unwrap();
            std::os::unix::fs::symlink("/", at.join("link")).unwrap();
            at = at.join(format!("d{i}"));
        }
        fs::create_dir_all(&at).unwrap();
        fs::set_permissions(root.join("side/x"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(root.join("d0/d1"), fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        remove_tree(&root).unwrap();
    }
}
