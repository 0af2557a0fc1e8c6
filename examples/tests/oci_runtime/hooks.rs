//! Hooks that run inside the container.

use serde_json::{Value, json};

use crate::support::{Sandbox, eventually, is_root};

/// They are found among the container's own files: an image must not get a right by them that its command has not.
#[test]
fn a_start_container_hook_has_no_right_that_the_command_has_not() {
    let Some(sandbox) = Sandbox::new() else { return };
    std::os::unix::fs::symlink("busybox", sandbox.rootfs().join("bin/grep")).unwrap();
    let marks = "^(Cap(Prm|Eff|Bnd|Inh)|NoNewPrivs|Seccomp|Uid|Groups):";
    let report =
        format!("grep -E '{marks}' /proc/self/status; ulimit -n; pwd; cat /proc/self/cgroup; echo $WORD");
    let configure = |config: &mut Value| {
        let script = format!("{{ {report}; }} >/tmp/hook; cat >>/tmp/state");
        config["hooks"] = json!({ "startContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
        config["process"]["capabilities"] =
            json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"] });
        config["process"]["noNewPrivileges"] = true.into();
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 77 }]);
        config["process"]["cwd"] = "/tmp".into();
        config["process"]["env"] = json!(["PATH=/bin", "WORD=shared"]);
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }] });
        if is_root() {
            config["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9] });
        }
    };
    sandbox.configure(&["sh", "-c", &format!("{{ {report}; }} >/tmp/command")], configure);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(sandbox.rootfs().join("tmp"), open).unwrap();
    let text = |name: &str| std::fs::read_to_string(sandbox.rootfs().join("tmp").join(name)).unwrap();

    for both in [&["run", "c"][..], &["create", "c"][..]] {
        sandbox.ok(both);
        if both[0] == "create" {
            sandbox.ok(&["start", "c"]);
            assert!(eventually(|| sandbox.status("c") == "stopped"));
            sandbox.ok(&["delete", "c"]);
        }
        assert_eq!(text("hook"), text("command"), "{both:?}");
        assert!(text("hook").contains("NoNewPrivs:\t1"), "{}", text("hook"));
        let state: Value = serde_json::from_str(&text("state")).unwrap();
        assert_eq!(state["id"], "c");
        for name in ["hook", "command", "state"] {
            std::fs::remove_file(sandbox.rootfs().join("tmp").join(name)).unwrap();
        }
    }
    sandbox.assert_clean("in the end");
}

#[test]
fn a_start_container_hook_that_the_filter_kills_is_a_failure() {
    let Some(sandbox) = Sandbox::new() else { return };
    std::os::unix::fs::symlink("busybox", sandbox.rootfs().join("bin/mkdir")).unwrap();
    sandbox.configure(&["true"], |config| {
        config["hooks"] =
            json!({ "startContainer": [{ "path": "/bin/mkdir", "args": ["mkdir", "/tmp/made"] }] });
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }] });
    });
    let words = sandbox.refused(&["run", "c"]);
    assert!(words.contains("startContainer hook"), "{words}");
    assert!(!sandbox.rootfs().join("tmp/made").exists());
    sandbox.assert_clean("after the failure");
}
