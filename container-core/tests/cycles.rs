//! A thousand lives of containers leave nothing of any kind behind (LC-H29). One test a program: it counts what the program has.

mod fixture;

use std::time::{Duration, Instant};

use container_core::{End, Signal, Stdio};
use fixture::{Root, Traces};

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn h29_cycles_leave_nothing() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let states = tempfile::tempdir().unwrap();
    let name = format!("h29-{}", std::process::id());
    let failures = fixture::failures::all();
    let cycle = |n: usize| {
        let builder = root
            .command(&["cat"])
            .id(format!("{name}-{n}"))
            .state_directory(states.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if n.is_multiple_of(10) {
            let failure = &failures[n / 10 % failures.len()];
            (failure.change)(builder).spawn().map(drop).expect_err(failure.name);
            return;
        }
        let mut container = builder.create().unwrap().start().unwrap();
        if n.is_multiple_of(7) {
            container.kill(Signal::KILL).unwrap();
            assert_eq!(container.finish().unwrap().end, End::Stopped);
            return;
        }
        let output = container.exec(["echo", "inside"]).output().unwrap();
        assert_eq!((output.end, output.stdout.as_slice()), (End::Exited(0), &b"inside\n"[..]));
        // It closes the input, which ends `cat`: process 1 of a pid namespace takes no SIGTERM.
        assert!(container.stop(Duration::from_secs(10)).unwrap().success());
        container.remove().unwrap();
    };
    let cycles = fixture::times(250, 1000);
    (0..50).for_each(cycle);
    let (before, memory) = (Traces::now(), resident());
    let mut times = Vec::new();
    for n in 0..cycles {
        let start = Instant::now();
        cycle(n);
        times.push(start.elapsed());
    }
    let grown = resident().saturating_sub(memory);
    let part = cycles.min(500) / 5;
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    let (first, last) = (median(&times[..part]), median(&times[cycles - part..]));
    println!(
        "resident memory grew by {} KiB in {cycles} cycles; first {first:?}, last {last:?}",
        grown >> 10
    );
    assert_eq!(Traces::now(), before);
    assert_eq!(std::fs::read_dir(states.path()).unwrap().count(), 0, "state directory");
    assert!(fixture::cgroups_named(&name).is_empty(), "{:?}", fixture::cgroups_named(&name));
    assert!(grown < 2 << 20, "{grown}");
    // Twenty per cent on a machine that does nothing else.
    assert!(last < first * 2, "{first:?} became {last:?}");
}
