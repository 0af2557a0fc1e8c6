//! Trying a clone with new namespaces, in a child that ends at once.
#![allow(unsafe_code)]

use std::io;

use super::raw::syscall;

/// Can this program make these namespaces, and rule over what is in them? The child sets a host name in a new uts namespace,
/// which tells a namespace with rights from one that a security module has emptied.
///
/// # Errors
/// The kernel's answer to the clone, or EPERM where the namespace gives no rights.
pub(crate) fn namespaces(flags: i32) -> io::Result<()> {
    let flags = flags | libc::CLONE_NEWUTS | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: a fork-like clone without a new stack: the child works on a copy of this frame, makes system calls on static
    // memory only, and ends. Argument order differs between architectures in arguments that are zero here.
    let pid = unsafe { syscall!(libc::SYS_clone, flags, 0, 0, 0, 0) }.map_err(io::Error::from)?;
    if pid == 0 {
        let name = c"probe";
        // SAFETY: the name is static and its length is given.
        let named = unsafe { syscall!(libc::SYS_sethostname, name.as_ptr(), 5) };
        super::thread::exit(i32::from(named.is_err()));
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
    if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
