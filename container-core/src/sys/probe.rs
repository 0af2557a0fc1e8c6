//! Trying a clone with new namespaces, in a child that ends at once.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;

use super::raw::{Errno, Sys, syscall};

/// Can this program make these namespaces, and rule over what is in them? The child sets a host name in a new uts namespace,
/// which tells a namespace with rights from one that a security module has emptied.
///
/// # Errors
/// The kernel's answer to the clone, or EPERM where the namespace gives no rights.
pub(crate) fn namespaces(flags: i32) -> io::Result<()> {
    within(flags | libc::CLONE_NEWUTS, || {
        // SAFETY: the name is static and its length is given.
        unsafe { syscall!(libc::SYS_sethostname, c"probe".as_ptr(), 5) }.map_err(|_| Errno(libc::EPERM))
    })
}

/// Does the kernel take this line as the user ids of a new user namespace? Where it cannot be asked, it does.
///
/// # Errors
/// EPERM where it does not.
pub(crate) fn map_of_users(line: &CStr) -> io::Result<()> {
    within(libc::CLONE_NEWUSER, || {
        // SAFETY: the path is a static string.
        let opened = unsafe {
            syscall!(libc::SYS_openat, libc::AT_FDCWD, c"/proc/self/uid_map".as_ptr(), libc::O_WRONLY, 0)
        };
        let Ok(fd) = opened else { return Ok(0) };
        let text = line.to_bytes();
        // SAFETY: the text is as long as is said; the descriptor was just opened.
        unsafe { syscall!(libc::SYS_write, fd, text.as_ptr(), text.len()) }
    })
}

/// Can a procfs be mounted in these new namespaces, beside those of processes and mounts? It is attached nowhere: without a new
/// user namespace it would be seen outside where mounts propagate.
///
/// # Errors
/// The kernel's answer to the clone or to the mount.
pub(crate) fn procfs(flags: i32) -> io::Result<()> {
    within(flags | libc::CLONE_NEWPID | libc::CLONE_NEWNS, || {
        const CREATE: usize = 6;
        const NOSUID_NODEV_NOEXEC: usize = 2 | 4 | 8;
        // SAFETY: the name is static, and no other call takes memory; the descriptors go with the child.
        unsafe {
            let context = syscall!(libc::SYS_fsopen, c"proc".as_ptr(), 0)?;
            syscall!(libc::SYS_fsconfig, context, CREATE, 0, 0, 0)?;
            syscall!(libc::SYS_fsmount, context, 0, NOSUID_NODEV_NOEXEC)
        }
    })
}

/// Runs `attempt`, which only makes system calls on memory prepared before, in new namespaces.
fn within(flags: i32, attempt: impl Fn() -> Sys) -> io::Result<()> {
    let flags = flags | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: a fork-like clone without a new stack: the child works on a copy of this frame, makes system calls on prepared
    // memory only, and ends. Argument order differs between architectures in arguments that are zero here.
    let pid = unsafe { syscall!(libc::SYS_clone, flags, 0, 0, 0, 0) }.map_err(io::Error::from)?;
    if pid == 0 {
        // Error numbers that these calls give fit into an exit status.
        super::thread::exit(attempt().map_or_else(|errno| errno.0, |_| 0));
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable for the duration of the call. The child is ours and nobody else knows its id.
        let waited = unsafe { libc::waitpid(pid as i32, &raw mut status, libc::__WALL) };
        if waited >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Collected by somebody else in this program: that it was made is all there is to know.
            _ => return Ok(()),
        }
    }
    match status {
        0 => Ok(()),
        _ if libc::WIFEXITED(status) => Err(io::Error::from_raw_os_error(libc::WEXITSTATUS(status))),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}
