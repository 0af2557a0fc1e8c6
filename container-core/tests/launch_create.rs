//! create and start are two moments, and the second may be another process's.

mod common;

use std::os::fd::AsFd;
use std::path::Path;

use common::{Bundle, captured, config, extras, read_all, wait};
use container_core::launch::{self, Gate, Target};
use container_core::oci_spec::runtime::Spec;
use container_core::plan::{Facts, Plan};
use serde_json::{Value, json};

fn spec(value: &Value) -> Spec {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn a_held_container_starts_when_told() {
    let Some(bundle) = Bundle::new() else { return };
    let plan = common::plan(&bundle, &config("echo started; exit 3")).unwrap();
    let (io, output) = captured();
    let created = launch::create(&plan, io, Gate::Held).unwrap();
    let command = std::fs::read_to_string(format!("/proc/{}/comm", created.pid)).unwrap();
    assert_ne!(command, "sh\n", "it waits");
    let running = created.start().unwrap();
    assert_eq!(read_all(output), "started\n");
    assert_eq!(wait(&running.pidfd), 3);
    if let Some(cgroup) = running.cgroup {
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_container_at_a_socket_is_started_from_anywhere() {
    let Some(bundle) = Bundle::new() else { return };
    let log = bundle.root().join("tmp/log");
    let mut value = config("echo command >>/tmp/log; sleep 100");
    let hook = |word: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >/dev/null; echo {word} >>{}", log.display())]}]);
    value["hooks"] = json!({
        "prestart": hook("prestart"),
        "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/tmp/state; echo startContainer $$ >>/tmp/log"]}],
    });
    let spec = spec(&value);
    let extras = extras(&bundle);
    let plan = Plan::new(&spec, &extras, &Facts::gather().unwrap()).unwrap();
    let (io, _output) = captured();
    // Deeper than a socket's path may be.
    let gate = bundle.path().join("x".repeat(120)).join("gate");
    std::fs::create_dir(gate.parent().unwrap()).unwrap();
    let mut created = launch::create(&plan, io, Gate::Socket(gate.clone())).unwrap();
    created.detach().unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "prestart\ncreateRuntime\ncreateContainer\n");
    let target = Target { pidfd: created.pidfd.as_fd(), pid: created.pid, cgroup: None };
    launch::release(&gate, &target, &spec, &extras).unwrap();
    for _ in 0..500 {
        if std::fs::read_to_string(&log).unwrap().ends_with("command\n") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let text = std::fs::read_to_string(&log).unwrap();
    let pid = text.split("startContainer ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    assert!(pid.parse::<u32>().unwrap() < 20, "in the container's pid namespace: {text}");
    let state: Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.root().join("tmp/state")).unwrap()).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], created.pid);

    // One more process, in every namespace of the first.
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let process: Value = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c",
        "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; ls /proc/self/fd | wc -l; cat /etc/motd"],
        "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true});
    let process = serde_json::from_value(process).unwrap();
    let plan = Plan::exec(&process, &spec, &extras, &Facts::gather().unwrap()).unwrap();
    let (io, output) = captured();
    let target = Target { pidfd: created.pidfd.as_fd(), pid: created.pid, cgroup: created.cgroup.as_ref() };
    let running = launch::exec(&target, &plan, io).unwrap();
    let text = read_all(output);
    assert_eq!(wait(&running.pidfd), 0, "{text}");
    let link = |kind: &&str| std::fs::read_link(format!("/proc/{}/ns/{kind}", created.pid)).unwrap();
    let wanted: Vec<String> = kinds.iter().map(|kind| format!("{}\n", link(kind).display())).collect();
    assert_eq!(text, format!("{}4\nfrom the image\n", wanted.concat()));

    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["nothing-like-it"], "cwd": "/"});
    let process = serde_json::from_value(process).unwrap();
    let plan = Plan::exec(&process, &spec, &extras, &Facts::gather().unwrap()).unwrap();
    let error = launch::exec(&target, &plan, captured().0).unwrap_err();
    assert_eq!(error.to_string(), "exec nothing-like-it");

    rustix::process::pidfd_send_signal(&created.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&created.pidfd), -9);
    if let Some(cgroup) = &created.cgroup {
        cgroup.remove().unwrap();
    }
    let target = Target { pidfd: created.pidfd.as_fd(), pid: created.pid, cgroup: None };
    assert!(launch::release(&gate, &target, &spec, &extras).is_err());
}

#[test]
fn a_missing_command_fails_at_create() {
    let Some(bundle) = Bundle::new() else { return };
    let mut value = config("");
    value["process"]["args"] = json!(["nope"]);
    let plan = common::plan(&bundle, &value).unwrap();
    let gate = bundle.path().join("gate");
    let error = launch::create(&plan, captured().0, Gate::Socket(gate.clone())).unwrap_err();
    assert_eq!(error.to_string(), "exec nope");
    assert!(!gate.exists());
    let _: &Path = &gate;
}

/// Whoever is killed before others can find the container takes it along.
#[test]
fn a_container_at_a_socket_that_is_not_detached_ends_with_its_creator() {
    let Some(bundle) = Bundle::new() else { return };
    let plan = common::plan(&bundle, &config("touch /tmp/ran")).unwrap();
    let mut created = launch::create(&plan, captured().0, Gate::Socket(bundle.path().join("gate"))).unwrap();
    let pidfd = created.pidfd.try_clone().unwrap();
    let group = created.cgroup.take();
    drop(created);
    assert_eq!(wait(&pidfd), 127);
    assert!(!bundle.root().join("tmp/ran").exists());
    group.iter().for_each(|group| group.remove().unwrap());
}

#[test]
fn a_failing_hook_ends_the_container() {
    let Some(bundle) = Bundle::new() else { return };
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let mut value = config("touch /tmp/ran");
        let path = "/bin/false";
        value["hooks"] = json!({kind: [{"path": path}]});
        let error = common::run(&bundle, &value).unwrap_err();
        assert!(error.to_string().contains(kind), "{error}");
        assert!(!bundle.root().join("tmp/ran").exists());
    }
}
