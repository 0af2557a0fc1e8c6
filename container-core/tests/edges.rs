//! Values and moments at the edge: times without end, limits of nothing, a container paused before its start.

mod fixture;

use std::time::Duration;

use container_core::{End, Error, Signal};
use fixture::Root;

/// `Duration::MAX` means for ever, and no arithmetic on it panics.
#[test]
fn times_without_end() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let builder = root.shell("exit 3").timeout(Duration::MAX);
    assert_eq!(builder.run().unwrap().end, End::Exited(3));
    assert_eq!(builder.cpu_time(Duration::MAX).run().unwrap().end, End::Exited(3));
    let container = root.shell("sleep 0.1; exit 4").spawn().unwrap();
    let exec = container.exec(["/bin/sh", "-c", "exit 5"]).timeout(Duration::MAX);
    assert_eq!(exec.output().unwrap().end, End::Exited(5));
    // From many threads at once, each gets the status.
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                assert_eq!(container.wait_timeout(Duration::MAX).unwrap().unwrap().code(), Some(4));
            });
        }
    });
    let mut container = root.shell("trap 'exit 6' TERM; while :; do sleep 0.01; done").spawn().unwrap();
    // Until the trap is set the signal does nothing.
    let killer = container.killer();
    let ending = std::thread::spawn(move || {
        while killer.kill(Signal::TERM).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(container.stop(Duration::MAX).unwrap().code(), Some(6));
    ending.join().unwrap();
}

#[test]
fn limits_of_nothing_are_named() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let plain = || root.command(&["true"]);
    for builder in [
        plain().memory(0),
        plain().cpus(0.0),
        plain().cpus(-1.0),
        plain().cpus(f64::NAN),
        plain().pids(0),
        plain().writable_memory(0),
        plain().tmpfs("/tmp", 0),
        plain().memory(0).limits_best_effort(true),
    ] {
        let error = builder.spawn().map(drop).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }
}

#[test]
fn a_root_that_is_none_is_named() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let file = root.path().join("etc/passwd");
    let missing = root.path().join("missing");
    for (path, errno) in [(&file, libc::ENOTDIR), (&missing, libc::ENOENT)] {
        let error = container_core::Container::builder().rootfs(path).command(["true"]).spawn().map(drop);
        let error = error.unwrap_err();
        assert_eq!(error.errno(), Some(errno), "{error:?}");
        assert!(matches!(&error, Error::Io { path: named, .. } if named == path), "{error:?}");
    }
}

#[test]
fn paused_before_its_start() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let name = format!("edges-{}", std::process::id());
    let paused = || {
        let mut created = root.command(&["true"]).id(&*name).create().unwrap();
        created.container().pause().unwrap();
        created
    };
    drop(paused());
    assert!(matches!(paused().start(), Err(Error::Paused { .. })));
    let mut created = paused();
    created.container().resume().unwrap();
    assert!(created.start().unwrap().wait().unwrap().success());
    assert!(fixture::cgroups_named(&name).is_empty());
}
