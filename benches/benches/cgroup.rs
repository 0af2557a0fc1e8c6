//! One container's worth of cgroup work: make a group, limit memory, CPU and tasks, put a process in, read every figure, remove
//! it. With `--features peers` the crates `cgroups-rs` and `libcgroups` do the same in the same run.
//!
//! Starting and reaping the process is left out of the time. Needs root or a delegated cgroup; says so and measures nothing
//! otherwise. `cargo bench -p benches --features peers --bench cgroup`; with
//! `CGROUP_BENCH_ONCE=nothing|birth|ours|floor|cgroups-rs|cgroups-rs-cheapest|libcgroups` it does the work 100 times and nothing else, for
//! `strace -c` (and with `CGROUP_BENCH_PAUSE` after a pause each time); with `CGROUP_BENCH_PAIRED=ROUNDS` all in turns.
//!
//! Tenth percentile / median in ms on two virtual processors busy with other work (`CGROUP_BENCH_PAIRED`, 300 rounds in a burst on
//! a hybrid host with one v1 hierarchy for each controller, 30 on v2 in an emulated machine; system calls by `strace -c`, less
//! those of `nothing`):
//!
//! | | hybrid | v2, emulated | system calls (hybrid) |
//! |---|---|---|---|
//! | entering at birth | 0.51 / 2.84 | 2.05 / 2.61 | |
//! | by process id | 0.48 / 0.63 | 5.74 / 11.4 | 84 |
//! | floor, by process id | 0.44 / 0.55 | 6.05 / 11.8 | 83 |
//! | cgroups-rs, as documented | 1.28 / 1.52 | 9.46 / 27.3 | 318 |
//! | cgroups-rs, told which controllers | 0.93 / 1.11 | 9.54 / 15.3 | 267 |
//! | libcgroups | 2.50 / 4.18 | 9.90 / 15.3 | 873 |
//!
//! `floor` makes only the system calls that cannot be left out: nobody who moves a process by its id into four v1 hierarchies, or
//! into one of v2 (where the move alone waits for an RCU grace period), is more than that below these figures. So three times
//! faster than cgroups-rs by process id is out of reach on such a host: the floor itself is 2.9 times (2.1 times when
//! cgroups-rs is told which controllers to use).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program")]

use std::hint::black_box;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cgroup::{Cgroup, CgroupPath, Controller, Controllers, Hierarchy, Limits, Version};
use criterion::{Criterion, SamplingMode, criterion_group};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};

const MEMORY: u64 = 64 << 20;
const TASKS: u64 = 100;

fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("cgroup-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn wanted() -> Controllers {
    [Controller::Cpu, Controller::Cpuacct, Controller::Memory, Controller::Pids].into_iter().collect()
}

/// A process to put into groups.
fn sleeper() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}

fn end(mut child: Child) {
    let _ = child.kill();
    child.wait().unwrap();
}

/// One way to do the work, in two parts with the end of the process between them.
trait Contender {
    type Group;
    fn enter(&self, pid: u32) -> Self::Group;
    fn leave(&self, group: Self::Group);
}

struct Ours(Hierarchy);

impl Contender for Ours {
    type Group = Cgroup;

    fn enter(&self, pid: u32) -> Cgroup {
        let group = Cgroup::create_with(&self.0, &CgroupPath::new(name()).unwrap(), wanted()).unwrap();
        group.apply(&Limits::new().memory(MEMORY).cpus(0.5).pids(TASKS)).unwrap();
        group.add(pid).unwrap();
        black_box(group.stats().unwrap());
        group
    }

    fn leave(&self, group: Cgroup) {
        group.remove().unwrap();
    }
}

/// The least that does the work: the same directories and files with the system calls that cannot be left out, the names
/// known beforehand, nothing parsed. What the kernel takes for it, every contender takes.
struct Floor(Vec<FloorDir>);

struct FloorDir {
    parent: OwnedFd,
    limits: Vec<(&'static str, &'static str)>,
    figures: Vec<&'static str>,
}

impl Floor {
    /// Where a group of ours goes.
    fn beside(group: &Cgroup) -> Self {
        let dir = |(mount, path): (&cgroup::Mount, &std::path::Path)| {
            let mut dir = FloorDir {
                parent: openat(CWD, path.parent().unwrap(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .unwrap(),
                limits: Vec::new(),
                figures: Vec::new(),
            };
            for controller in wanted().iter().filter(|controller| mount.controllers().contains(*controller)) {
                let (limits, figures) = floor_files(controller, mount.version());
                dir.limits.extend(limits);
                dir.figures.extend(figures);
            }
            if mount.version() == Version::V2 {
                dir.figures.extend([
                    "cpu.stat",
                    "cpu.pressure",
                    "memory.pressure",
                    "io.pressure",
                    "cgroup.events",
                ]);
            }
            dir
        };
        Self(group.directories().map(dir).collect())
    }
}

/// The files with the limits and with the figures of one controller.
#[rustfmt::skip]
fn floor_files(
    controller: Controller,
    version: Version,
) -> (&'static [(&'static str, &'static str)], &'static [&'static str]) {
    match (controller, version) {
        (Controller::Memory, Version::V1) => (&[("memory.limit_in_bytes", "67108864")], &[
            "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt", "memory.kmem.usage_in_bytes",
            "memory.limit_in_bytes", "memory.oom_control", "memory.stat",
        ]),
        (Controller::Memory, Version::V2) => (&[("memory.max", "67108864")], &[
            "memory.current", "memory.peak", "memory.swap.current", "memory.swap.peak", "memory.max",
            "memory.events", "memory.stat",
        ]),
        (Controller::Cpu, Version::V1) => {
            (&[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")], &["cpu.stat"])
        }
        (Controller::Cpu, Version::V2) => (&[("cpu.max", "50000 100000")], &[]),
        (Controller::Cpuacct, Version::V1) => (&[], &["cpuacct.usage", "cpuacct.usage_all"]),
        (Controller::Pids, _) => {
            (&[("pids.max", "100")], &["pids.current", "pids.peak", "pids.max", "pids.events"])
        }
        _ => (&[], &[]),
    }
}

const FLOOR_NAME: &str = "cgroup-bench-floor";

fn write_value(dir: &OwnedFd, file: &str, value: &str) {
    let file = openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::io::write(&file, value.as_bytes()).unwrap();
}

impl Contender for Floor {
    type Group = Vec<OwnedFd>;

    fn enter(&self, pid: u32) -> Self::Group {
        let mut dirs = Vec::with_capacity(self.0.len());
        for own in &self.0 {
            mkdirat(&own.parent, FLOOR_NAME, Mode::from_raw_mode(0o755)).unwrap();
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            dirs.push(openat(&own.parent, FLOOR_NAME, flags, Mode::empty()).unwrap());
        }
        for (own, dir) in self.0.iter().zip(&dirs) {
            own.limits.iter().for_each(|(file, value)| write_value(dir, file, value));
        }
        let pid = pid.to_string();
        dirs.iter().for_each(|dir| write_value(dir, "cgroup.procs", &pid));
        let mut buffer = [0; 8192];
        for (own, dir) in self.0.iter().zip(&dirs) {
            for file in &own.figures {
                match openat(dir, *file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                    Ok(file) => black_box(rustix::io::read(&file, &mut buffer).unwrap()),
                    // Not on every kernel.
                    Err(_) => continue,
                };
            }
        }
        dirs
    }

    fn leave(&self, dirs: Self::Group) {
        for own in &self.0 {
            unlinkat(&own.parent, FLOOR_NAME, AtFlags::REMOVEDIR).unwrap();
        }
        drop(dirs);
    }
}

/// What is there without any work, to be taken off a count of system calls.
struct Nothing;

impl Contender for Nothing {
    type Group = ();
    fn enter(&self, _pid: u32) {}
    fn leave(&self, (): ()) {}
}

#[cfg(feature = "peers")]
mod peers {
    use super::{Contender, MEMORY, TASKS, name};
    use std::hint::black_box;

    /// As its documentation shows it, in every hierarchy, or in its cheapest form: only in those that are needed.
    pub(crate) enum CgroupsRs {
        Documented,
        Cheapest,
    }

    impl Contender for CgroupsRs {
        type Group = cgroups_rs::fs::Cgroup;

        fn enter(&self, pid: u32) -> Self::Group {
            use cgroups_rs::fs::{
                Controller, cgroup_builder::CgroupBuilder, cpu::CpuController, cpuacct::CpuAcctController,
                hierarchies, memory::MemController, pid::PidController,
            };
            let mut builder = CgroupBuilder::new(&name());
            if let Self::Cheapest = self {
                let needed: &[&str] = if hierarchies::auto().v2() {
                    &["cpu", "memory", "pids"]
                } else {
                    &["cpu", "cpuacct", "memory", "pids"]
                };
                let controllers = needed.iter().map(|name| (*name).to_owned()).collect();
                builder = builder.set_specified_controllers(controllers);
            }
            let group = builder
                .memory()
                .memory_hard_limit(MEMORY as i64)
                .done()
                .cpu()
                .period(100_000)
                .quota(50_000)
                .done()
                .pid()
                .maximum_number_of_processes(cgroups_rs::fs::MaxValue::Value(TASKS as i64))
                .done()
                .build(hierarchies::auto())
                .unwrap();
            group.add_task_by_tgid(cgroups_rs::CgroupPid::from(u64::from(pid))).unwrap();
            let memory: &MemController = group.controller_of().unwrap();
            black_box((memory.memory_stat(), memory.memswap(), memory.kmem_stat()));
            let cpu: &CpuController = group.controller_of().unwrap();
            black_box((cpu.cpu(), cpu.path().to_owned()));
            if let Some(accounting) = group.controller_of::<CpuAcctController>() {
                black_box(accounting.cpuacct());
            }
            let pids: &PidController = group.controller_of().unwrap();
            black_box((
                pids.get_pid_current().unwrap(),
                pids.get_pid_events().unwrap(),
                pids.get_pid_max().unwrap(),
            ));
            group
        }

        fn leave(&self, group: Self::Group) {
            group.delete().unwrap();
        }
    }

    pub(crate) struct Libcgroups;

    impl Contender for Libcgroups {
        type Group = libcgroups::common::AnyCgroupManager;

        fn enter(&self, pid: u32) -> Self::Group {
            use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
            use oci_spec::runtime::{
                LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
            };
            let manager = create_cgroup_manager(CgroupConfig {
                cgroup_path: format!("/{}", name()).into(),
                systemd_cgroup: false,
                container_name: "bench".to_owned(),
            })
            .unwrap();
            manager.add_task(nix::unistd::Pid::from_raw(pid as i32)).unwrap();
            let resources = LinuxResourcesBuilder::default()
                .memory(LinuxMemoryBuilder::default().limit(MEMORY as i64).build().unwrap())
                .cpu(LinuxCpuBuilder::default().quota(50_000i64).period(100_000u64).build().unwrap())
                .pids(LinuxPidsBuilder::default().limit(TASKS as i64).build().unwrap())
                .build()
                .unwrap();
            manager
                .apply(&ControllerOpt {
                    resources: &resources,
                    disable_oom_killer: false,
                    oom_score_adj: None,
                    freezer_state: None,
                })
                .unwrap();
            black_box(manager.stats().unwrap());
            manager
        }

        fn leave(&self, group: Self::Group) {
            use libcgroups::common::CgroupManager;
            group.remove().unwrap();
        }
    }
}

/// How long nothing happens before each repetition. In a burst the kernel's lock for moving processes stays hot; after a pause it
/// costs an RCU grace period, and containers mostly start after a pause.
const PAUSE: Duration = Duration::from_millis(30);

/// Waits for the pause. Without one, has the lock for moving processes taken once, so that whoever comes next finds it hot,
/// whatever came before.
fn rest(pause: Duration) {
    std::thread::sleep(pause);
    if pause.is_zero() {
        let hierarchy = Hierarchy::discover().unwrap();
        let mount = hierarchy.mount_of(Controller::Pids).unwrap();
        let own = mount.mountpoint().join(mount.own().unwrap()).join("cgroup.procs");
        let _ = std::fs::write(own, std::process::id().to_string());
    }
}

fn cycle<C: Contender>(contender: &C, count: u64, pause: Duration) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let child = sleeper();
        rest(pause);
        let start = Instant::now();
        let group = contender.enter(child.id());
        total += start.elapsed();
        end(child);
        let start = Instant::now();
        contender.leave(group);
        total += start.elapsed();
    }
    total
}

/// The same, entering as a child does between clone and exec: it writes `0` to the open `tasks` files of the v1 hierarchies (on
/// v2 it is born inside, CLONE_INTO_CGROUP, and nothing is left to time). Here a thread of this program is the child, with a
/// clock of its own: the writing is measured, the starting of the thread is not, as with the peers.
fn at_birth(ours: &Ours, count: u64, pause: Duration) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        let (give, take) = mpsc::channel::<Vec<OwnedFd>>();
        let (tell, wait) = mpsc::channel::<Duration>();
        let (release, end) = mpsc::channel::<()>();
        let child = std::thread::spawn(move || {
            let tasks = take.recv().unwrap();
            let start = Instant::now();
            for tasks in tasks {
                std::fs::File::from(tasks).write_all(b"0").unwrap();
            }
            tell.send(start.elapsed()).unwrap();
            // Until the figures are read.
            let _ = end.recv();
        });
        rest(pause);
        let start = Instant::now();
        let group = Cgroup::create_with(&ours.0, &CgroupPath::new(name()).unwrap(), wanted()).unwrap();
        group.apply(&Limits::new().memory(MEMORY).cpus(0.5).pids(TASKS)).unwrap();
        let entry = group.entry().unwrap();
        total += start.elapsed();
        give.send(entry.tasks).unwrap();
        total += wait.recv().unwrap();
        let start = Instant::now();
        black_box(group.stats().unwrap());
        total += start.elapsed();
        drop(release);
        child.join().unwrap();
        // A process that was reaped has left its groups; of a thread that was joined the kernel only says that it will.
        while group.processes().unwrap().contains(&std::process::id()) {
            std::thread::yield_now();
        }
        let start = Instant::now();
        group.remove().unwrap();
        total += start.elapsed();
    }
    total
}

fn ready() -> Option<(Ours, Floor)> {
    let tried = Hierarchy::discover().and_then(|hierarchy| {
        let group = Cgroup::create_with(&hierarchy, &CgroupPath::new(name())?, wanted())?;
        let limited = group.apply(&Limits::new().memory(MEMORY).cpus(0.5).pids(TASKS));
        let floor = Floor::beside(&group);
        group.remove()?;
        limited.map(|()| (Ours(hierarchy), floor))
    });
    tried.inspect_err(|error| println!("SKIPPED: {error}: {:?}", std::error::Error::source(error))).ok()
}

fn compare(criterion: &mut Criterion, name: &str, pause: Duration) {
    let Some((ours, floor)) = ready() else { return };
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    if !pause.is_zero() {
        // Pauses are not measured, but take their time.
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(5)).measurement_time(Duration::from_millis(150));
    }
    group.bench_function("ours, entering at birth", |bench| {
        bench.iter_custom(|count| at_birth(&ours, count, pause))
    });
    group
        .bench_function("ours, by process id", |bench| bench.iter_custom(|count| cycle(&ours, count, pause)));
    group.bench_function("floor, by process id", |bench| {
        bench.iter_custom(|count| cycle(&floor, count, pause))
    });
    #[cfg(feature = "peers")]
    {
        use peers::{CgroupsRs, Libcgroups};
        group.bench_function("cgroups-rs, as documented", |bench| {
            bench.iter_custom(|count| cycle(&CgroupsRs::Documented, count, pause));
        });
        group.bench_function("cgroups-rs, cheapest", |bench| {
            bench.iter_custom(|count| cycle(&CgroupsRs::Cheapest, count, pause));
        });
        group.bench_function("libcgroups", |bench| {
            bench.iter_custom(|count| cycle(&Libcgroups, count, pause))
        });
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    compare(criterion, "cgroup in a burst", Duration::ZERO);
    compare(criterion, "cgroup after a pause", PAUSE);
}

criterion_group!(benches, whole);

/// Every contender once, round after round, so that what else the machine does hits all alike: the tenth percentile and the
/// median of each, and their ratio to ours by process id.
fn paired(rounds: u64, pause: Duration) {
    let Some((ours, floor)) = ready() else { return };
    #[allow(unused_mut, clippy::type_complexity, reason = "the peers are behind a feature")]
    let mut contenders: Vec<(&str, Box<dyn Fn() -> Duration>)> = vec![
        ("ours, entering at birth", Box::new(|| at_birth(&ours, 1, pause))),
        ("ours, by process id", Box::new(|| cycle(&ours, 1, pause))),
        ("floor, by process id", Box::new(|| cycle(&floor, 1, pause))),
    ];
    #[cfg(feature = "peers")]
    {
        use peers::{CgroupsRs, Libcgroups};
        contenders.push(("cgroups-rs, as documented", Box::new(|| cycle(&CgroupsRs::Documented, 1, pause))));
        contenders.push(("cgroups-rs, cheapest", Box::new(|| cycle(&CgroupsRs::Cheapest, 1, pause))));
        contenders.push(("libcgroups", Box::new(|| cycle(&Libcgroups, 1, pause))));
    }
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        contenders.iter().zip(&mut times).for_each(|((_, work), times)| times.push(work()));
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    for ((name, _), own) in contenders.iter().zip(&times) {
        let (low, median) = (at(own, 10), at(own, 50));
        let (of_low, of_median) = (low / at(&times[1], 10), median / at(&times[1], 50));
        println!("{name:28} p10 {low:7.3} ms ({of_low:5.2} x)  median {median:7.3} ms ({of_median:5.2} x)");
    }
}

fn main() {
    let pause = if std::env::var_os("CGROUP_BENCH_PAUSE").is_some() { PAUSE } else { Duration::ZERO };
    if let Some(rounds) = std::env::var("CGROUP_BENCH_PAIRED").ok().and_then(|rounds| rounds.parse().ok()) {
        return paired(rounds, pause);
    }
    let Ok(contender) = std::env::var("CGROUP_BENCH_ONCE") else {
        benches();
        return Criterion::default().configure_from_args().final_summary();
    };
    let time = match contender.as_str() {
        "nothing" => Some(cycle(&Nothing, 100, pause)),
        "birth" => ready().map(|(ours, _)| at_birth(&ours, 100, pause)),
        "ours" => ready().map(|(ours, _)| cycle(&ours, 100, pause)),
        "floor" => ready().map(|(_, floor)| cycle(&floor, 100, pause)),
        #[cfg(feature = "peers")]
        "cgroups-rs" => Some(cycle(&peers::CgroupsRs::Documented, 100, pause)),
        #[cfg(feature = "peers")]
        "cgroups-rs-cheapest" => Some(cycle(&peers::CgroupsRs::Cheapest, 100, pause)),
        #[cfg(feature = "peers")]
        "libcgroups" => Some(cycle(&peers::Libcgroups, 100, pause)),
        _ => None,
    };
    println!("{contender}: 100 times in {time:?}");
}
