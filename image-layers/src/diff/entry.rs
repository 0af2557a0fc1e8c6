//! One entry of a directory on disk, as a layer tells it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::{Errno, Result};

use crate::apply::metadata::{open_for_reading, through_proc};
use crate::owners::reach;
use crate::tar::{Timestamp, Xattrs};

/// Names in an open directory, sorted, without `.` and `..`.
pub(crate) fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in reach::entries(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub(super) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    reach::statat(dir, name)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

pub(super) fn ctime(stat: &Stat) -> Timestamp {
    Timestamp { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 }
}

pub(super) fn open(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<OwnedFd> {
    open_for_reading(dir, name, Mode::from_raw_mode(stat.st_mode), kind(stat))
}

/// Attributes that the host puts on files by its own policy: none of the container's changes, none for an image.
pub(super) fn is_of_host(key: &[u8]) -> bool {
    matches!(key, b"security.selinux" | b"system.nfs4_acl")
}

/// All extended attributes but those of the host, sorted.
pub(super) fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs> {
    let path = through_proc(dir, name);
    let list = match grow(|buffer| reach::llistxattr(&path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for key in list.split(|&b| b == 0).filter(|key| !key.is_empty() && !is_of_host(key)) {
        match grow(|buffer| reach::lgetxattr(&path, key, buffer)) {
            Ok(value) => all.push((key.to_vec(), value)),
            // Not for us to see, or gone again.
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Calls with ever larger buffers until the answer fits.
fn grow(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

pub(super) fn readlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    reach::readlinkat(dir, name)
}
