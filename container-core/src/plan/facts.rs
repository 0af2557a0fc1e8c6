//! What a plan has to know about the host and the caller. Gathered once; the plan itself looks at nothing.

use std::path::Path;

use super::Maps;
use crate::error::{Error, Result};
use crate::host::granted::{self, Lack};
use crate::id_map::{self, IdMapping};
use crate::sys::cred;

const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const SETFCAP: u32 = 31;

/// Facts about the host and the calling process that decide how a container is launched.
///
/// Gathered once with [`Facts::gather`] and used for any number of plans. Tests make their own with [`Facts::assumed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// The caller rules over the host: CAP_SYS_ADMIN is effective, in the initial user namespace. Mounts are prepared before the
    /// clone, outside.
    pub privileged: bool,
    /// The caller rules over the user namespace it is in, whichever that is: CAP_SYS_ADMIN is effective. It needs no further one
    /// to make a container. So for root of a rootless container, in which this program runs, and for whoever is privileged.
    pub capable: bool,
    /// The caller may map ids other than its own into a user namespace: all that there are.
    pub maps_all: bool,
    /// Supplementary groups can be set in the caller's user namespace (`/proc/self/setgroups`).
    pub set_groups: bool,
    /// Effective user id of the caller.
    pub uid: u32,
    /// Effective group id of the caller.
    pub gid: u32,
    /// The ids there are in the caller's user namespace; `None`: it is the initial one, which has all.
    pub(crate) ids: Option<Maps>,
    /// The maps of an ordinary user's containers with all the ids that were granted beside the own one, or why there are none.
    pub(crate) granted: std::result::Result<Maps, Lack>,
    /// The caller's effective capabilities, one bit each.
    pub(crate) effective: u64,
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
        let has = |capability: u32| effective & 1 << capability != 0;
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let ids = present_ids()?;
        // Who maps root takes CAP_SETFCAP since Linux 5.12.
        let maps_all = (uid == 0 || has(SYS_ADMIN)) && has(SETUID) && has(SETGID) && has(SETFCAP);
        let granted = match maps_all || uid == 0 {
            true => Err(Lack::Nothing("root has no use for them".to_owned())),
            false => granted::maps(uid, gid),
        };
        Ok(Self {
            privileged: has(SYS_ADMIN) && ids.is_none(),
            capable: has(SYS_ADMIN),
            maps_all,
            granted,
            set_groups: !std::fs::read("/proc/self/setgroups").is_ok_and(|word| word.starts_with(b"deny")),
            ids,
            effective,
            uid,
            gid,
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
            capable: privileged,
            maps_all: privileged,
            granted: Err(Lack::Nothing("nothing is granted on an imagined host".to_owned())),
            set_groups: true,
            ids: None,
            effective: if privileged { (1 << 41) - 1 } else { 0 },
            uid: id,
            gid: id,
            permitted: if privileged { (1 << 41) - 1 } else { 0 },
            last_capability: 40,
            apparmor: false,
            selinux: false,
            cgroups: None,
        }
    }

    /// Facts for root of a user namespace of its own, as in a rootless container, with `size` ids from 0 on; for tests of plans.
    pub fn assumed_nested(size: u32) -> Self {
        let all = vec![IdMapping { container_id: 0, host_id: 100_000, size }];
        Self {
            privileged: false,
            set_groups: size > 1,
            ids: Some(Maps { uids: all.clone(), gids: all }),
            ..Self::assumed(true)
        }
    }

    /// The caller has what setting a container up takes, beside CAP_SYS_ADMIN, so that it can go without a user namespace, in
    /// which everybody has all of it.
    pub(crate) fn sets_up(&self, new_network: bool) -> bool {
        let needed = 1 << SETUID | 1 << SETGID | 1 << SETPCAP | u64::from(new_network) << NET_ADMIN;
        self.capable && self.effective & needed == needed
    }

    /// Every id the caller can give to a user namespace, as the same id there. `None`: it has only its own.
    pub(crate) fn all_ids(&self) -> Option<Maps> {
        if !self.maps_all {
            return None;
        }
        let same = |maps: &[IdMapping]| {
            maps.iter().map(|map| IdMapping { host_id: map.container_id, ..*map }).collect()
        };
        Some(match &self.ids {
            Some(ids) => Maps { uids: same(&ids.uids), gids: same(&ids.gids) },
            None => {
                let all = vec![IdMapping { container_id: 0, host_id: 0, size: u32::MAX }];
                Maps { uids: all.clone(), gids: all }
            }
        })
    }

    /// An ordinary user maps its own id and no other one; and in a user namespace there may be no other one to map.
    pub(crate) fn has_one_id(&self) -> bool {
        let several = |maps: &[IdMapping]| maps.iter().map(|map| u64::from(map.size)).sum::<u64>() > 1;
        !self.privileged && !self.maps_all
            || self.ids.as_ref().is_some_and(|ids| !several(&ids.uids) || !several(&ids.gids))
    }

    /// Are there these ids in the caller's user namespace?
    pub(crate) fn has_ids(&self, uid: u32, gid: u32) -> bool {
        let has = |maps: &[IdMapping], id| id_map::to_host(maps, id).is_some();
        self.ids.as_ref().is_none_or(|ids| has(&ids.uids, uid) && has(&ids.gids, gid))
    }
}

/// The ids of the caller's user namespace, unless that is the initial one.
fn present_ids() -> Result<Option<Maps>> {
    use std::os::unix::fs::MetadataExt;
    // Fixed since Linux 3.8 (PROC_USER_INIT_INO): a map of all ids to themselves may be that of another namespace.
    const INITIAL: u64 = 0xEFFF_FFFD;
    match std::fs::metadata("/proc/self/ns/user") {
        Ok(namespace) if namespace.ino() != INITIAL => {}
        // A kernel without user namespaces.
        _ => return Ok(None),
    }
    let read = |path: &'static str| {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Ok(id_map::parse(&text))
    };
    Ok(Some(Maps { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? }))
}

fn read_number(path: &'static str) -> Result<u32> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    text.trim().parse().map_err(|_| Error::io("read a number from", path, std::io::ErrorKind::InvalidData))
}
