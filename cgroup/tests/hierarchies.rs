//! Hosts and containers that show less than everything: hierarchies that are read-only, absent, hidden, joined, or begin at the
//! caller's own group. Each test runs itself again in a mount namespace of its own, prepared by a few words of shell.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use cgroup::{Cgroup, CgroupPath, Controller, Controllers, Error, Hierarchy, Limits, Max, Mode, Version};
use support::{Guard, Process, hierarchy_with, skip, unique};

const INSIDE: &str = "CGROUP_TEST_INSIDE";

/// Whether this is the run inside. Outside, the test `name` is run there: after `script`, in new namespaces by `unshare flags`.
fn inside(name: &str, flags: &[&str], script: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = Command::new("unshare").args(flags).arg("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skip("root", &format!("no new namespaces for this caller (unshare {})", flags.join(" ")));
        return false;
    }
    // What cannot be prepared here has status 77.
    let script = format!("{script}\nexec \"$0\" --exact {name} --nocapture");
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", &script]).arg(std::env::current_exe().unwrap()).env(INSIDE, "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        skip("unshare", &format!("{name}: {}", said.trim()));
        return false;
    }
    assert!(output.status.success(), "{name}: {said}");
    if let Some(line) = said.lines().find_map(|line| line.strip_prefix("SKIPPED: ")) {
        skip("inside", &format!("{name}: {line}"));
    }
    false
}

/// `$1` stands for the mountpoint of each hierarchy.
fn each_mount(what: &str) -> String {
    format!(
        "mounts=$(awk '/ - cgroup2? /{{print $5}}' /proc/self/mountinfo); for m in $mounts; do set -- $m; {what} || exit 77; done"
    )
}

#[test]
fn read_only() {
    let script = each_mount("mount -o remount,bind,ro $1");
    if !inside("read_only", &["-m"], &script) {
        return;
    }
    let hierarchy = Hierarchy::discover().unwrap();
    assert!(hierarchy.mounts().iter().all(|mount| mount.is_read_only()));
    assert!(hierarchy.available().is_empty(), "{}", hierarchy.available());
    let error = Cgroup::create_with(&hierarchy, &unique("ro"), Controller::Memory.into()).unwrap_err();
    assert!(matches!(error, Error::Create { .. }), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    // Figures are there all the same.
    let own = Cgroup::of_process(&hierarchy, std::process::id()).unwrap();
    own.stats().unwrap();
    let error = own.apply(&Limits::new().pids(1 << 20)).unwrap_err();
    assert!(matches!(error, Error::Limit { .. } | Error::NoController { .. }), "{error:?}");
    let skipped = own.apply_best_effort(&Limits::new().pids(1 << 20));
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].controller, Controller::Pids);
}

#[test]
fn absent() {
    // Covered, as a container's empty /sys covers it: the mount table still lists what is below.
    if !inside("absent", &["-m"], "mount -t tmpfs none /sys/fs/cgroup || exit 77") {
        return;
    }
    match Hierarchy::discover() {
        Err(Error::NoHierarchy) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn partly_mounted() {
    let script = "m=$(awk '/ - cgroup .*[ ,]pids/ {print $5}' /proc/self/mountinfo)
[ -n \"$m\" ] || { echo 'tasks are not limited on v1 here'; exit 77; }; umount $m || exit 77";
    if !inside("partly_mounted", &["-m"], script) {
        return;
    }
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    assert_eq!(hierarchy.version_of(Controller::Pids), None);
    let group = Guard(Cgroup::create(&hierarchy, &unique("partly")).unwrap());
    let limits = Limits::new().memory(64 << 20).pids(5);
    match group.apply(&limits) {
        Err(Error::NoController { controller: Controller::Pids, reason }) => {
            assert!(reason.contains("no mounted hierarchy carries it"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let skipped = group.apply_best_effort(&limits);
    assert_eq!(skipped.iter().map(|skipped| skipped.controller).collect::<Vec<_>>(), [Controller::Pids]);
    let stats = group.stats().unwrap();
    assert_eq!((stats.memory.max, stats.pids.max), (Some(Max::At(64 << 20)), None));
    assert_eq!(group.totals().unwrap().pids_limit_hits, None);
}

/// As in a container that sees its own groups and nothing above them.
#[test]
fn from_the_own_group_downwards() {
    let usual = [Controller::Memory, Controller::Pids, Controller::Cpu];
    let Some(hierarchy) = hierarchy_with(&usual) else { return };
    if std::env::var_os(INSIDE).is_none() {
        let outer = Guard::new(&hierarchy, "container", &usual);
        let mut script = "set -e\n".to_owned();
        for (mount, directory) in outer.directories() {
            let (directory, place) = (directory.display(), mount.mountpoint().display());
            script += &format!("echo $$ > {directory}/cgroup.procs; mount --bind {directory} {place}\n");
        }
        inside("from_the_own_group_downwards", &["-m"], &script);
        return;
    }
    let version = hierarchy.version_of(Controller::Memory).unwrap();
    let mount = hierarchy.mount_of(Controller::Memory).unwrap();
    assert_eq!((mount.own(), hierarchy.base(mount).unwrap()), (Some(""), ""));
    let limits = Limits::new().memory(64 << 20).pids(9);
    if version == Version::V2 {
        // No internal processes: as long as this process is in the topmost group, that cannot hand controllers down.
        let group = Guard::new(&hierarchy, "early", &usual);
        match group.apply(&limits) {
            Err(Error::NoController { reason, .. }) => {
                assert!(reason.contains("has processes of its own"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let leaf = CgroupPath::new("/leaf").unwrap();
        let leaf = Cgroup::create_with(&hierarchy, &leaf, Controllers::NONE).unwrap();
        leaf.add(std::process::id()).unwrap();
    }
    let hierarchy = Hierarchy::discover().unwrap();
    let mount = hierarchy.mount_of(Controller::Memory).unwrap();
    assert_eq!(hierarchy.base(mount).unwrap(), "");
    let group = Guard::new(&hierarchy, "job", &usual);
    group.apply(&limits).unwrap();
    let file = if version == Version::V2 { "memory.max" } else { "memory.limit_in_bytes" };
    assert_eq!(group.read(Controller::Memory, file), (64 << 20).to_string());
    assert_eq!(group.file(Controller::Memory, "").parent(), Some(mount.mountpoint()));
    let mut process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    let found = Cgroup::of_process(&hierarchy, process.id()).unwrap();
    assert_eq!(found.path_in(mount), group.path_in(mount));
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9));
}

#[test]
fn frozen_groups_inside_are_killed_without_v2() {
    let script = "m=$(awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo)
grep -q ' - cgroup .*[ ,]freezer' /proc/self/mountinfo || { echo 'no v1 freezer here'; exit 77; }
[ -z \"$m\" ] || umount $m || exit 77";
    if !inside("frozen_groups_inside_are_killed_without_v2", &["-m"], script) {
        return;
    }
    let Some(hierarchy) = hierarchy_with(&[Controller::Freezer, Controller::Pids]) else { return };
    assert_eq!((hierarchy.mode(), hierarchy.version_of(Controller::Freezer)), (Mode::V1, Some(Version::V1)));
    let group = Guard::new(&hierarchy, "outer", &[Controller::Freezer, Controller::Pids]);
    let path = CgroupPath::new(group.path().to_str().unwrap()).unwrap().join("a").unwrap().join("b").unwrap();
    let inner = Guard(Cgroup::create_with(&hierarchy, &path, Controller::Freezer.into()).unwrap());
    let mut process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    inner.add(process.id()).unwrap();
    inner.freeze().unwrap();
    group.kill().unwrap();
    let killed = group.wait_empty(Some(Duration::from_secs(5))).unwrap();
    inner.thaw().unwrap();
    assert!(killed, "frozen processes of a group inside are killed");
    assert_eq!(process.signal(), Some(9));
}

#[test]
fn joined_controllers() {
    let script = "mount -t cgroup -o net_cls,net_prio joined /mnt || exit 77";
    if !inside("joined_controllers", &["-m"], script) {
        return;
    }
    let hierarchy = Hierarchy::discover().unwrap();
    let mount = hierarchy.mount_of(Controller::NetCls).unwrap();
    assert_eq!((mount.version(), mount.own()), (Version::V1, Some("")));
    assert!(std::ptr::eq(mount, hierarchy.mount_of(Controller::NetPrio).unwrap()));
    let both: Controllers = [Controller::NetCls, Controller::NetPrio].into_iter().collect();
    let group = Guard(Cgroup::create_with(&hierarchy, &unique("joined"), both).unwrap());
    assert_eq!(group.directories().count(), 1, "one directory for both");
    let mut limits = Limits::new();
    limits.network.class_id = Some(0x0010_0001);
    limits.network.priorities.insert("lo".to_owned(), 3);
    group.apply(&limits).unwrap();
    assert_eq!(group.read(Controller::NetCls, "net_cls.classid"), "1048577");
    assert!(group.read(Controller::NetPrio, "net_prio.ifpriomap").lines().any(|line| line == "lo 3"));
    assert_eq!(group.entry().unwrap().tasks.len(), 1);
}
