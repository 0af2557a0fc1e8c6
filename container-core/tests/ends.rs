//! Endings that must be told apart (LC-H13, H17 to H20, H24).

mod fixture;

use std::time::{Duration, Instant};

use container_core::{End, Error, MemoryShortage, Signal, Step, TimeLimit};
use fixture::Root;

#[test]
fn h13_a_timeout_kills_everything() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let script = "trap '' TERM; (trap '' TERM; sleep 301) & setsid sh -c 'sleep 302' & (setsid sh -c 'sleep 303 &' &) ; sleep 304";
    let before = Instant::now();
    let outcome = root.shell(script).timeout(Duration::from_millis(500)).run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!line.starts_with(b"sleep\x0030"), "{:?} is left", entry.path());
    }
}

#[test]
fn h17_every_kind_has_a_value_of_its_own() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    assert_eq!(root.shell("exit 137").run().unwrap().end, End::Exited(137));

    let outcome = root.shell("kill -SEGV $$; sleep 9").init(false).run().unwrap();
    // Process 1 of a pid namespace takes no signal from inside that it has no handler for.
    assert!(matches!(outcome.end, End::Signaled { .. } | End::Exited(_)), "{:?}", outcome.end);

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(container.pid() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Signaled { signal: 9, core_dumped: false });

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    container.kill(Signal::KILL).unwrap();
    assert_eq!(container.finish().unwrap().end, End::Stopped);

    let outcome = root.command(&["sleep", "60"]).timeout(Duration::from_millis(100)).run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));
    assert!(outcome.wall_time >= Duration::from_millis(100));

    assert!(matches!(root.command(&["/no/such"]).run(), Err(Error::Exec { .. })));
}

#[test]
fn cpu_time_is_limited() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let builder = root
        .shell("while :; do :; done")
        .cpu_time(Duration::from_millis(300))
        .timeout(Duration::from_secs(60));
    let outcome = builder.run().unwrap();
    assert_eq!(outcome.end, End::TimedOut(TimeLimit::Cpu));
    let used = outcome.cpu_time.unwrap();
    assert!(used >= Duration::from_millis(300) && used < Duration::from_secs(3), "{used:?}");
}

#[test]
fn h18_out_of_memory_is_told() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let hog = "head -c 400000000 /dev/zero | tail -c 300000000";
    // (a) the first process itself
    let outcome =
        root.shell("x=$(head -c 200000000 /dev/zero | tr '\\0' x); exit 0").memory(64 << 20).run().unwrap();
    assert_eq!(outcome.end, End::OutOfMemory(MemoryShortage::Own), "{outcome:?}");
    assert!(outcome.oom_kills >= 1);
    assert!(outcome.peak_memory.is_none_or(|peak| peak > 32 << 20), "{:?}", outcome.peak_memory);
    // (b) a child, and the first process does not mind
    let outcome = root.shell(&format!("({hog}) >/dev/null 2>&1; exit 0")).memory(64 << 20).run().unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(outcome.oom_kills, 1, "{outcome:?}");
    // (c) none at all
    let container = root.command(&["sleep", "60"]).memory(64 << 20).spawn().unwrap();
    container.kill(Signal::KILL).unwrap();
    let outcome = container.finish().unwrap();
    assert_eq!((outcome.end, outcome.oom_kills), (End::Stopped, 0));
}

#[test]
fn h24_the_pids_limit_is_told() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let bomb = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 20 & done; exit 0";
    let before = Instant::now();
    let outcome = root.shell(bomb).pids(16).timeout(Duration::from_secs(20)).run().unwrap();
    assert!(outcome.pids_limit_hits >= 1, "{outcome:?}");
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(root.command(&["true"]).pids(1).run().unwrap().end, End::Exited(0));
    assert!(matches!(root.command(&["true"]).pids(0).run(), Err(Error::Invalid { .. })));
}

#[test]
fn h19_what_cannot_be_executed_is_a_start_error() {
    if !fixture::containers() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let root = Root::new();
    let put = |name: &str, content: &[u8], mode: u32| {
        let path = root.path().join("tmp").join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    put("no-x", b"#!/bin/sh\n", 0o644);
    put("no-interpreter", b"#!/no/such/interpreter\n", 0o755);
    put("empty", b"", 0o755);
    put("foreign", &foreign_elf(None), 0o755);
    put("no-loader", &foreign_elf(Some("/no/such/loader")), 0o755);
    let check = |command: &str, errno: i32, missing: Option<&str>| match root.command(&[command]).spawn() {
        Err(error @ Error::Exec { .. }) => {
            assert_eq!(error.step(), Some(Step::Exec));
            assert_eq!(error.errno(), Some(errno), "{command}: {error:?}");
            let Error::Exec { path, interpreter, .. } = error else { unreachable!() };
            assert!(path.ends_with(command.trim_start_matches('/')), "{path:?}");
            assert_eq!(interpreter.as_deref(), missing.map(std::path::Path::new), "{command}");
        }
        other => panic!("{command}: {other:?}"),
    };
    check("no-such-command", libc::ENOENT, None);
    check("/tmp/no-x", libc::EACCES, None);
    check("/tmp", libc::EACCES, None);
    check("/tmp/no-interpreter", libc::ENOENT, Some("/no/such/interpreter"));
    check("/tmp/empty", libc::ENOEXEC, None);
    check("/tmp/foreign", libc::ENOEXEC, None);
    check("/tmp/no-loader", libc::ENOENT, Some("/no/such/loader"));

    let container = root.command(&["sleep", "60"]).spawn().unwrap();
    for (command, errno) in
        [("no-such-command", libc::ENOENT), ("/tmp/no-x", libc::EACCES), ("/tmp/empty", libc::ENOEXEC)]
    {
        let error = container.exec([command]).output().unwrap_err();
        assert_eq!((error.step(), error.errno()), (Some(Step::Exec), Some(errno)), "{command}: {error:?}");
    }
}

/// A 64-bit ELF file: of a made-up architecture, or of this one with an interpreter.
fn foreign_elf(interpreter: Option<&str>) -> Vec<u8> {
    let machine: u16 = match interpreter {
        None => 0x1234,
        Some(_) if cfg!(target_arch = "x86_64") => 62,
        Some(_) => 183,
    };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend_from_slice(&3u16.to_le_bytes());
    elf.extend_from_slice(&machine.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&64u64.to_le_bytes());
    elf.extend_from_slice(&0u64.to_le_bytes());
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    let text = interpreter.unwrap_or("/x").as_bytes();
    // One program header: PT_INTERP.
    elf.extend_from_slice(&3u32.to_le_bytes());
    elf.extend_from_slice(&4u32.to_le_bytes());
    for word in [120u64, 0, 0, text.len() as u64 + 1, text.len() as u64 + 1, 1] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(text);
    elf.push(0);
    elf.resize(elf.len().max(512), 0);
    elf
}
