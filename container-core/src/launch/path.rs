//! Paths below the new root: resolved by the kernel with the root as `/`, made where missing. Never walked twice: what comes back
//! is a descriptor, and everything after works on that.

use std::ffi::CStr;

use crate::plan::operation::{Follow, Target};
use crate::sys::fd;
use crate::sys::raw::{Errno, Sys};

/// Longest path the kernel takes, with its NUL.
const LONGEST: usize = 4096;
/// As many links in a row as the kernel follows.
const MOST_LINKS: usize = 40;

const INSIDE: u64 = fd::RESOLVE_IN_ROOT | fd::RESOLVE_NO_MAGICLINKS;

/// Opens what is at `path` in `root`, O_PATH.
pub(super) fn open(root: i32, path: &CStr) -> Sys<i32> {
    fd::openat2(root, path, libc::O_PATH, 0, INSIDE)
}

/// Opens the place for a mount, made when missing: a directory, or an empty file.
pub(super) fn open_target(root: i32, target: &Target, directory: bool) -> Sys<i32> {
    match target.follow {
        Follow::All => open_or_make(root, &target.path, directory, 0),
        Follow::None => open_or_make(root, &target.path, directory, fd::RESOLVE_NO_SYMLINKS),
        Follow::NotLast => open_place(root, &target.path, directory),
    }
}

/// Opens the name itself, a symbolic link too, made when missing.
pub(super) fn open_place(root: i32, path: &CStr, directory: bool) -> Sys<i32> {
    let (parent, name) = open_parent(root, path)?;
    let open = || fd::openat(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0);
    let result = match open() {
        Err(Errno(libc::ENOENT)) => make_at(parent, name, directory).and_then(|()| open()),
        other => other,
    };
    fd::close(parent);
    result
}

fn open_or_make(root: i32, path: &CStr, directory: bool, resolve: u64) -> Sys<i32> {
    match fd::openat2(root, path, libc::O_PATH, 0, INSIDE | resolve) {
        Err(Errno(libc::ENOENT)) => make(root, path.to_bytes(), directory, resolve),
        other => other,
    }
}

/// Opens the directory that holds the last component of `path` (made when missing), and gives that component.
fn open_parent(root: i32, path: &CStr) -> Sys<(i32, &CStr)> {
    let (parent, name) = split(path)?;
    Ok((make_parent(root, parent)?, name))
}

fn make_parent(root: i32, parent: &[u8]) -> Sys<i32> {
    let mut buffer = [0u8; LONGEST];
    let length = place(&mut buffer, 0, parent)?;
    let open = |path: &CStr| fd::openat2(root, path, libc::O_PATH, 0, INSIDE);
    match with_prefix(&mut buffer, length, open) {
        Err(Errno(libc::ENOENT)) => make(root, parent, true, 0),
        other => other,
    }
}

/// The parent's path and the last component.
fn split(path: &CStr) -> Sys<(&[u8], &CStr)> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|byte| *byte == b'/');
    let name =
        bytes.get(slash.map_or(0, |at| at + 1)..).and_then(|name| CStr::from_bytes_with_nul(name).ok());
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Err(Errno(libc::EINVAL)) };
    Ok((bytes.get(..slash.unwrap_or(0)).unwrap_or_default(), name))
}

/// The directory that something was made in last: most of what is made in a row is made in `/dev`. To be forgotten before
/// anything is mounted, which may cover it.
#[derive(Debug)]
pub(crate) struct Parent {
    fd: i32,
    path: [u8; 64],
    length: usize,
}

impl Parent {
    pub(crate) const fn none() -> Self {
        Self { fd: -1, path: [0; 64], length: 0 }
    }

    /// The directory that holds the last component of `path` (made when missing), and that component. The descriptor stays ours.
    pub(super) fn of<'a>(&mut self, root: i32, path: &'a CStr) -> Sys<(i32, &'a CStr)> {
        let (parent, name) = split(path)?;
        if self.fd < 0 || self.path.get(..self.length) != Some(parent) {
            self.forget();
            self.fd = make_parent(root, parent)?;
            self.length = usize::MAX;
            if let Some(room) = self.path.get_mut(..parent.len()) {
                room.copy_from_slice(parent);
                self.length = parent.len();
            }
        }
        Ok((self.fd, name))
    }

    pub(super) fn forget(&mut self) {
        if self.fd >= 0 {
            fd::close(self.fd);
            self.fd = -1;
        }
    }
}

/// The mode of a directory that is there.
pub(super) fn mode_of(root: i32, path: &CStr) -> Option<u32> {
    let directory = fd::openat2(root, path, libc::O_PATH | libc::O_DIRECTORY, 0, INSIDE).ok()?;
    let stat = fd::stat(directory);
    fd::close(directory);
    stat.ok().map(|stat| stat.st_mode & 0o7777)
}

/// Opens a directory by its path from `root`, made when missing.
pub(super) fn make_directories(root: i32, path: &CStr) -> Sys<i32> {
    open_or_make(root, path, true, 0)
}

fn make_at(parent: i32, name: &CStr, directory: bool) -> Sys<()> {
    if directory {
        return fd::mkdirat(parent, name, 0o755);
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    fd::openat(parent, name, flags, 0o644).map(fd::close)
}

/// Opens `path` and makes what is missing of it: directories, and at the end what is asked for. Symbolic links that lead
/// nowhere yet are followed inside the root, so that what they point to is made.
fn make(root: i32, path: &[u8], directory: bool, resolve: u64) -> Sys<i32> {
    let mut buffer = [0u8; LONGEST];
    let mut length = place(&mut buffer, 0, path)?;
    // Mostly it is just the last component that is missing.
    if make_last(root, &mut buffer, length, directory, resolve) {
        let open = |path: &CStr| fd::openat2(root, path, libc::O_PATH, 0, INSIDE | resolve);
        return with_prefix(&mut buffer, length, open);
    }
    let mut links = 0;
    'again: loop {
        let mut end = 0;
        let mut before;
        loop {
            // The next component: `before` is where its parent ends, `start..end` is its name.
            let start = skip(&buffer, end, length, true);
            before = end;
            end = skip(&buffer, start, length, false);
            if start == end {
                // Nothing but slashes left: the root itself, or a trailing slash.
                return with_prefix(&mut buffer, before, |path| {
                    fd::openat2(root, path, libc::O_PATH, 0, INSIDE | resolve)
                });
            }
            let opened = with_prefix(&mut buffer, end, |path| {
                fd::openat2(root, path, libc::O_PATH, 0, INSIDE | resolve)
            });
            let last = skip(&buffer, end, length, true) == length;
            match opened {
                Ok(fd) if last => return Ok(fd),
                Ok(fd) => {
                    fd::close(fd);
                    continue;
                }
                Err(Errno(libc::ENOENT)) => {}
                Err(errno) => return Err(errno),
            }
            let parent = with_prefix(&mut buffer, before, |path| {
                fd::openat2(root, path, libc::O_PATH | libc::O_DIRECTORY, 0, INSIDE | resolve)
            })?;
            let made = with_part(&mut buffer, start, end, |name| make_at(parent, name, directory || !last));
            match made {
                Ok(()) => {
                    fd::close(parent);
                    // Once more over the same component, which is there now.
                    end = before;
                }
                Err(Errno(libc::EEXIST)) => {
                    let mut target = [0u8; LONGEST];
                    let read =
                        with_part(&mut buffer, start, end, |name| fd::readlinkat(parent, name, &mut target));
                    fd::close(parent);
                    let Ok(read) = read else { return Err(Errno(libc::EEXIST)) };
                    links += 1;
                    if links > MOST_LINKS || resolve & fd::RESOLVE_NO_SYMLINKS != 0 {
                        return Err(Errno(libc::ELOOP));
                    }
                    let target = target.get(..read).unwrap_or_default();
                    length = replace(&mut buffer, before, end, length, target)?;
                    continue 'again;
                }
                Err(errno) => {
                    fd::close(parent);
                    return Err(errno);
                }
            }
        }
    }
}

/// Makes the last component. False: it is there, or its parent is not, or anything else that takes a closer look.
fn make_last(root: i32, buffer: &mut [u8; LONGEST], length: usize, directory: bool, resolve: u64) -> bool {
    let path = buffer.get(..length).unwrap_or_default();
    let Some(slash) = path.iter().rposition(|byte| *byte == b'/').filter(|at| at + 1 < length) else {
        return false;
    };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let parent = with_prefix(buffer, slash, |path| fd::openat2(root, path, flags, 0, INSIDE | resolve));
    let Ok(parent) = parent else { return false };
    let made = with_part(buffer, slash + 1, length, |name| make_at(parent, name, directory));
    fd::close(parent);
    made.is_ok()
}

/// From `at` on, over all slashes or over all others.
fn skip(buffer: &[u8; LONGEST], at: usize, length: usize, slashes: bool) -> usize {
    let rest = buffer.get(at..length).unwrap_or_default();
    at + rest.iter().position(|byte| (*byte == b'/') != slashes).unwrap_or(rest.len())
}

/// Copies `bytes` to `at` and gives where they end.
fn place(buffer: &mut [u8; LONGEST], at: usize, bytes: &[u8]) -> Sys<usize> {
    let end = at + bytes.len();
    match buffer.get_mut(at..end) {
        // One byte stays for the NUL.
        Some(room) if end < LONGEST => {
            room.copy_from_slice(bytes);
            Ok(end)
        }
        _ => Err(Errno(libc::ENAMETOOLONG)),
    }
}

/// Puts a link's target in the place of the component: below its parent, or from the root when absolute.
fn replace(
    buffer: &mut [u8; LONGEST],
    before: usize,
    end: usize,
    length: usize,
    target: &[u8],
) -> Sys<usize> {
    let mut rest = [0u8; LONGEST];
    let rest_length = place(&mut rest, 0, buffer.get(end..length).unwrap_or_default())?;
    let start = if target.first() == Some(&b'/') { 0 } else { place(buffer, before, b"/")? };
    let at = place(buffer, start, target)?;
    place(buffer, at, rest.get(..rest_length).unwrap_or_default())
}

/// Calls with the first `end` bytes as a C string, `/` for none.
fn with_prefix<T>(buffer: &mut [u8; LONGEST], end: usize, call: impl FnOnce(&CStr) -> T) -> T {
    if end == 0 {
        return call(c"/");
    }
    with_part(buffer, 0, end, call)
}

fn with_part<T>(buffer: &mut [u8; LONGEST], start: usize, end: usize, call: impl FnOnce(&CStr) -> T) -> T {
    let kept = buffer.get(end).copied().unwrap_or(0);
    if let Some(byte) = buffer.get_mut(end) {
        *byte = 0;
    }
    let text = CStr::from_bytes_until_nul(buffer.get(start..).unwrap_or_default()).unwrap_or(c"");
    let result = call(text);
    if let Some(byte) = buffer.get_mut(end) {
        *byte = kept;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_parts_are_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        symlink("/run/deep", dir.path().join("var")).unwrap();
        symlink("../../../../outside", dir.path().join("up")).unwrap();
        for (path, directory, wanted) in [
            (c"/a/b/c", true, "a/b/c"),
            (c"//x//y.conf", false, "x/y.conf"),
            (c"/var/lib/thing", true, "run/deep/lib/thing"),
            (c"up/file", false, "outside/file"),
            (c"/a/b/", true, "a/b"),
        ] {
            let target = Target { path: path.to_owned(), follow: Follow::All };
            let fd = open_target(root.as_raw_fd(), &target, directory).unwrap();
            fd::close(fd);
            let made = std::fs::symlink_metadata(dir.path().join(wanted)).unwrap();
            assert_eq!(made.is_dir(), directory, "{path:?}");
        }
        assert!(!dir.path().parent().unwrap().join("outside").exists());
    }

    #[test]
    fn links_are_refused_where_they_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("proc")).unwrap();
        let target = Target { path: c"/proc".to_owned(), follow: Follow::None };
        assert_eq!(open_target(root.as_raw_fd(), &target, true), Err(Errno(libc::ELOOP)));
        symlink("loop", dir.path().join("loop")).unwrap();
        let target = Target { path: c"/loop/x".to_owned(), follow: Follow::All };
        assert_eq!(open_target(root.as_raw_fd(), &target, true), Err(Errno(libc::ELOOP)));
    }
}
