//! systemd makes a scope, limits it, and takes it away again. Runs where a systemd answers.
#![cfg(feature = "systemd")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use cgroup::systemd::{ScopeName, Systemd};
use cgroup::{Cgroup, Controller, Error, Hierarchy, Limits, Max};
use support::{Process, skip, unique};

fn ready() -> Option<(Systemd, Hierarchy)> {
    let systemd = Systemd::of_caller();
    if let Err(error) = systemd.ping() {
        skip("systemd", &format!("no systemd: {error}: {:?}", std::error::Error::source(&error)));
        return None;
    }
    Some((systemd, Hierarchy::discover().unwrap()))
}

#[test]
fn a_scope_from_start_to_stop() {
    let Some((systemd, hierarchy)) = ready() else { return };
    let name = ScopeName::new(&unique("scope").to_string()).unwrap();
    let mut process = Process::shell("exec sleep 60");
    let limits = Limits::new().memory(64 << 20).pids(20).cpus(0.5);
    let scope = systemd.start_scope(&hierarchy, &name, &[process.id()], &limits).unwrap();
    let group = scope.cgroup();
    assert!(group.path_in(hierarchy.mount_of(Controller::Pids).unwrap()).unwrap().ends_with(name.unit()));
    assert_eq!(group.processes().unwrap(), [process.id()]);
    let stats = group.stats().unwrap();
    assert_eq!((stats.memory.max, stats.pids.max), (Some(Max::At(64 << 20)), Some(Max::At(20))));

    scope.apply(&Limits::new().pids(30)).unwrap();
    assert_eq!(group.stats().unwrap().pids.max, Some(Max::At(30)));

    // Delegated: a group of this library's own lives inside.
    let path = cgroup::CgroupPath::new(group.path_in(hierarchy.mount_of(Controller::Pids).unwrap()).unwrap())
        .unwrap();
    let inner = cgroup::CgroupPath::new(format!("/{path}")).unwrap().join("inner").unwrap();
    let inner = Cgroup::create_with(&hierarchy, &inner, Controller::Cpuacct.into()).unwrap();
    inner.remove().unwrap();

    assert!(matches!(scope.cgroup().remove(), Err(Error::NotOurs { .. })));
    let again = systemd.open_scope(&hierarchy, &name).unwrap();
    again.stop().unwrap();
    assert_eq!(process.signal(), Some(9));
    scope.stop().unwrap();
    assert!(matches!(
        systemd.open_scope(&hierarchy, &name),
        Err(Error::Systemd { .. } | Error::NotFound { .. })
    ));
}

#[test]
fn what_systemd_refuses_is_an_error_that_says_so() {
    let Some((systemd, hierarchy)) = ready() else { return };
    let name = ScopeName::new(&unique("twice").to_string()).unwrap();
    let first = Process::shell("exec sleep 60");
    let second = Process::shell("exec sleep 60");
    let scope = systemd.start_scope(&hierarchy, &name, &[first.id()], &Limits::new()).unwrap();
    match systemd.start_scope(&hierarchy, &name, &[second.id()], &Limits::new()) {
        Err(Error::Systemd { action: "start", unit, source }) => {
            assert_eq!(unit, name.unit());
            assert!(source.to_string().contains("already"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    scope.stop().unwrap();
    assert!(matches!(
        systemd.start_scope(&hierarchy, &name, &[], &Limits::new()),
        Err(Error::Systemd { action: "start", .. })
    ));

    // A limit that cannot be set ends the scope again.
    let mut third = Process::shell("exec sleep 60");
    let wrong = Limits::new().cpuset_cpus("no list");
    assert!(matches!(
        systemd.start_scope(&hierarchy, &name, &[third.id()], &wrong),
        Err(Error::InvalidLimit { .. } | Error::NoController { .. })
    ));
    assert_eq!(third.signal(), Some(9));
}
