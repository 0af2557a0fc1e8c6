//! One container's life, seen from the command line.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Sandbox, eventually, runtime};

#[test]
fn checkpoint_is_refused_clearly() {
    let output = Command::new(runtime()).args(["checkpoint", "some-id"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("error: checkpoint is not supported"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn from_create_to_delete() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["create", "c"]);
    assert_eq!(sandbox.status("c"), "created");
    assert!(sandbox.refused(&["create", "c"]).contains("already exists"));
    sandbox.ok(&["start", "c"]);
    assert_eq!(sandbox.status("c"), "running");
    assert!(sandbox.refused(&["start", "c"]).contains("already running"));
    assert!(sandbox.refused(&["delete", "c"]).contains("not stopped"));
    assert_eq!(sandbox.ok(&["exec", "c", "echo", "here"]), "here\n");
    sandbox.ok(&["kill", "c", "KILL"]);
    assert!(eventually(|| sandbox.status("c") == "stopped"));
    assert!(sandbox.refused(&["kill", "c", "TERM"]).contains("container not running"));
    sandbox.ok(&["delete", "c"]);
    assert!(sandbox.refused(&["state", "c"]).contains("does not exist"));
    sandbox.assert_clean("after delete");
}

#[test]
fn a_waiting_container_outlives_its_creator() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["create", "c"]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(sandbox.status("c"), "created");
    sandbox.ok(&["delete", "c"]);
    sandbox.assert_clean("after delete");
}

/// Its first process is the first of a pid namespace, which the kernel's own action for a signal passes by.
#[test]
fn a_waiting_container_hears_that_it_is_to_end() {
    let Some(sandbox) = Sandbox::new() else { return };
    for signal in ["TERM", "INT", "HUP"] {
        sandbox.ok(&["create", "c"]);
        sandbox.ok(&["kill", "c", signal]);
        assert!(eventually(|| sandbox.status("c") == "stopped"), "{signal}");
        sandbox.ok(&["delete", "c"]);
    }
    sandbox.configure(&["sh", "-c", "grep ^SigBlk /proc/self/status"], |_| {});
    std::os::unix::fs::symlink("busybox", sandbox.rootfs().join("bin/grep")).unwrap();
    assert_eq!(sandbox.ok(&["run", "c"]), "SigBlk:\t0000000000000000\n");
    sandbox.configure(&["sh", "-c", "grep ^SigBlk /proc/self/status >/result"], |_| {});
    sandbox.ok(&["create", "c"]);
    sandbox.ok(&["start", "c"]);
    assert!(eventually(|| sandbox.status("c") == "stopped"));
    let blocked = std::fs::read_to_string(sandbox.rootfs().join("result")).unwrap();
    assert_eq!(blocked, "SigBlk:\t0000000000000000\n");
    sandbox.ok(&["delete", "c"]);
    sandbox.assert_clean("in the end");
}

/// The container closes its terminal and goes on: the relay has nothing to do, and does nothing.
#[test]
fn a_terminal_that_hung_up_costs_no_time() {
    let Some(sandbox) = Sandbox::new() else { return };
    let script = "exec <&- >&- 2>&-; sleep 1000";
    sandbox.configure(&["sh", "-c", script], |config| {
        config["process"]["terminal"] = true.into();
        let devpts = serde_json::json!({ "destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"] });
        config["mounts"].as_array_mut().unwrap().push(devpts);
    });
    let mut child =
        sandbox.command(["run", "c"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(eventually(|| sandbox.call(&["state", "c"]).status.success()), "it starts");
    let settled = eventually(|| {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", sandbox.pid("c")));
        descriptors.is_ok_and(|fds| fds.count() == 0)
    });
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(600));
    let spent = ticks() - before;
    sandbox.ok(&["delete", "--force", "c"]);
    child.wait().unwrap();
    assert!(settled, "the container closed its terminal");
    assert!(spent < 20, "{spent} hundredths of a second of processor time in 0.6 s");
}
