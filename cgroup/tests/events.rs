//! What happens to a group can be waited for, and what ended it can be told.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cgroup::{
    Cgroup, Controller, CpuTime, CpuTimeLimit, Error, Happened, LimitCounters, LimitKind, LimitLevel, Limits,
    Resource, Trigger, Version, Watched,
};
use support::{Guard, Process, hierarchy_with, skip, unique};

const LONG: Option<Duration> = Some(Duration::from_secs(30));
const MIB: u64 = 1 << 20;

/// A shell that waits for `go`, so that it can be placed first.
fn gated(script: &str) -> Child {
    let script = format!("read go; {script}");
    Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

const EAT: &str = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); exec sleep 60";

fn no_swap(hierarchy: &cgroup::Hierarchy, limits: Limits) -> Limits {
    // Without swap accounting there is nothing to limit, and most such machines have no swap.
    let file = match hierarchy.version_of(Controller::Memory).unwrap() {
        Version::V1 => "memory.memsw.limit_in_bytes",
        Version::V2 => "memory.swap.max",
    };
    let probe = Guard::new(hierarchy, "swap", &[Controller::Memory]);
    if probe.file(Controller::Memory, file).exists() { limits.swap(0) } else { limits }
}

#[test]
fn out_of_memory_by_the_own_limit() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    let group = Guard::new(&hierarchy, "oom", &[Controller::Memory, Controller::Pids]);
    group.apply(&no_swap(&hierarchy, Limits::new().memory(16 * MIB))).unwrap();
    let before = group.limit_counters().unwrap();
    let mut watch = group.watch(Watched::OutOfMemory).unwrap();
    assert_eq!(watch.take().unwrap(), None);
    let mut child = gated(EAT);
    group.add(child.id()).unwrap();
    go(&mut child);
    match watch.wait(LONG).unwrap() {
        Some(Happened::OutOfMemory { .. }) => {}
        other => panic!("{other:?}"),
    }
    child.wait().unwrap();
    let totals = group.totals().unwrap();
    let stats = group.stats().unwrap().memory;
    assert_eq!((totals.memory_peak, totals.memory_max), (stats.peak, stats.max));
    assert_eq!((totals.memory_limit_hits, totals.oom), (stats.limit_hits, stats.oom));
    assert_eq!((totals.oom_kills, totals.pids_limit_hits), (stats.oom_kills, Some(0)));
    assert!(stats.oom_kills.unwrap() >= 1, "{stats:?}");
    assert!(stats.peak.is_none_or(|peak| peak > 8 * MIB && peak <= 16 * MIB), "{stats:?}");
    let hits = group.limit_counters().unwrap().hits_since(&before);
    assert_eq!(hits.len(), 1, "{hits:?}");
    assert_eq!((hits[0].limit, &hits[0].level), (LimitKind::Memory, &LimitLevel::Own));
    assert!(hits[0].to_string().contains("own limit"));
}

#[test]
fn out_of_memory_by_the_limit_of_an_ancestor() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    let top = Guard::new(&hierarchy, "above", &[Controller::Memory]);
    top.apply(&no_swap(&hierarchy, Limits::new().memory(16 * MIB))).unwrap();
    let path = cgroup::CgroupPath::new(top.path().to_str().unwrap()).unwrap().join("inner").unwrap();
    let group = Guard(Cgroup::create_with(&hierarchy, &path, Controller::Memory.into()).unwrap());
    let before = group.limit_counters().unwrap();
    let mut child = gated(EAT);
    group.add(child.id()).unwrap();
    go(&mut child);
    child.wait().unwrap();
    let hits = group.limit_counters().unwrap().hits_since(&before);
    assert_eq!(hits.len(), 1, "{hits:?}");
    match &hits[0].level {
        LimitLevel::Ancestor(path) => assert_eq!(*path, top.file(Controller::Memory, "")),
        other => panic!("{other:?}"),
    }
    if hierarchy.version_of(Controller::Memory) == Some(Version::V2) {
        let own = top.limit_counters().unwrap().hits_since(&LimitCounters::default());
        assert_eq!(own[0].level, LimitLevel::Own, "seen from the ancestor it is its own");
    }
}

#[test]
fn failed_forks() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    let group = Guard::new(&hierarchy, "forks", &[Controller::Pids]);
    group.apply(&Limits::new().pids(2)).unwrap();
    let before = group.limit_counters().unwrap();
    let mut watch = group.watch(Watched::PidsLimit).unwrap();
    let mut child = gated("for i in 1 2 3 4; do sleep 60 & done; wait");
    group.add(child.id()).unwrap();
    go(&mut child);
    match watch.wait(LONG).unwrap() {
        Some(Happened::PidsLimit { count }) => assert!(count > 0),
        other => panic!("{other:?}"),
    }
    let hits = group.limit_counters().unwrap().hits_since(&before);
    assert_eq!((hits[0].limit, &hits[0].level), (LimitKind::Pids, &LimitLevel::Own), "{hits:?}");
    assert!(group.stats().unwrap().pids.limit_hits.unwrap() > 0);
    group.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn populated_and_empty_and_gone() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    let group = Guard::new(&hierarchy, "populated", &[Controller::Pids, Controller::Freezer]);
    let watched = group.watch(Watched::Populated);
    if hierarchy.unified().is_none() {
        assert!(matches!(watched, Err(Error::NoController { .. })));
        return skip("v2", "this event takes a v2 hierarchy");
    }
    let mut watch = watched.unwrap();
    assert_eq!(group.stats().unwrap().populated, Some(false));
    let mut process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    assert_eq!(watch.wait(LONG).unwrap(), Some(Happened::Populated(true)));
    assert_eq!(watch.take().unwrap(), None);
    assert_eq!(watch.wait(Some(Duration::from_millis(1))).unwrap(), None);
    group.kill().unwrap();
    process.signal();
    assert_eq!(watch.wait(LONG).unwrap(), Some(Happened::Populated(false)));

    let path = unique("gone");
    let other = Cgroup::create_with(&hierarchy, &path, Controller::Freezer.into()).unwrap();
    let mut watch = other.watch(Watched::Populated).unwrap();
    other.remove().unwrap();
    assert_eq!(watch.wait(LONG).unwrap(), Some(Happened::Removed));
}

#[test]
fn pressure() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Cpuacct]) else { return };
    let group =
        Guard::new(&hierarchy, "pressure", &[Controller::Cpu, Controller::Cpuacct, Controller::Freezer]);
    let two = Duration::from_secs(2);
    let trigger =
        Trigger { resource: Resource::Cpu, full: false, stall: Duration::from_millis(50), window: two };
    let mut watch = match group.watch(Watched::Pressure(trigger)) {
        Ok(watch) => watch,
        Err(Error::NoController { .. }) => return skip("v2", "pressure takes a v2 hierarchy"),
        Err(error) if !std::path::Path::new("/proc/pressure/cpu").exists() => {
            return skip("psi", &format!("{error}"));
        }
        // Before 6.4 a trigger took CAP_SYS_RESOURCE.
        Err(error) if error.raw_os_error() == Some(1) => return skip("psi", &format!("{error}")),
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(watch.take().unwrap(), None);
    // More to do than one CPU can.
    let mut children: Vec<_> = (0..6).map(|_| gated("while :; do :; done")).collect();
    for child in &mut children {
        group.add(child.id()).unwrap();
        go(child);
    }
    assert_eq!(watch.wait(LONG).unwrap(), Some(Happened::Pressure));
    assert!(group.stats().unwrap().cpu.pressure.unwrap().some.total > Duration::ZERO);
    group.kill().unwrap();
    children.iter_mut().for_each(|child| drop(child.wait()));

    let nonsense = Trigger { stall: Duration::from_secs(9), ..trigger };
    assert!(matches!(group.watch(Watched::Pressure(nonsense)), Err(Error::Read { .. })));
}

#[test]
fn the_cpu_time_of_a_tree() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Cpuacct]) else { return };
    let group = Guard::new(&hierarchy, "time", &[Controller::Cpu, Controller::Cpuacct, Controller::Freezer]);
    // No single process uses much: the tree does.
    let mut child = gated("while :; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done); done");
    group.add(child.id()).unwrap();
    let limit = Duration::from_millis(300);
    let mut watcher = CpuTimeLimit::new(&group, limit).unwrap();
    assert!(matches!(watcher.check(&group).unwrap(), CpuTime::Within { .. }));
    go(&mut child);
    let usage = loop {
        if let CpuTime::Exceeded { usage } = watcher.wait(&group, LONG).unwrap() {
            break usage;
        }
    };
    assert!(usage >= limit, "{usage:?}");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(group.wait_empty(LONG).unwrap());
    let last = group.stats().unwrap().cpu;
    assert!(last.usage.unwrap() >= usage && last.user.is_some() && last.system.is_some(), "{last:?}");
}

#[test]
fn the_cpu_time_of_short_processes() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Cpuacct]) else { return };
    let group = Guard::new(&hierarchy, "short", &[Controller::Cpu, Controller::Cpuacct]);
    let mut child = gated("/bin/true; /bin/true; /bin/true");
    group.add(child.id()).unwrap();
    go(&mut child);
    child.wait().unwrap();
    // Less than a tick each, and still counted, in every way of asking.
    let usage = group.cpu_usage().unwrap();
    assert!(usage > Duration::ZERO);
    assert_eq!(group.stats().unwrap().cpu.usage, Some(usage));
    assert_eq!(group.totals().unwrap().cpu_usage, Some(usage));
}
