//! Starting from the middle of somebody else's program (LC-H01 to LC-H03).

mod fixture;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use container_core::Stdio;
use fixture::Root;

/// One after the other: each of them has the whole machine to do.
static TURN: Mutex<()> = Mutex::new(());

/// Ends the program when nothing goes on for ten seconds, after telling where each thread is.
fn watchdog(done: &AtomicU64, end: &AtomicBool) {
    let mut last = (done.load(Ordering::Relaxed), Instant::now());
    while !end.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let now = done.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(10) {
            for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
                let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let _ = writeln!(
                    std::io::stderr(),
                    "{} {} {} {}",
                    task.path().display(),
                    read("comm").trim(),
                    read("wchan"),
                    read("syscall")
                );
            }
            std::process::abort();
        }
    }
}

#[test]
fn h01_other_threads_hold_every_lock() {
    if !fixture::containers() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = Root::new();
    let starts = fixture::times(300, 2000);
    let name = format!("h01-{}", std::process::id());
    let (end, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..50 {
            let end = &end;
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let all: Vec<Vec<u8>> = (0..50).map(|size| vec![n as u8; size * 100]).collect();
                    std::hint::black_box(all);
                    std::hint::black_box(std::env::var_os("PATH"));
                    // Nothing comes out, but the lock is held and the system call made.
                    let mut log = std::io::stderr().lock();
                    log.write_all(b"").unwrap();
                    log.flush().unwrap();
                    std::hint::black_box(format!("{log:?}"));
                    drop(log);
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
        scope.spawn(|| watchdog(&done, &end));
        let slowest = (0..starts).map(|n| {
            let before = Instant::now();
            assert!(root.command(&["/bin/true"]).id(format!("{name}-{n}")).status().unwrap().success());
            done.fetch_add(1, Ordering::Relaxed);
            before.elapsed()
        });
        let slowest = slowest.max();
        end.store(true, Ordering::Relaxed);
        println!("the slowest of {starts} took {slowest:?}");
        assert!(slowest.unwrap() < Duration::from_secs(10));
    });
    assert!(fixture::cgroups_named(&name).is_empty());
    assert_eq!(fixture::running(&["/bin/true"]), 0);
}

#[test]
#[cfg(feature = "images")]
fn h02_many_threads_share_a_store_and_an_image() {
    if !fixture::containers() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let directory = tempfile::Builder::new().prefix("container-core-test-").tempdir().unwrap();
    let store = image_layers::Store::open_or_create(directory.path().join("store")).unwrap();
    let image = fixture::image(&store);
    let files = |path: &std::path::Path| std::fs::read_dir(path).unwrap().count();
    let layers = files(&store.path().join("layers"));
    let each = fixture::times(5, 20);
    let ids = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let (store, image, ids) = (&store, &image, &ids);
            scope.spawn(move || {
                for n in 0..each {
                    let container =
                        fixture::with_tools(container_core::Container::builder().image(store, image))
                            .command(["/bin/sh", "-c", &format!("echo {thread}-{n} | tee /srv/kept")])
                            .stdin(Stdio::null())
                            .stdout(Stdio::piped())
                            .spawn()
                            .unwrap();
                    assert!(ids.lock().unwrap().insert(container.id().to_owned()));
                    let output = container.wait_with_output().unwrap();
                    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{thread}-{n}\n"));
                }
            });
        }
    });
    let ids = ids.into_inner().unwrap();
    assert_eq!(ids.len(), 64 * each);
    assert_eq!(files(&store.path().join("layers")), layers, "writable layers are removed");
    let groups = fixture::cgroups_named("");
    let left: Vec<_> = groups
        .iter()
        .filter(|group| group.file_name().is_some_and(|name| ids.contains(&*name.to_string_lossy())))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn h03_the_size_of_the_host_program_does_not_matter() {
    if !fixture::containers() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let root = Root::new();
    let median = || {
        let mut times: Vec<_> = (0..fixture::times(25, 50))
            .map(|_| {
                let before = Instant::now();
                root.command(&["/bin/true"]).status().unwrap();
                before.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    median();
    let small = median();
    let gib = fixture::times(1, 4);
    let ballast = vec![1u8; gib << 30];
    let (end, faults) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut noted = vec![1u8; 64 << 20];
    let ready = std::sync::Barrier::new(2);
    let large = std::thread::scope(|scope| {
        scope.spawn(|| {
            // After a fork each first write to a page of the shared memory would be a fault.
            let mut touch = || noted.iter_mut().step_by(4096).for_each(|byte| *byte = byte.wrapping_add(1));
            touch();
            let before = minor_faults();
            ready.wait();
            while !end.load(Ordering::Relaxed) {
                touch();
                std::thread::sleep(Duration::from_millis(1));
            }
            faults.store(minor_faults() - before, Ordering::Relaxed);
        });
        ready.wait();
        let large = median();
        end.store(true, Ordering::Relaxed);
        large
    });
    println!("small {small:?}, with {gib} GiB {large:?}, faults of another thread: {faults:?}");
    assert!(faults.into_inner() < 100, "64 MiB are 16384 pages");
    // A fork would cost 35 ms for each GiB; a machine that does other things at the same time is given five times 0.5 ms and more.
    assert!(large < small.mul_f64(1.5) + Duration::from_micros(2500), "{small:?} became {large:?}");
    drop(std::hint::black_box(ballast));
}

/// Page faults of the calling thread that needed no reading.
fn minor_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    stat[stat.rfind(')').unwrap()..].split(' ').nth(8).unwrap().parse().unwrap()
}
