//! Endings that must be told apart (LC-H13, H17 to H20, H24).

mod fixture;

use std::time::{Duration, Instant};

use container_core::cgroup::{Cgroup, CgroupPath, Hierarchy, Limits};
use container_core::{
    End, Error, MemoryShortage, Namespace, NamespaceKind, Resource, Signal, Stdio, TimeLimit,
};
use fixture::Root;

#[test]
fn h13_a_timeout_kills_everything() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    // A child, a grandchild in a session of its own, and a daemon, all deaf to SIGTERM, all with standard output.
    let script = "trap '' TERM; sleep 7301 & setsid sh -c 'sleep 7302; :' & (setsid sh -c 'sleep 7303 &' &); sleep 7304";
    let check = |builder: container_core::ContainerBuilder| {
        let before = Instant::now();
        let outcome = builder.timeout(Duration::from_secs(1)).run().unwrap();
        assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        for seconds in ["7301", "7302", "7303", "7304"] {
            assert_eq!(fixture::running(&["sleep", seconds]), 0, "sleep {seconds} is left");
        }
    };
    check(root.shell(script));
    // The host's process ids: the control group knows who belongs to the container. (With a user namespace they show no /proc.)
    if fixture::is_root() && fixture::limits() {
        check(root.shell(script).namespace(NamespaceKind::Pid, Namespace::Host).pids(50));
    }
}

#[test]
fn h17_every_kind_has_a_value_of_its_own() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    assert_eq!(root.shell("exit 137").run().unwrap().end, End::Exited(137));

    fixture::executable(&root, "tmp/crash", &fixture::crasher());
    let outcome = root.command(&["/tmp/crash"]).rlimit(Resource::Core, 0, 0).run().unwrap();
    assert!(matches!(outcome.end, End::Signaled { signal: libc::SIGSEGV, .. }), "{:?}", outcome.end);
    // Behind the tiny init it is told as well.
    let outcome = root.command(&["/tmp/crash"]).rlimit(Resource::Core, 0, 0).init(true).run().unwrap();
    assert!(
        matches!(outcome.end, End::Exited(139) | End::Signaled { signal: libc::SIGSEGV, .. }),
        "{outcome:?}"
    );

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(container.pid() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Signaled { signal: 9, core_dumped: false });

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    container.kill(Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Stopped);

    let outcome = root.command(&["sleep", "60"]).timeout(Duration::from_millis(100)).run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));
    assert!(outcome.wall_time >= Duration::from_millis(100));

    assert!(matches!(root.command(&["/no/such"]).run(), Err(Error::Exec { .. })));
}

#[test]
fn cpu_time_is_limited() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let builder = root
        .shell("while :; do :; done")
        .cpu_time(Duration::from_millis(300))
        .timeout(Duration::from_secs(60));
    let outcome = builder.run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Cpu));
    let used = outcome.cpu_time.unwrap();
    assert!(used >= Duration::from_millis(300) && used < Duration::from_secs(3), "{used:?}");
}

#[test]
fn h18_out_of_memory_is_told() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let hog = "head -c 400000000 /dev/zero | tail -c 300000000";
    // (a) the first process itself
    let outcome =
        root.shell("x=$(head -c 200000000 /dev/zero | tr '\\0' x); exit 0").memory(64 << 20).run().unwrap();
    assert_eq!(outcome.end, End::OutOfMemory(MemoryShortage::Own), "{outcome:?}");
    assert!(outcome.oom_kills >= 1);
    assert!(outcome.peak_memory.is_none_or(|peak| peak > 32 << 20), "{:?}", outcome.peak_memory);
    // (b) a child, and the first process does not mind
    let outcome = root.shell(&format!("({hog}) >/dev/null 2>&1; exit 0")).memory(64 << 20).run().unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(outcome.oom_kills, 1, "{outcome:?}");
    // (c) none at all
    let container = root.command(&["sleep", "60"]).memory(64 << 20).spawn().unwrap();
    container.kill(Signal::KILL).unwrap();
    let outcome = container.finish().unwrap();
    assert_eq!((outcome.end, outcome.oom_kills), (End::Stopped, 0));
}

/// Memory runs out above the container: in a group that somebody else has limited.
#[test]
fn h18_an_ancestor_out_of_memory_is_told_apart() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let hierarchy = Hierarchy::discover().unwrap();
    let parent = format!("container-core-h18-{}", std::process::id());
    let above = Cgroup::create(&hierarchy, &CgroupPath::new(&parent).unwrap()).unwrap();
    above.apply(&Limits::new().memory(64u64 << 20)).unwrap();
    let hog = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); exit 0";
    let outcome = root.shell(hog).cgroup(format!("{parent}/inner")).run();
    above.remove().unwrap();
    let outcome = outcome.unwrap();
    assert_eq!(outcome.end, End::OutOfMemory(MemoryShortage::Ancestor), "{outcome:?}");
}

#[test]
fn h24_the_pids_limit_is_told() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let bomb = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 20 & done; exit 0";
    let before = Instant::now();
    let outcome = root.shell(bomb).pids(16).timeout(Duration::from_secs(20)).run().unwrap();
    assert!(outcome.pids_limit_hits >= 1, "{outcome:?}");
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("Cannot fork"), "EAGAIN inside: {outcome:?}");
    assert!(before.elapsed() < Duration::from_secs(10));
    // One that never gives up is ended and cleaned away as quickly.
    let name = format!("h24-{}", std::process::id());
    let bomb = "(b() { b | b & }; b) 2>/dev/null & exec sleep 60";
    let container =
        root.shell(bomb).pids(16).id(&*name).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    fixture::until("the limit is hit", Duration::from_secs(60), || {
        container.stats().unwrap().pids.limit_hits.is_some_and(|hits| hits > 0)
    });
    let before = Instant::now();
    container.kill(Signal::KILL).unwrap();
    let outcome = container.finish().unwrap();
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    assert!(outcome.pids_limit_hits > 0);
    assert!(fixture::cgroups_named(&name).is_empty());
    assert_eq!(root.command(&["true"]).pids(1).run().unwrap().end, End::Exited(0));
    assert!(matches!(root.command(&["true"]).pids(0).run(), Err(Error::Invalid { .. })));
}

#[test]
fn h19_what_cannot_be_executed_is_a_start_error() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    for (command, errno, missing) in fixture::not_executable(&root) {
        // Its own command, and one more process in a running container.
        let own = root.command(&[command]).spawn().map(drop);
        for started in [own, container.exec([command]).output().map(drop)] {
            fixture::assert_not_executed(started, command, errno, missing);
        }
    }
}
