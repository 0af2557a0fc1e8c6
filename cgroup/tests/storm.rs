//! What goes on around a group does no harm: fork bombs, frozen groups, others that remove directories, a host that is killed.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{Cgroup, CgroupPath, Controller, Error, Hierarchy, Limits, Version};
use support::{Guard, Process, hierarchy_with, unique};

const PATIENCE: Duration = Duration::from_secs(60);

/// A shell that waits for a line before it runs `script`.
fn gated(script: &str) -> Process {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("read line; {script}")).stdin(Stdio::piped()).stderr(Stdio::null());
    Process(command.spawn().unwrap())
}

/// Runs a fork bomb in a group with `controllers` until it is at full strength, kills it and removes the group.
fn survive_a_bomb(name: &str, controllers: &[Controller]) {
    const TASKS: u64 = 500;
    let Some(hierarchy) = hierarchy_with(controllers) else { return };
    let group = Guard::new(&hierarchy, name, controllers);
    group.apply(&Limits::new().pids(TASKS)).unwrap();
    // Whoever may not fork gives up, which lets another one fork.
    let mut bomb = gated("bomb() { while :; do bomb & done; }; bomb");
    group.add(bomb.id()).unwrap();
    drop(bomb.0.stdin.take());
    let deadline = Instant::now() + PATIENCE;
    while group.stats().unwrap().pids.limit_hits == Some(0) {
        assert!(Instant::now() < deadline, "the bomb does not go off: {:?}", group.stats().unwrap().pids);
        std::thread::sleep(Duration::from_millis(1));
    }
    group.kill().unwrap();
    assert!(group.wait_empty(Some(PATIENCE)).unwrap(), "{:?}", group.processes());
    // Killed, or it gave up before.
    assert!(!bomb.0.wait().unwrap().success());
    group.remove().unwrap();
}

#[test]
fn a_fork_bomb_dies() {
    survive_a_bomb("bomb", &[Controller::Pids, Controller::Freezer]);
}

/// On v1 and hybrid hosts nothing then kills at once or stops what is forked meanwhile.
#[test]
fn a_fork_bomb_dies_without_a_freezer() {
    survive_a_bomb("wild-bomb", &[Controller::Pids]);
}

#[test]
fn a_paused_group_is_killed() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Freezer]) else { return };
    let group = Guard::new(&hierarchy, "paused", &[Controller::Freezer]);
    let mut process = Process::shell("while :; do /bin/true; done");
    group.add(process.id()).unwrap();
    group.freeze().unwrap();
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9));
    assert!(group.wait_empty(Some(PATIENCE)).unwrap());
    group.remove().unwrap();
}

/// A group inside was paused by the container itself.
#[test]
fn a_group_with_a_paused_group_inside_is_killed() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Freezer]) else { return };
    let path = unique("around");
    let group =
        Guard(Cgroup::create_with(&hierarchy, &path, [Controller::Freezer].into_iter().collect()).unwrap());
    let inner = CgroupPath::new(format!("{path}/inner")).unwrap();
    let inner =
        Guard(Cgroup::create_with(&hierarchy, &inner, [Controller::Freezer].into_iter().collect()).unwrap());
    let mut process = Process::shell("exec sleep 60");
    inner.add(process.id()).unwrap();
    inner.freeze().unwrap();
    group.kill().unwrap();
    assert_eq!(process.signal(), Some(9));
    assert!(group.wait_empty(Some(PATIENCE)).unwrap());
    group.remove().unwrap();
}

/// On v2 a frozen process dies. On v1 it does as soon as the ancestor goes on; the call says nothing else and does not hang.
#[test]
fn a_group_below_a_paused_one_is_killed() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Freezer]) else { return };
    let path = unique("above");
    let above =
        Guard(Cgroup::create_with(&hierarchy, &path, [Controller::Freezer].into_iter().collect()).unwrap());
    let inner = CgroupPath::new(format!("{path}/inner")).unwrap();
    let group =
        Guard(Cgroup::create_with(&hierarchy, &inner, [Controller::Freezer].into_iter().collect()).unwrap());
    let mut process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    above.freeze().unwrap();
    let start = Instant::now();
    group.kill().unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    if hierarchy.version_of(Controller::Freezer) == Some(Version::V1) {
        assert!(!group.wait_empty(Some(Duration::from_millis(20))).unwrap());
        above.thaw().unwrap();
    }
    assert_eq!(process.signal(), Some(9));
    assert!(group.wait_empty(Some(PATIENCE)).unwrap());
    group.remove().unwrap();
}

#[test]
fn a_group_that_others_removed() {
    let controllers = [Controller::Cpu, Controller::Memory, Controller::Pids, Controller::Freezer];
    let Some(hierarchy) = hierarchy_with(&controllers) else { return };
    let group = Guard::new(&hierarchy, "taken", &controllers);
    let mut oom = group.watch(cgroup::Watched::OutOfMemory).unwrap();
    for (_, directory) in group.directories() {
        std::fs::remove_dir(directory).unwrap();
    }
    let stats = group.stats().unwrap();
    assert_eq!((stats.memory.current, stats.pids.current, stats.cpu.periods), (None, None, None));
    assert_eq!(group.totals().unwrap().memory_peak, None);
    assert!(group.limit_counters().unwrap().hits_since(&Default::default()).is_empty());
    assert!(group.processes().unwrap().is_empty());
    oom.take().unwrap();
    group.kill().unwrap();
    assert!(group.wait_empty(Some(PATIENCE)).unwrap());
    assert!(group.apply(&Limits::new().pids(1)).is_err());
    assert!(matches!(group.add(std::process::id()), Err(Error::Attach { .. })));
    group.remove().unwrap();
}

/// Groups inside come and go while the group is removed.
#[test]
fn others_make_and_remove_groups_inside() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    for _ in 0..20 {
        let group = Guard::new(&hierarchy, "restless", &[Controller::Pids]);
        let inside = group.directories().next().unwrap().1.join("inside");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _ = std::fs::create_dir(&inside);
                    let _ = std::fs::create_dir(inside.join("deeper"));
                    let _ = std::fs::remove_dir(inside.join("deeper"));
                    let _ = std::fs::remove_dir(&inside);
                }
            });
            group.remove().unwrap();
        });
        assert!(group.directories().all(|(_, directory)| !directory.exists()));
    }
}

const HOST: &str = "CGROUP_TEST_STORM_HOST";

/// Not a test of its own: the program that [`a_host_that_is_killed_leaves_what_can_be_cleared`] kills.
#[test]
fn host_that_will_be_killed() {
    let Ok(path) = std::env::var(HOST) else { return };
    let (hierarchy, path) = (Hierarchy::discover().unwrap(), CgroupPath::new(path).unwrap());
    loop {
        let group = Cgroup::create(&hierarchy, &path).unwrap();
        let _ = group.apply_best_effort(&Limits::new().memory(64 << 20).cpus(0.5).pids(20));
        let process = Process::shell("exec sleep 60");
        group.add(process.id()).unwrap();
        let inner = CgroupPath::new(format!("{path}/inside")).unwrap();
        let inner = Cgroup::create_with(&hierarchy, &inner, [Controller::Freezer].into_iter().collect());
        let _ = group.freeze();
        group.stats().unwrap();
        group.kill().unwrap();
        drop(process);
        drop(inner);
        group.remove().unwrap();
    }
}

#[test]
fn a_host_that_is_killed_leaves_what_can_be_cleared() {
    let wanted = [Controller::Pids, Controller::Freezer];
    let Some(hierarchy) = hierarchy_with(&wanted) else { return };
    for round in 0..40u64 {
        let path = unique("orphan");
        let mut host = Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", "host_that_will_be_killed"]).env(HOST, path.to_string());
        let mut host = Process(host.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        std::thread::sleep(Duration::from_micros(2000 + round * 517));
        host.0.kill().unwrap();
        assert_eq!(host.signal(), Some(9), "the host failed by itself");
        match Cgroup::adopt(&hierarchy, &path) {
            Ok(group) => {
                group.kill().unwrap();
                assert!(group.wait_empty(Some(PATIENCE)).unwrap());
                group.remove().unwrap();
                assert!(matches!(Cgroup::open(&hierarchy, &path), Err(Error::NotFound { .. })));
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
