//! Nothing of the host program changes (LC-H05 to LC-H07). One test a process: these are about the whole program.
#![allow(unsafe_code)]

mod fixture;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use container_core::{End, Error, Signal};
use fixture::Root;

/// Everything of the process that a library could disturb, of every thread.
fn everything() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let read = |path: String| std::fs::read_to_string(&path).unwrap_or_default();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = task.file_name().to_string_lossy().into_owned();
        let comm = read(format!("/proc/self/task/{name}/comm"));
        // The launcher is the library's own thread.
        if !comm.starts_with("host_") && !comm.starts_with("nothing") && !comm.starts_with("state") {
            continue;
        }
        for line in read(format!("/proc/self/task/{name}/status")).lines() {
            let kept = [
                "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff",
                "CapBnd",
            ];
            let kept = kept.iter().chain(&["CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed"]);
            if kept.clone().any(|field| line.split(':').next() == Some(field)) {
                all.insert(format!("{name} {}", line.split(':').next().unwrap()), line.to_owned());
            }
        }
        let link = |what: &str| std::fs::read_link(format!("/proc/self/task/{name}/{what}")).unwrap();
        for what in ["cwd", "root", "ns/mnt", "ns/net", "ns/pid", "ns/user", "ns/uts", "ns/ipc", "ns/cgroup"]
        {
            all.insert(format!("{name} {what}"), link(what).display().to_string());
        }
    }
    all.insert("limits".into(), read("/proc/self/limits".into()));
    all.insert("oom".into(), read("/proc/self/oom_score_adj".into()));
    all.insert("cgroup".into(), read("/proc/self/cgroup".into()));
    all.insert("environment".into(), format!("{:?}", std::env::vars_os().collect::<Vec<_>>()));
    // SAFETY: these only ask.
    let (dumpable, mut subreaper) = unsafe { (libc::prctl(libc::PR_GET_DUMPABLE), 0i32) };
    // SAFETY: the number is written through a valid pointer.
    unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut subreaper) };
    all.insert("dumpable".into(), dumpable.to_string());
    all.insert("subreaper".into(), subreaper.to_string());
    for signal in 1..=64 {
        // SAFETY: plain data; a null new action only asks.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } == 0 {
            all.insert(
                format!("signal {signal}"),
                format!("{:x} {:x}", action.sa_sigaction, action.sa_flags),
            );
        }
    }
    all
}

#[test]
fn nothing_of_the_host_program_changes() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    root.command(&["true"]).status().unwrap();
    let before = everything();

    let mut container = root.command(&["sleep", "60"]).create().unwrap().start().unwrap();
    container.exec(["true"]).output().unwrap();
    if container.pause().is_ok() {
        container.resume().unwrap();
    }
    container.stop(Duration::ZERO).unwrap();
    drop(container);
    assert_eq!(everything(), before);

    let failing = [
        root.command(&["/no/such"]),
        root.command(&["true"]).bind("/no/such", "/mnt"),
        root.command(&["true"]).user("nobody-here"),
        root.command(&["true"]).current_dir("/etc/passwd/x"),
        root.command(&["true"]).sysctl("net.no_such", "1"),
        root.command(&["true"]).mount(container_core::Mount::new("nosuchfs", "x", "/mnt")),
    ];
    for builder in failing {
        builder.spawn().unwrap_err();
    }
    assert_eq!(everything(), before);

    ignored_sigchld(&root);
    host_that_reaps(&root);
}

/// LC-H06: the kernel throws the statuses of this program's children away.
fn ignored_sigchld(root: &Root) {
    // SAFETY: the disposition is put back below.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let codes = root.shell("exit 7").run().map(|outcome| outcome.end);
    let container = root.command(&["sleep", "60"]).spawn();
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, before) };
    match codes {
        Ok(end) => assert_eq!(end, End::Exited(7)),
        Err(Error::SigchldIgnored) => return,
        Err(other) => panic!("{other:?}"),
    }
    let container = container.unwrap();
    let pid = rustix::process::Pid::from_raw(container.pid() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::SEGV).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert!(matches!(container.finish().unwrap().end, End::Signaled { .. }));
}

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn caught(_: i32) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// LC-H07: another thread of this program collects every child it can get.
fn host_that_reaps(root: &Root) {
    // SAFETY: the handler only counts.
    let before = unsafe { libc::signal(libc::SIGCHLD, caught as *const () as usize) };
    static END: AtomicBool = AtomicBool::new(false);
    let own = AtomicUsize::new(0);
    let children: Vec<u32> = (0..20)
        .map(|n| {
            std::process::Command::new("/bin/sh")
                .args(["-c", &format!("sleep 0.{n}; exit {n}")])
                .spawn()
                .unwrap()
                .id()
        })
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !END.load(Ordering::Relaxed) {
                let mut status = 0;
                // SAFETY: the status is written through a valid pointer.
                let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
                if pid > 0 && children.contains(&(pid as u32)) {
                    let n = children.iter().position(|child| *child == pid as u32).unwrap();
                    assert_eq!(std::process::ExitStatus::from_raw(status).code(), Some(n as i32));
                    own.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for n in 0..100 {
            match root.shell(&format!("exit {}", n % 50)).output() {
                Ok(output) => assert_eq!(output.end, End::Exited(n % 50)),
                Err(Error::StatusLost { .. }) => println!("{n}: stolen, and said so"),
                // A step of the start can meet the thief too, and says which.
                Err(other) => panic!("{n}: {other:?}"),
            }
        }
        let start = std::time::Instant::now();
        while own.load(Ordering::Relaxed) < 20 && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        END.store(true, Ordering::Relaxed);
    });
    assert_eq!(own.load(Ordering::Relaxed), 20, "the library collected none of them");
    // SAFETY: back to what it was; the present one is asked for in passing.
    let now = unsafe { libc::signal(libc::SIGCHLD, before) };
    assert_eq!(now, caught as *const () as usize, "the handler is still installed");
    assert!(CAUGHT.load(Ordering::Relaxed) > 0);
}
