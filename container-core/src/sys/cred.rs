//! Identity and limits of the calling process: ids, capabilities, filters, resource limits.
#![allow(unsafe_code)]

use super::raw::{Sys, syscall};
use crate::seccomp::Instruction;

fn prctl(option: i32, a: usize, b: usize) -> Sys {
    // SAFETY: only options whose arguments are numbers are passed by the callers below.
    unsafe { syscall!(libc::SYS_prctl, option, a, b, 0, 0) }
}

pub(crate) fn set_dumpable(value: usize) -> Sys<()> {
    prctl(libc::PR_SET_DUMPABLE, value, 0).map(drop)
}

pub(crate) fn dumpable() -> Sys {
    prctl(libc::PR_GET_DUMPABLE, 0, 0)
}

pub(crate) fn set_parent_death_signal(signal: i32) -> Sys<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as usize, 0).map(drop)
}

pub(crate) fn set_keep_capabilities(on: bool) -> Sys<()> {
    prctl(libc::PR_SET_KEEPCAPS, on.into(), 0).map(drop)
}

pub(crate) fn set_no_new_privileges() -> Sys<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

pub(crate) fn drop_bounding(capability: u32) -> Sys<()> {
    prctl(libc::PR_CAPBSET_DROP, capability as usize, 0).map(drop)
}

pub(crate) fn in_bounding(capability: u32) -> bool {
    prctl(libc::PR_CAPBSET_READ, capability as usize, 0) == Ok(1)
}

pub(crate) fn clear_ambient() -> Sys<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0).map(drop)
}

pub(crate) fn raise_ambient(capability: u32) -> Sys<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability as usize).map(drop)
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets the three sets of the calling thread.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Sys<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapabilityData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and both halves live across the call.
    unsafe { syscall!(libc::SYS_capset, &raw const header, data.as_ptr()) }.map(drop)
}

/// The effective and permitted sets of the calling thread.
pub(crate) fn capabilities() -> Sys<(u64, u64)> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: the kernel fills the two halves.
    unsafe { syscall!(libc::SYS_capget, &raw const header, data.as_mut_ptr()) }?;
    let [low, high] = data;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((join(low.effective, high.effective), join(low.permitted, high.permitted)))
}

pub(crate) fn set_groups(groups: &[u32]) -> Sys<()> {
    // SAFETY: the slice is valid for its length.
    unsafe { syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }.map(drop)
}

pub(crate) fn set_group(gid: u32) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_setresgid, gid, gid, gid) }.map(drop)
}

pub(crate) fn set_user(uid: u32) -> Sys<()> {
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_setresuid, uid, uid, uid) }.map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: no memory involved; umask cannot fail.
    let _ = unsafe { syscall!(libc::SYS_umask, mask) };
}

pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Sys<()> {
    let limit = [soft, hard];
    // SAFETY: `struct rlimit64` is two 64-bit words.
    unsafe { syscall!(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), 0) }.map(drop)
}

/// The same for another process.
pub(crate) fn set_limit_of(pid: i32, resource: u32, soft: u64, hard: u64) -> Sys<()> {
    let limit = [soft, hard];
    // SAFETY: as above.
    unsafe { syscall!(libc::SYS_prlimit64, pid, resource, limit.as_ptr(), 0) }.map(drop)
}

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    len: u16,
    filter: *const Instruction,
}

/// Installs a filter. Gives the listener's descriptor when the flags ask for one.
pub(crate) fn set_seccomp_filter(instructions: &[Instruction], flags: u32) -> Sys {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let program = FilterProgram { len: instructions.len() as u16, filter: instructions.as_ptr() };
    // SAFETY: `program` describes the slice, and both live across the call.
    unsafe { syscall!(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) }
}

/// A new anonymous session keyring, so that the caller's keys are not reachable.
pub(crate) fn join_session_keyring(name: Option<&std::ffi::CStr>) -> Sys {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    let name = name.map_or(std::ptr::null(), |name| name.as_ptr());
    // SAFETY: the name ends in NUL or is null.
    unsafe { syscall!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) }
}

/// Possessor's all plus what the group `search` needs, so that the container's user may use its own keyring.
pub(crate) fn set_keyring_permission(serial: usize, mask: u32) -> Sys<()> {
    const KEYCTL_SETPERM: usize = 5;
    // SAFETY: no memory involved.
    unsafe { syscall!(libc::SYS_keyctl, KEYCTL_SETPERM, serial, mask) }.map(drop)
}
