//! Limits on what a container writes, and what is said about them (LC-H25, H26).

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_core::{ChangeKind, End, Error, Stdio, TimeLimit};
use fixture::Root;

const FILL: &str = "head -c 64000000 /dev/zero > /root/fill; echo $?; wc -c < /root/fill";

#[test]
fn h25_a_layer_in_memory_has_its_size() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let output = root.shell(FILL).writable_memory(16 << 20).output().unwrap();
    assert_eq!(output.end, End::Exited(0), "{output:?}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1"), "the write failed inside");
    let size: u64 = lines.next().unwrap().parse().unwrap();
    assert!((8 << 20..=16 << 20).contains(&size), "{size}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    assert!(!root.path().join("root/fill").exists(), "nothing reached the root directory itself");
}

#[test]
fn a_sandbox_with_a_layer_can_be_written() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    std::fs::set_permissions(root.path().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let builder = root.shell("echo new > /tmp/file && cat /tmp/file").sandbox().limits_best_effort(true);
    assert!(!builder.run().unwrap().success());
    assert_eq!(builder.writable_memory(1 << 20).run().unwrap().stdout, b"new\n");
}

#[test]
fn changes_are_listed() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for name in ["touched", "rewritten", "deleted", "replaced", "kept"] {
        std::fs::create_dir_all(root.path().join("srv/inner")).unwrap();
        std::fs::write(root.path().join("srv").join(name), "before").unwrap();
    }
    let script = "cd /srv; chmod 600 touched; printf before > rewritten; rm deleted replaced; mkdir replaced;
        : > replaced/file; rm -r inner; mkdir inner; echo > inner/new; cat kept; echo done; read x";
    let mut container = root
        .shell(script)
        .writable_memory(4 << 20)
        .tmpfs("/tmp", 1 << 20)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(container.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "beforedone");
    let expected: Vec<_> = [
        ("/srv/deleted", ChangeKind::Deleted),
        ("/srv/inner/new", ChangeKind::Added),
        ("/srv/replaced", ChangeKind::Modified),
        ("/srv/replaced/file", ChangeKind::Added),
        ("/srv/rewritten", ChangeKind::Modified),
        ("/srv/touched", ChangeKind::Modified),
    ]
    .map(|(path, kind)| (PathBuf::from(path), kind))
    .into();
    let listed = |container: &container_core::Container| {
        let changes = container.changes().unwrap();
        changes.into_iter().map(|change| (change.path, change.kind)).collect::<Vec<_>>()
    };
    assert_eq!(listed(&container), expected, "while it runs");
    container.wait().unwrap();
    assert_eq!(listed(&container), expected, "and when it has ended");

    let plain = root.command(&["sleep", "60"]).spawn().unwrap();
    assert!(matches!(plain.changes(), Err(Error::Unsupported { .. })), "the directory itself is written");
}

#[test]
fn bytes_written_are_told() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let Ok(disk) = tempfile::tempdir_in("/var/tmp") else {
        return fixture::skip("disk", "/var/tmp cannot be written");
    };
    let kind = rustix::fs::statfs(disk.path()).unwrap().f_type;
    if [0x0102_1994, 0x794c_7630].contains(&kind) {
        return fixture::skip("disk", "/var/tmp is on a file system in memory");
    }
    // By two children that were waited for, and by one that the end of the container ends.
    let write = |name: &str| format!("head -c 2000000 /dev/zero > /mnt/{name}");
    let script = format!("{}; ({}; sleep 100) & {}; wait", write("a"), write("b"), write("c"));
    let builder = root.shell(&script).bind(disk.path(), "/mnt").timeout(Duration::from_secs(2));
    let outcome = builder.run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));
    let written = outcome.bytes_written.unwrap();
    assert!((6_000_000..7_000_000).contains(&written), "{outcome:?}");
    // Of a process that has ended the kernel tells nobody but root.
    let outcome = root.command(&["true"]).run().unwrap();
    assert_eq!(outcome.bytes_written, fixture::is_root().then_some(0));
}

#[test]
fn cpu_time_and_processes_without_a_control_group() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let builder = root.shell("(while :; do :; done) & while :; do :; done").no_cgroup(true);
    let outcome =
        builder.clone().cpu_time(Duration::from_millis(300)).timeout(Duration::from_secs(60)).run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Cpu));
    let used = outcome.cpu_time.unwrap();
    assert!(used >= Duration::from_millis(300) && used < Duration::from_secs(3), "{used:?}");
    let container = builder.spawn().unwrap();
    fixture::until("both run", Duration::from_secs(10), || container.processes().unwrap().len() == 2);
}

#[test]
fn h25_a_layer_on_disk_has_its_size() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let builder =
        root.shell("head -c 64000000 /dev/zero > /root/fill; echo $?; sleep 60").disk_limit(32 << 20);
    let mut container = match builder.stdout(container_core::Stdio::piped()).spawn() {
        Ok(container) => container,
        Err(Error::Unsupported { remedy, .. }) if !fixture::is_root() => {
            return assert!(remedy.contains("writable_memory"));
        }
        Err(Error::Unsupported { remedy, .. }) => return fixture::skip("loop", &remedy),
        Err(other) => panic!("{other:?}"),
    };
    let mut line = String::new();
    let out = container.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "1\n", "the write failed inside");
    let (used, size) = container.layer_usage().unwrap();
    assert!(used > 16 << 20 && size <= 32 << 20, "{used} of {size}");
    container.stop(std::time::Duration::ZERO).unwrap();
    assert!(container.read_file("/root/fill").unwrap().len() as u64 > 16 << 20);
    let changes = container.changes().unwrap();
    let added = |change: &container_core::Change| {
        change.path == Path::new("/root/fill") && change.kind == ChangeKind::Added
    };
    assert!(changes.iter().any(added), "{changes:?}");
    container.remove().unwrap();
    assert!(!root.path().join("root/fill").exists());
}

#[test]
#[ignore = "run by h26 in a program of its own"]
fn with_control_groups_that_cannot_be_written() {
    let root = Root { directory: tempfile::tempdir_in(std::env::var_os("TEST_SCRATCH").unwrap()).unwrap() };
    root.fill();
    assert_eq!(root.command(&["true"]).run().unwrap().end, End::Exited(0));
    match root.command(&["true"]).memory(64 << 20).run() {
        Err(Error::Limit { limit, reason, .. }) => {
            assert!(limit.contains("memory"), "{limit}: {reason}");
            assert!(
                format!("{limit}: {reason}").contains("cgroup file system is read-only"),
                "{limit}: {reason}"
            );
        }
        other => panic!("{other:?}"),
    }
    let outcome = root.command(&["true"]).memory(64 << 20).limits_best_effort(true).run().unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.skipped_limits.iter().any(|limit| limit.starts_with("memory")), "{outcome:?}");
    let host = container_core::Host::probe().unwrap();
    let why = host.verdict(container_core::Feature::MemoryLimit).obstacle().unwrap();
    assert!(why.contains("read-only"), "{why}");
}

/// As in a container of Docker without privileges: the cgroup file systems are there and read-only.
#[test]
fn h26_control_groups_are_read_only() {
    if !fixture::containers() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let remount =
        "grep cgroup /proc/self/mounts | while read a at b; do mount -o remount,bind,ro $at || exit 9; done
        exec \"$@\"";
    let inner = fixture::program("with_control_groups_that_cannot_be_written");
    let mut unshare = std::process::Command::new("unshare");
    // An ordinary user becomes root of a user namespace of its own for it.
    unshare.args(if fixture::is_root() { &["-m"][..] } else { &["-U", "-r", "-m"] });
    unshare.args(["sh", "-c", remount, "sh"]).arg(inner.get_program()).args(inner.get_args());
    let output = unshare.env("TEST_SCRATCH", scratch.path()).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(9) {
        return fixture::skip("mount", "the cgroup file systems cannot be made read-only here");
    }
    assert!(output.status.success(), "{text}");
}

#[test]
fn h26_without_limits_no_control_group_is_needed() {
    if !fixture::containers() || fixture::is_root() {
        return fixture::skip("user", "this is about an ordinary user without delegation");
    }
    let root = Root::new();
    assert_eq!(root.command(&["true"]).run().unwrap().end, End::Exited(0));
    match root.command(&["true"]).memory(64 << 20).run() {
        Ok(_) => return fixture::skip("no-delegation", "control groups are delegated to this user"),
        Err(Error::Limit { limit, reason, .. }) => {
            assert!(limit.contains("memory"), "{limit}: {reason}");
        }
        Err(other) => panic!("{other:?}"),
    }
    let outcome = root.command(&["true"]).memory(64 << 20).limits_best_effort(true).run().unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.skipped_limits.iter().any(|limit| limit.starts_with("memory")), "{outcome:?}");
}
