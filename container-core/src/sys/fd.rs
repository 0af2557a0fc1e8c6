//! Descriptors, paths and bytes.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;

use super::raw::{Errno, Sys, syscall};

pub(crate) const CWD: i32 = libc::AT_FDCWD;
pub(crate) const RESOLVE_NO_XDEV: u64 = 0x01;
pub(crate) const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub(crate) const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub(crate) const RESOLVE_BENEATH: u64 = 0x08;
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// How often a lookup is tried again. A bound, because a container can rename without end.
const LOOKUPS: usize = 1000;

/// Does a lookup inside a root, again where the kernel asks for it: openat2(2) gives up with EAGAIN on a path that goes up (`..`, also
/// in a symbolic link) when anything was renamed or mounted meanwhile, anywhere on the host.
pub(crate) fn look_up<T, E: PartialEq>(again: E, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..LOOKUPS {
        match attempt() {
            Err(error) if error == again => {}
            other => return other,
        }
    }
    attempt()
}

/// Opens `path` under `dir` with the given resolution rules (openat2, Linux 5.6). Close-on-exec always.
pub(crate) fn openat2(dir: i32, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Sys<i32> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: mode.into(), resolve };
    look_up(Errno(libc::EAGAIN), || {
        // SAFETY: `path` ends in NUL and `how` lives across the call; its size is passed along.
        let fd =
            unsafe { syscall!(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size_of::<OpenHow>()) }?;
        Ok(fd as i32)
    })
}

/// Opens `path` under `dir`. Close-on-exec always.
pub(crate) fn openat(dir: i32, path: &CStr, flags: i32, mode: u32) -> Sys<i32> {
    // SAFETY: `path` ends in NUL.
    let fd = unsafe { syscall!(libc::SYS_openat, dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) }?;
    Ok(fd as i32)
}

/// Closes; an error cannot be acted upon and the descriptor is gone in any case.
pub(crate) fn close(fd: i32) {
    // SAFETY: descriptors are numbers; whoever calls this owns it.
    let _ = unsafe { syscall!(libc::SYS_close, fd) };
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> Sys<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }.map(drop)
}

/// Whether a descriptor is open and does not outlive exec.
pub(crate) fn is_close_on_exec(fd: i32) -> bool {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_fcntl, fd, libc::F_GETFD) }
        .is_ok_and(|flags| flags & libc::FD_CLOEXEC as usize != 0)
}

/// Closes the descriptors from `first` to `last`, both included.
pub(crate) fn close_range(first: u32, last: u32) -> Sys<()> {
    // SAFETY: descriptors are numbers; whoever calls this owns those in the range.
    unsafe { syscall!(libc::SYS_close_range, first, last, 0) }.map(drop)
}

/// Makes `to` a copy of `from`, open across exec. The same number on both sides only loses its close-on-exec flag.
pub(crate) fn install(from: i32, to: i32) -> Sys<()> {
    if from == to {
        // SAFETY: no memory involved.
        return unsafe { syscall!(libc::SYS_fcntl, from, libc::F_SETFD, 0) }.map(drop);
    }
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_dup3, from, to, 0) }.map(drop)
}

/// A close-on-exec copy with a number of at least `min`.
pub(crate) fn duplicate_above(fd: i32, min: i32) -> Sys<i32> {
    // SAFETY: no memory involved.
    Ok(unsafe { syscall!(libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, min) }? as i32)
}

/// Type, owner, device numbers and mode of what `fd` refers to.
pub(crate) fn stat(fd: i32) -> Sys<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills `stat`, which is plain data and was zeroed.
    unsafe {
        syscall!(libc::SYS_newfstatat, fd, c"".as_ptr(), stat.as_mut_ptr(), libc::AT_EMPTY_PATH)?;
        Ok(stat.assume_init())
    }
}

/// The same for the name itself under `dir`, symbolic links not followed.
pub(crate) fn stat_at(dir: i32, name: &CStr) -> Sys<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: as above; `name` ends in NUL.
    unsafe {
        syscall!(libc::SYS_newfstatat, dir, name.as_ptr(), stat.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW)?;
        Ok(stat.assume_init())
    }
}

/// Writes all of `bytes` in one call; control files take nothing else. A short write is EIO.
pub(crate) fn write(fd: i32, bytes: &[u8]) -> Sys<()> {
    loop {
        // SAFETY: the slice is valid for its length.
        match unsafe { syscall!(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) } {
            Ok(n) if n == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno(libc::EIO)),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads once.
pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Sys {
    loop {
        // SAFETY: the slice is valid and writable for its length.
        match unsafe { syscall!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) } {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

pub(crate) fn mkdirat(dir: i32, name: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: `name` ends in NUL.
    unsafe { syscall!(libc::SYS_mkdirat, dir, name.as_ptr(), mode) }.map(drop)
}

pub(crate) fn mknodat(dir: i32, name: &CStr, mode: u32, device: u64) -> Sys<()> {
    // SAFETY: `name` ends in NUL.
    unsafe { syscall!(libc::SYS_mknodat, dir, name.as_ptr(), mode, device) }.map(drop)
}

pub(crate) fn symlinkat(target: &CStr, dir: i32, name: &CStr) -> Sys<()> {
    // SAFETY: both end in NUL.
    unsafe { syscall!(libc::SYS_symlinkat, target.as_ptr(), dir, name.as_ptr()) }.map(drop)
}

/// Reads a symbolic link; the result is not terminated.
pub(crate) fn readlinkat(dir: i32, name: &CStr, buffer: &mut [u8]) -> Sys {
    // SAFETY: `name` ends in NUL; the slice is valid and writable for its length.
    unsafe { syscall!(libc::SYS_readlinkat, dir, name.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }
}

/// Changes the owner of the name under `dir`, symbolic links not followed.
pub(crate) fn chown_at(dir: i32, name: &CStr, uid: u32, gid: u32) -> Sys<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` ends in NUL.
    unsafe { syscall!(libc::SYS_fchownat, dir, name.as_ptr(), uid, gid, flags) }.map(drop)
}

/// Changes the owner of an open file.
pub(crate) fn chown(fd: i32, uid: u32, gid: u32) -> Sys<()> {
    chown_at(fd, c"", uid, gid)
}

/// Changes the mode of the name under `dir`. Follows symbolic links: only for names this code has just made.
pub(crate) fn chmod_at(dir: i32, name: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: `name` ends in NUL.
    unsafe { syscall!(libc::SYS_fchmodat, dir, name.as_ptr(), mode) }.map(drop)
}

/// Changes the mode of a file opened for real (not O_PATH).
pub(crate) fn chmod(fd: i32, mode: u32) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_fchmod, fd, mode) }.map(drop)
}

/// Sets the times of an open file, or of the name under `dir` without following it.
pub(crate) fn set_times(dir: i32, name: Option<&CStr>, stat: &libc::stat) -> Sys<()> {
    let times = [
        libc::timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec },
        libc::timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec },
    ];
    let (path, flags) = match name {
        Some(name) => (name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW),
        None => (std::ptr::null(), 0),
    };
    // SAFETY: `path` ends in NUL or is null (the file itself); `times` is an array of two.
    unsafe { syscall!(libc::SYS_utimensat, dir, path, times.as_ptr(), flags) }.map(drop)
}

/// The next directory entries in the kernel's own form.
pub(crate) fn getdents(fd: i32, buffer: &mut [u8]) -> Sys {
    // SAFETY: the slice is valid and writable for its length.
    unsafe { syscall!(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) }
}

pub(crate) fn fchdir(fd: i32) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_fchdir, fd) }.map(drop)
}

pub(crate) fn chroot_here() -> Sys<()> {
    // SAFETY: the path is a literal.
    unsafe { syscall!(libc::SYS_chroot, c".".as_ptr()) }.map(drop)
}

/// Is the other end of a socket closed?
pub(crate) fn is_hung_up(fd: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout that both live across the call; no signal mask.
    let ready = unsafe { syscall!(libc::SYS_ppoll, &raw mut poll, 1, &raw const now, 0, 8) };
    ready == Ok(1) && poll.revents & libc::POLLHUP != 0
}

/// Waits until one of two descriptors has something to read: whether the first has.
pub(crate) fn wait_for_either(first: i32, second: i32) -> Sys<bool> {
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut both = [poll(first), poll(second)];
    loop {
        // SAFETY: two pollfds that live across the call; no timeout, no signal mask.
        match unsafe { syscall!(libc::SYS_ppoll, both.as_mut_ptr(), 2, 0, 0, 8) } {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(|_| both[0].revents != 0),
        }
    }
}

/// Sleeps until a signal ends the process.
pub(crate) fn wait_for_ever() -> Sys<()> {
    // SAFETY: no descriptors, no timeout, no signal mask.
    unsafe { syscall!(libc::SYS_ppoll, 0, 0, 0, 0, 8) }.map(drop)
}

/// Takes ownership of a descriptor that was just opened for the caller.
pub(crate) fn adopt(fd: i32) -> std::os::fd::OwnedFd {
    // SAFETY: the kernel has just given this number to the caller, and nobody else knows of it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// The kernel gives up on `..` with EAGAIN when anything was renamed or mounted meanwhile, anywhere on the host.
    #[test]
    fn renames_elsewhere_do_not_disturb() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        let root = std::fs::File::open(directory.path()).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, two) = (directory.path().join("one"), directory.path().join("two"));
                std::fs::create_dir(&one).unwrap();
                while !over.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &two).unwrap();
                    std::fs::rename(&two, &one).unwrap();
                }
            });
            let opened: Vec<_> = (0..20_000)
                .map(|_| {
                    openat2(root.as_raw_fd(), c"a/b/../../a/b/..", libc::O_PATH, 0, RESOLVE_IN_ROOT)
                        .map(close)
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            let failed = opened.iter().filter(|result| result.is_err()).count();
            assert_eq!(failed, 0, "{:?}", opened.iter().find(|result| result.is_err()));
        });
    }
}
