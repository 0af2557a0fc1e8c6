//! What a plan has to know about the host and the caller. Gathered once; the plan itself looks at nothing.

use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::cred;

/// Facts about the host and the calling process that decide how a container is launched.
///
/// Gathered once with [`Facts::gather`] and used for any number of plans. Tests make their own with [`Facts::assumed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The caller may mount (CAP_SYS_ADMIN is effective), so that mounts are prepared before the clone, outside.
    pub privileged: bool,
    /// Effective user id of the caller.
    pub uid: u32,
    /// Effective group id of the caller.
    pub gid: u32,
    /// What the caller may hand on to a container without a user namespace, one bit a capability.
    pub permitted: u64,
    /// The highest capability this kernel knows.
    pub last_capability: u32,
    /// AppArmor is in force.
    pub apparmor: bool,
    /// SELinux is in force.
    pub selinux: bool,
    /// The control group hierarchies; `None` where no control group file system is mounted.
    pub cgroups: Option<cgroup::Hierarchy>,
}

impl Facts {
    /// Looks at the host: a handful of small files below `/proc` and `/sys`.
    ///
    /// # Errors
    /// [`Error::Io`] when `/proc` cannot be read.
    pub fn gather() -> Result<Self> {
        let (effective, permitted) =
            cred::capabilities().map_err(|errno| Error::io("read capabilities of", "/proc/self", errno))?;
        let last = read_number("/proc/sys/kernel/cap_last_cap")?;
        const SYS_ADMIN: u32 = 21;
        Ok(Self {
            privileged: effective & 1 << SYS_ADMIN != 0,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            permitted,
            last_capability: last,
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|v| v.starts_with(b"Y")),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            cgroups: cgroup::Hierarchy::discover().ok(),
        })
    }

    /// Facts of an imagined host, for tests of plans: Linux 6.18, no security module, no control groups.
    pub fn assumed(privileged: bool) -> Self {
        let id = if privileged { 0 } else { 1000 };
        Self {
            privileged,
            uid: id,
            gid: id,
            permitted: if privileged { (1 << 41) - 1 } else { 0 },
            last_capability: 40,
            apparmor: false,
            selinux: false,
            cgroups: None,
        }
    }
}

fn read_number(path: &'static str) -> Result<u32> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    text.trim().parse().map_err(|_| Error::io("read a number from", path, std::io::ErrorKind::InvalidData))
}
