//! Owner, attributes and times of one entry, in the order in which they do not undo each other: owner, mode, extended
//! attributes, times.

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Error;
use crate::owners::{self, IdMaps, Owners, reach};
use crate::sys::call::{Call, timespecs};
use crate::tar::{Timestamp, Xattrs};

use super::path::lossy;

/// Whose files can be made here.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    uid: u32,
    gid: u32,
    /// Root may give files away and make devices.
    root: bool,
    /// By which ids the owners that an image names go on the disk, when not by their own.
    maps: Option<Arc<IdMaps>>,
}

impl Ownership {
    /// What the calling process may do. An ordinary user owns everything that cannot be given to subordinate ids; the true
    /// owner stays in the index.
    pub(crate) fn new(owners: &Owners) -> Ownership {
        let uid = rustix::process::geteuid().as_raw();
        let maps = match owners {
            Owners::Mapped(maps) => Some(Arc::new(maps.clone())),
            Owners::Plain => None,
        };
        Ownership { uid, gid: rustix::process::getegid().as_raw(), root: uid == 0, maps }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.root
    }

    pub(crate) fn is_caller(&self, uid: u32) -> bool {
        uid == self.uid
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.maps.is_some()
    }

    /// Who has the files of owners that are not mapped: root inside, which is an ordinary caller.
    fn keeper(&self, maps: &IdMaps) -> (u32, u32) {
        (maps.uid_to_outside(0).unwrap_or(self.uid), maps.gid_to_outside(0).unwrap_or(self.gid))
    }

    /// Whom a new file has to be given to, if it is not the caller.
    fn heir(&self, meta: &Metadata) -> Option<(u32, u32)> {
        let owner = match &self.maps {
            None => (meta.uid, meta.gid),
            Some(maps) => {
                let (uid, gid) = self.keeper(maps);
                (maps.uid_to_outside(meta.uid).unwrap_or(uid), maps.gid_to_outside(meta.gid).unwrap_or(gid))
            }
        };
        ((self.root || self.maps.is_some()) && owner != (self.uid, self.gid)).then_some(owner)
    }

    /// Whether an entry's metadata takes more rights than the caller has, and a hand has them.
    pub(crate) fn beyond_caller(&self, meta: &Metadata) -> bool {
        let of_ids =
            |(name, _): &(Vec<u8>, Vec<u8>)| name.starts_with(b"security.") || name.starts_with(b"system.");
        !self.root && self.maps.is_some() && (self.heir(meta).is_some() || meta.xattrs.iter().any(of_ids))
    }

    /// The owner that an entry of an image has, of a file on the disk; `truth` is what the index says of it.
    pub(crate) fn of_file(&self, uid: u32, gid: u32, truth: Option<(u32, u32)>) -> (u32, u32) {
        let Some(maps) = &self.maps else {
            // An ordinary user owns all files; who owns them in truth is in the index, and what is new is root's.
            return if self.root { (uid, gid) } else { truth.unwrap_or((0, 0)) };
        };
        /// What the kernel shows for ids that are not mapped.
        const NOBODY: u32 = 65534;
        let keeper = self.keeper(maps);
        let uid = match truth {
            Some((truth, _)) if uid == keeper.0 && maps.uid_to_outside(truth).is_none() => truth,
            _ => maps.uid_to_inside(uid).unwrap_or(NOBODY),
        };
        let gid = match truth {
            Some((_, truth)) if gid == keeper.1 && maps.gid_to_outside(truth).is_none() => truth,
            _ => maps.gid_to_inside(gid).unwrap_or(NOBODY),
        };
        (uid, gid)
    }

    /// In a user namespace an id may have no mapping; then the caller keeps the file, as for an ordinary user.
    fn tolerate_unmapped(&self, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
        match result {
            Err(Errno::INVAL) if self.maps.is_none() => Ok(()),
            other => other,
        }
    }

    /// An attribute of an image as it has to be on the disk; `None` when it cannot be said there.
    fn to_attribute<'v>(&self, name: &[u8], value: &'v [u8]) -> Option<Cow<'v, [u8]>> {
        match &self.maps {
            Some(maps) => owners::to_disk(maps, name, value).map(Cow::Owned),
            None => Some(Cow::Borrowed(value)),
        }
    }

    /// An attribute on the disk as an image has it.
    pub(crate) fn of_attribute(&self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        match &self.maps {
            Some(maps) => owners::from_disk(maps, name, value),
            None => value,
        }
    }

    /// Whether attributes of this name can be put on files.
    pub(crate) fn stores(&self, name: &[u8]) -> bool {
        let mapped = name == b"security.capability" || name.starts_with(b"system.posix_acl_");
        self.root || name.starts_with(b"user.") || self.maps.is_some() && mapped
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
    owners: &Ownership,
    exact_mode: bool,
) -> rustix::io::Result<()> {
    if owners.beyond_caller(meta) {
        return finish_by_hand(file, None, meta, owners);
    }
    if let Some((uid, gid)) = owners.heir(meta) {
        let given = rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        owners.tolerate_unmapped(given)?;
    }
    // Changing the owner and writing clear set-id bits.
    if !exact_mode || meta.mode & 0o6000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(u32::from(meta.mode)))?;
    }
    for (name, value) in &meta.xattrs {
        if let Some(value) = owners.to_attribute(name, value) {
            tolerate_unsupported(rustix::fs::fsetxattr(file, &name[..], &value, XattrFlags::empty()))?;
        }
    }
    rustix::fs::futimens(file, &times(meta.mtime))
}

/// The same for entries that cannot be opened, or need not be: by name below an open directory, never followed. The mode
/// has been given at creation, symlinks have none.
pub(crate) fn finish_named(
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Metadata,
    owners: &Ownership,
) -> rustix::io::Result<()> {
    if owners.beyond_caller(meta) {
        return finish_by_hand(dir, Some(name), meta, owners);
    }
    if let Some((uid, gid)) = owners.heir(meta) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let given = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        owners.tolerate_unmapped(given)?;
    }
    set_xattrs_named(dir, name, &meta.xattrs, owners)?;
    rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
}

/// All metadata of what is given to a subordinate id, and so is not the caller's any more: of an open file or directory, or
/// of a name below an open directory, whose mode has been given at creation.
fn finish_by_hand(
    file: BorrowedFd<'_>,
    name: Option<&[u8]>,
    meta: &Metadata,
    owners: &Ownership,
) -> rustix::io::Result<()> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    let path = text(&through_proc(file, name.unwrap_or_default()))?;
    let name = name.map(text).transpose()?;
    let mut attributes = Vec::new();
    for (key, value) in &meta.xattrs {
        // What cannot be said on the disk is in the index.
        if let Some(value) = owners.to_attribute(key, value) {
            attributes.push((text(key)?, value));
        }
    }
    let times = timespecs(&times(meta.mtime));
    let mut calls = Vec::new();
    if let Some((uid, gid)) = owners.heir(meta) {
        calls.push(Call::chown(file, name.as_deref(), uid, gid));
    }
    if name.is_none() {
        calls.push(Call::fchmod(file, Mode::from_raw_mode(u32::from(meta.mode))));
    }
    let first = calls.len();
    calls.extend(attributes.iter().map(|(key, value)| match &name {
        None => Call::fsetxattr(file, key, value),
        Some(_) => Call::lsetxattr(&path, key, value),
    }));
    let last = calls.len();
    calls.push(Call::utimens(file, name.as_deref(), &times));
    if !reach::perform(&mut calls) {
        return Err(Errno::PERM);
    }
    calls.iter().enumerate().try_for_each(|(index, call)| {
        let answer = call.answer().map(drop);
        if (first..last).contains(&index) { tolerate_unsupported(answer) } else { answer }
    })
}

fn set_xattrs_named(
    dir: BorrowedFd<'_>,
    name: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    owners: &Ownership,
) -> rustix::io::Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = through_proc(dir, name);
    for (key, value) in xattrs {
        if let Some(value) = owners.to_attribute(key, value) {
            tolerate_unsupported(rustix::fs::lsetxattr(&path[..], &key[..], &value, XattrFlags::empty()))?;
        }
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
    reach::openat(dir, name, flags, Mode::empty())
}

/// Opens a file or directory for reading, even if its mode locks its owner out. Somebody may swap it meanwhile, a
/// container can be running: what is opened is a file or a directory, as it should be, and never a device.
pub(crate) fn open_for_reading(
    dir: BorrowedFd<'_>,
    name: &[u8],
    mode: Mode,
    kind: FileType,
) -> rustix::io::Result<OwnedFd> {
    let node = reach::node(dir, name)?;
    let info = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(info.st_mode) != kind {
        return Err(Errno::STALE);
    }
    let path = through_proc(node.as_fd(), b"");
    let path = &path[..path.len() - 1];
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if info.st_uid != rustix::process::geteuid().as_raw() {
        return reach::openat(rustix::fs::CWD, path, flags, Mode::empty());
    }
    let open = || rustix::fs::open(path, flags, Mode::empty());
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

/// An error about an entry of the tree that is being written.
pub(crate) fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
    let path = lossy(path);
    move |errno| Error::Io { action, path: path.into(), source: errno.into() }
}
