//! The single checks behind [`Host::probe`].

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use cgroup::{CgroupPath, Controller, Hierarchy, Version};

use super::granted::Lack;
use super::{Feature, Host, Verdict};
use crate::error::{Error, Result};
use crate::id_map::{self, IdMapping};
use crate::plan::Facts;
use crate::seccomp;
use crate::sys;

fn yes(how: impl Into<String>) -> Verdict {
    Verdict::Works(how.into())
}

fn no(why: impl Into<String>) -> Verdict {
    Verdict::Missing(why.into())
}

pub(super) fn probe() -> Result<Host> {
    let facts = Facts::gather()?;
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy().into_owned();
    let version = version(&kernel);
    let file_systems =
        fs::read_to_string("/proc/filesystems").map_err(|e| Error::io("read", "/proc/filesystems", e))?;
    let user_namespaces = user_namespaces(&facts);
    let network = network(facts.privileged, &user_namespaces);

    let kernel_verdict = match version {
        v if v >= (5, 12) => yes("new enough"),
        _ => no(format!("Linux {kernel} is older than 5.12, which has mount_setattr")),
    };
    let containers = match (&kernel_verdict, user_namespaces.obstacle()) {
        (Verdict::Missing(why), _) => no(why.clone()),
        (_, Some(why)) if !facts.sets_up(true) => no(why),
        _ => match (facts.privileged, facts.sets_up(true)) {
            // Where it starts them from, nothing of /proc is covered.
            (true, true) => yes("with the rights of this program"),
            (true, false) => yes("in user namespaces"),
            (false, true) => own_proc("with the rights of this program in its user namespace", 0),
            (false, false) => own_proc("in user namespaces", libc::CLONE_NEWUSER),
        },
    };
    let overlay = overlay(&file_systems, facts.privileged, version, &user_namespaces);
    let mut verdicts = vec![
        (Feature::Containers, containers),
        (Feature::Kernel, kernel_verdict),
        (Feature::UserNamespaces, user_namespaces),
        (Feature::SubordinateIds, subordinate_ids(&facts)),
        (Feature::Overlay, overlay),
        (Feature::Erofs, erofs(&file_systems, facts.privileged, version)),
    ];
    verdicts.extend(control_groups());
    verdicts.extend([
        (Feature::Seccomp, seccomp_filters()),
        (Feature::Network, network),
        (Feature::DiskLimit, disk_limit(facts.privileged)),
        (
            Feature::ExitStatus,
            if version >= (6, 15) {
                yes("kept by the kernel behind each pidfd")
            } else if sys::pidfd::children_are_discarded() {
                no("this program ignores SIGCHLD, and Linux before 6.15 then throws exit statuses away")
            } else {
                yes("as long as nobody else in this program waits for all children (Linux 6.15 keeps them)")
            },
        ),
    ]);
    Ok(Host { kernel, uid: facts.uid, privileged: facts.privileged, verdicts })
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The setting of the host that refuses user namespaces, with its file.
pub(crate) fn forbidding_setting() -> Option<(String, PathBuf)> {
    for (path, name, bad) in [
        ("/proc/sys/user/max_user_namespaces", "user.max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
        ),
    ] {
        if setting(path).as_deref() == Some(bad) {
            return Some((format!("{name}={bad}"), path.into()));
        }
    }
    None
}

/// What refuses user namespaces to this program, with the file that says so.
pub(crate) fn user_namespace_obstacle() -> Option<(String, PathBuf)> {
    if let Some(forbidding) = forbidding_setting() {
        return Some(forbidding);
    }
    if !Path::new("/proc/self/ns/user").exists() {
        return Some(("a kernel without CONFIG_USER_NS".to_owned(), "/proc/self/ns/user".into()));
    }
    // Nothing of the system's refuses it; this program itself may be fenced in.
    if status_field("Seccomp").as_deref() == Some("2") && sys::probe::namespaces(libc::CLONE_NEWUSER).is_err()
    {
        return Some((
            "the seccomp filter this program runs under (Seccomp: 2), as of a container without CAP_SYS_ADMIN; --cap-add \
             SYS_ADMIN or --security-opt seccomp=unconfined lifts it for the container this program is in"
                .to_owned(),
            "/proc/self/status".into(),
        ));
    }
    None
}

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn user_namespaces(facts: &Facts) -> Verdict {
    match sys::probe::namespaces(libc::CLONE_NEWUSER) {
        Ok(()) => map_of_own_id(facts.uid),
        Err(error) => match user_namespace_obstacle() {
            Some((setting, file)) => no(format!("forbidden by {setting} ({})", file.display())),
            None => no(format!("clone(CLONE_NEWUSER): {error}; a chroot or a security module forbids it")),
        },
    }
}

/// A user namespace is of use once the caller is somebody in it.
fn map_of_own_id(uid: u32) -> Verdict {
    let line = CString::new(id_map::lines(&[IdMapping::single(0, uid)])).unwrap_or_default();
    match sys::probe::map_of_users(&line) {
        Ok(()) => yes("tried"),
        Err(_) if uid == 0 => no(
            "user 0 is mapped by nobody without CAP_SETFCAP (Linux 5.12), which this program lacks: run it with that \
             capability or as another user id",
        ),
        Err(error) => no(format!("the map of the own id {uid}: {error}")),
    }
}

/// Everything else is to be had in a user namespace; a `/proc` of the container's own may not be.
fn own_proc(how: &str, flags: i32) -> Verdict {
    match sys::probe::procfs(flags) {
        Ok(()) => yes(how),
        Err(error) => no(super::covered_proc().unwrap_or_else(|| {
            format!(
                "mounting a /proc of their own: {error}; a filter, a security module or a read-only /proc \
                 forbids it"
            )
        })),
    }
}

fn network(privileged: bool, user_namespaces: &Verdict) -> Verdict {
    let flags = libc::CLONE_NEWNET | if privileged { 0 } else { libc::CLONE_NEWUSER };
    match (sys::probe::namespaces(flags), user_namespaces.obstacle()) {
        (Ok(()), _) => yes("a loopback interface of its own, or the host's network"),
        (Err(_), Some(why)) if !privileged => no(why),
        (Err(error), _) => {
            no(format!("clone(CLONE_NEWNET): {error}; see user.max_net_namespaces and CONFIG_NET_NS"))
        }
    }
}

fn subordinate_ids(facts: &Facts) -> Verdict {
    if facts.maps_all && facts.has_one_id() {
        return no(
            "the user namespace this program is in has one user or group id (/proc/self/uid_map, /proc/self/gid_map), and so have \
             its containers: map more of them into it",
        );
    }
    if facts.maps_all {
        return yes("not needed: this program may map any id that it has");
    }
    match &facts.granted {
        Ok(maps) => {
            let count = |maps: &[IdMapping]| maps.iter().skip(1).map(|map| u64::from(map.size)).sum::<u64>();
            yes(format!(
                "{} user ids and {} group ids beside the own one: files have the owners their image says",
                count(&maps.uids),
                count(&maps.gids)
            ))
        }
        Err(Lack::Nothing(why)) => {
            no(format!("{why}; containers have the one id of the caller, who owns all their files"))
        }
        Err(Lack::Broken(why)) => {
            no(format!("{why}; until that is mended, containers start with id_mappings of their own only"))
        }
    }
}

fn has_file_system(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

fn overlay(list: &str, privileged: bool, version: (u32, u32), user_namespaces: &Verdict) -> Verdict {
    if !has_file_system(list, "overlay") && !Path::new("/sys/module/overlay").exists() {
        return no(
            "the kernel has no overlayfs: load it with `modprobe overlay` (CONFIG_OVERLAY_FS); layers are copied instead",
        );
    }
    match (privileged, user_namespaces.obstacle()) {
        (true, _) => yes("mounted by this program"),
        (false, Some(why)) => no(why),
        (false, None) if version < (5, 11) => {
            no("overlay in user namespaces needs Linux 5.11; layers are copied instead")
        }
        (false, None) => yes("mounted in the user namespace"),
    }
}

fn erofs(list: &str, privileged: bool, version: (u32, u32)) -> Verdict {
    if !has_file_system(list, "erofs") && !Path::new("/sys/module/erofs").exists() {
        no("the kernel has no erofs: load it with `modprobe erofs` (CONFIG_EROFS_FS)")
    } else if version < (6, 12) {
        no("mounting erofs from a file needs Linux 6.12")
    } else if !privileged {
        no("the kernel lets only privileged users mount erofs")
    } else {
        yes("mounted from files")
    }
}

fn control_groups() -> Vec<(Feature, Verdict)> {
    let limits = [
        (Feature::MemoryLimit, Controller::Memory),
        (Feature::CpuLimit, Controller::Cpu),
        (Feature::PidsLimit, Controller::Pids),
    ];
    let all = |why: String| {
        let mut list = vec![(Feature::Cgroups, no(why.clone()))];
        list.extend(limits.map(|(feature, _)| (feature, no(why.clone()))));
        list.push((Feature::Freezer, no(why)));
        list
    };
    let hierarchy = match Hierarchy::discover() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return all(format!("{error}: mount cgroup2 on /sys/fs/cgroup")),
    };
    if let Some(mount) = hierarchy.mounts().iter().find(|mount| mount.is_read_only()) {
        return all(format!("cgroup file system is read-only ({})", mount.mountpoint().display()));
    }
    // Every way of being refused is found by trying.
    let name = format!("container-core-probe-{}", std::process::id());
    let group = CgroupPath::new(&name).and_then(|path| cgroup::Cgroup::create(&hierarchy, &path));
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            return all(format!(
                "{}; ask for delegation (systemd: Delegate=yes, user session)",
                chain(&error)
            ));
        }
    };
    let how = format!("{:?} hierarchy", hierarchy.mode());
    let mut list = vec![(Feature::Cgroups, yes(how))];
    for (feature, controller) in limits {
        let asked = cgroup::Limits::new();
        let asked = match controller {
            Controller::Memory => asked.memory(1u64 << 30),
            Controller::Cpu => asked.cpus(1.0),
            _ => asked.pids(100u64),
        };
        list.push((
            feature,
            match group.apply(&asked) {
                Ok(()) => yes(match hierarchy.version_of(controller) {
                    Some(Version::V1) => "cgroup v1",
                    _ => "cgroup v2",
                }),
                Err(error) => no(chain(&error)),
            },
        ));
    }
    list.push((
        Feature::Freezer,
        match group.freeze().and_then(|()| group.thaw()) {
            Ok(()) => yes("tried"),
            Err(error) => no(chain(&error)),
        },
    ));
    let _ = group.remove();
    list
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn seccomp_filters() -> Verdict {
    if status_field("Seccomp").is_none() {
        return no("the kernel has no seccomp (CONFIG_SECCOMP_FILTER)");
    }
    match seccomp::compile(&seccomp::default_profile(&[])) {
        Ok(program) => {
            yes(format!("own compiler, {} instructions for the default profile", program.filter.len()))
        }
        Err(error) => no(error.to_string()),
    }
}

fn disk_limit(privileged: bool) -> Verdict {
    if !privileged {
        no("loop devices are for privileged users; a writable layer in memory is limited for everybody")
    } else if !Path::new("/dev/loop-control").exists() {
        no(
            "/dev/loop-control is missing: load the module with `modprobe loop`; a writable layer in memory is limited too",
        )
    } else {
        yes("a file system of its own in a file")
    }
}
