//! Limits on what a container writes, and what is said about them (LC-H25, H26).

mod fixture;

use container_core::{End, Error};
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
    container.remove().unwrap();
    assert!(!root.path().join("root/fill").exists());
}

#[test]
fn h26_without_limits_no_control_group_is_needed() {
    if !fixture::containers() || fixture::is_root() {
        return fixture::skip("user", "this is about an ordinary user without delegation");
    }
    let root = Root::new();
    assert_eq!(root.command(&["true"]).run().unwrap().end, End::Exited(0));
    match root.command(&["true"]).memory(64 << 20).run() {
        Ok(_) => fixture::skip("no-delegation", "control groups are delegated to this user"),
        Err(Error::Limit { limit, reason, .. }) => {
            assert!(limit.contains("memory"), "{limit}: {reason}");
        }
        Err(other) => panic!("{other:?}"),
    }
    let outcome = root.command(&["true"]).memory(64 << 20).limits_best_effort(true).run().unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.skipped_limits.iter().any(|limit| limit.starts_with("memory")), "{outcome:?}");
}
