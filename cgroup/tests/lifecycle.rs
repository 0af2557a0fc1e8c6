//! A group is made where it was asked for, holds its processes, kills all of them, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use cgroup::{Cgroup, CgroupPath, Controller, Controllers, Error, Hierarchy, Limits, Version};
use support::{Guard, Process, hierarchy_with, unique};

const USUAL: &[Controller] = &[Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Freezer];

#[test]
fn create_limit_attach_read_remove() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let path = unique("whole");
    let group = Cgroup::create(&hierarchy, &path).unwrap();
    group.apply(&Limits::new().memory(64 << 20).cpus(0.5).pids(20)).unwrap();
    let mut process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    assert_eq!(group.processes().unwrap(), [process.id()]);

    let stats = group.stats().unwrap();
    assert_eq!(stats.memory.max, Some(cgroup::Max::At(64 << 20)));
    assert_eq!(stats.pids.max, Some(cgroup::Max::At(20)));
    assert_eq!(stats.pids.current, Some(1));
    assert!(stats.memory.current.is_some() && stats.cpu.usage.is_some() && stats.cpu.periods.is_some());

    assert!(matches!(Cgroup::create(&hierarchy, &path), Err(Error::Exists { .. })));
    assert!(!group.wait_empty(Some(Duration::from_millis(1))).unwrap());
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9));
    assert!(group.wait_empty(Some(Duration::from_secs(10))).unwrap());
    let directories: Vec<_> = group.directories().map(|(_, path)| path.to_owned()).collect();
    group.remove().unwrap();
    assert!(directories.iter().all(|path| !path.exists()));
    group.remove().unwrap();
    assert!(matches!(Cgroup::open(&hierarchy, &path), Err(Error::NotFound { .. })));
}

#[test]
fn the_entry_places_a_child_before_it_runs() {
    use std::os::fd::AsRawFd;
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let group = Guard::new(&hierarchy, "entry", USUAL);
    let entry = group.entry().unwrap();
    assert_eq!(entry.clone_into.is_some(), hierarchy.unified().is_some());
    if hierarchy.version_of(Controller::Memory) == Some(Version::V1) {
        // The shell inherits the descriptors and does what the child of a launcher does.
        let mut script = String::new();
        for (index, fd) in entry.tasks.iter().enumerate() {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
            // Above 9, dash knows no descriptor: go through procfs.
            script += &format!("echo 0 > /proc/self/fd/{} || exit {}; ", fd.as_raw_fd(), index + 1);
        }
        let mut process = Process::shell(&(script + "exec sleep 60"));
        let mut seen = false;
        for _ in 0..1000 {
            seen = group.processes().unwrap().contains(&process.id());
            if seen || process.0.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(seen, "{:?}", process.0.try_wait());
    }
}

#[test]
fn parents_come_and_go_with_the_group() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let top = unique("parents");
    let first = Cgroup::create(&hierarchy, &top.join("a/one").unwrap()).unwrap();
    let second = Cgroup::create(&hierarchy, &top.join("a/two").unwrap()).unwrap();
    second.apply(&Limits::new().memory(1 << 20)).unwrap();
    let directories: Vec<_> =
        first.directories().map(|(_, path)| path.parent().unwrap().to_owned()).collect();
    first.remove().unwrap();
    assert!(directories.iter().all(|path| path.exists()), "a neighbour still needs them");
    second.remove().unwrap();
    assert!(directories.iter().all(|path| path.exists()), "the second did not make them");
    let third = Cgroup::adopt(&hierarchy, &top.join("a").unwrap()).unwrap();
    third.remove().unwrap();
    Cgroup::adopt(&hierarchy, &top).unwrap().remove().unwrap();

    let only = Cgroup::create(&hierarchy, &top.join("b/c/d").unwrap()).unwrap();
    only.remove().unwrap();
    assert!(
        matches!(Cgroup::open(&hierarchy, &top), Err(Error::NotFound { .. })),
        "all parents were its own"
    );
}

#[test]
fn groups_made_inside_go_too() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let group = Guard::new(&hierarchy, "nested", USUAL);
    let mut inner = Vec::new();
    for (_, directory) in group.directories() {
        std::fs::create_dir_all(directory.join("x/y")).unwrap();
        std::fs::create_dir(directory.join("z")).unwrap();
        inner.push(directory.join("x/y/cgroup.procs"));
    }
    let mut process = Process::shell("exec sleep 60");
    for file in inner {
        std::fs::write(file, process.id().to_string()).unwrap();
    }
    assert_eq!(group.processes().unwrap(), [process.id()]);
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9));
    group.remove().unwrap();
}

#[test]
fn foreign_groups_are_left_alone() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let group = Guard::new(&hierarchy, "foreign", USUAL);
    let path = CgroupPath::new(group.path().to_str().unwrap()).unwrap();
    let opened = Cgroup::open(&hierarchy, &path).unwrap();
    opened.apply(&Limits::new().pids(7)).unwrap();
    assert_eq!(group.read(Controller::Pids, "pids.max"), "7");
    assert!(matches!(opened.remove(), Err(Error::NotOurs { .. })));

    let process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    let found = Cgroup::of_process(&hierarchy, process.id()).unwrap();
    let memory = hierarchy.mount_of(Controller::Memory).unwrap();
    assert!(found.path_in(memory).unwrap().ends_with(path.components()));
    assert!(matches!(found.remove(), Err(Error::NotOurs { .. })));
}

#[test]
fn busy_groups_say_who_is_inside() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let group = Guard::new(&hierarchy, "busy", USUAL);
    let process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    match group.remove() {
        Err(Error::Busy { processes, .. }) => assert_eq!(processes, [process.id()]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_forking_tree_freezes_thaws_and_dies() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids, Controller::Cpuacct]) else { return };
    let group =
        Guard::new(&hierarchy, "forks", &[Controller::Pids, Controller::Cpuacct, Controller::Freezer]);
    group.apply(&Limits::new().pids(64)).unwrap();
    let mut process = Process::shell("while :; do (sleep 0.01 & sleep 0.02 &) 2>/dev/null; done");
    group.add(process.id()).unwrap();
    for _ in 0..3 {
        group.freeze().unwrap();
        assert!(group.is_frozen().unwrap());
        // The last slice of a stopping task is accounted for a little later; a running tree never stands still.
        let readings = std::iter::repeat_with(|| {
            std::thread::sleep(Duration::from_millis(20));
            group.cpu_usage().unwrap()
        });
        let readings: Vec<_> = readings.take(10).collect();
        assert!(
            readings.windows(2).any(|pair| pair[0] == pair[1]),
            "nothing runs while it is frozen: {readings:?}"
        );
        group.thaw().unwrap();
        assert!(!group.is_frozen().unwrap());
    }
    group.freeze().unwrap();
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9), "frozen processes die too");
    assert!(group.wait_empty(Some(Duration::from_secs(20))).unwrap());
    let _ = group.thaw();
}

#[test]
fn nothing_stays_after_a_failed_creation() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let top = unique("failed");
    // The last hierarchy already has the name: what was made in the others has to go again.
    let victim =
        hierarchy.mounts().iter().rfind(|mount| mount.controllers().contains(Controller::Pids)).unwrap();
    let base = victim.mountpoint().join(hierarchy.base(victim).unwrap()).join(top.components());
    std::fs::create_dir(&base).unwrap();
    let created = Cgroup::create(&hierarchy, &top);
    std::fs::remove_dir(&base).unwrap();
    assert!(matches!(created, Err(Error::Exists { .. })), "{created:?}");
    assert!(matches!(Cgroup::open(&hierarchy, &top), Err(Error::NotFound { .. })));
}

#[test]
fn without_permission_the_error_says_where() {
    let Ok(hierarchy) = Hierarchy::discover() else { return support::skip("cgroup", "no hierarchy") };
    if !hierarchy.available().is_empty() {
        return support::skip("unprivileged", "this caller may create groups");
    }
    let path = CgroupPath::new("/cgroup-test-not-allowed").unwrap();
    match Cgroup::create_with(&hierarchy, &path, Controllers::ALL) {
        Err(Error::Create { path, source }) => {
            assert!(path.ends_with("cgroup-test-not-allowed"));
            assert!(source.raw_os_error().is_some());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_process_takes_over_by_directories() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let path = unique("adopt");
    let made = Cgroup::create(&hierarchy, &path).unwrap();
    let directories: Vec<_> = made.directories().map(|(_, path)| path.to_owned()).collect();
    drop(made);
    let taken = Cgroup::adopt_directories(&hierarchy, &directories).unwrap();
    assert_eq!(taken.directories().map(|(_, path)| path.to_owned()).collect::<Vec<_>>(), directories);
    taken.remove().unwrap();
    assert!(matches!(Cgroup::adopt_directories(&hierarchy, &directories), Err(Error::NotFound { .. })));
    assert!(matches!(Cgroup::adopt_directories(&hierarchy, ["/etc"]), Err(Error::NotFound { .. })));
}
