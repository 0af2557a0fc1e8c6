//! A launch in two stages whose processes are killed at any moment leaves none behind. In a program of its own: it kills every
//! child that this program has.

mod fixture;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use container_core::{Namespace, NamespaceKind};
use fixture::Root;

fn children() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let list = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    list.flat_map(|list| list.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn both_killed_at_any_moment() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let over = AtomicBool::new(false);
    let (mut refused, rounds) = (0, fixture::times(300, 3000));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 0;
            while !over.load(Ordering::Relaxed) {
                // Some wait a little longer each time, so that every moment has its turn.
                pause = (pause + 37) % 2000;
                let until = Instant::now() + Duration::from_micros(pause);
                while children().is_empty() && !over.load(Ordering::Relaxed) {}
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                for child in children() {
                    let _ = rustix::process::kill_process(
                        rustix::process::Pid::from_raw(child).unwrap(),
                        rustix::process::Signal::KILL,
                    );
                }
            }
        });
        for _ in 0..rounds {
            match root.command(&["true"]).namespace(NamespaceKind::Time, Namespace::New).status() {
                Ok(_) => {}
                Err(_) => refused += 1,
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(children(), [0i32; 0], "{refused} of {rounds} were killed in time");
    assert!(refused > 0, "none was hit");
}
