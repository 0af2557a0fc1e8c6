//! One start: from the request until `true` has exited in a full container, was reaped, and everything is removed.
//!
//! `cargo bench -p benches --bench start`, as root, in one run and in turn: this crate in process (each start from the
//! specification), crun, runc and bwrap, and our command `oci-runtime` beside `crun run` and `runc run`. With `--features
//! peers` the crates libcontainer and hakoniwa take part in process (they need libseccomp). `BENCH_FLOOR` names a program that
//! makes the same container with as few system calls as possible and prints `preset least median ...` in microseconds;
//! `BENCH_OCI_RUNTIME` our command (default: `examples/oci-runtime` beside this program). `BENCH_RUNS` is the number of rounds,
//! 5 by default, `BENCH_STORM` of sustained starts, 2,000. `BENCH_ONLY` picks sections by substrings.
//!
//! Figures are medians over the rounds of each round's median, ratios those within a round. What runs in process does so in a
//! process of its own, for each block of starts anew. All have the same root, specification, filter and limits; the overlay's
//! upper directories (ours and the floor's) lie below `TMPDIR` and are removed outside of the time. bwrap makes no control
//! groups and hides no paths, hakoniwa neither.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

mod bundle;
mod inside;
mod programs;
mod report;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bundle::Bundle;
use programs::Program;
use report::{Goal, Series};

const ONE: &str = "--one";
const PAUSE: Duration = Duration::from_millis(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [one, contender, bundle, count, pause] = &arguments[..]
        && one == ONE
    {
        let pause = Duration::from_millis(pause.parse().unwrap());
        return inside::run(contender, Path::new(bundle), count.parse().unwrap(), pause);
    }
    programs::mask_left_over_controllers();
    let scratch = tempfile::Builder::new().prefix("start-bench-").tempdir().unwrap();
    let Some(bundle) = Bundle::make(scratch.path()) else { return };
    for (name, section) in [
        ("back to back", back_to_back as fn(&Bundle)),
        ("30 ms apart", apart),
        ("surroundings", surroundings),
        ("command", command),
        ("pool", pool),
        ("storm", storm),
        ("sleepers", sleepers),
    ] {
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        if only.is_empty() || only.split(',').any(|word| name.contains(word)) {
            section(&bundle);
        }
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Median time of a block of starts made in a process of their own, in microseconds.
fn in_process(contender: &str, bundle: &Bundle, count: usize, pause: Duration) -> Option<f64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    in_process_by(&mut command, contender, bundle, count, pause)
}

fn in_process_by(
    command: &mut Command,
    contender: &str,
    bundle: &Bundle,
    count: usize,
    pause: Duration,
) -> Option<f64> {
    let pause = pause.as_millis().to_string();
    let output = command.args([ONE, contender]).arg(&bundle.directory).args([&count.to_string(), &pause]);
    let output = output.output().ok()?;
    if !output.status.success() {
        println!("SKIPPED: {contender}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    report::median(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The median of a block of runs of a program.
fn of_program(program: &Program, count: usize, pause: Duration) -> Option<f64> {
    let mut times = Vec::new();
    for _ in 0..count {
        std::thread::sleep(pause);
        let started = Instant::now();
        if !program.run() {
            return None;
        }
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    report::median(times)
}

fn back_to_back(bundle: &Bundle) {
    starts("Back to back", bundle, Duration::ZERO, [40, 8]);
}

fn apart(bundle: &Bundle) {
    starts("30 ms apart", bundle, PAUSE, [20, 8]);
}

fn starts(title: &str, bundle: &Bundle, pause: Duration, [count, fewer]: [usize; 2]) {
    let near = pause.is_zero();
    // Some goals are about starts in a row, others about single ones.
    let near_goal = |times| near.then_some(Goal::Slower(times));
    let far_goal = |times| (!near).then_some(Goal::Slower(times));
    let mut series = Series::new(title, "this crate");
    let programs = programs::engines(bundle);
    for _ in 0..number("BENCH_RUNS", 5) {
        series.add("this crate", None, in_process("ours", bundle, count, pause));
        series.add("floor", Some(Goal::Faster(1.3)), programs::floor(bundle, "full:bitmap", count, pause));
        series.add("the same, no device rules", None, in_process("ours-3", bundle, count, pause));
        series.add("through the handle", None, in_process("handle", bundle, count, pause));
        let goals = [near_goal(3.5).or(far_goal(6.0)), far_goal(14.0), near_goal(2.5)];
        for (program, goal) in programs.iter().zip(goals) {
            series.add(&program.name, goal, of_program(program, fewer, pause));
        }
        if cfg!(feature = "peers") {
            let count = if near { fewer } else { 4 };
            let crates = [("libcontainer", near_goal(9.0)), ("hakoniwa", near_goal(4.5))];
            for (name, goal) in crates {
                series.add(name, goal, in_process(name, bundle, count, pause));
            }
        }
        series.end_round();
    }
    series.print();
}

/// Does it matter who starts, and how much is mounted?
fn surroundings(bundle: &Bundle) {
    let mut series = Series::new(
        "The same from a host program of 1 GiB and 50 threads, and beside 400 mounts",
        "this crate",
    );
    for _ in 0..number("BENCH_RUNS", 5) {
        series.add("this crate", None, in_process("ours", bundle, 40, Duration::ZERO));
        let large = in_process("ours-large", bundle, 40, Duration::ZERO);
        series.add("1 GiB and 50 threads", Some(Goal::Within(1.10)), large);
        let mut crowded = programs::beside_mounts(bundle, 400);
        let crowded = in_process_by(&mut crowded, "ours", bundle, 40, Duration::ZERO);
        series.add("400 mounts", Some(Goal::Within(1.15)), crowded);
        series.end_round();
    }
    series.print();
}

/// Our command beside others' commands.
fn command(bundle: &Bundle) {
    let Some(ours) = programs::oci_runtime(bundle) else { return };
    let peers = programs::engines(bundle);
    for (title, pause) in [("Commands, back to back", Duration::ZERO), ("Commands, 30 ms apart", PAUSE)] {
        let mut series = Series::new(title, &ours.name);
        for _ in 0..number("BENCH_RUNS", 5) {
            series.add(&ours.name, None, of_program(&ours, 10, pause));
            for (peer, goal) in peers.iter().zip([4.0, 8.0]) {
                series.add(&peer.name, Some(Goal::Slower(goal)), of_program(peer, 10, pause));
            }
            series.end_round();
        }
        series.print();
    }
    for program in std::iter::once(&ours).chain(peers.iter().take(2)) {
        match program.system_calls() {
            Some(calls) => println!("  {} makes {calls} system calls (ours: fewer than 300)", program.name),
            None => println!("SKIPPED: system calls of {}: no strace", program.name),
        }
    }
    println!();
}

/// Containers prepared ahead: what somebody who asks for one waits for.
fn pool(bundle: &Bundle) {
    let mut series = Series::new("From a pool, 30 ms apart", "from a pool");
    for _ in 0..number("BENCH_RUNS", 5) {
        series.add("from a pool", None, in_process("pool", bundle, 40, PAUSE));
        series.add("from a pool, sandbox()", None, in_process("pool-sandbox", bundle, 40, PAUSE));
        let floors = [("pool:tree,cg,net", None), ("pool:all+defer", Some(Goal::Faster(1.2)))];
        for (preset, goal) in floors {
            let floor = programs::floor(bundle, preset, 40, PAUSE);
            series.add(&format!("floor {preset}"), goal, floor);
        }
        if let Some(crun) = programs::engines(bundle).first() {
            series.add("crun", Some(Goal::Slower(12.0)), of_program(crun, 10, PAUSE));
        }
        series.end_round();
    }
    series.print();
}

/// Starts per second on all processors.
fn storm(bundle: &Bundle) {
    let count = number("BENCH_STORM", 2_000);
    let mut series = Series::new(&format!("{count} starts, two at a time, microseconds each"), "this crate");
    let each = |started: Instant| Some(started.elapsed().as_secs_f64() * 1e6 / count as f64);
    let started = Instant::now();
    let ours = in_process("ours-storm", bundle, count, Duration::ZERO).and_then(|_| each(started));
    series.add("this crate", None, ours);
    for (program, goal) in programs::engines(bundle).iter().zip([Some(Goal::Slower(3.5)), None]) {
        let started = Instant::now();
        let half = || (0..count / 2).all(|_| program.run());
        let done = std::thread::scope(|scope| {
            let other = scope.spawn(half);
            half() & other.join().unwrap()
        });
        series.add(&program.name, goal, if done { each(started) } else { None });
    }
    series.end_round();
    series.print();
}

/// Containers that stay.
fn sleepers(bundle: &Bundle) {
    const COUNT: usize = 200;
    let mut series = Series::new("200 sleeping containers created, microseconds each", "this crate");
    series.add("this crate", None, in_process("ours-sleep", bundle, COUNT, Duration::ZERO));
    for (program, goal) in programs::sleepers(bundle).iter().zip([Some(Goal::Slower(5.0)), None]) {
        let started = Instant::now();
        let done = (0..COUNT).all(|n| program.run_as(n));
        let each = started.elapsed().as_secs_f64() * 1e6 / COUNT as f64;
        for n in 0..COUNT {
            program.delete(n);
        }
        series.add(&program.name, goal, done.then_some(each));
    }
    series.end_round();
    series.print();
}
