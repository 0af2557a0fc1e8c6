//! Feeding and reading a container (LC-H08 to LC-H12).

mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use container_core::{End, Namespace, NamespaceKind, OutputStream, Stdio};
use fixture::Root;

#[test]
fn output_and_status() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let output = root.shell("echo out; echo err >&2; exit 3").output().unwrap();
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.end, End::Exited(3));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn h08_a_grandchild_that_holds_the_pipe_is_not_waited_for() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let builder = root
        .shell("echo done; sleep 300 & exit 3")
        .namespace(NamespaceKind::Pid, Namespace::Host)
        .cgroup(format!("container-core-h08-{}", std::process::id()))
        .pids(20);
    let before = Instant::now();
    let output = builder.output().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!((output.stdout.as_slice(), output.end), (&b"done\n"[..], End::Exited(3)));
    assert!(
        fixture::cgroups_named("container-core-h08").is_empty(),
        "the sleeper was killed, its group removed"
    );
}

#[test]
fn h08_without_a_control_group_the_grandchild_is_left() {
    if !fixture::containers() {
        return;
    }
    if !fixture::is_root() {
        return fixture::skip(
            "root",
            "no /proc can be mounted in a user namespace for the host's process ids",
        );
    }
    // The documented choice: neither its pid namespace nor a control group holds it.
    let root = Root::new();
    let before = Instant::now();
    let builder = root
        .shell("echo done; sleep 7308 & exit 3")
        .namespace(NamespaceKind::Pid, Namespace::Host)
        .no_cgroup(true)
        .die_with_host(false);
    let output = builder.output().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!((output.stdout.as_slice(), output.end), (&b"done\n"[..], End::Exited(3)));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x007308\0") {
            let pid = entry.file_name().to_string_lossy().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, container_core::Signal::KILL).unwrap();
        }
    }
}

#[test]
fn h09_late_bytes_are_never_cut() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let mut container = root.shell("head -c 8388608 /dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let mut all = Vec::new();
    container.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 8 << 20);
    assert!(container.wait().unwrap().success());
    // Collected, while somebody else in this program keeps the reader off its processor now and then.
    let output = root.command(&["head", "-c", "8388608", "/dev/zero"]).output().unwrap();
    assert_eq!((output.stdout.len(), output.end), (8 << 20, End::Exited(0)));
    for _ in 0..10 {
        assert_eq!(root.shell("head -c 60000 /dev/zero").output().unwrap().stdout.len(), 60000);
    }
}

#[test]
fn h10_feeding_and_reading_in_one_call() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for size in [10 << 20, 65_537] {
        let input: Vec<u8> = (0..size).map(|n: u32| (n * 7 + n / 251) as u8).collect();
        let output = root.command(&["cat"]).input(input.clone()).output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == input, "{size} bytes came back changed");
    }
}

#[test]
fn h10_input_that_is_not_wanted_hides_no_status() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let output = root.shell("exec <&-; sleep 0.2; exit 5").input(vec![b'x'; 1 << 20]).output().unwrap();
    assert_eq!(output.end, End::Exited(5));
}

#[test]
fn h11_the_limit_holds_while_reading() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let limit = 1 << 20;
    let outcome =
        root.command(&["yes"]).output_limit(limit).timeout(Duration::from_millis(700)).run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(container_core::TimeLimit::Wall));
    assert!(outcome.stdout_cut && !outcome.stderr_cut);
    assert_eq!(outcome.stdout, b"y\n".repeat(limit / 2));
    assert!(outcome.stdout.capacity() <= 3 * limit, "{} bytes kept for it", outcome.stdout.capacity());

    let outcome =
        root.command(&["yes"]).output_limit_kill(1000).timeout(Duration::from_secs(60)).run().unwrap();
    assert_eq!(outcome.end, End::OutputLimit(OutputStream::Stdout));
    assert_eq!(outcome.stdout.len(), 1000);
}

#[test]
fn h12_bytes_are_bytes() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let all: Vec<u8> = (0..=255).rev().collect();
    let output = root.shell("tee /dev/stderr").input(all.clone()).output().unwrap();
    assert_eq!((&output.stdout, &output.stderr), (&all, &all));

    // As a stream of lines, of which the last has no end.
    let piped = root.command(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut container = piped.spawn().unwrap();
    container.stdin.take().unwrap().write_all(&all).unwrap();
    let lines: Vec<_> =
        BufReader::new(container.stdout.take().unwrap()).split(b'\n').map(|l| l.unwrap()).collect();
    assert_eq!(lines, all.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>());
    container.wait().unwrap();
}

#[test]
fn pipes_null_and_files() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let mut container = root.command(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = container.stdin.take().unwrap();
    stdin.write_all(b"hello").unwrap();
    drop(stdin);
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(container.wait().unwrap().success());

    let file = tempfile::tempfile().unwrap();
    let status =
        root.shell("echo to a file").stdin(Stdio::null()).stdout(file.try_clone().unwrap()).status().unwrap();
    assert!(status.success());
    let mut text = String::new();
    use std::io::Seek;
    (&file).rewind().unwrap();
    (&file).read_to_string(&mut text).unwrap();
    assert_eq!(text, "to a file\n");
}
