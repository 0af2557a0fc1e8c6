//! Containers from a tokio program (LC-H04, H16).
#![cfg(feature = "tokio")]

mod fixture;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use container_core::{End, TimeLimit};
use fixture::{Root, Traces};

#[test]
fn h04_two_hundred_tasks_and_a_thousand_timers() {
    if !fixture::containers() {
        return;
    }
    let root = Arc::new(Root::new());
    root.command(&["true"]).status().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let latest = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        let timers: Vec<_> = (0..1000)
            .map(|_| {
                let latest = Arc::clone(&latest);
                tokio::spawn(async move {
                    loop {
                        let due = Instant::now() + Duration::from_millis(20);
                        tokio::time::sleep_until(due.into()).await;
                        latest.fetch_max(due.elapsed().as_millis() as u64, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let root = Arc::clone(&root);
                tokio::spawn(async move {
                    let output =
                        root.shell(&format!("cat; echo {n}")).input(*b"in ").output_async().await.unwrap();
                    assert_eq!(output.end, End::Exited(0));
                    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("in {n}\n"));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        timers.iter().for_each(|timer| timer.abort());
    });
    println!("a timer was late by {} ms at most", latest.load(Ordering::Relaxed));
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
        container.stop_async(Duration::ZERO).await.unwrap();
        container.remove_async().await.unwrap();

        // A future dropped in the middle takes its container with it.
        let builder = root.command(&["sleep", "61"]);
        let run = tokio::time::timeout(Duration::from_millis(100), builder.run_async()).await;
        assert!(run.is_err());
    });
    drop(runtime);
    // Whatever thread did the last of it, it is all gone soon.
    let before = Instant::now();
    while !sleepers("61").is_empty() {
        assert!(before.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = Traces::now();
}

fn sleepers(seconds: &str) -> Vec<std::path::PathBuf> {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
        .collect()
}
