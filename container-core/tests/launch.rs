//! A spec runs as it says: what the command sees of its world.

mod common;

use std::path::PathBuf;

use common::{Bundle, config, run, script};
use container_core::Error;
use container_core::plan::{Extras, Facts, Plan};
use serde_json::json;

#[test]
fn the_command_is_alone_in_its_world() {
    let Some(text) = script(
        "echo pid $$; hostname; id -u; pwd; echo home $HOME; cat /etc/motd; ls /; \
         cat /proc/self/mountinfo | wc -l; ls -l /proc/self/fd; ip link; cat /proc/self/status",
    ) else {
        return;
    };
    println!("{text}");
    assert!(text.contains("pid 1\n"), "{text}");
    assert!(text.contains("case\n"), "{text}");
    assert!(text.contains("from the image\n"));
    assert!(text.contains("home /root\n"));
    assert!(text.contains("NoNewPrivs:\t1"));
    assert!(text.contains("LOOPBACK,UP"), "{text}");
}

#[test]
fn the_exit_status_is_the_commands() {
    let Some(bundle) = Bundle::new() else { return };
    assert_eq!(run(&bundle, &config("exit 7")).unwrap().status, 7);
    assert_eq!(run(&bundle, &config("kill -TERM $$; sleep 1")).unwrap().status, 0);
    assert_eq!(run(&bundle, &config("kill -KILL $$")).unwrap().status, 0);
}

#[test]
fn a_missing_command_is_an_error_that_names_it() {
    let Some(bundle) = Bundle::new() else { return };
    let mut spec = config("");
    spec["process"]["args"] = json!(["/no/such"]);
    let error = run(&bundle, &spec).unwrap_err();
    assert_eq!(error.to_string(), "exec /no/such");
}

#[test]
fn the_plan_says_what_will_run() {
    let Some(bundle) = Bundle::new() else { return };
    let plan = common::plan(&bundle, &config("true")).unwrap().to_string();
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text}: {plan}"));
    assert!(at("clone into new pid") < at("mount proc on /proc nosuid,nodev,noexec"));
    assert!(at("mount proc") < at("mask /proc/kcore"));
    assert!(at("mask /proc/kcore") < at("enter root"));
    assert!(at("enter root") < at("set capabilities"));
    assert!(at("set no_new_privs") < at("exec /bin/sh -c true"));
}

#[test]
fn identity_limits_and_environment() {
    let Some(bundle) = Bundle::new() else { return };
    let mut spec =
        config("id -u; id -G; umask; ulimit -n; ulimit -Hn; env | sort; pwd; cat /proc/self/oom_score_adj");
    spec["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o27});
    spec["process"]["env"] = json!(["PATH=/bin", "ODD=a=b\nc", "HOME=", "ODD=x=y"]);
    spec["process"]["cwd"] = json!("/made/for/it");
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    spec["process"]["oomScoreAdj"] = json!(500);
    let output = run(&bundle, &spec).unwrap();
    assert!(
        output.text.starts_with("0\n0\n0027\n100\n200\nHOME=/root\nODD=x=y\nPATH=/bin\n"),
        "{}",
        output.text
    );
    assert!(output.text.ends_with("/made/for/it\n500\n"), "{}", output.text);
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_ne!(own.trim(), "500", "the host program's own score stays");
}

#[test]
fn an_ordinary_user_inside() {
    if !common::is_root() {
        return common::skipped("root", "other ids than the own one take root or subordinate ids");
    }
    let Some(bundle) = Bundle::new() else { return };
    let mut spec =
        config("id; cat /proc/self/status | grep Cap; echo $HOME; cat /proc/self/loginuid >/dev/null; tty");
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [10, 10]});
    spec["process"]["capabilities"] = json!({"bounding": ["CAP_NET_BIND_SERVICE"], "permitted": ["CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_NET_BIND_SERVICE"], "inheritable": ["CAP_NET_BIND_SERVICE"], "ambient": ["CAP_NET_BIND_SERVICE"]});
    let text = run(&bundle, &spec).unwrap().text;
    assert!(text.starts_with("uid=1000(app) gid=1000(app) groups=10(extra)"), "{text}");
    assert_eq!(text.matches("0000000000000400").count(), 5, "{text}");
    assert!(text.contains("/home/app"));
}

#[test]
fn a_user_namespace_with_ranges() {
    if !common::is_root() {
        return common::skipped("root", "ranges of ids take root or subordinate ids");
    }
    let Some(bundle) = Bundle::new() else { return };
    for name in ["", "proc", "sys", "dev", "tmp", "etc", "bin", "run", "var"] {
        std::os::unix::fs::chown(bundle.root().join(name), Some(200_000), Some(200_000)).unwrap();
    }
    let mut spec = config(
        "cat /proc/self/uid_map; id -u; touch /tmp/made; echo y >/dev/null; cat /proc/self/setgroups; ls -ln /dev/null",
    );
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}, {"containerID": 1000, "hostID": 300_000, "size": 5}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    let output = run(&bundle, &spec).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("200000       1000\n"), "{}", output.text);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(bundle.root().join("tmp/made")).unwrap().uid(), 200_000);
}

#[test]
fn scripts_run_by_their_interpreter() {
    let Some(bundle) = Bundle::new() else { return };
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(bundle.root().join("bin").join(name), text).unwrap();
        std::fs::set_permissions(
            bundle.root().join("bin").join(name),
            std::fs::Permissions::from_mode(0o755),
        )
        .unwrap();
    };
    script("one", "#!/bin/sh -e\necho $0 $*\n");
    script("two", "#! /bin/one arg ument\n");
    script("broken", "#!/no/interpreter\n");
    let mut spec = config("");
    spec["process"]["args"] = json!(["two", "x", "y"]);
    assert_eq!(run(&bundle, &spec).unwrap().text, "/bin/one arg ument /bin/two x y\n");
    spec["process"]["args"] = json!(["broken"]);
    let error = run(&bundle, &spec).unwrap_err();
    assert!(error.to_string().contains("/no/interpreter"), "{error}");
}

#[test]
fn the_command_keeps_the_name_it_was_called_by() {
    assert_eq!(script("cat /proc/$$/comm; true").as_deref().unwrap_or("sh\n"), "sh\n");
}

#[test]
fn namespaces_are_joined_by_path() {
    if !common::is_root() {
        return common::skipped("root", "the namespaces of another container take rights over them");
    }
    let Some(bundle) = Bundle::new() else { return };
    let plan = common::plan(&bundle, &config("sleep 100")).unwrap();
    let (io, _output) = common::captured();
    let first = container_core::launch::spawn(&plan, io).unwrap();
    let mut spec = config(
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; echo $$; hostname",
    );
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
    spec["linux"]["namespaces"] = json!([
        {"type": "network", "path": path("net")}, {"type": "ipc", "path": path("ipc")},
        {"type": "uts", "path": path("uts")}, {"type": "pid", "path": path("pid")},
        {"type": "mount"}, {"type": "time"}
    ]);
    spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100_000}});
    let object = spec.as_object_mut().unwrap();
    object.remove("hostname");
    let output = run(&bundle, &spec).unwrap();
    for kind in ["net", "ipc", "uts"] {
        let wanted = std::fs::read_link(path(kind)).unwrap();
        assert!(output.text.contains(wanted.to_str().unwrap()), "{}", output.text);
    }
    assert!(output.text.ends_with("\n2\ncase\n"), "{}", output.text);
    rustix::process::pidfd_send_signal(&first.pidfd, rustix::process::Signal::KILL).unwrap();
    common::wait(&first.pidfd);
    if let Some(cgroup) = first.cgroup {
        cgroup.remove().unwrap();
    }
}

#[test]
fn devices_of_the_host_are_closed_unless_opened() {
    let controlled = Facts::gather()
        .unwrap()
        .cgroups
        .is_some_and(|hierarchy| hierarchy.controllers().contains(cgroup::Controller::Devices));
    if !common::is_root() || !controlled {
        return common::skipped("root", "access to devices is ruled by root's control groups");
    }
    let Some(bundle) = Bundle::new() else { return };
    let spec = config(
        "mknod /dev/loop b 7 0; head -c 1 /dev/loop 2>&1; mknod /dev/kmsg c 1 11; head -c 1 /dev/kmsg 2>&1; \
         head -c 1 /dev/zero >/dev/null && echo x >/dev/null && echo ok",
    );
    let text = run(&bundle, &spec).unwrap().text;
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
    assert!(text.ends_with("ok\n"), "{text}");
}

/// A node in the image, and one that the container makes, where nothing but the mount can rule over devices.
#[test]
fn without_device_rules_nodes_in_the_root_are_dead() {
    if !common::is_root() {
        return common::skipped("root", "device nodes take root");
    }
    let Some(bundle) = Bundle::new() else { return };
    let node = bundle.root().join("loop");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let number = rustix::fs::makedev(7, 0);
    rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::BlockDevice, mode, number).unwrap();
    std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let script = "head -c 1 /loop 2>&1; head -c 1 /dev/zero >/dev/null && echo x >/dev/null && echo ok";
    let with = |spec: &serde_json::Value, change: fn(&mut Extras)| {
        let mut extras = common::extras(&bundle);
        change(&mut extras);
        let spec = serde_json::from_value(spec.clone()).unwrap();
        let plan = Plan::new(&spec, &extras, &Facts::gather().unwrap()).unwrap();
        let text = common::run_plan(&plan).unwrap().text;
        assert!(text.contains("denied") || text.contains("not permitted"), "{text}");
        assert!(text.ends_with("\nok\n"), "{text}");
    };
    let plain = config(script);
    with(&plain, |_| {});
    with(&plain, |extras| extras.no_cgroup = true);
    with(&plain, |extras| extras.controllers = cgroup::Controller::Memory.into());
    let mut no_dev = plain.clone();
    no_dev["mounts"] = json!([]);
    with(&no_dev, |extras| extras.no_cgroup = true);
    let mut mapped = plain;
    mapped["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1000}]);
    mapped["linux"]["uidMappings"] = map.clone();
    mapped["linux"]["gidMappings"] = map;
    with(&mapped, |_| {});
    with(&mapped, |extras| extras.no_cgroup = true);
}

/// Below a group that allows no devices the rules cannot be set.
#[test]
fn device_rules_are_never_best_effort() {
    let facts = Facts::gather().unwrap();
    let controlled = facts.cgroups.as_ref().is_some_and(|hierarchy| {
        hierarchy.mounts().iter().any(|mount| {
            mount.version() == cgroup::Version::V1
                && mount.controllers().contains(cgroup::Controller::Devices)
        })
    });
    if !common::is_root() || !controlled {
        return common::skipped("root", "access to devices is ruled by control groups of version 1");
    }
    let Some(bundle) = Bundle::new() else { return };
    let mut extras = common::extras(&bundle);
    let hierarchy = facts.cgroups.as_ref().unwrap();
    let path = cgroup::CgroupPath::new(format!("{}-above", extras.id)).unwrap();
    let above = cgroup::Cgroup::create(hierarchy, &path).unwrap();
    above.apply(&cgroup::Limits::new().devices([])).unwrap();
    let mut spec = config("true");
    spec["linux"]["cgroupsPath"] = json!(format!("{}-above/below", extras.id));
    extras.limits_best_effort = true;
    let spec = serde_json::from_value(spec).unwrap();
    let result = Plan::new(&spec, &extras, &facts).and_then(|plan| common::run_plan(&plan));
    above.remove().unwrap();
    match result {
        Err(Error::Limit { limit, .. }) => assert_eq!(limit, "devices"),
        other => panic!("{other:?}"),
    }
}

/// Its own mount namespace then belongs to that user namespace, and what may be mounted follows from it.
#[test]
fn a_user_namespace_is_joined_with_others() {
    if !common::is_root() {
        return common::skipped("root", "the namespaces of another container take rights over them");
    }
    let Some(bundle) = Bundle::new() else { return };
    let mut spec = config("sleep 100");
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let (first, _output) = common::spawn(&common::plan(&bundle, &spec).unwrap()).unwrap();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid);
    let all = [("user", "user"), ("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    for joined in [&all[..1], &all[..2], &all[..]] {
        let mut spec = config(
            "for n in user pid net ipc uts; do readlink /proc/self/ns/$n; done; ls -d /proc/1 /dev/shm",
        );
        spec.as_object_mut().unwrap().remove("hostname");
        let new = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
        let mut namespaces: Vec<_> =
            joined.iter().map(|(kind, file)| json!({"type": kind, "path": path(file)})).collect();
        namespaces.extend(
            new.iter()
                .filter(|kind| joined.iter().all(|(known, _)| known != *kind))
                .map(|kind| json!({"type": kind})),
        );
        spec["linux"]["namespaces"] = json!(namespaces);
        let output = run(&bundle, &spec).unwrap();
        assert_eq!(output.status, 0, "{}", output.text);
        for (_, file) in joined {
            let wanted = std::fs::read_link(path(file)).unwrap();
            assert!(output.text.contains(wanted.to_str().unwrap()), "{}", output.text);
        }
    }
    rustix::process::pidfd_send_signal(&first.pidfd, rustix::process::Signal::KILL).unwrap();
    common::wait(&first.pidfd);
    if let Some(cgroup) = first.cgroup {
        cgroup.remove().unwrap();
    }
}

#[test]
fn more_groups_than_there_is_room_for_are_an_error() {
    let Some(bundle) = Bundle::new() else { return };
    let lines: String = (2000..2300).map(|gid| format!("g{gid}:x:{gid}:root\n")).collect();
    std::fs::write(bundle.root().join("etc/group"), format!("root:x:0:\n{lines}")).unwrap();
    let mut extras = common::extras(&bundle);
    extras.user = Some("root".into());
    let spec = serde_json::from_value(config("id")).unwrap();
    let plan = Plan::new(&spec, &extras, &Facts::gather().unwrap()).unwrap();
    match common::run_plan(&plan) {
        Err(Error::Invalid { reason, .. }) => {
            assert!(reason.contains("300") && reason.contains("256"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
}

/// What the kernel kills at birth when the caller's own group was ever killed as a whole (CLONE_INTO_CGROUP, Linux 6.14).
#[test]
fn a_caller_whose_group_was_killed_once_starts_containers() {
    let facts = Facts::gather().unwrap();
    let unified = facts.cgroups.as_ref().and_then(|hierarchy| hierarchy.unified());
    let Some(unified) = unified.filter(|_| common::is_root()) else {
        return common::skipped("root", "groups of version 2 take root");
    };
    let Some(bundle) = Bundle::new() else { return };
    let extras = common::extras(&bundle);
    let group = unified.mountpoint().join(format!("{}-killed", extras.id));
    std::fs::create_dir(&group).unwrap();
    std::fs::write(group.join("cgroup.kill"), "1").unwrap();
    // The same test program in that group, for it is about the caller's own.
    let program = std::env::current_exe().unwrap();
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "echo 0 >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
        .arg(&group)
        .arg(program)
        .args(["--exact", "the_exit_status_is_the_commands"])
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    std::fs::remove_dir(&group).unwrap();
    assert!(status.success());
}

#[test]
fn a_script_with_a_long_path_and_interpreter() {
    use std::os::unix::fs::PermissionsExt;
    let Some(bundle) = Bundle::new() else { return };
    let mut path = PathBuf::from("/");
    while path.as_os_str().len() < 3700 {
        path.push("d".repeat(200));
    }
    let mut dir =
        rustix::fs::open(bundle.root(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for name in path.components().skip(1) {
        let std::path::Component::Normal(name) = name else { unreachable!() };
        rustix::fs::mkdirat(&dir, name, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        dir = rustix::fs::openat(&dir, name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    let script = PathBuf::from(format!("/proc/self/fd/{}/script", std::os::fd::AsRawFd::as_raw_fd(&dir)));
    std::fs::write(&script, "#!/bin/sh -e\necho ${#0} $1\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = path.join("script");
    let mut spec = config("");
    spec["process"]["args"] = json!([path, "x"]);
    assert_eq!(run(&bundle, &spec).unwrap().text, format!("{} x\n", path.as_os_str().len()));
}
