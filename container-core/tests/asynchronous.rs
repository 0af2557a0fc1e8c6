//! Containers from a tokio program (LC-H04, H15, H16).
#![cfg(feature = "tokio")]

mod fixture;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use container_core::{End, Stdio, TimeLimit};
use fixture::Root;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Starts a container, streams what it writes, and awaits its end.
async fn streamed(root: &Root, n: usize) {
    let script = format!("read line; echo $line; sleep 0.02; echo {n}");
    let mut container =
        root.shell(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().await.unwrap();
    let mut input = pipe::Sender::from_owned_fd(container.stdin.take().unwrap().into()).unwrap();
    let output = pipe::Receiver::from_owned_fd(container.stdout.take().unwrap().into()).unwrap();
    input.write_all(b"in\n").await.unwrap();
    let mut lines = tokio::io::BufReader::new(output).lines();
    let mut all = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        all.push(line);
    }
    assert_eq!(all, ["in".to_owned(), n.to_string()]);
    assert!(container.wait_async().await.unwrap().success());
    container.remove_async().await.unwrap();
}

/// Half of `count` tasks stream, half collect, beside 1000 timers; the longest that a timer was late.
async fn many(root: &Arc<Root>, count: usize) -> Duration {
    let latest = Arc::new(AtomicU64::new(0));
    let timers: Vec<_> = (0..1000)
        .map(|_| {
            let latest = Arc::clone(&latest);
            tokio::spawn(async move {
                loop {
                    let due = Instant::now() + Duration::from_millis(20);
                    tokio::time::sleep_until(due.into()).await;
                    latest.fetch_max(due.elapsed().as_micros() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let root = Arc::clone(root);
            tokio::spawn(async move {
                if n % 2 == 0 {
                    return streamed(&root, n).await;
                }
                let builder = root.shell(&format!("cat; echo {n}")).input(*b"in ");
                let output = builder.output_async().await.unwrap();
                assert_eq!(output.end, End::Exited(0));
                assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("in {n}\n"));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    timers.iter().for_each(|timer| timer.abort());
    Duration::from_micros(latest.load(Ordering::Relaxed))
}

#[test]
fn h04_two_hundred_tasks_and_a_thousand_timers() {
    if !fixture::containers() {
        return;
    }
    let root = Arc::new(Root::new());
    root.command(&["true"]).status().unwrap();
    let mut several = tokio::runtime::Builder::new_multi_thread();
    let runtime = several.worker_threads(4).enable_all().build().unwrap();
    // 50 ms on a machine that does nothing else. Others' work makes timers late as well, so the best of three counts, by far.
    let check = |runtime: &tokio::runtime::Runtime, count: usize| {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            best = best.min(runtime.block_on(many(&root, count)));
            if best < Duration::from_millis(50) {
                break;
            }
        }
        println!("a timer was late by {best:?} at most");
        assert!(best < Duration::from_millis(500), "{best:?}");
    };
    check(&runtime, 200);
    check(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), 40);
}

/// A thread that only starts one and ends, as tokio's blocking threads do, takes nothing with it (LC-H15).
#[test]
fn h15_a_blocking_thread_that_ends() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let builder = root.command(&["sleep", "7106"]).die_with_host(true);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.thread_name("h15-ends").thread_keep_alive(Duration::from_millis(1));
    let runtime = runtime.enable_all().build().unwrap();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let named = |task: &std::fs::DirEntry| {
            std::fs::read(task.path().join("comm")).is_ok_and(|name| name == b"h15-ends\n")
        };
        tasks.filter(named).count()
    };
    let container = runtime.block_on(builder.spawn_async()).unwrap();
    fixture::until("the blocking thread is gone", Duration::from_secs(20), || threads() == 0);
    std::thread::sleep(Duration::from_millis(50));
    assert!(container.try_wait().unwrap().is_none(), "it lives on");
}

/// A handle that goes away inside a task, and one after its runtime (LC-H16).
#[test]
fn h16_dropped_in_an_aborted_task_and_after_the_runtime() {
    if !fixture::containers() {
        return;
    }
    let root = Arc::new(Root::new());
    let name = format!("h16-{}", std::process::id());
    let mut several = tokio::runtime::Builder::new_multi_thread();
    let runtime = several.worker_threads(2).enable_all().build().unwrap();
    let task = {
        let (root, name) = (Arc::clone(&root), name.clone());
        runtime.spawn(async move {
            let mut container =
                root.shell("(setsid sleep 7107 &); sleep 7107").id(name).spawn_async().await.unwrap();
            container.wait_async().await.unwrap();
        })
    };
    fixture::until("it runs", Duration::from_secs(20), || fixture::running(&["sleep", "7107"]) == 2);
    task.abort();
    fixture::until("it is gone", Duration::from_secs(20), || fixture::running(&["sleep", "7107"]) == 0);
    fixture::until("its group too", Duration::from_secs(20), || fixture::cgroups_named(&name).is_empty());
    let after = runtime.block_on(root.shell("sleep 7107").id(&*name).spawn_async()).unwrap();
    drop(runtime);
    drop(after);
    assert_eq!(fixture::running(&["sleep", "7107"]), 0);
    assert!(fixture::cgroups_named(&name).is_empty());
}

#[test]
fn a_paused_container_is_stopped_with_grace() {
    if !fixture::limits() {
        return;
    }
    let root = Root::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    runtime.block_on(async {
        let mut container = root.shell(script).stdout(Stdio::piped()).spawn_async().await.unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(container.stdout.as_mut().unwrap(), &mut ready).unwrap();
        container.pause().unwrap();
        let before = Instant::now();
        let status = container.stop_async(Duration::from_secs(30)).await.unwrap();
        assert_eq!(status.code(), Some(5), "it had its time to end by itself");
        assert!(before.elapsed() < Duration::from_secs(20));
    });
}

#[test]
fn the_same_on_a_current_thread_runtime_and_when_dropped() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let outcome =
            root.command(&["sleep", "60"]).timeout(Duration::from_millis(100)).run_async().await.unwrap();
        assert_eq!(outcome.end, End::TimedOut(TimeLimit::Wall));

        let mut container = root.command(&["sleep", "60"]).spawn_async().await.unwrap();
        let output = container.exec(["echo", "inside"]).output_async().await.unwrap();
        assert_eq!(output.stdout, b"inside\n");
        let waited = tokio::time::timeout(Duration::from_millis(50), container.wait_async()).await;
        assert!(waited.is_err(), "still running, and the wait was dropped");
        let mut exec = container.exec(["sleep", "60"]).spawn_async().await.unwrap();
        let (stopped, killed) = tokio::join!(container.stop_async(Duration::ZERO), exec.wait_async());
        assert!(!stopped.unwrap().success() && !killed.unwrap().success());
        container.remove_async().await.unwrap();

        // A future dropped in the middle takes its container with it.
        let builder = root.command(&["sleep", "7161"]);
        let run = tokio::time::timeout(Duration::from_millis(100), builder.run_async()).await;
        assert!(run.is_err());
    });
    drop(runtime);
    // Whatever thread did the last of it, it is all gone soon.
    fixture::until("it is gone", Duration::from_secs(10), || fixture::running(&["sleep", "7161"]) == 0);
}
