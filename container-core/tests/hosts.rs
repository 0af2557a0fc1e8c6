//! Hosts and programs of every kind (LC-H27, H28, H42).

mod fixture;

use std::process::Command;

use container_core::oci_spec::runtime::{
    LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator,
    LinuxSyscall, LinuxSyscallBuilder,
};
use container_core::{Container, Error, Feature, Host};
use fixture::Root;

#[test]
#[ignore = "run by h27 in a program of its own"]
fn without_user_namespaces() {
    let setting = std::env::var("TEST_SETTING").unwrap();
    let host = Host::probe().unwrap();
    let why = host.verdict(Feature::Containers).obstacle().expect("the probe says so").to_owned();
    assert!(why.contains(&setting), "{why}");
    let root = Root { directory: tempfile::tempdir_in(std::env::var_os("TEST_SCRATCH").unwrap()).unwrap() };
    root.fill();
    match root.command(&["true"]).run() {
        Err(Error::UserNamespacesForbidden { setting: named, file }) => {
            assert!(named.contains(&setting), "{named}");
            assert!(file.exists(), "{}", file.display());
        }
        other => panic!("{other:?}"),
    }
}

/// A user whose namespace allows no further ones: the setting is one of each user namespace, so that a test can have it.
#[test]
fn h27_no_user_namespaces_are_left() {
    if !fixture::containers() {
        return;
    }
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces || exit 9
        exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs \"$@\"";
    under("max_user_namespaces=0", forbid);
}

/// The program itself runs under a filter that refuses CLONE_NEWUSER, as in a container of somebody else's.
#[test]
fn h27_a_filter_forbids_them() {
    if !fixture::containers() {
        return;
    }
    let new_user = |name: &str| {
        let argument =
            LinuxSeccompArgBuilder::default().index(0usize).value(CLONE_NEWUSER).value_two(CLONE_NEWUSER);
        let argument = argument.op(LinuxSeccompOperator::ScmpCmpMaskedEq).build().unwrap();
        refuse(name, libc::EPERM, vec![argument])
    };
    let profile = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .syscalls([new_user("clone"), new_user("unshare"), refuse("clone3", libc::ENOSYS, Vec::new())])
        .build()
        .unwrap();
    let root = Root::new();
    fixture::executable(&root, "tmp/program", &std::fs::read(std::env::current_exe().unwrap()).unwrap());
    let output = root
        .command(&["/tmp/program", "--exact", "without_user_namespaces", "--ignored", "--nocapture"])
        .env("TEST_SETTING", "seccomp filter")
        .env("TEST_SCRATCH", "/tmp")
        .capabilities([])
        .seccomp(profile)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

fn refuse(name: &str, errno: i32, arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let rule =
        LinuxSyscallBuilder::default().names([name.to_owned()]).action(LinuxSeccompAction::ScmpActErrno);
    rule.errno_ret(errno as u32).args(arguments).build().unwrap()
}

fn under(setting: &str, forbid: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let inner = fixture::program("without_user_namespaces");
    let mut unshare = Command::new("unshare");
    unshare.args(["-U", "-r", "sh", "-c", forbid, "sh"]).arg(inner.get_program()).args(inner.get_args());
    unshare.env("TEST_SETTING", setting).env("TEST_SCRATCH", scratch.path());
    let output = unshare.output().unwrap();
    if output.status.code() == Some(9) {
        return fixture::skip("userns", "the setting cannot be changed here");
    }
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "run by the_probe_and_the_start_agree in a program of its own"]
fn probe_and_start() {
    let word = std::env::var("TEST_OBSTACLE").unwrap();
    let host = Host::probe().unwrap();
    let obstacle = host.verdict(Feature::Containers).obstacle();
    let root = Root { directory: tempfile::tempdir_in(std::env::var_os("TEST_SCRATCH").unwrap()).unwrap() };
    root.fill();
    match (obstacle, root.command(&["true"]).run()) {
        (None, Ok(output)) => assert!(output.status.success() && word.is_empty(), "{output:?}"),
        (Some(why), Err(error)) => {
            assert!(!word.is_empty() && why.contains(&word), "{why}");
            assert!(error.to_string().contains(&word), "{error}");
        }
        (obstacle, result) => panic!("the probe: {obstacle:?}, the start: {result:?}"),
    }
    let ids = host.verdict(Feature::SubordinateIds);
    assert!(ids.obstacle().is_some(), "there is one id to map: {ids:?}");
}

/// The host program is root of a user namespace of its own, with one id.
#[test]
fn the_probe_and_the_start_agree() {
    if !fixture::containers() {
        return;
    }
    let nothing_in_the_way = "exec \"$@\"";
    let parts_of_proc_covered = "mount -t tmpfs none /proc/tty || exit 9; exec unshare -U -r -m \"$@\"";
    let root_without_rights =
        "exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs \"$@\"";
    for (word, way) in
        [("", nothing_in_the_way), ("/proc/tty", parts_of_proc_covered), ("CAP_SETFCAP", root_without_rights)]
    {
        let scratch = tempfile::tempdir().unwrap();
        let inner = fixture::program("probe_and_start");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-U", "-r", "-m", "sh", "-c", way, "sh"])
            .arg(inner.get_program())
            .args(inner.get_args());
        let output = unshare.env("TEST_OBSTACLE", word).env("TEST_SCRATCH", scratch.path()).output().unwrap();
        if output.status.code() == Some(9) {
            fixture::skip("userns", "nothing can be mounted in /proc here");
            continue;
        }
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{way}: {text}");
    }
}

/// Without newuidmap: one id is always to be had, and the probe names what is missing for more (LC-H28).
#[test]
fn h28_one_id_needs_no_helpers() {
    if !fixture::containers() || fixture::is_root() {
        return fixture::skip("user", "this is about an ordinary user");
    }
    let output = fixture::program("one_id").env("PATH", "/nonexistent").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
#[ignore = "run by h28 in a program of its own"]
fn one_id() {
    let host = Host::probe().unwrap();
    let why = host.verdict(Feature::SubordinateIds).obstacle().unwrap();
    assert!(why.contains("newuidmap is not installed (package uidmap)"), "{why}");
    let root = Root::new();
    let output = root.command(&["/bin/sh", "-c", "/usr/bin/id -u"]).user("1000").output().unwrap();
    assert_eq!(output.stdout, b"1000\n", "{output:?}");
}

#[test]
#[ignore = "run by h42 in a program of its own"]
fn plain_host_program() {
    let root = std::env::args().skip_while(|word| word != "--skip").nth(1).unwrap();
    let status =
        fixture::with_tools(Container::builder().rootfs(root)).command(["/bin/true"]).status().unwrap();
    assert!(status.success());
}

/// Nothing but the builder: no environment, no standard streams, nothing in the working directory, and not a word (LC-H42).
#[test]
fn h42_a_plain_program_on_a_plain_host() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let mut program = fixture::program("plain_host_program");
    // The one word it needs goes in as a filter that matches no test: there is no environment to put it into.
    program.arg("--skip").arg(root.path()).env_clear().current_dir("/");
    let output = program.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "the library says nothing by itself");
}
