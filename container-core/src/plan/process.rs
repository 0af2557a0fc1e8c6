//! From the finished tree to the command: limits, identity, filter, exec.
//!
//! The order: what takes rights comes before they are given up (limits, scheduling, the bounding set, groups, ids); the working
//! directory is tried on both sides of the change of user, since either may be the one allowed in; no_new_privs before the filter;
//! the filter last, so that it need not allow anything but exec. Without no_new_privs only CAP_SYS_ADMIN may install a filter: then
//! it comes before the capabilities go.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use oci_spec::runtime::{LinuxSeccompAction, Process, Spec};

use super::namespaces::{Namespaces, PID, USER};
use super::operation::{Masks, Operation, Request};
use super::program::allows_execveat;
use super::scheduling::{memory_policy, scheduling};
use super::{Extras, Facts, Listener, c_string};
use crate::capability::CapabilitySets;
use crate::error::{Error, Result};

/// What the process part of a plan is made from.
pub(super) struct Input<'a> {
    pub(super) process: &'a Process,
    pub(super) spec: &'a Spec,
    pub(super) extras: &'a Extras,
    pub(super) facts: &'a Facts,
    pub(super) namespaces: &'a Namespaces,
    pub(super) start_hooks: bool,
    /// There is an order to start to wait for (the first process), or not (one more process).
    pub(super) gate: bool,
}

pub(super) fn lower(input: &Input<'_>, inside: &mut Vec<Operation>) -> Result<()> {
    let Input { process, spec, extras, facts, namespaces, .. } = *input;
    let user = process.user();
    let by_name = extras.user.is_some();
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(
            format!("process.cwd {}", process.cwd().display()),
            "it has to be absolute",
        ));
    }
    let cwd = c_string("process.cwd", process.cwd().as_os_str())?;

    if by_name {
        inside.push(Operation::Await(Request::Identify));
    }
    if extras.own_working_directory {
        let ids = (!by_name).then_some((user.uid(), user.gid()));
        inside.push(Operation::MakeOwnWorkingDirectory { path: cwd.clone(), ids });
    } else if !input.gate {
        // The container's own was made before its root could turn read-only.
        inside.push(Operation::MakeWorkingDirectory { path: cwd.clone() });
    }
    if process.terminal().unwrap_or(false) {
        let size = process.console_size();
        let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        inside.push(Operation::Terminal {
            rows: size.map_or(0, |size| cells(size.height())),
            columns: size.map_or(0, |size| cells(size.width())),
            uid: (!by_name).then_some(user.uid()),
            // A process that joins has its terminal beside the container's console.
            console: input.gate,
            onlcr: extras.terminal_onlcr,
        });
    }
    if by_name || user.uid() != 0 {
        inside.push(Operation::GiveStreams { ids: (!by_name).then_some((user.uid(), user.gid())) });
    }
    inside.push(Operation::Umask { mask: user.umask().unwrap_or(0o022) & 0o777 });
    scheduling(process, inside)?;
    memory_policy(spec, inside)?;
    if let Some(personality) = spec.linux().as_ref().and_then(|l| l.personality().as_ref()) {
        let domain = personality.domain();
        if let Some(flag) = personality.flags().iter().flatten().next() {
            return Err(Error::invalid(
                format!("linux.personality.flags {flag:?}"),
                "the runtime specification defines none",
            ));
        }
        let value = match domain {
            oci_spec::runtime::LinuxPersonalityDomain::PerLinux => 0,
            oci_spec::runtime::LinuxPersonalityDomain::PerLinux32 => 0x0008,
        };
        inside.push(Operation::Personality { value });
    }

    inside.push(Operation::WorkingDirectory { path: cwd.clone(), last: false });
    if !names_home(process, extras) {
        inside.push(Operation::Home { uid: user.uid() });
    }

    let sets = capabilities(input)?;
    inside.push(Operation::BoundingSet { keep: sets.bounding, last: facts.last_capability });
    let root = !by_name && user.uid() == 0;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let program = seccomp(spec)?;
    if !root && (sets.permitted | sets.inheritable != 0 || (program.is_some() && !no_new_privileges)) {
        inside.push(Operation::KeepCapabilities);
    }
    if by_name {
        inside.push(Operation::Identity);
    } else {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.dedup();
        // A single-id map of an ordinary user forbids setgroups altogether, for all namespaces below too.
        let may_set_groups = facts.set_groups
            && (facts.privileged || namespaces.maps.as_ref().is_none_or(|maps| !is_single(&maps.gids)));
        if extras.keep_groups {
            // For files of the host that only one of them opens.
        } else if groups.is_empty() && namespaces.joins(USER) {
            // Gone already, where the namespace lets anybody do that; what it allows is not known.
        } else if may_set_groups {
            inside.push(Operation::Groups { groups });
        } else if !groups.is_empty() {
            return Err(Error::unsupported(
                "process.user.additionalGids",
                "/proc/self/setgroups says deny, or the user namespace has a single id; use subordinate ids (newgidmap, /etc/subgid)",
            ));
        }
        let maps = namespaces.ids(facts);
        for (field, id, maps) in [
            ("process.user.uid", user.uid(), maps.map(|maps| &maps.uids)),
            ("process.user.gid", user.gid(), maps.map(|maps| &maps.gids)),
        ] {
            if maps.is_some_and(|maps| crate::id_map::to_host(maps, id).is_none()) {
                return Err(Error::invalid(
                    format!("{field} {id}"),
                    "the id is not mapped into the user namespace",
                ));
            }
        }
        inside.push(Operation::Group { gid: user.gid() });
        inside.push(Operation::User { uid: user.uid() });
    }
    // A change of ids takes both back.
    inside.push(Operation::Shield);
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    inside.push(Operation::WorkingDirectory { path: cwd, last: true });
    labels(process, facts, inside)?;

    let reduce = |inside: &mut Vec<Operation>| {
        inside.push(Operation::Capabilities(Masks {
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
        }));
        inside.push(Operation::AmbientSet { set: sets.ambient });
    };
    // Limits that a user namespace may not raise are set from outside; the others as late as their rights allow, since a small
    // limit on open files would hinder the set-up itself.
    let limits = limits(process)?;
    if limits.iter().any(|(_, resource, ..)| *resource == libc::RLIMIT_NOFILE as u32) {
        // What is opened from here on needs numbers below the limit, which the host program may have used up.
        inside.push(Operation::CloseOthers { keep: Vec::new() });
    }
    if namespaces.has_user() && !limits.is_empty() {
        inside.push(Operation::Await(Request::Limits));
    } else {
        if !root && program.is_none() | no_new_privileges && !limits.is_empty() {
            inside.push(Operation::RaiseEffective);
        }
        for (name, resource, soft, hard) in limits {
            inside.push(Operation::Limit { resource, soft, hard, name });
        }
    }
    // Whoever is named to listen gets the descriptor, whether or not there is anything to ask him.
    let listener = program.is_some() && listener(spec)?.is_some();
    let mut filter = program.map(|program| Operation::Seccomp { program, listener });
    let filtered = filter.is_some();
    // A listener goes to whoever answers while the creator is there, who knows where; other filters wait for the start.
    let early = if listener && input.gate { filter.take() } else { None };
    if no_new_privileges || !filtered {
        reduce(inside);
        if no_new_privileges {
            inside.push(Operation::NoNewPrivileges);
        }
        inside.push(Operation::Locate);
        inside.extend(early);
        start(input, inside)?;
        inside.extend(filter);
    } else {
        if !root {
            inside.push(Operation::RaiseEffective);
        }
        inside.push(Operation::Locate);
        inside.extend(early);
        start(input, inside)?;
        inside.extend(filter);
        reduce(inside);
    }
    inside.push(Operation::Exec);
    Ok(())
}

fn start(input: &Input<'_>, inside: &mut Vec<Operation>) -> Result<()> {
    if input.gate {
        inside.push(Operation::Gate);
    }
    if input.start_hooks {
        inside.push(Operation::Await(Request::StartHooks));
    }
    inside.push(Operation::Descriptors);
    if input.gate && input.extras.init {
        inside.push(init(input)?);
    }
    Ok(())
}

/// The init, which has to live under the command's filter.
fn init(input: &Input<'_>) -> Result<Operation> {
    if !input.namespaces.makes(PID) {
        return Err(Error::invalid(
            "init",
            "it takes a new pid namespace: in another one it is not process 1, and orphans do not come to it",
        ));
    }
    let profile = input.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let Some(profile) = profile else { return Ok(Operation::Init { close_all: true }) };
    let mut refused: Vec<&str> = Vec::new();
    if !allows_execveat(Some(profile)) {
        refused.push("execveat");
    }
    let profile = crate::seccomp::Permits::of(profile)?;
    for (name, arguments) in crate::sys::init_program::CALLS {
        if !profile.permits(name, &arguments) {
            refused.push(name);
        }
    }
    if refused.is_empty() {
        // It only gives up early what the command has given up.
        let close_all = profile.permits("close_range", &[0; 6]);
        return Ok(Operation::Init { close_all });
    }
    Err(Error::unsupported(
        "init under a seccomp profile that refuses what it needs",
        format!("let the profile allow {}", refused.join(", ")),
    ))
}

fn is_single(maps: &[crate::id_map::IdMapping]) -> bool {
    maps.iter().map(|map| u64::from(map.size)).sum::<u64>() <= 1
}

/// The five sets, checked against what the caller can give.
fn capabilities(input: &Input<'_>) -> Result<CapabilitySets> {
    let mut sets =
        CapabilitySets::from_spec(input.process.capabilities().as_ref(), input.facts.last_capability);
    // The kernel takes nothing into the ambient set that is not in these two; engines list it there all the same.
    sets.ambient &= sets.inheritable & sets.permitted;
    if input.namespaces.contains(USER) {
        return Ok(sets);
    }
    let missing = (sets.permitted | sets.inheritable) & !input.facts.permitted;
    if missing != 0 {
        let names: Vec<&str> =
            (0..64).filter(|bit| missing & 1 << bit != 0).filter_map(crate::capability::name).collect();
        return Err(Error::unsupported(
            format!("process.capabilities {}", names.join(" ")),
            "unable to apply caps: the calling process does not have it to give",
        ));
    }
    Ok(sets)
}

fn names_home(process: &Process, extras: &Extras) -> bool {
    // Of several the last one counts.
    let given = |entry: &[u8]| entry.strip_prefix(b"HOME=").map(|value| !value.is_empty());
    let last = match &extras.env {
        Some(env) => env.iter().rev().find_map(|entry| given(entry.as_bytes())),
        None => process.env().iter().flatten().rev().find_map(|entry| given(entry.as_bytes())),
    };
    last.unwrap_or(false)
}

fn labels(process: &Process, facts: &Facts, inside: &mut Vec<Operation>) -> Result<()> {
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|profile| !profile.is_empty()) {
        if facts.apparmor {
            inside.push(Operation::AppArmor {
                profile: c_string("process.apparmorProfile", format!("exec {profile}"))?,
            });
        } else if profile != "unconfined" {
            return Err(Error::unsupported(
                format!("process.apparmorProfile {profile}"),
                "AppArmor is not in force on this host",
            ));
        }
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        if !facts.selinux {
            return Err(Error::unsupported(
                format!("process.selinuxLabel {label}"),
                "SELinux is not in force on this host",
            ));
        }
        inside.push(Operation::SeLinux { label: c_string("process.selinuxLabel", label)? });
    }
    Ok(())
}

/// The limits as the parent sets them for a process in a user namespace.
pub(super) fn outer_limits(process: &Process) -> Result<Vec<(u32, u64, u64)>> {
    Ok(limits(process)?.into_iter().map(|(_, resource, soft, hard)| (resource, soft, hard)).collect())
}

/// Name, resource, soft and hard value.
fn limits(process: &Process) -> Result<Vec<(String, u32, u64, u64)>> {
    use oci_spec::runtime::PosixRlimitType as Type;
    let mut out: Vec<(String, u32, u64, u64)> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            Type::RlimitCpu => libc::RLIMIT_CPU,
            Type::RlimitFsize => libc::RLIMIT_FSIZE,
            Type::RlimitData => libc::RLIMIT_DATA,
            Type::RlimitStack => libc::RLIMIT_STACK,
            Type::RlimitCore => libc::RLIMIT_CORE,
            Type::RlimitRss => libc::RLIMIT_RSS,
            Type::RlimitNproc => libc::RLIMIT_NPROC,
            Type::RlimitNofile => libc::RLIMIT_NOFILE,
            Type::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            Type::RlimitAs => libc::RLIMIT_AS,
            Type::RlimitLocks => libc::RLIMIT_LOCKS,
            Type::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            Type::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            Type::RlimitNice => libc::RLIMIT_NICE,
            Type::RlimitRtprio => libc::RLIMIT_RTPRIO,
            Type::RlimitRttime => libc::RLIMIT_RTTIME,
        } as u32;
        let name = limit.typ().to_string();
        if out.iter().any(|(_, known, ..)| *known == resource) {
            return Err(Error::invalid(format!("process.rlimits: {name}"), "the type is listed twice"));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(
                format!("process.rlimits: {name}"),
                format!("soft limit {} is above hard limit {}", limit.soft(), limit.hard()),
            ));
        }
        out.push((name, resource, limit.soft(), limit.hard()));
    }
    Ok(out)
}

fn seccomp(spec: &Spec) -> Result<Option<Arc<crate::seccomp::Program>>> {
    match spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
        Some(profile) => crate::seccomp::compile(profile).map(Some),
        None => Ok(None),
    }
}

/// Where the listener of a filter that notifies is sent.
pub(super) fn listener(spec: &Spec) -> Result<Option<Listener>> {
    let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else { return Ok(None) };
    let path = profile.listener_path().clone().filter(|path| !path.as_os_str().is_empty());
    let notifies =
        profile.syscalls().iter().flatten().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    match path {
        Some(path) => Ok(Some(Listener { path, metadata: profile.listener_metadata().clone() })),
        None if notifies => {
            Err(Error::invalid("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs somebody to ask"))
        }
        None => Ok(None),
    }
}
