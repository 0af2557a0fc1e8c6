//! What a profile says about a single call, without running anything.

use oci_spec::runtime::LinuxSeccomp;

use super::policy::{self, Condition, Test, Verdict};
use super::{Architecture, syscalls};
use crate::error::{Error, Result};

/// Does the profile let a native call through?
pub(crate) fn permits(profile: &LinuxSeccomp, name: &str, arguments: &[u64; 6]) -> Result<bool> {
    let native = Architecture::native()
        .ok_or_else(|| Error::unsupported("seccomp", "this crate filters on x86-64 and aarch64 only"))?;
    let Some(number) = syscalls::number(native, name) else { return Ok(false) };
    let policies = policy::lower(native, profile)?;
    let Some(policy) = policies.first() else { return Ok(true) };
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
    Ok(policy::lets_through(returned))
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
        let profile = default_profile(&[]);
        for (name, arguments) in crate::sys::init_program::CALLS {
            assert!(permits(&profile, name, &arguments).unwrap(), "{name}");
        }
        assert!(permits(&profile, "close_range", &[0; 6]).unwrap());
        let namespaces = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
        assert!(!permits(&profile, "clone", &namespaces).unwrap());
        assert!(!permits(&profile, "mount", &[0; 6]).unwrap());
    }
}
