//! Signals to a process that is known by descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sends signal `number` to the process behind `pidfd` (Linux 5.1). Real-time signals too; 0 only asks whether it is there.
///
/// # Errors
/// ESRCH when the process has ended and was reaped, EINVAL for a number that is no signal, EPERM.
pub fn signal(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: the call takes a descriptor that is open for its duration, a number, and no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
