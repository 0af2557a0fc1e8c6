//! Owner, attributes and times of one entry, in the order in which they do not undo each other: owner, mode, extended
//! attributes, times.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::tar::{Timestamp, Xattrs};

use super::path::lossy;

/// Whose files can be made here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ownership {
    uid: u32,
    gid: u32,
    /// Root may give files away and make devices.
    root: bool,
}

impl Ownership {
    /// What the calling process may do. An ordinary user owns everything; the true owner stays in the index.
    pub(crate) fn of_process() -> Ownership {
        let uid = rustix::process::geteuid().as_raw();
        Ownership { uid, gid: rustix::process::getegid().as_raw(), root: uid == 0 }
    }

    pub(crate) fn is_root(self) -> bool {
        self.root
    }

    /// Whether a new file would belong to somebody else than it should, and that can be changed.
    pub(crate) fn differs(self, uid: u32, gid: u32) -> bool {
        self.root && (uid != self.uid || gid != self.gid)
    }
}

/// Metadata of one entry, ready to be set.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Xattrs,
}

/// Set on open files: everything that is not right yet. `exact_mode` says that the mode at creation was kept as given.
pub(crate) fn finish_file(
    file: BorrowedFd<'_>,
    meta: &Metadata,
    owners: Ownership,
    exact_mode: bool,
) -> rustix::io::Result<()> {
    let chown = owners.differs(meta.uid, meta.gid);
    if chown {
        tolerate_unmapped(rustix::fs::fchown(
            file,
            Some(Uid::from_raw(meta.uid)),
            Some(Gid::from_raw(meta.gid)),
        ))?;
    }
    // Changing the owner and writing clear set-id bits.
    if !exact_mode || meta.mode & 0o6000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(meta.mode)))?;
    }
    for (name, value) in &meta.xattrs {
        tolerate_unsupported(rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()))?;
    }
    rustix::fs::futimens(file, &times(meta.mtime))
}

/// The same for entries that cannot be opened, or need not be: by name below an open directory, never followed. The mode
/// has been given at creation, symlinks have none.
pub(crate) fn finish_named(
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Metadata,
    owners: Ownership,
) -> rustix::io::Result<()> {
    if owners.differs(meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        tolerate_unmapped(rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    }
    set_xattrs_named(dir, name, &meta.xattrs)?;
    rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn set_xattrs_named(
    dir: BorrowedFd<'_>,
    name: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> rustix::io::Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = through_proc(dir, name);
    for (key, value) in xattrs {
        tolerate_unsupported(rustix::fs::lsetxattr(&path[..], &key[..], value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// Changes the mode of a directory, which needs a descriptor that is not only a path.
pub(crate) fn chmod_directory(dir: BorrowedFd<'_>, name: &[u8], mode: u16) -> rustix::io::Result<()> {
    let opened = open_directory(dir, name)?;
    rustix::fs::fchmod(opened, Mode::from_raw_mode(u32::from(mode)))
}

pub(crate) fn open_directory(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a file or directory for reading, even if its mode locks its owner out. Somebody may swap it meanwhile, a
/// container can be running: what is opened is a file or a directory, as it should be, and never a device.
pub(crate) fn open_for_reading(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mode: Mode,
    kind: FileType,
) -> rustix::io::Result<OwnedFd> {
    let node =
        rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) != kind {
        return Err(Errno::STALE);
    }
    let path = through_proc(node.as_fd(), b"");
    let path = &path[..path.len() - 1];
    let open = || rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    // The owner lets himself in for a moment; only the change time remembers.
    rustix::fs::chmod(path, mode | Mode::RWXU)?;
    let opened = open();
    // What is in a directory can be reached only as long as its mode allows it; whoever walks it puts that back.
    if kind != FileType::Directory {
        rustix::fs::chmod(path, mode)?;
    }
    opened
}

/// A name below an open directory as a path, for the calls that know no descriptors. Neither part is followed anywhere:
/// the descriptor is ours and the caller uses the `l` form of the call.
pub(crate) fn through_proc(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
}

pub(crate) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A file system without extended attributes, attributes that only root may set, `user.` attributes on symlinks: the
/// index keeps what the disk cannot.
fn tolerate_unsupported(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// In a user namespace an id may have no mapping; then the caller keeps the file, as for an ordinary user.
fn tolerate_unmapped(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

/// An error about an entry of the tree that is being written.
pub(crate) fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
    let path = lossy(path);
    move |errno| Error::Io { action, path: path.into(), source: errno.into() }
}
