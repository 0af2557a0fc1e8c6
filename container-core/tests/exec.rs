//! More processes in a running container, and pausing (LC-H31, H32).

mod fixture;

use std::time::{Duration, Instant};

use container_core::{End, Error, Signal, Stdio};
use fixture::Root;

#[test]
fn output_status_environment_and_user() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let container = root.shell("export HIDDEN=1; sleep 60").env("GIVEN", "yes").spawn().unwrap();
    let shell = |script: &str| container.exec(["/bin/sh", "-c", script]);
    let output =
        shell("echo $GIVEN$MORE; echo $HIDDEN; echo bad >&2; exit 4").env("MORE", "more").output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"yesmore\n\n"[..], &b"bad\n"[..]));
    assert_eq!(output.end, End::Exited(4));
    let output = container.exec(["cat"]).input(vec![b'x'; 300_000]).output().unwrap();
    assert_eq!(output.stdout.len(), 300_000);
    let output = shell("pwd; cat /proc/1/cmdline | tr '\\0' ' '").current_dir("/tmp").output().unwrap();
    assert!(output.stdout.starts_with(b"/tmp\n/bin/sh -c export"), "{output:?}");
    let output = shell("sleep 50").timeout(Duration::from_millis(100)).output().unwrap();
    assert!(matches!(output.end, End::TimedOut(_)), "{output:?}");

    let mut exec = shell("read line; echo got $line; exit 9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(exec.stdin.as_mut().unwrap(), b"word\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(exec.stdout.as_mut().unwrap(), &mut text).unwrap();
    assert_eq!((text.as_str(), exec.wait().unwrap().code()), ("got word\n", Some(9)));
    assert!(container.try_wait().unwrap().is_none(), "the container itself goes on");
}

#[test]
fn h31_pausing() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let busy = "n=0; while [ $n -lt 200 ]; do (while :; do /bin/true; done) & n=$((n+1)); done; while :; do /bin/true; done";
    let mut container = root.shell(busy).pids(1000).spawn().unwrap();
    fixture::until("200 processes are busy", Duration::from_secs(60), || {
        container.processes().unwrap().len() > 200
    });
    container.pause().unwrap();
    container.pause().unwrap();
    assert!(container.is_paused().unwrap());
    // The kernel says frozen a few microseconds before the last task has left its processor: that much still comes in. Running
    // processes would never let two readings be the same.
    let usage = || container.stats().unwrap().cpu.usage.unwrap();
    let mut used = usage();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(10));
        match usage() {
            same if same == used => break,
            more => used = more,
        }
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(container.stats().unwrap().cpu.usage.unwrap(), used, "CPU time while paused");
    assert!(matches!(container.exec(["true"]).output(), Err(Error::Paused { .. })));
    container.resume().unwrap();
    container.resume().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(container.stats().unwrap().cpu.usage.unwrap() > used);
    assert_eq!(container.exec(["true"]).output().unwrap().end, End::Exited(0));

    container.pause().unwrap();
    let before = Instant::now();
    container.kill(Signal::KILL).unwrap();
    container.wait().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert!(matches!(container.pause(), Err(Error::NotRunning { .. })));
}

fn until_ended(container: &container_core::Container) {
    let mut ended =
        [rustix::event::PollFd::from_borrowed_fd(container.pidfd(), rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ended, None).unwrap();
}

#[test]
fn h32_exec_after_death() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for n in 0..fixture::times(150, 500) as u64 {
        let mut container = root.shell("exit 7").spawn().unwrap();
        match n % 3 {
            0 => std::thread::sleep(Duration::from_micros(100 * (n % 60))),
            // It has ended, and nobody has asked for its status yet.
            1 => until_ended(&container),
            _ => {}
        }
        match container.exec(["true"]).output() {
            // It ran; what killed it, if anything, was the end of the container.
            Ok(output) => {
                assert!(matches!(output.end, End::Exited(0) | End::Signaled { signal: 9, .. }), "{output:?}")
            }
            Err(Error::NotRunning { .. }) => {}
            Err(other) => panic!("{n}: {other:?}"),
        }
        assert_eq!(container.wait().unwrap().code(), Some(7));
        assert!(matches!(container.exec(["true"]).output(), Err(Error::NotRunning { .. })));
    }
}

/// Whoever ends a container does not wait for those who hold processes in it, and they still learn how these ended.
#[test]
fn a_container_ends_before_its_processes_are_waited_for() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let start = || {
        let container = root.command(&["sleep", "60"]).spawn().unwrap();
        let exec = container.exec(["sleep", "60"]).spawn().unwrap();
        (container, exec)
    };
    let killed = |mut exec: container_core::Exec| {
        let status = exec.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    };
    let (mut container, exec) = start();
    container.stop(Duration::ZERO).unwrap();
    killed(exec);
    drop(container);

    let (container, exec) = start();
    drop(container);
    killed(exec);

    let (container, exec) = start();
    container.kill(Signal::KILL).unwrap();
    fixture::until("it has ended", Duration::from_secs(20), || container.try_wait().unwrap().is_some());
    killed(exec);

    let builder = root.command(&["sleep", "60"]).timeout(Duration::from_millis(300));
    let container = builder.spawn().unwrap();
    let exec = container.exec(["sleep", "60"]).spawn().unwrap();
    assert!(matches!(container.finish().unwrap().end, End::TimedOut(_)));
    killed(exec);

    // One that joins while somebody waits already.
    let mut container = root.shell("read x; exit 0").stdin(Stdio::piped()).spawn().unwrap();
    let input = container.stdin.take();
    let exec = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| container.wait_timeout(Duration::from_secs(60)).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        let exec = container.exec(["sleep", "60"]).spawn().unwrap();
        drop(input);
        assert!(waiter.join().unwrap().unwrap().success());
        exec
    });
    killed(exec);

    // One that cannot die now.
    let (container, exec) = start();
    if container.pause().is_ok() {
        drop(exec);
    }
    drop(container);
}
