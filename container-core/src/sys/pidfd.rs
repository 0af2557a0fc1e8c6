//! Waiting for a process that is known by descriptor, whatever the host program does with SIGCHLD.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// `struct pidfd_info` of Linux 6.13, as far as it is needed here.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// What the kernel tells about a child that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Collected {
    pub(crate) status: ExitStatus,
    /// CPU time of it and of all descendants that were waited for.
    pub(crate) cpu: Duration,
}

/// Collects the status of a child that has ended; `None` while it runs.
///
/// # Errors
/// ECHILD when it is no child of this program, or somebody else in this program has collected its status.
pub(crate) fn collect(pidfd: BorrowedFd<'_>) -> io::Result<Option<Collected>> {
    wait(pidfd, libc::WEXITED)
}

/// Has a child of this program ended, and nobody collected it? It stays uncollected.
pub(crate) fn is_collectable(pidfd: BorrowedFd<'_>) -> bool {
    matches!(wait(pidfd, libc::WEXITED | libc::WNOWAIT), Ok(Some(_)))
}

fn wait(pidfd: BorrowedFd<'_>, options: i32) -> io::Result<Option<Collected>> {
    // SAFETY: both are plain data, for which zeroes are valid.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    let options = options | libc::WNOHANG | libc::__WALL;
    loop {
        // The C library's waitid has no place for the usage.
        // SAFETY: `info` and `usage` are writable for the duration of the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                options,
                &raw mut usage,
            )
        };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: after a successful waitid the fields of a child's change are set; si_pid stays 0 when there is none.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = ExitStatus::from_raw(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    });
    let time =
        |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    Ok(Some(Collected { status, cpu: time(usage.ru_utime) + time(usage.ru_stime) }))
}

/// The status of a process that has ended and was collected by whomever (Linux 6.15; `None` before).
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the number names the size of `info`, which is writable for the duration of the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

/// Does this kernel keep the status of a collected process behind its descriptor?
pub(crate) fn keeps_exit_status() -> bool {
    // Nothing to be had of a living process, but an older kernel refuses the question itself or does not know the bit. The
    // release is the plain way to tell.
    let release = rustix::system::uname();
    let mut numbers = release.release().to_bytes().split(|b| !b.is_ascii_digit()).map(|part| {
        part.iter().fold(0u32, |n, digit| n.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= (6, 15)
}

/// Does the host program throw the status of its children away (SIGCHLD ignored, or SA_NOCLDWAIT)?
pub(crate) fn children_are_discarded() -> bool {
    // SAFETY: sigaction is plain data, for which zeroes are valid; a null new action only asks.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) == 0
            && (action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0)
    }
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::os::fd::AsFd;

    fn started(program: &str, args: &[&str]) -> (std::process::Child, std::os::fd::OwnedFd) {
        let child = std::process::Command::new(program).args(args).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        (child, pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    fn wait(pidfd: &impl AsFd) -> ExitStatus {
        loop {
            let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut poll, None);
            if let Some(collected) = collect(pidfd.as_fd()).unwrap() {
                return collected.status;
            }
        }
    }

    #[test]
    fn codes_and_signals() {
        let (_, pidfd) = started("/bin/sh", &["-c", "exit 7"]);
        assert_eq!(wait(&pidfd).code(), Some(7));
        let (_, pidfd) = started("/bin/sh", &["-c", "kill -SEGV $$"]);
        assert_eq!(wait(&pidfd).signal(), Some(libc::SIGSEGV));
        let (_child, pidfd) = started("/bin/sleep", &["100"]);
        assert!(collect(pidfd.as_fd()).unwrap().is_none());
        super::super::process::signal(&pidfd, libc::SIGKILL).unwrap();
        assert_eq!(wait(&pidfd).signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn a_status_somebody_else_collected_is_still_known() {
        let (mut child, pidfd) = started("/bin/sh", &["-c", "exit 9"]);
        child.wait().unwrap();
        assert_eq!(collect(pidfd.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
        if keeps_exit_status() {
            assert_eq!(exit_status(pidfd.as_fd()).unwrap().code(), Some(9));
        } else {
            assert_eq!(exit_status(pidfd.as_fd()), None);
        }
    }
}
