//! Nothing of the host program changes (LC-H05 to LC-H07). One test a process: these are about the whole program.
#![allow(unsafe_code)]

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use container_core::{End, Error};
use fixture::Root;

/// Everything of the process that a library could disturb, of every thread.
fn everything() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let read = |path: String| std::fs::read_to_string(&path).unwrap_or_default();
    all.insert("networks".into(), format!("{:?}", networks()));
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

/// The network namespaces that the program's threads are in, the library's own threads too.
fn networks() -> BTreeSet<std::path::PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|task| std::fs::read_link(task.path().join("ns/net")).unwrap()).collect()
}

#[test]
fn nothing_of_the_host_program_changes() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    choose();
    root.command(&["true"]).status().unwrap();
    let before = everything();

    let mut container = root.command(&["sleep", "60"]).create().unwrap().start().unwrap();
    assert_eq!(networks().len(), 1, "a container's network ends with the container");
    container.exec(["true"]).output().unwrap();
    if container.pause().is_ok() {
        container.resume().unwrap();
    }
    container.stop(Duration::ZERO).unwrap();
    drop(container);
    assert_eq!(everything(), before);

    for failure in fixture::failures::all() {
        (failure.change)(root.command(&["true"])).spawn().map(drop).expect_err(failure.name);
        assert_eq!(everything(), before, "{}", failure.name);
    }

    default_sigpipe(&root);
    output_that_never_ends(&root);
    passwd_without_end(&root);
    ignored_sigchld(&root);
    host_that_reaps(&root);
}

/// Values of our own for everything that has one.
#[allow(clippy::disallowed_methods, reason = "here the test is the host program")]
fn choose() {
    std::env::set_current_dir("/usr").unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let _ = std::fs::write("/proc/self/oom_score_adj", "77");
    // SAFETY: plain calls about this process; the handler only counts.
    unsafe {
        let mut files: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files);
        files.rlim_cur = files.rlim_cur.min(900);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut mask, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        libc::signal(libc::SIGUSR2, caught as *const () as usize);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::setgroups(2, [20, 30].as_ptr());
    }
}

/// LC-H10: a host program in which SIGPIPE kills, and a container that does not want its input.
fn default_sigpipe(root: &Root) {
    // SAFETY: the disposition is put back below.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let output = root.shell("exec <&-; sleep 0.2; exit 5").input(vec![b'x'; 1 << 20]).output().unwrap();
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGPIPE, before) };
    assert_eq!(output.end, End::Exited(5));
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// LC-H11: what is not kept takes no memory.
fn output_that_never_ends(root: &Root) {
    let (before, most) = (resident(), AtomicUsize::new(0));
    let end = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                most.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let builder = root.shell("yes >&2 & yes").output_limit(1 << 20).timeout(Duration::from_secs(2));
        let outcome = builder.run().unwrap();
        end.store(true, Ordering::Relaxed);
        outcome
    });
    let grown = most.into_inner().saturating_sub(before);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (1 << 20, 1 << 20));
    assert!(outcome.stdout_cut && outcome.stderr_cut);
    println!("two streams of 1 MiB took {} KiB", grown >> 10);
    assert!(grown < 4 << 20, "{grown}");
}

/// LC-H22: 64 MiB of users are read, and not kept.
fn passwd_without_end(root: &Root) {
    let path = root.path().join("etc/passwd");
    let mut text = "x:x:5:5::/:/bin/sh\n".repeat((64 << 20) / 19);
    text.push_str("last:x:1000:1001::/:/bin/sh\n");
    std::fs::write(&path, text).unwrap();
    let (before, most) = (resident(), AtomicUsize::new(0));
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                most.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let output = root.command(&["id", "-u"]).user("last").output().unwrap();
        end.store(true, Ordering::Relaxed);
        assert_eq!(output.stdout, b"1000\n");
    });
    let grown = most.into_inner().saturating_sub(before);
    println!("64 MiB of passwd took {} KiB", grown >> 10);
    assert!(grown < 4 << 20, "{grown}");
    std::fs::write(&path, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
}

/// LC-H06: the kernel throws the statuses of this program's children away.
fn ignored_sigchld(root: &Root) {
    // SAFETY: the disposition is put back below.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let codes = root.shell("exit 7").run().map(|outcome| outcome.end);
    fixture::executable(root, "tmp/crash", &fixture::crasher());
    let crashed = root.command(&["/tmp/crash"]).run();
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, before) };
    match codes {
        Ok(end) => assert_eq!(end, End::Exited(7)),
        Err(Error::SigchldIgnored) => return,
        Err(other) => panic!("{other:?}"),
    }
    let crashed = crashed.unwrap();
    assert!(matches!(crashed.end, End::Signaled { signal: libc::SIGSEGV, .. }), "{crashed:?}");
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

/// The C library changes credentials in every thread, by a signal that each has to take.
#[test]
fn credentials_can_be_changed_after_a_start() {
    if !fixture::containers() {
        return;
    }
    Root::new().command(&["true"]).run().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: no memory involved; to what they are.
        let answer = unsafe { libc::setgid(libc::getgid()) };
        let _ = tell.send(answer);
    });
    assert_eq!(
        told.recv_timeout(Duration::from_secs(60)),
        Ok(0),
        "a thread of the library does not take part"
    );
}
