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

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.container_core_init, \"a\", @progbits",
    ".globl container_core_init_start",
    ".hidden container_core_init_start",
    ".globl container_core_init_end",
    ".hidden container_core_init_end",
    "container_core_init_start:",
    "mov r12, rsp", // argc, argv, NULL, envp, NULL
    "sub rsp, 256", // [rsp]: a wait status; [rsp+16]: siginfo_t
    "mov ebx, {data}",
    "mov edi, {clone_flags}",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, {clone}",
    "syscall",
    "test rax, rax",
    "js 7f",
    "jz 5f",
    "mov r13d, eax", // the command
    "cmp dword ptr [rbx+{errno}], 0",
    "jne 6f",
    // The command runs.
    "mov edi, [rbx+{channel}]",
    "mov eax, {close}",
    "syscall",
    "mov edi, [rbx+{file}]",
    "mov eax, {close}",
    "syscall",
    "cmp dword ptr [rbx+{close_all}], 0",
    "je 2f",
    "xor edi, edi",
    "mov esi, [rbx+{status}]",
    "dec esi",
    "xor edx, edx",
    "mov eax, {close_range}",
    "syscall",
    "mov edi, [rbx+{status}]",
    "inc edi",
    "mov esi, -1",
    "xor edx, edx",
    "mov eax, {close_range}",
    "syscall",
    // Whoever has ended.
    "2:",
    "mov rdi, -1",
    "mov rsi, rsp",
    "mov edx, {wnohang}",
    "xor r10d, r10d",
    "mov eax, {wait4}",
    "syscall",
    "test eax, eax",
    "jle 3f",
    "cmp eax, r13d",
    "jne 2b",
    "mov edi, [rbx+{status}]",
    "mov rsi, rsp",
    "mov edx, 4",
    "mov eax, {write}",
    "syscall",
    "mov eax, [rsp]",
    "mov edi, eax",
    "and edi, 0x7f",
    "jz 8f",
    "add edi, 128",
    "jmp 9f",
    "8:",
    "movzx edi, ah",
    "jmp 9f",
    // The next signal.
    "3:",
    "lea rdi, [rbx+{all_signals}]",
    "lea rsi, [rsp+16]",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {sigtimedwait}",
    "syscall",
    "test eax, eax",
    "js 3b",
    "cmp eax, {sigchld}",
    "je 2b",
    "cmp dword ptr [rsp+16+8], 0", // si_code
    "jle 4f",
    "cmp eax, {sighup}",
    "jne 3b",
    "4:",
    "mov edi, r13d",
    "mov esi, eax",
    "mov eax, {kill}",
    "syscall",
    "jmp 3b",
    // In the child.
    "5:",
    "mov edi, [rbx+{channel}]",
    "mov eax, {close}",
    "syscall",
    "mov edi, [rbx+{status}]",
    "mov eax, {close}",
    "syscall",
    "mov edi, {setmask}",
    "lea rsi, [rbx+{no_signals}]",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, {sigprocmask}",
    "syscall",
    "mov r14d, {cloexec}",
    "25:",
    "mov edi, [rbx+{file}]",
    "mov esi, {setfd}",
    "mov edx, r14d",
    "mov eax, {fcntl}",
    "syscall",
    "movsxd rdi, dword ptr [rbx+{directory}]",
    "lea rsi, [rbx+{path}]",
    "lea rdx, [r12+16]",
    "mov rax, [r12]",
    "lea r10, [r12+rax*8+16]",
    "mov r8d, [rbx+{flags}]",
    "mov eax, {execveat}",
    "syscall",
    "neg eax",
    "mov [rbx+{errno}], eax",
    "cmp eax, {enoent}",
    "jne 26f",
    "cmp dword ptr [rbx+{retry}], 0",
    "je 26f",
    "mov dword ptr [rbx+{retry}], 0",
    "xor r14d, r14d",
    "jmp 25b",
    "26:",
    "mov edi, 127",
    "jmp 9f",
    // It was not executed.
    "6:",
    "lea rsi, [rbx+{refused}]",
    "mov eax, [rbx+{errno}]",
    "cmp eax, {enoent}",
    "jne 27f",
    "cmp dword ptr [rbx+{names_loader}], 0",
    "je 27f",
    "lea rsi, [rbx+{no_loader}]",
    "jmp 27f",
    // No process.
    "7:",
    "neg eax",
    "lea rsi, [rbx+{no_process}]",
    "27:",
    "mov [rsi+{record_errno}], eax",
    "mov edi, [rbx+{channel}]",
    "mov edx, {record}",
    "mov eax, {write}",
    "syscall",
    "mov edi, 127",
    "9:",
    "mov eax, {exit_group}",
    "syscall",
    "ud2",
    "container_core_init_end:",
    ".popsection",
    data = const DATA,
    clone_flags = const CLONE_FLAGS,
    record = const RECORD,
    record_errno = const RECORD_ERRNO,
    channel = const offset_of!(Parameters, channel),
    file = const offset_of!(Parameters, file),
    status = const offset_of!(Parameters, status),
    directory = const offset_of!(Parameters, directory),
    flags = const offset_of!(Parameters, flags),
    retry = const offset_of!(Parameters, retry),
    names_loader = const offset_of!(Parameters, names_loader),
    close_all = const offset_of!(Parameters, close_all),
    errno = const offset_of!(Parameters, errno),
    no_signals = const offset_of!(Parameters, no_signals),
    all_signals = const offset_of!(Parameters, all_signals),
    refused = const offset_of!(Parameters, refused),
    no_loader = const offset_of!(Parameters, no_loader),
    no_process = const offset_of!(Parameters, no_process),
    path = const offset_of!(Parameters, path),
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

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.container_core_init, \"a\", %progbits",
    ".balign 4",
    ".globl container_core_init_start",
    ".hidden container_core_init_start",
    ".globl container_core_init_end",
    ".hidden container_core_init_end",
    "container_core_init_start:",
    "mov x20, sp", // argc, argv, NULL, envp, NULL
    "sub sp, sp, #256", // [sp]: a wait status; [sp+16]: siginfo_t
    "mov x19, #{data}",
    "mov x0, #{clone_flags}",
    "mov x1, xzr",
    "mov x2, xzr",
    "mov x3, xzr",
    "mov x4, xzr",
    "mov x8, #{clone}",
    "svc #0",
    "cmp x0, #0",
    "b.lt 7f",
    "b.eq 5f",
    "mov w21, w0", // the command
    "ldr w0, [x19, #{errno}]",
    "cbnz w0, 6f",
    // The command runs.
    "ldr w0, [x19, #{channel}]",
    "mov x8, #{close}",
    "svc #0",
    "ldr w0, [x19, #{file}]",
    "mov x8, #{close}",
    "svc #0",
    "ldr w0, [x19, #{close_all}]",
    "cbz w0, 2f",
    "mov x0, xzr",
    "ldr w1, [x19, #{status}]",
    "sub w1, w1, #1",
    "mov x2, xzr",
    "mov x8, #{close_range}",
    "svc #0",
    "ldr w0, [x19, #{status}]",
    "add w0, w0, #1",
    "mov w1, #-1",
    "mov x2, xzr",
    "mov x8, #{close_range}",
    "svc #0",
    // Whoever has ended.
    "2:",
    "mov x0, #-1",
    "mov x1, sp",
    "mov x2, #{wnohang}",
    "mov x3, xzr",
    "mov x8, #{wait4}",
    "svc #0",
    "cmp w0, #0",
    "b.le 3f",
    "cmp w0, w21",
    "b.ne 2b",
    "ldr w0, [x19, #{status}]",
    "mov x1, sp",
    "mov x2, #4",
    "mov x8, #{write}",
    "svc #0",
    "ldr w1, [sp]",
    "ands w0, w1, #0x7f",
    "b.eq 8f",
    "add w0, w0, #128",
    "b 9f",
    "8:",
    "ubfx w0, w1, #8, #8",
    "b 9f",
    // The next signal.
    "3:",
    "add x0, x19, #{all_signals}",
    "add x1, sp, #16",
    "mov x2, xzr",
    "mov x3, #8",
    "mov x8, #{sigtimedwait}",
    "svc #0",
    "cmp w0, #0",
    "b.lt 3b",
    "cmp w0, #{sigchld}",
    "b.eq 2b",
    "ldr w1, [sp, #24]", // si_code
    "cmp w1, #0",
    "b.le 4f",
    "cmp w0, #{sighup}",
    "b.ne 3b",
    "4:",
    "mov w1, w0",
    "mov w0, w21",
    "mov x8, #{kill}",
    "svc #0",
    "b 3b",
    // In the child.
    "5:",
    "ldr w0, [x19, #{channel}]",
    "mov x8, #{close}",
    "svc #0",
    "ldr w0, [x19, #{status}]",
    "mov x8, #{close}",
    "svc #0",
    "mov x0, #{setmask}",
    "add x1, x19, #{no_signals}",
    "mov x2, xzr",
    "mov x3, #8",
    "mov x8, #{sigprocmask}",
    "svc #0",
    "mov w22, #{cloexec}",
    "25:",
    "ldr w0, [x19, #{file}]",
    "mov x1, #{setfd}",
    "mov w2, w22",
    "mov x8, #{fcntl}",
    "svc #0",
    "ldrsw x0, [x19, #{directory}]",
    "add x1, x19, #{path}",
    "add x2, x20, #16",
    "ldr x3, [x20]",
    "add x3, x20, x3, lsl #3",
    "add x3, x3, #16",
    "ldr w4, [x19, #{flags}]",
    "mov x8, #{execveat}",
    "svc #0",
    "neg w0, w0",
    "str w0, [x19, #{errno}]",
    "cmp w0, #{enoent}",
    "b.ne 26f",
    "ldr w1, [x19, #{retry}]",
    "cbz w1, 26f",
    "str wzr, [x19, #{retry}]",
    "mov w22, wzr",
    "b 25b",
    "26:",
    "mov x0, #127",
    "b 9f",
    // It was not executed.
    "6:",
    "add x1, x19, #{refused}",
    "ldr w0, [x19, #{errno}]",
    "cmp w0, #{enoent}",
    "b.ne 27f",
    "ldr w2, [x19, #{names_loader}]",
    "cbz w2, 27f",
    "add x1, x19, #{no_loader}",
    "b 27f",
    // No process.
    "7:",
    "neg w0, w0",
    "add x1, x19, #{no_process}",
    "27:",
    "str w0, [x1, #{record_errno}]",
    "ldr w0, [x19, #{channel}]",
    "mov x2, #{record}",
    "mov x8, #{write}",
    "svc #0",
    "mov x0, #127",
    "9:",
    "mov x8, #{exit_group}",
    "svc #0",
    "brk #1",
    "container_core_init_end:",
    ".popsection",
    data = const DATA,
    clone_flags = const CLONE_FLAGS,
    record = const RECORD,
    record_errno = const RECORD_ERRNO,
    channel = const offset_of!(Parameters, channel),
    file = const offset_of!(Parameters, file),
    status = const offset_of!(Parameters, status),
    directory = const offset_of!(Parameters, directory),
    flags = const offset_of!(Parameters, flags),
    retry = const offset_of!(Parameters, retry),
    names_loader = const offset_of!(Parameters, names_loader),
    close_all = const offset_of!(Parameters, close_all),
    errno = const offset_of!(Parameters, errno),
    no_signals = const offset_of!(Parameters, no_signals),
    all_signals = const offset_of!(Parameters, all_signals),
    refused = const offset_of!(Parameters, refused),
    no_loader = const offset_of!(Parameters, no_loader),
    no_process = const offset_of!(Parameters, no_process),
    path = const offset_of!(Parameters, path),
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

/// Blocks all signals: those for an init with default actions are lost unless they are blocked.
pub(crate) fn block_all_signals() -> Sys<()> {
    let all = u64::MAX;
    // SAFETY: the mask is 8 bytes.
    unsafe { syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, 0, 8) }.map(drop)
}
