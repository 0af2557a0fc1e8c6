//! The few commands of bpf(2) that device access on v2 takes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction, as the kernel's `struct bpf_insn` lays it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination and source, four bits each: a bit field in C, so their order depends on the byte order.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

pub(crate) type Name = [u8; 16];

#[derive(Debug, Default)]
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: Name,
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[derive(Debug, Default)]
#[repr(C)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

#[derive(Debug, Default)]
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`, as far as the name.
#[derive(Debug, Default)]
#[repr(C)]
struct Info {
    before: [u64; 8],
    name: Name,
}

/// Calls bpf(2).
///
/// # Safety
/// `T` must be the kernel's layout of the attributes of `command`, and every address in it must point to memory of the
/// length that goes with it and that the command may read or write.
unsafe fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the attributes are a valid, exclusively borrowed value of the size given; the caller vouches for the rest.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a descriptor of what a successful command returned.
fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Has the kernel verify and load a program that decides about device access.
pub(crate) fn load(name: Name, program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attributes = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: name,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..Load::default()
    };
    // SAFETY: the program and the NUL-terminated licence outlive the call, which only reads them; the count is theirs.
    unsafe { bpf(PROG_LOAD, &mut attributes) }.map(own)
}

/// Attaches a program beside those that are there: all have to agree to an access.
pub(crate) fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = attachment(group, program);
    attributes.attach_flags = ALLOW_MULTI;
    // SAFETY: the attributes hold no address.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Takes a program off again.
pub(crate) fn detach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the attributes hold no address.
    unsafe { bpf(PROG_DETACH, &mut attachment(group, program)) }.map(drop)
}

fn attachment(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Attach {
    Attach {
        target_fd: raw(group),
        attach_bpf_fd: raw(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
    }
}

/// The programs attached to this very group, by the number the kernel gave them.
pub(crate) fn attached(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // The kernel allows 64 a group.
    let mut ids = [0u32; 64];
    let mut attributes = Query {
        target_fd: raw(group),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: the address is that of a live array of as many numbers as the count says, which the kernel fills.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let count = (attributes.prog_cnt as usize).min(ids.len());
    Ok(ids[..count].to_vec())
}

/// A program by its number.
pub(crate) fn open(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById { prog_id: id, ..ById::default() };
    // SAFETY: the attributes hold no address.
    unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }.map(own)
}

/// The name a program was loaded with.
pub(crate) fn name(program: BorrowedFd<'_>) -> io::Result<Name> {
    let mut info = Info::default();
    let mut attributes = GetInfo {
        bpf_fd: raw(program),
        info_len: size_of::<Info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the address is that of a live value of the length given, which the kernel fills as far as it goes.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info.name)
}
