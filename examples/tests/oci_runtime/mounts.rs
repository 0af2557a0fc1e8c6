//! A container without a mount namespace of its own has its root mounted in the caller's: that mount goes away with it, and no
//! other does. And what a container with one sees of its mounts.

use std::process::Command;

use serde_json::json;

use crate::support::{Sandbox, is_root, runtime, skip};

/// Runs a shell script in a mount namespace of its own, with `$RT`, `$ROOT` (the root directory, on which the client has a mount)
/// and a function `count` that says how many mounts there are on it.
fn script(text: &str, change: impl FnOnce(&mut serde_json::Value)) {
    if !is_root() {
        return skip("root", "mounting in the caller's namespace takes root");
    }
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.configure(&["sleep", "1000"], |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
        change(config);
    });
    let prelude = r#"set -eu
        mount --bind "$ROOT" "$ROOT"
        count() { awk -v at="$ROOT" '$5 == at' /proc/self/mountinfo | wc -l; }
        is() { n=$(count); [ "$n" = "$1" ] || { echo "$2: $n mounts"; exit 1; }; }
        is 1 "the client's own mount"
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{prelude}{text}")])
        .env("ROOT", sandbox.rootfs())
        .env("RT", format!("{} --root {}", runtime().display(), sandbox.state().display()))
        .current_dir(sandbox.bundle())
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    sandbox.assert_clean("after the script");
}

#[test]
fn delete_takes_its_own_mount_only() {
    script(
        r#"$RT create c </dev/null >/dev/null 2>&1; is 2 "created"
           $RT start c; is 2 "started"
           $RT delete --force c; is 1 "deleted"
           $RT run --detach c </dev/null >/dev/null 2>&1; is 2 "run"
           $RT kill c KILL; while ! $RT delete c 2>/dev/null; do :; done; is 1 "deleted again""#,
        |_| {},
    );
}

#[test]
fn what_covers_the_root_is_left_alone() {
    script(
        r#"$RT create c </dev/null >/dev/null 2>&1; is 2 "created"
           mount --bind "$ROOT" "$ROOT"; is 3 "covered"
           $RT delete --force c; is 3 "deleted""#,
        |_| {},
    );
}

#[test]
fn a_failed_start_leaves_the_clients_mount() {
    script(
        r#"! $RT create c </dev/null 2>/dev/null; is 1 "create failed"
           ! $RT run c </dev/null 2>/dev/null; is 1 "run failed""#,
        |config| config["process"]["args"] = serde_json::json!(["/no/such/program"]),
    );
}

#[test]
fn a_failed_mount_leaves_the_clients_mount() {
    script(
        r#"! $RT create c </dev/null 2>/dev/null; is 1 "create failed"
           ! $RT run c </dev/null 2>/dev/null; is 1 "run failed""#,
        |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(serde_json::json!({ "destination": "/tmp", "type": "no-such-type", "source": "x" }));
        },
    );
}

#[test]
fn a_killed_creator_leaves_the_clients_mount() {
    script(
        r#"for ms in 01 02 03 04 05 06 07 08 09 10 12 14 16 18 20 25 30 40; do
             timeout -s KILL 0.0$ms $RT create c$ms </dev/null >/dev/null 2>&1 || true
             $RT delete --force c$ms; is 1 "killed after $ms ms"
           done"#,
        |_| {},
    );
}

/// Tools take the last line of a path for the mount that is seen.
#[test]
fn mountinfo_lists_mounts_in_the_order_of_the_configuration() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !is_root() {
        return skip("root", "in a user namespace the host's mounts come first");
    }
    let host = sandbox.bundle().join("shared");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    sandbox.configure(&["cat", "/proc/self/mountinfo"], |config| {
        let bind = |to: &str| json!({ "destination": to, "source": host, "options": ["bind", "ro"] });
        let tmpfs = |to: &str| json!({ "destination": to, "type": "tmpfs", "source": "tmpfs" });
        config["mounts"].as_array_mut().unwrap().extend([
            bind("/b1"),
            json!({ "destination": "/b2", "source": host.join("file"), "options": ["bind"] }),
            tmpfs("/t1"),
            bind("/t1/b3"),
            tmpfs("/b1/../t2"),
            tmpfs("/over"),
            bind("/over"),
        ]);
    });
    let text = sandbox.ok(&["run", "c"]);
    let places: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert_eq!(places, ["/", "/proc", "/b1", "/b2", "/t1", "/t1/b3", "/t2", "/over", "/over"]);
    assert!(text.lines().last().unwrap().contains("/shared /over ro"), "{text}");

    sandbox.configure(&["cat", "/b2"], |config| {
        let missing = json!({ "destination": "/b2", "source": "/nothing/there", "options": ["bind"] });
        config["mounts"].as_array_mut().unwrap().push(missing);
    });
    let words = sandbox.refused(&["run", "c"]);
    assert!(words.contains("open /nothing/there: no such file or directory"), "{words}");
    sandbox.assert_clean("in the end");
}
