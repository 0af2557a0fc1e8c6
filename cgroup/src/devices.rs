//! Rules of device access, and what they come to on v1. For v2 see `v2/devices.rs`.

use std::fmt;
use std::ops::BitOr;

use crate::error::{Error, Result};

/// One rule about device nodes, as in the OCI specification's `linux.resources.devices`.
///
/// ```
/// use cgroup::{Access, DeviceKind, DeviceRule};
///
/// let null = DeviceRule::allow(DeviceKind::Char, Some(1), Some(3), Access::READ | Access::WRITE);
/// assert_eq!(null.to_string(), "allow c 1:3 rw");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceRule {
    /// Whether to allow or to deny.
    pub allow: bool,
    /// Which nodes.
    pub kind: DeviceKind,
    /// Their major number; `None` is any.
    pub major: Option<u32>,
    /// Their minor number; `None` is any.
    pub minor: Option<u32>,
    /// Which accesses.
    pub access: Access,
}

/// Kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// Accesses to a device node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Access(u8);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// mknod(2).
    pub const MKNOD: Self = Self(1);
    /// open(2) for reading.
    pub const READ: Self = Self(2);
    /// open(2) for writing.
    pub const WRITE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// Whether every access of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The accesses of this set that `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The bits, as the kernel numbers them for BPF (`BPF_DEVCG_ACC_*`).
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Reads letters out of `r`, `w` and `m`; `None` at any other.
    #[must_use]
    pub fn from_letters(letters: &str) -> Option<Self> {
        letters.chars().try_fold(Self::NONE, |access, letter| match letter {
            'r' => Some(access | Self::READ),
            'w' => Some(access | Self::WRITE),
            'm' => Some(access | Self::MKNOD),
            _ => None,
        })
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (access, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.contains(access) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({self})")
    }
}

impl DeviceRule {
    /// A rule that allows.
    #[must_use]
    pub const fn allow(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Self { allow: true, kind, major, minor, access }
    }

    /// A rule that denies.
    #[must_use]
    pub const fn deny(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Self { allow: false, kind, major, minor, access }
    }

    /// Allows everything: what a privileged container has.
    #[must_use]
    pub const fn allow_all() -> Self {
        Self::allow(DeviceKind::All, None, None, Access::ALL)
    }

    /// What every container needs: the devices the OCI specification supplies (null, zero, full, random, urandom, tty,
    /// console, ptmx), pseudo-terminals, and making nodes without being able to open them.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
        let mut rules = vec![
            Self::allow(DeviceKind::Char, None, None, Access::MKNOD),
            Self::allow(DeviceKind::Block, None, None, Access::MKNOD),
        ];
        for (major, minor) in nodes {
            rules.push(Self::allow(DeviceKind::Char, Some(major), Some(minor), Access::ALL));
        }
        rules.push(Self::allow(DeviceKind::Char, Some(136), None, Access::ALL));
        rules
    }

    /// Whether every node this rule is about is also one `other` is about.
    fn is_within(&self, other: &Self) -> bool {
        fn within<T: PartialEq>(this: Option<T>, other: Option<T>) -> bool {
            other.is_none() || this == other
        }
        (other.kind == DeviceKind::All || other.kind == self.kind)
            && within(self.major, other.major)
            && within(self.minor, other.minor)
    }

    /// Whether some node is one both rules are about.
    fn overlaps(&self, other: &Self) -> bool {
        fn meet<T: PartialEq>(this: Option<T>, other: Option<T>) -> bool {
            this.is_none() || other.is_none() || this == other
        }
        (self.kind == DeviceKind::All || other.kind == DeviceKind::All || other.kind == self.kind)
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
    }

    fn is_about_everything(&self) -> bool {
        self.kind == DeviceKind::All
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
    }

    /// The line v1's files take, for a rule about one kind.
    fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.allow { "allow" } else { "deny" };
        match self.kind {
            DeviceKind::All => write!(f, "{verb} a{}", &self.line()[1..]),
            _ => write!(f, "{verb} {}", self.line()),
        }
    }
}

/// What v1's device controller is told: its default, then the exceptions, in the form the kernel keeps them.
///
/// The kernel keeps a default and a list of exceptions to it, and forgets an exception only when told in exactly the words
/// that made it: a rule "deny" among rules "allow" that makes a hole in one of them is accepted and does nothing.
/// So the rules are worked out here, and what v1 cannot say is an error instead of silence.
pub(crate) fn v1_writes(rules: &[DeviceRule]) -> Result<Vec<(&'static str, String)>> {
    let mut allow_by_default = false;
    let mut exceptions: Vec<DeviceRule> = Vec::new();
    let by_kind = rules.iter().flat_map(|rule| {
        let kinds = match rule.kind {
            DeviceKind::All if !rule.is_about_everything() => &[DeviceKind::Char, DeviceKind::Block][..],
            DeviceKind::All => &[DeviceKind::All],
            DeviceKind::Char => &[DeviceKind::Char],
            DeviceKind::Block => &[DeviceKind::Block],
        };
        kinds.iter().map(|&kind| DeviceRule { kind, ..*rule })
    });
    for rule in by_kind.filter(|rule| rule.access != Access::NONE) {
        if rule.is_about_everything() {
            allow_by_default = rule.allow;
            exceptions.clear();
        } else if rule.allow != allow_by_default {
            let twin = exceptions.iter_mut().find(|other| other.is_within(&rule) && rule.is_within(other));
            match twin {
                Some(twin) => twin.access = twin.access | rule.access,
                None => exceptions.push(rule),
            }
        } else {
            let hole = exceptions.iter().any(|other| {
                other.overlaps(&rule)
                    && !other.is_within(&rule)
                    && other.access.without(rule.access) != other.access
            });
            if hole {
                return Err(Error::InvalidLimit {
                    limit: "devices",
                    value: rule.to_string(),
                    reason: "it takes out a part of an earlier rule, which cgroup v1 cannot express",
                });
            }
            for other in exceptions.iter_mut().filter(|other| other.is_within(&rule)) {
                other.access = other.access.without(rule.access);
            }
            exceptions.retain(|other| other.access != Access::NONE);
        }
    }
    // An open for reading and writing is one access, which one exception must cover whole. So where two meet, their common part
    // becomes one of its own, and each gets what wider ones allow in addition. Making a node is always an access by itself.
    let open = Access::READ | Access::WRITE;
    if !allow_by_default {
        add_common_parts(&mut exceptions, open);
    }
    let widened: Vec<_> = exceptions
        .iter()
        .map(|rule| {
            let opens = |rule: &DeviceRule| rule.access.without(Access::MKNOD);
            let wider =
                exceptions.iter().filter(|other| opens(rule) != Access::NONE && rule.is_within(other));
            DeviceRule { access: wider.fold(rule.access, |access, other| access | opens(other)), ..*rule }
        })
        .collect();
    let (default, other) =
        if allow_by_default { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
    let mut writes = vec![(default, "a".to_owned())];
    writes.extend(widened.iter().map(|rule| (other, rule.line())));
    Ok(writes)
}

/// Adds, for each two rules about one kind that overlap, the rule about the nodes both are about. Ends: there are only so many
/// pairs of the numbers that occur.
fn add_common_parts(rules: &mut Vec<DeviceRule>, open: Access) {
    let mut next = 0;
    while let Some(&rule) = rules.get(next) {
        for index in 0..next {
            let other = rules[index];
            let access = (rule.access | other.access).without(Access::MKNOD);
            let is_new = access == open && !rule.access.contains(open) && !other.access.contains(open);
            if !is_new || !rule.overlaps(&other) || rule.is_within(&other) || other.is_within(&rule) {
                continue;
            }
            let common = DeviceRule {
                major: rule.major.or(other.major),
                minor: rule.minor.or(other.minor),
                access,
                ..rule
            };
            if !rules.iter().any(|old| old.is_within(&common) && common.is_within(old)) {
                rules.push(common);
            }
        }
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceKind::{All, Block, Char};

    fn writes(rules: &[DeviceRule]) -> String {
        let lines: Vec<_> =
            v1_writes(rules).unwrap().into_iter().map(|(file, line)| format!("{file}={line}")).collect();
        lines.join(";").replace("devices.", "")
    }

    #[test]
    fn rules_become_a_default_and_exceptions() {
        let null = DeviceRule::allow(Char, Some(1), Some(3), Access::READ | Access::WRITE);
        let deny_all = DeviceRule::deny(All, None, None, Access::ALL);
        assert_eq!(writes(&[]), "deny=a");
        assert_eq!(writes(&[DeviceRule::allow_all()]), "allow=a");
        assert_eq!(writes(&[deny_all, null]), "deny=a;allow=c 1:3 rw");
        assert_eq!(writes(&[null, deny_all]), "deny=a");
        assert_eq!(
            writes(&[DeviceRule::allow_all(), DeviceRule { allow: false, ..null }]),
            "allow=a;deny=c 1:3 rw"
        );
        // A wider rule adds to a narrower one, a later wide denial takes away from it.
        let mknod = DeviceRule::allow(Char, None, None, Access::MKNOD);
        assert_eq!(writes(&[mknod, null]), "deny=a;allow=c *:* m;allow=c 1:3 rw");
        assert_eq!(
            writes(&[null, DeviceRule::deny(Char, Some(1), None, Access::WRITE)]),
            "deny=a;allow=c 1:3 r"
        );
        assert_eq!(
            writes(&[DeviceRule::allow(All, None, None, Access::READ)]),
            "deny=a;allow=c *:* r;allow=b *:* r"
        );
        assert_eq!(
            writes(&[null, DeviceRule::allow(Char, Some(1), Some(3), Access::MKNOD)]),
            "deny=a;allow=c 1:3 rwm"
        );
        assert_eq!(writes(&[DeviceRule::deny(Block, Some(8), None, Access::ALL)]), "deny=a");
    }

    #[test]
    fn holes_are_refused() {
        let all_chars = DeviceRule::allow(Char, None, None, Access::ALL);
        let hole = DeviceRule::deny(Char, Some(1), Some(3), Access::WRITE);
        assert!(matches!(v1_writes(&[all_chars, hole]), Err(Error::InvalidLimit { limit: "devices", .. })));
        let mknod_only = DeviceRule { access: Access::MKNOD, ..all_chars };
        assert!(v1_writes(&[mknod_only, hole]).is_ok(), "nothing is taken out");
    }
}
