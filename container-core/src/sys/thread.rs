//! The calling process as a task: namespaces, names, scheduling, signals, terminal, end.
#![allow(unsafe_code)]

use std::ffi::CStr;

use super::raw::{Sys, syscall};

/// Ends the process at once: no exit handlers, no destructors.
pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no memory involved; does not return.
        let _ = unsafe { syscall!(libc::SYS_exit_group, status) };
    }
}

pub(crate) fn set_namespace(fd: i32, kinds: u64) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_setns, fd, kinds) }.map(drop)
}

pub(crate) fn unshare(kinds: u64) -> Sys<()> {
    // SAFETY: callers only name namespaces (and CLONE_FS), which leaves memory as it is.
    unsafe { syscall!(libc::SYS_unshare, kinds) }.map(drop)
}

pub(crate) fn set_host_name(name: &CStr) -> Sys<()> {
    // SAFETY: the bytes are valid for the length given.
    unsafe { syscall!(libc::SYS_sethostname, name.as_ptr(), name.count_bytes()) }.map(drop)
}

pub(crate) fn set_domain_name(name: &CStr) -> Sys<()> {
    // SAFETY: the bytes are valid for the length given.
    unsafe { syscall!(libc::SYS_setdomainname, name.as_ptr(), name.count_bytes()) }.map(drop)
}

/// Sets every signal to its default action (what the caller ignores stays ignored over clone and exec) and blocks none.
pub(crate) fn reset_signals() {
    // The kernel's `struct sigaction`: handler, flags, restorer, mask (aarch64: no restorer, but never longer).
    let default = [0usize; 4];
    for signal in (1..=64).filter(|&s| s != libc::SIGKILL && s != libc::SIGSTOP) {
        // SAFETY: SIG_DFL is 0, so an all-zero action is valid; 8 is the size of the mask.
        let _ = unsafe { syscall!(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8) };
    }
    unblock_signals();
}

/// Blocks all signals of the calling thread but those that the C library sends its own threads (32 to 34): with them it changes
/// credentials in all of them, and waits until each has.
pub(crate) fn block_signals() {
    let _ = set_blocked(!(0b111 << 31));
}

/// Blocks really all signals: those for an init with default actions are lost unless they are blocked.
pub(crate) fn block_all_signals() -> Sys<()> {
    set_blocked(u64::MAX)
}

/// A descriptor that has something to read when somebody asks this process to end, instead of the signal's own action: the first
/// process of a pid namespace would not notice it.
pub(crate) fn ending_signals() -> Sys<i32> {
    let mask = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP]
        .iter()
        .fold(0u64, |mask, signal| mask | 1 << (signal - 1));
    set_blocked(mask)?;
    // SAFETY: the mask is 8 bytes and lives across the call.
    Ok(unsafe { syscall!(libc::SYS_signalfd4, -1i32, &raw const mask, 8, libc::SFD_CLOEXEC) }? as i32)
}

/// Blocks no signal.
pub(crate) fn unblock_signals() {
    let _ = set_blocked(0);
}

/// Blocks the signals of a mask, one bit each from 1 on, and no other.
fn set_blocked(mask: u64) -> Sys<()> {
    // SAFETY: the mask is 8 bytes and lives across the call.
    unsafe { syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0, 8) }.map(drop)
}

pub(crate) fn set_session() -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_setsid) }.map(drop)
}

/// Makes the calling process the first of a process group.
pub(crate) fn set_process_group() -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_setpgid, 0, 0) }.map(drop)
}

pub(crate) fn ioctl(fd: i32, request: u64, argument: usize) -> Sys {
    // SAFETY: callers pass requests whose argument is a number, or use the typed ones below.
    unsafe { syscall!(libc::SYS_ioctl, fd, request, argument) }
}

/// Sets the size of a terminal.
pub(crate) fn set_window_size(fd: i32, rows: u16, columns: u16) -> Sys<()> {
    let size = [rows, columns, 0, 0];
    // SAFETY: `struct winsize` is four 16-bit words.
    unsafe { syscall!(libc::SYS_ioctl, fd, libc::TIOCSWINSZ, size.as_ptr()) }.map(drop)
}

/// Has a terminal pass line feeds on as they are.
pub(crate) fn pass_line_feeds(fd: i32) -> Sys<()> {
    // The kernel's own `struct termios`, which is not the C library's: four flag words, a byte, 19 characters.
    let mut termios = [0_u32; 9];
    // SAFETY: 36 bytes are written and read, and there are as many.
    unsafe {
        syscall!(libc::SYS_ioctl, fd, libc::TCGETS, termios.as_mut_ptr())?;
        termios[1] &= !(libc::ONLCR as u32);
        syscall!(libc::SYS_ioctl, fd, libc::TCSETS, termios.as_ptr()).map(drop)
    }
}

/// Unlocks a new terminal and opens its other side.
pub(crate) fn open_terminal_peer(master: i32) -> Sys<i32> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    let unlock = 0i32;
    // SAFETY: the lock is an int; the peer request takes open flags.
    unsafe {
        syscall!(libc::SYS_ioctl, master, TIOCSPTLCK, &raw const unlock)?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(syscall!(libc::SYS_ioctl, master, TIOCGPTPEER, flags)? as i32)
    }
}

pub(crate) fn set_controlling_terminal(fd: i32) -> Sys<()> {
    ioctl(fd, libc::TIOCSCTTY, 0).map(drop)
}

/// Sets the flags of the network interface `lo` to up.
pub(crate) fn raise_loopback() -> Sys<()> {
    // `struct ifreq`: 16 bytes of name, then a union of 24 bytes that starts with the flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is as large as the kernel's structure.
    unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket = syscall!(libc::SYS_socket, libc::AF_INET, kind, 0)?;
        let result = syscall!(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, request.as_ptr());
        super::fd::close(socket as i32);
        result.map(drop)
    }
}

pub(crate) fn set_personality(persona: u64) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_personality, persona) }.map(drop)
}

pub(crate) fn set_io_priority(value: i32) -> Sys<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }.map(drop)
}

/// The kernel's `struct sched_attr`, first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

pub(crate) fn set_scheduler(attr: &SchedAttr) -> Sys<()> {
    // SAFETY: `attr` lives across the call and says its own size.
    unsafe { syscall!(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) }.map(drop)
}

pub(crate) fn set_affinity(mask: &[u64]) -> Sys<()> {
    // SAFETY: the slice is valid for its length in bytes.
    unsafe { syscall!(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }.map(drop)
}

pub(crate) fn set_memory_policy(mode: i32, nodes: &[u64]) -> Sys<()> {
    let (pointer, bits) =
        if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the slice holds at least `bits - 1` bits, which is what the kernel reads.
    unsafe { syscall!(libc::SYS_set_mempolicy, mode, pointer, bits) }.map(drop)
}
