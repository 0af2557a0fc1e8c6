//! Ways out of containers that were found in the field, tried on this one.

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Bundle, captured, config, extras, is_root, run, wait};
use container_core::Error;
use container_core::launch::{self, Target};
use container_core::oci_spec::runtime::Spec;
use container_core::plan::{Facts, Plan};
use serde_json::{Value, json};

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// CVE-2019-5736: the container has its starter run `/proc/self/exe`, which at that moment is the host program, to open it for
/// writing later.
#[test]
fn the_host_programs_binary_cannot_be_run_inside() {
    let Some(bundle) = Bundle::new() else { return };
    let bin = bundle.root().join("bin");
    symlink("/proc/self/exe", bin.join("link")).unwrap();
    symlink("/proc/1/exe", bin.join("first")).unwrap();
    executable(&bin.join("script"), "#!/proc/self/exe\n");
    executable(&bin.join("linked"), "#!/bin/link --test\n");
    executable(&bin.join("chain"), "#!/bin/script\n");
    let commands = ["/proc/self/exe", "link", "first", "script", "linked", "chain", "/proc/thread-self/exe"];
    let mut spec = config("");
    for command in commands {
        spec["process"]["args"] = json!([command, "--list"]);
        let error = run(&bundle, &spec).expect_err(command);
        assert!(error.to_string().starts_with("exec "), "{command}: {error}");
    }

    // The same by one more process of a running container, whose files its processes can change at any time.
    let spec: Spec = serde_json::from_value(config("sleep 100")).unwrap();
    let extras = extras(&bundle);
    let facts = Facts::gather().unwrap();
    let first = launch::spawn(&Plan::new(&spec, &extras, &facts).unwrap(), captured().0).unwrap();
    for command in commands {
        let process =
            json!({"user": {"uid": 0, "gid": 0}, "args": [command], "cwd": "/", "env": ["PATH=/bin"]});
        let plan = Plan::exec(&serde_json::from_value(process).unwrap(), &spec, &extras, &facts).unwrap();
        let target = Target { pidfd: first.pidfd.as_fd(), pid: first.pid, cgroup: first.cgroup.as_ref() };
        launch::exec(&target, &plan, captured().0).expect_err(command);
    }
    end(first);
}

fn end(container: launch::Running) {
    rustix::process::pidfd_send_signal(&container.pidfd, rustix::process::Signal::KILL).unwrap();
    wait(&container.pidfd);
    if let Some(cgroup) = container.cgroup {
        cgroup.remove().unwrap();
    }
}

/// The binary again, the descriptors and the memory of a process that is just joining: a process inside looks at every process
/// it sees, all the time.
#[test]
fn a_joining_process_shows_nothing_of_the_host() {
    let Some(bundle) = Bundle::new() else { return };
    let spy = "while :; do for p in /proc/[0-9]*; do case ${p#/proc/} in 1|self|$$) continue;; esac; \
               e=$(readlink $p/exe) || continue; case $e in /bin/busybox) ;; *) echo \"exe $e\" >>/tmp/found;; esac; \
               for f in $p/fd/*; do l=$(readlink $f) || continue; case $l in pipe:*|/dev/null|/proc*|/tmp*|/|/bin*) ;; *) echo \"fd $l\" >>/tmp/found;; esac; done; \
               done; done";
    let spec: Spec = serde_json::from_value(config(spy)).unwrap();
    let extras = extras(&bundle);
    let facts = Facts::gather().unwrap();
    let first = launch::spawn(&Plan::new(&spec, &extras, &facts).unwrap(), captured().0).unwrap();
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["PATH=/bin"]});
    let plan = Plan::exec(&serde_json::from_value(process).unwrap(), &spec, &extras, &facts).unwrap();
    for _ in 0..40 {
        let target = Target { pidfd: first.pidfd.as_fd(), pid: first.pid, cgroup: first.cgroup.as_ref() };
        let joined = launch::exec(&target, &plan, captured().0).unwrap();
        assert_eq!(wait(&joined.pidfd), 0);
    }
    end(first);
    let found = std::fs::read_to_string(bundle.root().join("tmp/found")).unwrap_or_default();
    assert_eq!(found, "");
}

/// A container that waits for its start has the host program's binary, and a copy of its memory.
#[test]
fn a_waiting_container_shows_nothing_of_the_host() {
    if !is_root() {
        return common::skipped(
            "root",
            "joining a waiting container takes CAP_SYS_PTRACE: it hides from ordinary users",
        );
    }
    let Some(bundle) = Bundle::new() else { return };
    let spec: Spec = serde_json::from_value(config("true")).unwrap();
    let extras = extras(&bundle);
    let facts = Facts::gather().unwrap();
    let created =
        launch::create(&Plan::new(&spec, &extras, &facts).unwrap(), captured().0, launch::Gate::Held)
            .unwrap();
    let mut process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c",
        "for f in exe cwd root fd/3 fd/4 fd/5 fd/6 fd/7 fd/8 fd/9; do readlink /proc/1/$f && echo $f; done; \
         for f in exe mem maps environ; do cat /proc/1/$f >/dev/null 2>&1 && echo $f; done; ls /proc/1/map_files 2>/dev/null; echo end"]});
    process["capabilities"] = config("")["process"]["capabilities"].clone();
    let plan = Plan::exec(&serde_json::from_value(process).unwrap(), &spec, &extras, &facts).unwrap();
    let target = Target { pidfd: created.pidfd.as_fd(), pid: created.pid, cgroup: created.cgroup.as_ref() };
    let (io, output) = captured();
    let joined = launch::exec(&target, &plan, io).unwrap();
    let text = common::read_all(output);
    wait(&joined.pidfd);
    assert_eq!(text, "end\n");
    end(created.start().unwrap());
}

/// A memory limit too small for the set-up itself: the host program shares the process's memory and must not be killed with it.
#[test]
fn a_tiny_memory_limit_is_the_containers_problem() {
    if !is_root() {
        return common::skipped("root", "memory limits take root or delegation");
    }
    let Some(bundle) = Bundle::new() else { return };
    for limit in [4096, 65_536, 200_000, 400_000] {
        let mut spec = config("true");
        spec["linux"]["resources"] = json!({"memory": {"limit": limit}});
        // Whether it starts is the kernel's to say; that this program survives it is the promise.
        match run(&bundle, &spec) {
            Ok(output) => assert!(output.status == 0 || output.status == -9, "{}", output.status),
            Err(Error::Limit { limit, .. }) => assert_eq!(limit, "memory"),
            Err(other) => panic!("{limit}: {other:?}"),
        }
    }
}

/// CVE-2024-21626: a descriptor of a host directory survives, or the working directory is one.
#[test]
fn no_descriptor_or_directory_of_the_host_is_left() {
    let Some(bundle) = Bundle::new() else { return };
    let host = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
    let output =
        run(&bundle, &config("ls /proc/self/fd | wc -l; readlink /proc/self/cwd; readlink /proc/self/root"))
            .unwrap();
    // 0, 1, 2 and the directory being listed.
    assert_eq!(output.text, "4\n/\n/\n");
    let mut spec = config("cat ../../../../etc/hostname; pwd");
    for number in 3..20 {
        for form in ["/proc/self/fd/", "/proc/self/../self/fd/", "/proc/thread-self/fd/"] {
            spec["process"]["cwd"] = json!(format!("{form}{number}"));
            if let Ok(output) = run(&bundle, &spec) {
                panic!("{form}{number} is a working directory: {}", output.text);
            }
        }
    }
    symlink("/proc/self/fd/9", bundle.root().join("tmp/jump")).unwrap();
    spec["process"]["cwd"] = json!("/tmp/jump");
    run(&bundle, &spec).unwrap_err();
    // And the destination of a mount.
    let mut spec = config("true");
    spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/proc/self/fd/9/x", "type": "tmpfs"}));
    run(&bundle, &spec).unwrap_err();
    drop(host);
}

/// CVE-2021-30465: a mount's target is swapped for a symbolic link while it is being mounted.
#[test]
fn a_target_that_is_swapped_for_a_link_stays_inside() {
    let Some(bundle) = Bundle::new() else { return };
    let outside = bundle.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let place = bundle.root().join("mnt");
    std::fs::create_dir(&place).unwrap();
    let mut spec = config("cat /proc/self/mountinfo");
    let mounts = spec["mounts"].as_array_mut().unwrap();
    for n in 0..8 {
        mounts
            .push(json!({"destination": format!("/mnt/swap/deep{n}"), "type": "tmpfs", "source": "swapped"}));
    }
    let stop = AtomicBool::new(false);
    let mut seen = String::new();
    std::thread::scope(|scope| {
        let swap = place.join("swap");
        let (a, b) = (place.join("dir"), place.join("link"));
        std::fs::create_dir(&a).unwrap();
        symlink("../../../../../../../../../".to_owned() + outside.to_str().unwrap(), &b).unwrap();
        std::fs::rename(&a, &swap).unwrap();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &swap,
                    rustix::fs::CWD,
                    &b,
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut started = 0;
        while started < 40 && Instant::now() < deadline {
            // Whether a start works is a matter of luck; where its mounts are is not.
            if let Ok(output) = run(&bundle, &spec) {
                started += 1;
                seen.push_str(&output.text);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    for line in seen.lines().filter(|line| line.contains("swapped")) {
        // Below the directory, by whichever of its names, or where the link leads inside the root.
        let point = line.split(' ').nth(4).unwrap();
        assert!(point.starts_with("/mnt/") || point.contains("/outside/"), "{line}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside of the root");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("swapped"));
}

/// CVE-2025-31133 and -52565: what covers a masked path, and the console, come from a `/dev` that the image controls.
#[test]
fn masks_and_console_do_not_come_from_the_image() {
    let Some(bundle) = Bundle::new() else { return };
    let dev = bundle.root().join("dev");
    std::fs::write(bundle.root().join("etc/victim"), "untouched\n").unwrap();
    std::fs::write(bundle.root().join("etc/masked"), "secret\n").unwrap();
    let mut spec =
        config("cat /etc/masked; echo overwritten >/etc/masked; cat /proc/kcore 2>/dev/null; true");
    spec["linux"]["maskedPaths"] = json!(["/etc/masked", "/proc/kcore"]);
    // The image's own /dev, full of traps.
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    for name in ["null", "console", "ptmx"] {
        symlink("/etc/victim", dev.join(name)).unwrap();
    }
    match run(&bundle, &spec) {
        // The standard device cannot be made where a link is: refused is fine.
        Err(error) => assert!(error.to_string().contains("/dev/null"), "{error}"),
        Ok(output) => assert_eq!(output.text, ""),
    }
    assert_eq!(std::fs::read_to_string(bundle.root().join("etc/victim")).unwrap(), "untouched\n");

    let mut spec =
        config("cat /etc/masked; echo overwritten >/etc/masked; ls -l /dev/console | cut -c1; tty");
    spec["linux"]["maskedPaths"] = json!(["/etc/masked", "/proc/kcore"]);
    spec["process"]["terminal"] = json!(true);
    let plan = common::plan(&bundle, &spec).unwrap();
    let running = launch::spawn(&plan, launch::Io::default()).unwrap();
    let terminal = std::fs::File::from(running.terminal.unwrap());
    assert_eq!(wait(&running.pidfd), 0);
    let mut text = vec![0; 1000];
    let length = rustix::io::read(&terminal, text.as_mut_slice()).unwrap();
    assert_eq!(String::from_utf8_lossy(&text[..length]), "c\r\n/dev/pts/0\r\n");
    if let Some(cgroup) = running.cgroup {
        cgroup.remove().unwrap();
    }
    assert_eq!(std::fs::read_to_string(bundle.root().join("etc/masked")).unwrap(), "secret\n");
    assert_eq!(std::fs::read_to_string(bundle.root().join("etc/victim")).unwrap(), "untouched\n");
}

/// CVE-2025-52881 and -16884: writes to /proc land in files of the container's choice.
#[test]
fn writes_to_proc_go_to_proc() {
    let Some(bundle) = Bundle::new() else { return };
    let fake = bundle.path().join("fake");
    for dir in ["net/ipv4", "kernel"] {
        std::fs::create_dir_all(fake.join("sys").join(dir)).unwrap();
    }
    for file in ["sys/net/ipv4/ip_forward", "sys/kernel/shmmni", "oom_score_adj"] {
        std::fs::write(fake.join(file), "fake\n").unwrap();
    }
    symlink("self", fake.join("thread-self")).unwrap();
    symlink(".", fake.join("self")).unwrap();
    let mut spec = config(
        "cat /proc/sys/net/ipv4/ip_forward /proc/oom_score_adj; cat /real/sys/net/ipv4/ip_forward /real/sys/kernel/shmmni",
    );
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/real", "type": "proc", "source": "proc"}));
    mounts.push(json!({"destination": "/proc", "source": fake, "options": ["rbind"]}));
    // No masks: they would lie on the fake.
    spec["linux"]["maskedPaths"] = json!([]);
    spec["linux"]["readonlyPaths"] = json!([]);
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"});
    spec["process"]["oomScoreAdj"] = json!(700);
    let error_or = run(&bundle, &spec);
    // The fake is mounted over a directory that is no procfs: mounting it there is the host's choice here, not the image's.
    let output = error_or.unwrap();
    assert_eq!(output.text, "fake\nfake\n1\n1234\n");
    assert_eq!(std::fs::read_to_string(fake.join("oom_score_adj")).unwrap(), "fake\n");
}

/// A container with every right in its mount namespace takes its own root away: below it is nothing of the host.
#[test]
fn below_the_root_is_nothing() {
    if !is_root() {
        return common::skipped("root", "looking below another process's root takes CAP_SYS_ADMIN");
    }
    let Some(bundle) = Bundle::new() else { return };
    let mut value = config("umount -l /dev/pts; umount -l /sys; umount -l / && echo gone && read x");
    let all: Vec<Value> = ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE"].map(|c| json!(c)).into();
    value["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let spec: Spec = serde_json::from_value(value).unwrap();
    let extras = extras(&bundle);
    let facts = Facts::gather().unwrap();
    let (mut io, mut output) = captured();
    let (read, _keep_open) = std::io::pipe().unwrap();
    io.stdin = Some(read.into());
    let running = launch::spawn(&Plan::new(&spec, &extras, &facts).unwrap(), io).unwrap();
    let mut word = [0; 5];
    std::io::Read::read_exact(&mut output, &mut word).unwrap();
    assert_eq!(&word, b"gone\n");
    // Whoever joins now starts at the root of the mount namespace: no program of the container's or the host's is there.
    for (program, cwd) in
        [("/bin/sh", "/"), ("/bin/busybox", "/root"), ("/usr/bin/env", "/"), ("/proc/1/exe", "/")]
    {
        let process = json!({"user": {"uid": 0, "gid": 0}, "args": [program], "cwd": cwd});
        let plan = Plan::exec(&serde_json::from_value(process).unwrap(), &spec, &extras, &facts).unwrap();
        let target =
            Target { pidfd: running.pidfd.as_fd(), pid: running.pid, cgroup: running.cgroup.as_ref() };
        let error = launch::exec(&target, &plan, captured().0).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::NOENT.raw_os_error()), "{program}: {error}");
    }
    end(running);
}
