//! Capability sets as bit masks, made before the clone: the child only loads words.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The five sets of a process, one bit a capability (`1 << CAP_...`), as `capset(2)` and `prctl(2)` want them.
///
/// See `capabilities(7)`. Bits the running kernel does not know are left out: they could neither be granted nor dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// The limit of what can ever be gained again, by execve of a file with capabilities included.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What survives execve for files that have it inheritable too.
    pub inheritable: u64,
    /// What survives execve of an ordinary file by an ordinary user.
    pub ambient: u64,
}

/// All capabilities up to Linux 6.18, by number. The list of `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What root in an ordinary image container gets: the list Docker has used since 2014. It covers installing packages and
/// running services, and nothing that reaches the host.
pub(crate) const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The number of a capability in the kernel's interface.
pub(crate) fn number(capability: Capability) -> u32 {
    let name = capability.to_string();
    // Both lists are complete and fixed; a name outside of the table can only be a newer `oci-spec`, which has no number here.
    NAMES
        .iter()
        .position(|known| *known == name || known.strip_prefix("CAP_") == Some(&name))
        .map_or(63, |n| n as u32)
}

/// The name of capability number `bit`, as in `CAP_CHOWN`, or `None` for one newer than this crate.
pub(crate) fn name(bit: u32) -> Option<&'static str> {
    NAMES.get(bit as usize).copied()
}

#[cfg(test)]
/// Parses `CAP_CHOWN`, `chown` or any mixture, as command lines have it.
pub(crate) fn parse(text: &str) -> Option<Capability> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    serde_json::from_value(serde_json::Value::String(name)).ok()
}

fn mask(set: Option<&Capabilities>, known: u64) -> u64 {
    set.into_iter().flatten().fold(0, |bits, capability| bits | 1 << number(*capability)) & known
}

impl CapabilitySets {
    /// Lowers the sets of a spec. `last` is the highest capability of the running kernel (`/proc/sys/kernel/cap_last_cap`).
    ///
    /// A spec without `process.capabilities` gives empty sets, as the runtime specification and every runtime have it.
    pub fn from_spec(capabilities: Option<&LinuxCapabilities>, last: u32) -> Self {
        let known = u64::MAX >> (63 - last.min(62));
        let Some(sets) = capabilities else { return Self::default() };
        Self {
            bounding: mask(sets.bounding().as_ref(), known),
            effective: mask(sets.effective().as_ref(), known),
            permitted: mask(sets.permitted().as_ref(), known),
            inheritable: mask(sets.inheritable().as_ref(), known),
            ambient: mask(sets.ambient().as_ref(), known),
        }
    }

    /// Every capability up to number `last`, in all sets but the ambient one.
    pub fn full(last: u32) -> Self {
        let all = u64::MAX >> (63 - last.min(62));
        Self { bounding: all, effective: all, permitted: all, inheritable: all, ambient: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_has_the_number_of_the_kernel_header() {
        for (bit, name) in NAMES.iter().enumerate() {
            let capability = parse(name).unwrap_or_else(|| panic!("oci-spec knows {name}"));
            assert_eq!(number(capability), bit as u32, "{name}");
        }
        assert_eq!(number(Capability::SysAdmin), 21);
        assert_eq!(number(Capability::CheckpointRestore), 40);
        assert_eq!(name(21), Some("CAP_SYS_ADMIN"));
        assert_eq!(name(41), None);
    }

    #[test]
    fn names_parse_in_the_forms_of_command_lines() {
        assert_eq!(parse("net_raw"), Some(Capability::NetRaw));
        assert_eq!(parse("CAP_NET_RAW"), Some(Capability::NetRaw));
        assert_eq!(parse("cap_Net_Raw"), Some(Capability::NetRaw));
        assert_eq!(parse("CAP_NOT_ONE"), None);
    }

    #[test]
    fn sets_are_masked_by_what_the_kernel_knows() {
        let set = HashSet::from([Capability::Chown, Capability::CheckpointRestore]);
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(set.clone())).set_ambient(None).set_effective(Some(set));
        let old = CapabilitySets::from_spec(Some(&sets), 37);
        assert_eq!((old.bounding, old.effective, old.ambient), (1, 1, 0));
        let new = CapabilitySets::from_spec(Some(&sets), 40);
        assert_eq!(new.bounding, 1 | 1 << 40);
        assert_eq!(CapabilitySets::from_spec(None, 40), CapabilitySets::default());
        assert_eq!(CapabilitySets::full(40).bounding, (1 << 41) - 1);
    }

    #[test]
    fn default_set_is_dockers() {
        let bits = DEFAULT.iter().fold(0u64, |bits, c| bits | 1 << number(*c));
        assert_eq!(bits, 0xa80425fb);
    }
}
