//! What single fields of a configuration do to the container.

use std::process::Command;

use serde_json::json;

use crate::support::{Sandbox, is_root, skip};

/// Runs the container and returns what it printed.
fn printed(sandbox: &Sandbox) -> String {
    sandbox.ok(&["run", "c"])
}

#[test]
fn an_empty_home_is_looked_up_whatever_came_before() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.configure(&["sh", "-c", "echo $HOME"], |config| {
        config["process"]["env"] = json!(["PATH=/bin", "HOME=/override", "HOME="]);
    });
    // There is no /etc/passwd in here.
    assert_eq!(printed(&sandbox).trim_end(), "/");
    std::fs::create_dir(sandbox.rootfs().join("etc")).unwrap();
    std::fs::write(sandbox.rootfs().join("etc/passwd"), "root:x:0:0::/home/of/root:/bin/sh\n").unwrap();
    assert_eq!(printed(&sandbox).trim_end(), "/home/of/root");
}

/// The set-up has more files open than the container may have.
#[test]
fn few_open_files_are_enough_for_the_container() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.configure(&["sh", "-c", "ulimit -n"], |config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 10 }]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        for number in 0..20 {
            let destination = format!("/tmp/{number}");
            mounts.push(json!({ "destination": destination, "source": "/bin", "options": ["rbind"] }));
        }
    });
    assert_eq!(printed(&sandbox).trim_end(), "10");
}

#[test]
fn a_read_only_dev_may_have_a_terminal() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.configure(&["sh", "-c", "echo here >/dev/tty; ! echo >/dev/file"], |config| {
        config["process"]["terminal"] = true.into();
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/dev", "type": "tmpfs", "options": ["ro"] }));
        let devpts = json!({ "destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"] });
        mounts.push(devpts);
    });
    let text = printed(&sandbox);
    assert!(text.contains("here") && text.contains("Read-only"), "{text}");
}

/// As mount(8) does when it remounts: naming one flag means all of them.
#[test]
fn a_named_flag_of_a_bind_mount_stands_for_all() {
    if !is_root() {
        return skip("root", "mounting takes root");
    }
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.configure(&["sh", "-c", "cat /proc/self/mounts"], |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (name, options) in
            [("none", json!(["bind"])), ("dev", json!(["bind", "dev"])), ("ro", json!(["bind", "ro"]))]
        {
            mounts.push(
                json!({ "destination": format!("/tmp/{name}"), "source": "source", "options": options }),
            );
        }
    });
    std::fs::create_dir(sandbox.bundle().join("source")).unwrap();
    let script = format!(
        "mount -t tmpfs none source && mount --bind -o remount,nosuid,noexec source && exec {} --root {} run c",
        crate::support::runtime().display(),
        sandbox.state().display()
    );
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(sandbox.bundle())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let flags = |name: &str| {
        let line = text.lines().find(|line| line.split(' ').nth(1) == Some(name)).unwrap_or_default();
        line.split(' ').nth(3).unwrap_or_default().to_owned()
    };
    assert_eq!(flags("/tmp/none"), "rw,nosuid,noexec,relatime", "{text}");
    assert_eq!(flags("/tmp/dev"), "rw,relatime");
    assert_eq!(flags("/tmp/ro"), "ro,relatime");
}

/// A source in the root directory is what the mounts before made of it, as it is for the container.
#[test]
fn a_bind_mount_sees_what_was_mounted_before() {
    let Some(sandbox) = Sandbox::new() else { return };
    let source = sandbox.bundle().join("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/file"), "from the source\n").unwrap();
    let inside = |path: &str| sandbox.rootfs().join(path).display().to_string();
    sandbox.configure(&["cat", "/final/deep/file"], |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/tmp", "type": "tmpfs" }));
        mounts.push(json!({ "destination": "/tmp/deep", "source": source.join("sub"), "options": ["bind"] }));
        // By the path on the host, on both sides.
        mounts.push(json!({ "destination": inside("final"), "source": inside("tmp"), "options": ["rbind"] }));
    });
    assert_eq!(printed(&sandbox), "from the source\n");
}

#[test]
fn what_is_wrong_with_a_memory_policy_is_named() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (policy, complaint) in [
        (json!({}), "invalid memory policy mode null"),
        (json!({ "mode": "INTERLEAVE" }), "invalid memory policy mode \"INTERLEAVE\""),
        (json!({ "mode": "MPOL_BIND", "flags": ["x"] }), "invalid memory policy flag \"x\""),
        (json!({ "mode": "MPOL_BIND", "nodes": "0-9876543210" }), "invalid memory policy nodes"),
        (json!({ "mode": "MPOL_DEFAULT", "nodes": "0-7" }), "requires 0 nodes but got 8"),
    ] {
        sandbox.configure(&["true"], |config| config["linux"]["memoryPolicy"] = policy);
        let text = sandbox.refused(&["run", "c"]);
        assert!(text.contains(complaint), "{text}");
    }
    sandbox.assert_clean("after refusals");
}

#[test]
fn groups_can_be_kept() {
    if !is_root() {
        return skip("root", "setting groups takes root");
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let run = |annotations: serde_json::Value| {
        sandbox.configure(&["sh", "-c", "grep ^Groups: /proc/self/status"], |config| {
            config["annotations"] = annotations;
        });
        let runtime = crate::support::runtime();
        let output = Command::new("setpriv")
            .args(["--groups", "7,8"])
            .arg(runtime)
            .arg("--root")
            .arg(sandbox.state())
            .args(["run", "c"])
            .current_dir(sandbox.bundle())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    std::os::unix::fs::symlink("busybox", sandbox.rootfs().join("bin/grep")).unwrap();
    assert_eq!(run(json!({})).split_whitespace().collect::<Vec<_>>(), ["Groups:"]);
    let kept = run(json!({ "run.oci.keep_original_groups": "1" }));
    assert_eq!(kept.split_whitespace().collect::<Vec<_>>(), ["Groups:", "7", "8"]);
}
