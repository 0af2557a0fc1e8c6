//! Fills a new tmpfs with what the image has in its place (`tmpcopyup`).

use std::ffi::CStr;

use crate::sys::fd;
use crate::sys::raw::{Errno, Sys};

/// Deeper trees are refused: every level takes room on the starting process's fixed stack.
const DEEPEST: usize = 48;

/// Copies everything in the directory `from` to the directory `to`: types, owners, modes and times; links as links.
pub(super) fn copy(from: i32, to: i32) -> Sys<()> {
    let here = fd::openat(from, c".", libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    let result = directory(here, to, 0);
    let stat = fd::stat(here);
    fd::close(here);
    result?;
    let stat = stat?;
    // The new file system's root has the mode its options say only if they do; the image's says it otherwise.
    let there = fd::openat(to, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let result = fd::chown(there, stat.st_uid, stat.st_gid)
        .and_then(|()| fd::chmod(there, stat.st_mode & 0o7777))
        .and_then(|()| fd::set_times(there, None, &stat));
    fd::close(there);
    result
}

fn directory(from: i32, to: i32, depth: usize) -> Sys<()> {
    if depth > DEEPEST {
        return Err(Errno(libc::ELOOP));
    }
    let mut buffer = [0u8; 2048];
    loop {
        let length = fd::getdents(from, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut at = 0;
        // `struct linux_dirent64`: inode (8), offset (8), record length (2), type (1), name.
        while let Some(record) = buffer.get(at..length).filter(|record| record.len() > 19) {
            let size = usize::from(u16::from_ne_bytes([record[16], record[17]]));
            let name = record.get(19..).and_then(|name| CStr::from_bytes_until_nul(name).ok());
            if let Some(name) = name.filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                entry(from, to, name, depth)?;
            }
            if size == 0 {
                return Err(Errno(libc::EIO));
            }
            at += size;
        }
    }
}

fn entry(from: i32, to: i32, name: &CStr, depth: usize) -> Sys<()> {
    let stat = fd::stat_at(from, name)?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            fd::mkdirat(to, name, 0o700)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let below = fd::openat(from, name, flags, 0)?;
            let there = fd::openat(to, name, flags, 0);
            let result = there.and_then(|there| directory(below, there, depth + 1));
            fd::close(below);
            let _ = there.map(fd::close);
            result?;
        }
        libc::S_IFREG => file(from, to, name)?,
        libc::S_IFLNK => {
            link(from, to, name)?;
            fd::chown_at(to, name, stat.st_uid, stat.st_gid)?;
            return fd::set_times(to, Some(name), &stat);
        }
        kind => fd::mknodat(to, name, kind | 0o600, stat.st_rdev)?,
    }
    fd::chown_at(to, name, stat.st_uid, stat.st_gid)?;
    fd::chmod_at(to, name, mode)?;
    fd::set_times(to, Some(name), &stat)
}

#[inline(never)]
fn link(from: i32, to: i32, name: &CStr) -> Sys<()> {
    let mut target = [0u8; 4097];
    let length = fd::readlinkat(from, name, &mut target[..4096])?;
    let target = CStr::from_bytes_until_nul(target.get(..=length).unwrap_or(b"\0")).unwrap_or(c"");
    fd::symlinkat(target, to, name)
}

// Its buffers must not lie in the frames of the directories above.
#[inline(never)]
fn file(from: i32, to: i32, name: &CStr) -> Sys<()> {
    let source = fd::openat(from, name, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
    let target = fd::openat(to, name, flags, 0o600);
    let result = target.and_then(|target| bytes(source, target));
    fd::close(source);
    let _ = target.map(fd::close);
    result
}

#[inline(never)]
fn bytes(source: i32, target: i32) -> Sys<()> {
    let mut buffer = [0u8; 8192];
    loop {
        let length = fd::read(source, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        fd::write(target, buffer.get(..length).unwrap_or_default())?;
    }
}
