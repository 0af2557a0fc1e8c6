//! The init of a container: a program of a few hundred bytes in a file in memory.
//!
//! It is process 1 and starts the command as its child, collects the processes that lose their parent, passes signals on, and
//! ends as the command does. It brings all it needs, so it works whatever is in the image, and nothing of the host program
//! (memory, binary, descriptors) stays in the container. What it has to know is in its data segment, [`Parameters`], which the
//! launch fills in through a shared mapping; the command's vectors are its own, one argument further.
//!
//! ```text
//! vfork; child: close channel and status, mark the command's file close-on-exec, block no signal, execveat
//! not executed: send the prepared failure record, exit 127
//! close everything but the status pipe
//! forever: wait4 for all that have ended; when the command is among them, write its status to the pipe and end the same way
//!          rt_sigtimedwait for the next signal; not SIGCHLD and sent by a process: send it to the command
//! ```
//!
//! What the kernel sends by itself is not passed on: the signals of a terminal go to the command's process group anyway. SIGHUP is,
//! since a hangup goes to the leader of the session, which the command would be without an init.
#![allow(unsafe_code)]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;

use super::raw::{Sys, syscall};

/// Size of a record that tells a failure, and where the error number is in it.
pub(crate) const RECORD: usize = 256;
const RECORD_ERRNO: usize = 8;
const PATH: usize = 4096;

/// What the program works with. Written before it is executed.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Parameters {
    /// Gets a record when the command cannot be started; closed once it runs.
    pub(crate) channel: i32,
    /// The command's file.
    pub(crate) file: i32,
    /// Gets the command's wait status, an int.
    pub(crate) status: i32,
    /// Directory, path and flags as execveat takes them.
    pub(crate) directory: i32,
    pub(crate) flags: i32,
    /// On ENOENT try once more with the command's file open in the new program.
    pub(crate) retry: i32,
    /// ENOENT is about the loader.
    pub(crate) names_loader: i32,
    /// The filter lets close_range through.
    pub(crate) close_all: i32,
    errno: i32,
    _unused: i32,
    no_signals: u64,
    all_signals: u64,
    /// The command was not executed; the error number is filled in.
    pub(crate) refused: [u8; RECORD],
    /// Its loader is not there.
    pub(crate) no_loader: [u8; RECORD],
    /// There is no process for it; the error number is filled in.
    pub(crate) no_process: [u8; RECORD],
    pub(crate) path: [u8; PATH],
}

/// Where code and data are: far enough from each other for every page size.
const CODE: u64 = 0x40_0000;
const DATA_OFFSET: u64 = 0x1_0000;
const DATA: u64 = CODE + DATA_OFFSET;
const HEADERS: usize = 64 + 3 * 56;
const MAPPED: usize = 8192;

const _: () = assert!(size_of::<Parameters>() <= MAPPED && offset_of!(Parameters, path) < 4096);

const CLONE_FLAGS: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;

/// Assembles the program's lines, which name what they work with.
macro_rules! assemble {
    ($($line:literal,)*) => {
        std::arch::global_asm!(
            $($line,)*
            data = const $crate::sys::init_program::DATA,
            clone_flags = const $crate::sys::init_program::CLONE_FLAGS,
            record = const $crate::sys::init_program::RECORD,
            record_errno = const $crate::sys::init_program::RECORD_ERRNO,
            channel = const std::mem::offset_of!($crate::sys::init_program::Parameters, channel),
            file = const std::mem::offset_of!($crate::sys::init_program::Parameters, file),
            status = const std::mem::offset_of!($crate::sys::init_program::Parameters, status),
            directory = const std::mem::offset_of!($crate::sys::init_program::Parameters, directory),
            flags = const std::mem::offset_of!($crate::sys::init_program::Parameters, flags),
            retry = const std::mem::offset_of!($crate::sys::init_program::Parameters, retry),
            names_loader = const std::mem::offset_of!($crate::sys::init_program::Parameters, names_loader),
            close_all = const std::mem::offset_of!($crate::sys::init_program::Parameters, close_all),
            errno = const std::mem::offset_of!($crate::sys::init_program::Parameters, errno),
            no_signals = const std::mem::offset_of!($crate::sys::init_program::Parameters, no_signals),
            all_signals = const std::mem::offset_of!($crate::sys::init_program::Parameters, all_signals),
            refused = const std::mem::offset_of!($crate::sys::init_program::Parameters, refused),
            no_loader = const std::mem::offset_of!($crate::sys::init_program::Parameters, no_loader),
            no_process = const std::mem::offset_of!($crate::sys::init_program::Parameters, no_process),
            path = const std::mem::offset_of!($crate::sys::init_program::Parameters, path),
            wnohang = const libc::WNOHANG,
            setmask = const libc::SIG_SETMASK,
            setfd = const libc::F_SETFD,
            cloexec = const libc::FD_CLOEXEC,
            enoent = const libc::ENOENT,
            sigchld = const libc::SIGCHLD,
            sighup = const libc::SIGHUP,
            clone = const libc::SYS_clone,
            close = const libc::SYS_close,
            close_range = const libc::SYS_close_range,
            execveat = const libc::SYS_execveat,
            exit_group = const libc::SYS_exit_group,
            fcntl = const libc::SYS_fcntl,
            kill = const libc::SYS_kill,
            sigprocmask = const libc::SYS_rt_sigprocmask,
            sigtimedwait = const libc::SYS_rt_sigtimedwait,
            wait4 = const libc::SYS_wait4,
            write = const libc::SYS_write,
        );
    };
}
use assemble;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// The system calls it makes, with the arguments that a filter may look at.
pub(crate) const CALLS: [(&str, [u64; 6]); 9] = [
    ("clone", [CLONE_FLAGS as u64, 0, 0, 0, 0, 0]),
    ("close", [3, 0, 0, 0, 0, 0]),
    ("exit_group", [0; 6]),
    ("fcntl", [3, libc::F_SETFD as u64, libc::FD_CLOEXEC as u64, 0, 0, 0]),
    ("kill", [2, libc::SIGTERM as u64, 0, 0, 0, 0]),
    ("rt_sigprocmask", [libc::SIG_SETMASK as u64, DATA, 0, 8, 0, 0]),
    ("rt_sigtimedwait", [DATA, DATA, 0, 8, 0, 0]),
    ("wait4", [u64::MAX, DATA, libc::WNOHANG as u64, 0, 0, 0]),
    ("write", [3, DATA, 4, 0, 0, 0]),
];

unsafe extern "C" {
    static container_core_init_start: u8;
    static container_core_init_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const container_core_init_start, &raw const container_core_init_end);
    // SAFETY: the labels stand at the two ends of one block of read-only bytes.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Header, program headers and code: one segment for the code, one for the parameters, and a stack that is not executable.
fn image() -> Vec<u8> {
    const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let code = code();
    let text = (HEADERS + code.len()) as u64;
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let executable = 2u16;
    image.extend([executable, MACHINE].iter().flat_map(|half| half.to_le_bytes()));
    image.extend(1u32.to_le_bytes());
    image.extend([CODE + HEADERS as u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    image.extend(0u32.to_le_bytes());
    image.extend([64u16, 56, 3, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let data = size_of::<Parameters>() as u64;
    for (kind, flags, offset, address, size) in [
        (libc::PT_LOAD, libc::PF_R | libc::PF_X, 0, CODE, text),
        (libc::PT_LOAD, libc::PF_R | libc::PF_W, DATA_OFFSET, DATA, data),
        (libc::PT_GNU_STACK, libc::PF_R | libc::PF_W, 0, 0, 0),
    ] {
        image.extend([kind, flags].iter().flat_map(|word| word.to_le_bytes()));
        let words = [offset, address, address, size, size, DATA_OFFSET];
        image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    image.extend(code);
    image
}

/// The program in a file in memory that nobody else has, with its parameters mapped.
#[derive(Debug)]
pub(crate) struct InitProgram {
    file: OwnedFd,
    parameters: *mut Parameters,
}

// SAFETY: the mapping belongs to this value.
unsafe impl Send for InitProgram {}

/// The parameters, for the process that becomes the program: it shares the mapping, whichever way it was cloned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedParameters(*mut Parameters);

// SAFETY: only one process writes, before it executes the program.
unsafe impl Send for SharedParameters {}

impl InitProgram {
    pub(crate) fn new() -> io::Result<Self> {
        let file = memory_file()?;
        let image = image();
        let written = rustix::io::pwrite(&file, &image, 0)?;
        if written != image.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rustix::fs::ftruncate(&file, DATA_OFFSET + MAPPED as u64)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes, of a part of the file that is there.
        let parameters = unsafe {
            libc::mmap(null_mut(), MAPPED, protection, libc::MAP_SHARED, file.as_raw_fd(), DATA_OFFSET as i64)
        };
        if parameters == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let parameters = parameters.cast::<Parameters>();
        // SAFETY: the new mapping is large enough, aligned, zeroed, and nobody else's; all zeroes are valid parameters.
        unsafe { (*parameters).all_signals = u64::MAX };
        Ok(Self { file, parameters })
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Moves the file to a number of at least `min`.
    pub(crate) fn raise(&mut self, min: i32) -> Sys<()> {
        if self.file.as_raw_fd() < min {
            self.file = super::fd::adopt(super::fd::duplicate_above(self.file.as_raw_fd(), min)?);
        }
        Ok(())
    }

    pub(crate) fn parameters(&self) -> SharedParameters {
        SharedParameters(self.parameters)
    }
}

impl Drop for InitProgram {
    fn drop(&mut self) {
        // SAFETY: our own mapping. The launch is over: the process that had it in this memory has executed the program, or ended.
        unsafe { libc::munmap(self.parameters.cast(), MAPPED) };
    }
}

impl SharedParameters {
    pub(crate) fn get(&mut self) -> &mut Parameters {
        // SAFETY: the mapping lives as long as the launch, and its only user is the process that is being started.
        unsafe { &mut *self.0 }
    }
}

fn memory_file() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3 wants to be told that the file is to be executed; older ones do not know the word.
    match memfd_create("init", flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create("init", flags)?),
        other => Ok(other?),
    }
}

/// From here on nobody changes the file any more.
pub(crate) fn seal(file: i32) -> Sys<()> {
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
    // SAFETY: no memory involved.
    match unsafe { syscall!(libc::SYS_fcntl, file, libc::F_ADD_SEALS, seals) } {
        // Sealed by a process before that did not get far.
        Err(super::raw::Errno(libc::EPERM)) => Ok(()),
        other => other.map(drop),
    }
}
