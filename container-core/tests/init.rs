//! The tiny init in front of the command.

mod fixture;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use container_core::{
    Container, ContainerBuilder, End, Error, Namespace, NamespaceKind, Pool, Resource, Signal, Stdio, Step,
    WindowSize,
};
use fixture::Root;

/// A shell with an init before it, whose output is collected.
fn shell(root: &Root, script: &str) -> ContainerBuilder {
    root.shell(script).init(true).timeout(Duration::from_secs(60))
}

fn printed(builder: &ContainerBuilder) -> String {
    let outcome = builder.run().unwrap();
    assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "");
    String::from_utf8(outcome.stdout).unwrap()
}

#[test]
fn the_command_is_its_child_and_ends_it() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let out =
        printed(&shell(&root, "echo $$ $PPID; tr '\\0' ' ' </proc/1/cmdline; echo; readlink /proc/1/exe"));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "2 1");
    assert!(lines[1].starts_with("init /bin/sh -c "), "{out}");
    assert!(lines[2].starts_with("/memfd:init"), "{out}");
    assert_eq!(shell(&root, "exit 7").run().unwrap().end, End::Exited(7));
    assert_eq!(shell(&root, "exit 255").run().unwrap().end, End::Exited(255));
    assert_eq!(shell(&root, "exit 0").run().unwrap().end, End::Exited(0));
    // What is left behind goes with it.
    let out = shell(&root, "sleep 7411 & setsid sleep 7412 & exit 3").run().unwrap();
    assert_eq!(out.end, End::Exited(3));
    assert_eq!((fixture::running(&["sleep", "7411"]), fixture::running(&["sleep", "7412"])), (0, 0));
    assert!(shell(&root, "true").plan().unwrap().to_string().contains("init in front of the command"));
}

#[test]
fn signals_of_the_command_are_told_exactly() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let abort = shell(&root, "kill -ABRT $$").rlimit(Resource::Core, 0, 0).run().unwrap();
    assert_eq!(abort.end, End::Signaled { signal: libc::SIGABRT, core_dumped: false });
    assert_eq!(abort.status.signal(), Some(libc::SIGABRT));
    let kill = shell(&root, "kill -KILL $$").run().unwrap();
    assert_eq!(kill.end, End::Signaled { signal: libc::SIGKILL, core_dumped: false });
    // Without an init the kernel ignores it: the command is process 1.
    let ignored = root.shell("kill -TERM $$; exit 4").run().unwrap();
    assert_eq!(ignored.end, End::Exited(4));
    assert!(matches!(
        shell(&root, "kill -TERM $$; exit 4").run().unwrap().end,
        End::Signaled { signal: 15, .. }
    ));
}

#[test]
fn signals_from_outside_reach_the_command() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let quick = |container: &mut Container| {
        let before = Instant::now();
        let status = container.stop(Duration::from_secs(30)).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
        assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    };
    let sleep = root.command(&["sleep", "100"]).init(true);
    let mut container = sleep.spawn().unwrap();
    quick(&mut container);
    assert_eq!(container.finish().unwrap().end, End::Stopped);
    let created = sleep.create().unwrap();
    quick(&mut created.start().unwrap());

    let script =
        "trap 'echo usr1' USR1; trap 'echo min; exit 5' RTMIN+3; echo ready; while :; do sleep 0.01; done";
    let mut container =
        root.command(&["/bin/bash", "-c", script]).init(true).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = container.stdout.take().unwrap();
    let mut line = |want: &str| {
        let mut read = vec![0; want.len()];
        out.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), want);
    };
    line("ready\n");
    container.kill(Signal::USR1).unwrap();
    line("usr1\n");
    if fixture::limits() {
        container.pause().unwrap();
        container.resume().unwrap();
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(container.pid() as i32).unwrap(),
        Signal::USR1,
    )
    .unwrap();
    line("usr1\n");
    container.kill(Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Stopped);
    let outcome =
        root.command(&["sleep", "60"]).init(true).timeout(Duration::from_millis(100)).run().unwrap();
    assert!(matches!(outcome.end, End::TimedOut(_)), "{outcome:?}");
}

#[test]
fn orphans_are_collected() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    // Until none is left: without a parent that collects them they would stay.
    let script = "n=0; while [ $n -lt 50 ]; do (sh -c 'exit 3' & ) ; n=$((n+1)); done
        zombies() { for stat in /proc/[0-9]*/stat; do read pid name state rest <$stat && echo $state; done 2>/dev/null | grep -c Z; }
        while [ $(zombies) -gt 0 ]; do sleep 0.05; done; zombies; exit 0";
    assert_eq!(printed(&shell(&root, script)), "0\n");
    // Those of one more process too.
    let container = root.command(&["sleep", "100"]).init(true).spawn().unwrap();
    let left = container.exec(["/bin/sh", "-c", "sh -c 'sleep 0.05' & exit 0"]).output().unwrap();
    assert_eq!(left.end, End::Exited(0));
    fixture::until("orphans are gone", Duration::from_secs(20), || container.processes().unwrap().len() == 2);
}

#[test]
fn the_command_finds_what_it_would_find_without() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let script = "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]* -> .*\\)/\\1/p' | grep -v /proc/ ; grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNew|Seccomp:|Uid|Gid)' /proc/self/status; \
        tr '\\0' '\\n' </proc/self/environ; ulimit -a; cat /proc/self/oom_score_adj; pwd";
    let script = script.replace("ls -l", "exec 9</dev/null; exec 9<&-; ls -l");
    for user in [None, Some("65534")] {
        if user.is_some() && !fixture::is_root() {
            continue;
        }
        let with = |init: bool| {
            let mut builder = root
                .shell(&script)
                .id("same")
                .env("A", "b")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .init(init);
            builder = builder.stdout(Stdio::piped()).timeout(Duration::from_secs(60));
            if let Some(user) = user {
                builder = builder.user(user);
            }
            // The numbers of pipes differ.
            let out = printed(&builder);
            out.lines().map(|line| line.split(":[").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(with(true), with(false), "{user:?}");
    }
    if fixture::is_root() {
        let out = printed(&shell(&root, "ls /proc/1/fd | wc -l; grep SigBlk /proc/1/status"));
        assert!(out.starts_with("1\n"), "init keeps its pipe only: {out}");
    }
}

#[test]
fn what_cannot_be_executed_is_still_a_start_error() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for (command, errno, missing) in fixture::not_executable(&root) {
        let builder = root.command(&[command]).init(true);
        let started = || builder.create().and_then(container_core::Created::start).map(drop);
        for result in [builder.spawn().map(drop), started()] {
            fixture::assert_not_executed(result, command, errno, missing);
        }
    }
    // It has to be process 1.
    let host = root.command(&["true"]).init(true).namespace(NamespaceKind::Pid, Namespace::Host).spawn();
    assert!(matches!(host, Err(Error::Invalid { .. })), "{host:?}");
    if fixture::limits() {
        let error = root.command(&["true"]).init(true).pids(1).spawn().unwrap_err();
        assert_eq!((error.step(), error.errno()), (Some(Step::Init), Some(libc::EAGAIN)), "{error:?}");
        assert_eq!(root.command(&["true"]).init(true).pids(2).run().unwrap().end, End::Exited(0));
    }
}

#[test]
fn pools_and_sandboxes_take_it() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let pool = Pool::new(shell(&root, "echo $$; kill -ABRT $$").stdout(Stdio::piped()), 2).unwrap();
    for _ in 0..4 {
        let outcome = pool.take().unwrap().run().unwrap();
        assert_eq!(outcome.stdout, b"2\n");
        assert!(matches!(outcome.end, End::Signaled { signal: libc::SIGABRT, .. }), "{outcome:?}");
    }
    let fsize =
        shell(&root, "echo $$").rlimit(Resource::FileSize, 100, 100).rlimit(Resource::OpenFiles, 8, 8);
    assert_eq!(printed(&fsize), "2\n");
}

#[test]
fn with_a_terminal_ctrl_c_comes_once() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let script = "trap 'echo caught' INT; echo ready; while :; do read line && echo \"got $line\"; done";
    let container = root
        .command(&["/bin/bash", "-c", script])
        .init(true)
        .terminal(WindowSize { rows: 24, columns: 80 })
        .spawn()
        .unwrap();
    let mut terminal = File::from(container.terminal().unwrap().try_clone_to_owned().unwrap());
    let mut seen = String::new();
    let mut read_until = |terminal: &mut File, end: &str| {
        let mut buffer = [0; 256];
        while !seen.contains(end) {
            let length = terminal.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen.clone()
    };
    read_until(&mut terminal, "ready");
    terminal.write_all(b"\x03").unwrap();
    read_until(&mut terminal, "caught");
    terminal.write_all(b"word\n").unwrap();
    let seen = read_until(&mut terminal, "got word");
    assert_eq!(seen.matches("caught").count(), 1, "{seen}");
    container.kill(Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Stopped);
}
