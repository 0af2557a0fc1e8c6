//! From a profile to a verdict for every number: names resolved, rules ordered, defaults filled in.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::{Architecture, syscalls};
use crate::error::{Error, Result};

/// What a filter returns to the kernel (`SECCOMP_RET_*`, with an errno or the like in the low half).
pub(super) type Return = u32;

pub(super) const KILL_PROCESS: Return = 0x8000_0000;
const KILL_THREAD: Return = 0;
const TRAP: Return = 0x0003_0000;
const ERRNO: Return = 0x0005_0000;
const NOTIFY: Return = 0x7fc0_0000;
const TRACE: Return = 0x7ff0_0000;
const LOG: Return = 0x7ffc_0000;
const ALLOW: Return = 0x7fff_0000;
pub(super) const ENOSYS: Return = ERRNO | libc::ENOSYS as u32;

/// Does the call happen, at once?
pub(super) fn lets_through(returned: Return) -> bool {
    matches!(returned & 0xffff_0000, ALLOW | LOG)
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u8,
    pub(super) test: Test,
}

/// Arguments are 64 bits wide and compare unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// A call with conditions: the first branch whose conditions all hold decides, else the policy's default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Branch {
    pub(super) conditions: Vec<Condition>,
    pub(super) then: Return,
}

/// What happens to the calls with one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Always(Return),
    Depends(Vec<Branch>),
}

/// The verdicts of one architecture.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) architecture: Architecture,
    /// For numbers that are not among the verdicts.
    pub(super) default: Return,
    /// Numbers above this one give ENOSYS.
    pub(super) newest: Option<u32>,
    pub(super) verdicts: BTreeMap<u32, Verdict>,
}

/// The policies of all architectures a profile covers on this machine, the native one first.
pub(super) fn lower(native: Architecture, profile: &LinuxSeccomp) -> Result<Vec<Policy>> {
    let mut architectures = vec![native];
    for arch in profile.architectures().iter().flatten() {
        if let Some(known) = Architecture::from_spec(*arch)
            && known.runs_on(native)
            && !architectures.contains(&known)
        {
            architectures.push(known);
        }
    }
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::invalid(
            "linux.seccomp.defaultAction SCMP_ACT_NOTIFY",
            "the process could not even hand over the listener; name the calls to be notified of",
        ));
    }
    let default =
        action("linux.seccomp.defaultAction", profile.default_action(), profile.default_errno_ret())?;
    let mut rules = Vec::new();
    for (n, rule) in profile.syscalls().iter().flatten().enumerate() {
        rules.push(lower_rule(n, rule)?);
    }
    Ok(architectures.into_iter().map(|architecture| policy(architecture, default, &rules)).collect())
}

/// A rule of the profile: names, and alternatives of conditions with one return value. No conditions: always.
struct Rule<'a> {
    names: &'a [String],
    then: Return,
    alternatives: Vec<Vec<Condition>>,
}

fn lower_rule(n: usize, rule: &LinuxSyscall) -> Result<Rule<'_>> {
    let field = format!("linux.seccomp.syscalls[{n}]");
    if rule.action() == LinuxSeccompAction::ScmpActNotify && rule.names().iter().any(|name| name == "write") {
        return Err(Error::invalid(
            format!("{field} SCMP_ACT_NOTIFY for write"),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall: the process needs it before anybody can answer",
        ));
    }
    let then = action(&field, rule.action(), rule.errno_ret())?;
    let mut conditions = Vec::new();
    for argument in rule.args().iter().flatten() {
        conditions.push(condition(&field, argument)?);
    }
    let repeated = (0..6u8).any(|index| conditions.iter().filter(|c| c.argument == index).count() > 1);
    let alternatives =
        if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] };
    Ok(Rule { names: rule.names(), then, alternatives })
}

fn policy(architecture: Architecture, default: Return, rules: &[Rule<'_>]) -> Policy {
    let mut verdicts = BTreeMap::new();
    let mut newest = None;
    for rule in rules {
        for number in rule.names.iter().filter_map(|name| syscalls::number(architecture, name)) {
            // Calls that 32-bit ARM keeps far above all others say nothing about how new the profile is.
            if architecture != Architecture::Arm || number < 0x1_0000 {
                newest = newest.max(Some(number));
            }
            for conditions in &rule.alternatives {
                add(&mut verdicts, number, conditions, rule.then);
            }
        }
    }
    verdicts.retain(|_, verdict| *verdict != Verdict::Always(default));
    let permissive = matches!(default & 0xffff_0000, ALLOW | LOG | TRACE) || default == ENOSYS;
    Policy { architecture, default, newest: newest.filter(|_| !permissive), verdicts }
}

fn add(verdicts: &mut BTreeMap<u32, Verdict>, number: u32, conditions: &[Condition], then: Return) {
    let verdict = verdicts.entry(number).or_insert_with(|| Verdict::Depends(Vec::new()));
    match verdict {
        Verdict::Always(_) => {}
        _ if conditions.is_empty() => *verdict = Verdict::Always(then),
        Verdict::Depends(branches) => branches.push(Branch { conditions: conditions.to_vec(), then }),
    }
}

fn action(field: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<Return> {
    let data = errno.unwrap_or(libc::EPERM as u32);
    if data > 0xffff {
        return Err(Error::invalid(
            format!("{field} errnoRet {data}"),
            "it is above 65535, the filter's room for it",
        ));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => TRAP,
        LinuxSeccompAction::ScmpActErrno => ERRNO | data,
        LinuxSeccompAction::ScmpActNotify => NOTIFY,
        LinuxSeccompAction::ScmpActTrace => TRACE | data,
        LinuxSeccompAction::ScmpActLog => LOG,
        LinuxSeccompAction::ScmpActAllow => ALLOW,
    })
}

fn condition(field: &str, argument: &LinuxSeccompArg) -> Result<Condition> {
    let index = u8::try_from(argument.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
        Error::invalid(
            format!("{field}.args index {}", argument.index()),
            "system calls have arguments 0 to 5",
        )
    })?;
    let value = argument.value();
    let test = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Test::MaskedEqual { mask: value, value: argument.value_two().unwrap_or(0) }
        }
    };
    Ok(Condition { argument: index, test })
}
