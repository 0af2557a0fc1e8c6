//! Writing to a pipe whose reader may be gone, without the SIGPIPE that would kill a host program with default signals.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

/// Writes what fits.
///
/// # Errors
/// EPIPE when nobody reads any more, EAGAIN when nothing fits.
pub(crate) fn write(pipe: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // A signal for this thread alone, so it is enough to block it here and take it away again before anybody sees it. The
    // mask is the calling thread's and is put back.
    // SAFETY: all sets are initialised before use and live for the calls.
    unsafe {
        let (mut pipe_signal, mut before, mut pending) =
            (std::mem::zeroed::<libc::sigset_t>(), std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&raw mut pipe_signal);
        libc::sigaddset(&raw mut pipe_signal, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe_signal, &raw mut before);
        libc::sigpending(&raw mut pending);
        let was_pending = libc::sigismember(&raw const pending, libc::SIGPIPE) == 1;
        let result = rustix::io::retry_on_intr(|| rustix::io::write(pipe, bytes));
        if result == Err(rustix::io::Errno::PIPE) && !was_pending {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            while libc::sigtimedwait(&raw const pipe_signal, std::ptr::null_mut(), &raw const now) == -1
                && *libc::__errno_location() == libc::EINTR
            {}
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        result.map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_closed_pipe_is_an_error_and_no_signal() {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(write(writer.as_fd(), b"abc").unwrap(), 3);
        drop(reader);
        // SAFETY: the disposition is put back; for the moment between, a SIGPIPE would end the test program.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let error = write(writer.as_fd(), b"abc").unwrap_err();
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, before) };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
