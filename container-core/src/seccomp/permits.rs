//! What a profile says about a single call, without running anything.

use oci_spec::runtime::LinuxSeccomp;

use super::policy::{self, Condition, Policy, Test, Verdict};
use super::{Architecture, syscalls};
use crate::error::{Error, Result};

/// A profile's answers to native calls.
#[derive(Debug)]
pub(crate) struct Permits {
    native: Architecture,
    /// `None`: nothing is filtered.
    policy: Option<Policy>,
}

impl Permits {
    pub(crate) fn of(profile: &LinuxSeccomp) -> Result<Self> {
        let native = Architecture::native()
            .ok_or_else(|| Error::unsupported("seccomp", "this crate filters on x86-64 and aarch64 only"))?;
        Ok(Self { native, policy: policy::lower(native, profile)?.into_iter().next() })
    }

    /// Does the profile let the call through?
    pub(crate) fn permits(&self, name: &str, arguments: &[u64; 6]) -> bool {
        let Some(number) = syscalls::number(self.native, name) else { return false };
        let Some(policy) = &self.policy else { return true };
        let returned = match policy.verdicts.get(&number) {
            Some(Verdict::Always(returned)) => *returned,
            Some(Verdict::Depends(branches)) => {
                let decides =
                    branches.iter().find(|branch| branch.conditions.iter().all(|c| holds(c, arguments)));
                decides.map_or(policy.default, |branch| branch.then)
            }
            None if policy.newest.is_some_and(|newest| number > newest) => policy::ENOSYS,
            None => policy.default,
        };
        policy::lets_through(returned)
    }
}

fn holds(condition: &Condition, arguments: &[u64; 6]) -> bool {
    let actual = arguments.get(usize::from(condition.argument)).copied().unwrap_or(0);
    match condition.test {
        Test::Equal(value) => actual == value,
        Test::NotEqual(value) => actual != value,
        Test::Less(value) => actual < value,
        Test::LessOrEqual(value) => actual <= value,
        Test::Greater(value) => actual > value,
        Test::GreaterOrEqual(value) => actual >= value,
        Test::MaskedEqual { mask, value } => actual & mask == value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::default_profile;

    #[test]
    fn the_default_profile_lets_an_init_live() {
        let permits = Permits::of(&default_profile(&[])).unwrap();
        for (name, arguments) in crate::sys::init_program::CALLS {
            assert!(permits.permits(name, &arguments), "{name}");
        }
        assert!(permits.permits("close_range", &[0; 6]));
        let namespaces = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
        assert!(!permits.permits("clone", &namespaces));
        assert!(!permits.permits("mount", &[0; 6]));
    }
}
