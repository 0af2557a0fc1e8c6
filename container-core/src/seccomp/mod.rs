//! Seccomp: a profile in the words of the runtime specification, compiled to the classic BPF program the kernel runs at every
//! system call. No libseccomp.
//!
//! ```text
//! LinuxSeccomp --policy--> a verdict for each number of each architecture --emit--> Program (instructions, flags)
//! ```
//!
//! Numbers are laid out as bit masks of 32, found by a compare tree, so the default profile is about a hundred instructions an
//! architecture and is installed in under 0.05 ms (the kernel runs a filter once for every number when it is installed).
//! The tests run each program in a simulator of the BPF machine and compare it with a plain reading of the profile, number by
//! number and argument by argument.
//!
//! Where the specification leaves room, the rules are those of libseccomp and runc, with which profiles were written:
//! - A rule without conditions on a call wins over rules with conditions on it; otherwise the first that matches wins.
//! - The conditions of one rule must all hold; but if two of them are about the same argument, each stands for itself.
//! - A name that no architecture knows is ignored.
//! - The native architecture is always covered. A call of an architecture the profile does not list kills the process.
//! - If calls are refused by default, one that is newer than every call of the profile gives ENOSYS, so that programs fall
//!   back to what the profile's author knew (not with `defaultErrnoRet` ENOSYS, where all do, nor if the default permits).

mod emit;
mod permits;
mod policy;
mod profile;
#[cfg(test)]
mod simulate;
mod syscalls;

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

pub(crate) use permits::Permits;
pub use profile::default_profile;

use crate::error::{Error, Result};

/// Architectures whose calls a filter can judge on a machine this crate runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Architecture {
    /// Of this machine.
    pub(crate) fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    fn from_spec(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Self::native(),
            Arch::ScmpArchX86_64 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchX32 => Some(Self::X32),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// The `AUDIT_ARCH_*` token in `seccomp_data.arch`.
    fn token(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Can this machine run its programs?
    fn runs_on(self, native: Self) -> bool {
        match self {
            Self::X86_64 | Self::X86 | Self::X32 => native == Self::X86_64,
            Self::Aarch64 | Self::Arm => native == Self::Aarch64,
        }
    }
}

/// One instruction of classic BPF, laid out as `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip when a test holds.
    pub jt: u8,
    /// How many instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A compiled profile, ready for `seccomp(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Program {
    /// The filter.
    pub filter: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` bits of the profile. Of a program that notifies, the listener flag is not among them.
    pub flags: u32,
    /// Some call is to be answered by a listener (`SCMP_ACT_NOTIFY`).
    pub notify: bool,
}

const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// The longest program the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Compiles a profile for this machine.
///
/// # Errors
/// [`Error::Invalid`] for an argument index above 5, an errno that is none, notification as the default or of `write`, or more
/// rules than the kernel's 4,096 instructions hold. [`Error::Unsupported`] on a machine that is neither x86-64 nor aarch64.
pub fn compile(profile: &LinuxSeccomp) -> Result<Arc<Program>> {
    let native = Architecture::native()
        .ok_or_else(|| Error::unsupported("seccomp", "this crate filters on x86-64 and aarch64 only"))?;
    // Programs start containers of one kind again and again: keep the last few.
    static RECENT: Mutex<Vec<(LinuxSeccomp, Arc<Program>)>> = Mutex::new(Vec::new());
    const KEPT: usize = 8;
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = recent.iter().position(|(known, _)| known == profile) {
        return Ok(Arc::clone(&recent[at].1));
    }
    let program = Arc::new(compile_for(native, profile)?);
    if recent.len() == KEPT {
        recent.remove(0);
    }
    recent.push((profile.clone(), Arc::clone(&program)));
    Ok(program)
}

fn compile_for(native: Architecture, profile: &LinuxSeccomp) -> Result<Program> {
    let policies = policy::lower(native, profile)?;
    let filter = emit::emit(&policies);
    if filter.len() > LONGEST {
        return Err(Error::invalid(
            "linux.seccomp",
            format!("its rules take {} instructions, the kernel's limit is {LONGEST}", filter.len()),
        ));
    }
    let syscalls = profile.syscalls().iter().flatten();
    let notify = syscalls.clone().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    let flags = match profile.flags() {
        // As runc: without a word in the profile, programs keep their speed. It is what the kernel does by itself since 5.16.
        None => FLAG_SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |bits, flag| bits | flag_bit(*flag)),
    };
    Ok(Program { filter, flags, notify })
}

fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => FLAG_WAIT_KILLABLE_RECV,
        // The process has one thread when the filter is installed, and TSYNC would exclude a listener.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_small_and_cached() {
        let profile = default_profile(&[]);
        let only_native = {
            let mut own = profile.clone();
            own.set_architectures(None);
            compile(&own).unwrap().filter.len()
        };
        let all = compile(&profile).unwrap();
        assert!(only_native < 120, "{only_native} instructions for one architecture");
        assert!(all.filter.len() < 320, "{} instructions", all.filter.len());
        assert!(Arc::ptr_eq(&all, &compile(&profile).unwrap()));
        assert!(!all.notify);
    }

    #[test]
    fn flags_are_the_kernels() {
        let mut profile = LinuxSeccomp::default();
        assert_eq!(compile(&profile).unwrap().flags, FLAG_SPEC_ALLOW);
        profile.set_flags(Some(vec![]));
        assert_eq!(compile(&profile).unwrap().flags, 0);
        profile.set_flags(Some(vec![
            LinuxSeccompFilterFlag::SeccompFilterFlagLog,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv,
        ]));
        assert_eq!(compile(&profile).unwrap().flags, 2 | 32);
    }
}
