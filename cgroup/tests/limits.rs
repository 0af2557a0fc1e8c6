//! A limit that was set is in force, in the kernel's own words; a limit that was not set is an error that says where.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use cgroup::{
    Access, Controller, Controllers, CpuWeight, DeviceKind, DeviceNumber, DeviceRule, Error, IoRates,
    IoWeight, Limits, Max, Swap, Version,
};
use support::{Guard, Process, hierarchy_with, skip};

const USUAL: &[Controller] = &[Controller::Cpu, Controller::Memory, Controller::Pids];
const MIB: u64 = 1 << 20;

#[test]
fn memory_up_and_down() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    let group = Guard::new(&hierarchy, "memory", &[Controller::Memory]);
    let is_v1 = hierarchy.version_of(Controller::Memory) == Some(Version::V1);
    let swap_file = if is_v1 { "memory.memsw.limit_in_bytes" } else { "memory.swap.max" };
    let has_swap = group.file(Controller::Memory, swap_file).exists();
    // Each step would fail in one of the two orders of writing on v1.
    for (max, swap) in [(64, 32), (256, 128), (16, 0), (32, 512), (8, 4)] {
        let mut limits = Limits::new().memory(max * MIB);
        limits.memory.swap = has_swap.then_some(Swap::Only(Max::At(swap * MIB)));
        group.apply(&limits).unwrap();
        assert_eq!(group.stats().unwrap().memory.max, Some(Max::At(max * MIB)));
        if has_swap {
            let want = if is_v1 { max + swap } else { swap };
            assert_eq!(group.read(Controller::Memory, swap_file), (want * MIB).to_string());
        }
    }
    if has_swap {
        let mut total = Limits::new().memory(10 * MIB);
        total.memory.swap = Some(Swap::Total(Max::At(15 * MIB)));
        group.apply(&total).unwrap();
        let want = if is_v1 { 15 * MIB } else { 5 * MIB };
        assert_eq!(group.read(Controller::Memory, swap_file), want.to_string());
        total.memory.swap = Some(Swap::Total(Max::At(MIB)));
        assert!(matches!(group.apply(&total), Err(Error::InvalidLimit { limit: "memory.swap", .. })));
    }
    group.apply(&Limits::new().memory(Max::Unlimited)).unwrap();
    assert_eq!(group.stats().unwrap().memory.max, Some(Max::Unlimited));
    let mut low = Limits::new();
    low.memory.low = Some(Max::At(MIB));
    group.apply(&low).unwrap();
    let file = if is_v1 { "memory.soft_limit_in_bytes" } else { "memory.low" };
    assert_eq!(group.read(Controller::Memory, file), MIB.to_string());
}

#[test]
fn what_a_version_lacks_is_an_error_there_and_a_limit_elsewhere() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    let group = Guard::new(&hierarchy, "lacks", &[Controller::Memory]);
    let mut high = Limits::new().memory(64 * MIB);
    high.memory.high = Some(Max::At(MIB));
    high.memory.min = Some(Max::At(MIB));
    high.memory.oom_group = Some(true);
    let mut swappiness = Limits::new();
    swappiness.memory.swappiness = Some(10);
    match hierarchy.version_of(Controller::Memory).unwrap() {
        Version::V1 => {
            let refused = group.apply(&high);
            assert!(matches!(
                refused,
                Err(Error::Unsupported { limit: "memory.high", version: Version::V1 })
            ));
            group.apply(&swappiness).unwrap();
            assert_eq!(group.read(Controller::Memory, "memory.swappiness"), "10");
        }
        Version::V2 => {
            group.apply(&high).unwrap();
            for (file, want) in
                [("memory.high", "1048576"), ("memory.min", "1048576"), ("memory.oom.group", "1")]
            {
                assert_eq!(group.read(Controller::Memory, file), want);
            }
            let refused = group.apply(&swappiness);
            assert!(matches!(
                refused,
                Err(Error::Unsupported { limit: "memory.swappiness", version: Version::V2 })
            ));
        }
    }
}

#[test]
fn cpu_time() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Cpu]) else { return };
    let group = Guard::new(&hierarchy, "cpu", &[Controller::Cpu]);
    let is_v1 = hierarchy.version_of(Controller::Cpu) == Some(Version::V1);
    let in_force = || {
        if is_v1 {
            let read = |file| group.read(Controller::Cpu, file);
            format!("{} {}", read("cpu.cfs_quota_us").replace("-1", "max"), read("cpu.cfs_period_us"))
        } else {
            group.read(Controller::Cpu, "cpu.max")
        }
    };
    group.apply(&Limits::new().cpus(1.5)).unwrap();
    assert_eq!(in_force(), "150000 100000");
    let mut limits = Limits::new();
    limits.cpu.period = Some(50_000);
    group.apply(&limits).unwrap();
    assert_eq!(in_force(), "150000 50000", "the quota stays");
    limits.cpu.period = None;
    limits.cpu.quota = Some(Max::At(20_000));
    group.apply(&limits).unwrap();
    assert_eq!(in_force(), "20000 50000", "the period stays");
    let burst = if is_v1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
    if group.file(Controller::Cpu, burst).exists() {
        // Up: quota before burst; down: burst before quota.
        for (quota, size) in [(80_000, 60_000), (10_000, 5_000)] {
            limits.cpu.quota = Some(Max::At(quota));
            limits.cpu.burst = Some(size);
            group.apply(&limits).unwrap();
            assert_eq!(group.read(Controller::Cpu, burst), size.to_string());
        }
        limits.cpu.burst = Some(0);
        group.apply(&limits).unwrap();
    }
    group
        .apply(&{
            let mut limits = Limits::new();
            limits.cpu.quota = Some(Max::Unlimited);
            limits
        })
        .unwrap();
    assert!(in_force().starts_with("max "));

    let file = if is_v1 { "cpu.shares" } else { "cpu.weight" };
    for (weight, v1, v2) in [(CpuWeight::Shares(1024), "1024", "100"), (CpuWeight::Weight(1), "2", "1")] {
        let mut limits = Limits::new();
        limits.cpu.weight = Some(weight);
        group.apply(&limits).unwrap();
        let got = group.read(Controller::Cpu, file);
        assert_eq!(got, if is_v1 { v1 } else { v2 }, "{weight:?}");
    }
    if group.file(Controller::Cpu, "cpu.idle").exists() {
        let mut limits = Limits::new();
        limits.cpu.idle = Some(true);
        group.apply(&limits).unwrap();
        assert_eq!(group.read(Controller::Cpu, "cpu.idle"), "1");
        limits.cpu.idle = Some(false);
        limits.cpu.weight = Some(CpuWeight::Shares(2048));
        group.apply(&limits).unwrap();
        assert_eq!(group.read(Controller::Cpu, "cpu.idle"), "0");
    }
}

#[test]
fn cpus_and_nodes() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Cpuset, Controller::Cpuacct]) else { return };
    let group = Guard::new(&hierarchy, "cpuset", &[Controller::Cpuset, Controller::Cpuacct]);
    // On v1 this also needs the group to have been given CPUs and nodes when it was made.
    let process = Process::shell("exec sleep 60");
    group.add(process.id()).unwrap();
    group.apply(&Limits::new().cpuset_cpus("0").cpuset_mems("0")).unwrap();
    assert_eq!(group.read(Controller::Cpuset, "cpuset.cpus"), "0");
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    match group.apply(&Limits::new().cpuset_cpus("4095")) {
        Err(Error::Limit { controller: Controller::Cpuset, file, value, source }) => {
            assert!(file.ends_with("cpuset.cpus") && value == "4095" && source.raw_os_error().is_some());
        }
        // v2 takes the list and uses what there is of it.
        Ok(()) if hierarchy.version_of(Controller::Cpuset) == Some(Version::V2) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn tasks() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    let group = Guard::new(&hierarchy, "pids", &[Controller::Pids]);
    group.apply(&Limits::new().pids(3)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let script = format!(
        "while [ ! -e {0} ]; do sleep 0.01; done; for i in 1 2 3 4 5 6; do sleep 60 & done 2>/dev/null; wait",
        gate.display()
    );
    let process = Process::shell(&script);
    group.add(process.id()).unwrap();
    std::fs::write(&gate, "").unwrap();
    for _ in 0..2000 {
        if group.stats().unwrap().pids.limit_hits.is_some_and(|hits| hits > 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let pids = group.stats().unwrap().pids;
    assert!(pids.limit_hits.unwrap() > 0);
    assert!(pids.current.unwrap() <= 3);
    assert_eq!(pids.max, Some(Max::At(3)));
    group.apply(&Limits::new().pids(Max::Unlimited)).unwrap();
    assert_eq!(group.stats().unwrap().pids.max, Some(Max::Unlimited));
}

#[test]
fn block_devices() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Blkio]) else { return };
    let Some(device) = whole_disk() else { return skip("disk", "no block device") };
    let group = Guard::new(&hierarchy, "io", &[Controller::Blkio]);
    let rates = IoRates::new().read_bps(1 << 20).write_iops(100);
    group.apply(&Limits::new().io_rates(device, rates)).unwrap();
    match hierarchy.version_of(Controller::Blkio).unwrap() {
        Version::V1 => {
            let read = |file| group.read(Controller::Blkio, file);
            assert_eq!(read("blkio.throttle.read_bps_device"), format!("{device} 1048576"));
            assert_eq!(read("blkio.throttle.write_iops_device"), format!("{device} 100"));
        }
        Version::V2 => {
            let want = format!("{device} rbps=1048576 wbps=max riops=max wiops=100");
            assert_eq!(group.read(Controller::Blkio, "io.max"), want);
        }
    }
    group
        .apply(
            &Limits::new()
                .io_rates(device, IoRates::new().read_bps(Max::Unlimited).write_iops(Max::Unlimited)),
        )
        .unwrap();
    let file = match hierarchy.version_of(Controller::Blkio).unwrap() {
        Version::V1 => "blkio.throttle.read_bps_device",
        Version::V2 => "io.max",
    };
    assert_eq!(group.read(Controller::Blkio, file), "");

    let mut weight = Limits::new();
    weight.io.weight = Some(IoWeight::Blkio(500));
    match group.apply(&weight) {
        Ok(()) if group.file(Controller::Blkio, "io.weight").exists() => {
            assert_eq!(group.read(Controller::Blkio, "io.weight"), "default 4950");
        }
        Ok(()) => {}
        // No scheduler of this kernel has weights.
        Err(Error::Limit { controller: Controller::Blkio, file, .. }) => assert!(!file.exists(), "{file:?}"),
        Err(other) => panic!("{other:?}"),
    }
    let nowhere = DeviceNumber { major: 4000, minor: 1 };
    let refused = group.apply(&Limits::new().io_rates(nowhere, IoRates::new().read_bps(1)));
    assert!(matches!(refused, Err(Error::Limit { controller: Controller::Blkio, .. })), "{refused:?}");
}

/// Some disk, by `/sys/block`.
fn whole_disk() -> Option<DeviceNumber> {
    let disks = std::fs::read_dir("/sys/block").ok()?;
    disks.filter_map(Result::ok).find_map(|disk| {
        let text = std::fs::read_to_string(disk.path().join("dev")).ok()?;
        let size = std::fs::read_to_string(disk.path().join("size")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        (size.trim() != "0")
            .then_some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
    })
}

#[test]
fn huge_pages() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Hugetlb]) else { return };
    let group = Guard::new(&hierarchy, "hugetlb", &[Controller::Hugetlb]);
    let stats = group.stats().unwrap();
    let Some(size) = stats.hugetlb.keys().next() else {
        return skip("hugetlb", "this machine has no huge pages");
    };
    let mut limits = Limits::new();
    limits.hugetlb.insert(size.clone(), cgroup::HugetlbLimits::max(1 << 30));
    group.apply(&limits).unwrap();
    let name = match hierarchy.version_of(Controller::Hugetlb).unwrap() {
        Version::V1 => "limit_in_bytes",
        Version::V2 => "max",
    };
    for file in [format!("hugetlb.{size}.{name}"), format!("hugetlb.{size}.rsvd.{name}")] {
        if group.file(Controller::Hugetlb, &file).exists() {
            assert_eq!(group.read(Controller::Hugetlb, &file), (1u64 << 30).to_string());
        }
    }
    let mut wrong = Limits::new();
    wrong.hugetlb.insert("3MB".to_owned(), cgroup::HugetlbLimits::max(0));
    assert!(matches!(group.apply(&wrong), Err(Error::Limit { controller: Controller::Hugetlb, .. })));
}

#[test]
fn device_nodes() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Devices]) else { return };
    let group = Guard::new(&hierarchy, "devices", &[Controller::Devices]);
    let null = DeviceRule::allow(DeviceKind::Char, Some(1), Some(3), Access::READ | Access::WRITE);
    let first = group.apply(&Limits::new().devices([null]));
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(first, Err(Error::Devices { .. })), "{first:?}");
        return skip("root", "device access on v2 takes CAP_BPF");
    }
    first.unwrap();
    let works = |node: &str| {
        let script = format!("read go; exec 3<{node}");
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        group.add(shell.id()).unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap().success()
    };
    assert!(works("/dev/null") && !works("/dev/zero"));
    group.apply(&Limits::new().devices(DeviceRule::defaults())).unwrap();
    assert!(works("/dev/null") && works("/dev/zero") && works("/dev/urandom"));
    group.apply(&Limits::new().devices([])).unwrap();
    assert!(!works("/dev/null"));
    group.apply(&Limits::new().devices([DeviceRule::allow_all()])).unwrap();
    assert!(works("/dev/null") && works("/dev/zero"));
    if hierarchy.version_of(Controller::Devices) == Some(Version::V2) {
        let hole = DeviceRule::deny(DeviceKind::Char, Some(1), Some(5), Access::READ);
        let all = DeviceRule::allow(DeviceKind::Char, None, None, Access::ALL);
        group.apply(&Limits::new().devices([all, hole])).unwrap();
        assert!(works("/dev/null") && !works("/dev/zero"));
    }
}

#[test]
fn raw_entries() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    let group = Guard::new(&hierarchy, "unified", &[Controller::Pids]);
    let limits = Limits::new().unified("pids.max", "9");
    match hierarchy.version_of(Controller::Pids).unwrap() {
        Version::V2 => {
            group.apply(&limits).unwrap();
            assert_eq!(group.read(Controller::Pids, "pids.max"), "9");
        }
        // On a hybrid host v2 has no such file, on a v1 host there is no v2.
        Version::V1 => {
            let error = group.apply(&limits).unwrap_err().to_string();
            assert!(error.starts_with("unified = pids.max: raw entries need cgroup v2"), "{error}");
        }
    }
    for name in ["../pids.max", "nodot", "pids.max\n"] {
        assert!(group.apply(&Limits::new().unified(name, "9")).is_err(), "{name:?}");
    }
}

#[test]
fn best_effort_reports_what_was_left_out() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Pids]) else { return };
    // Made without memory, which therefore cannot be limited.
    let group = Guard::new(&hierarchy, "effort", &[Controller::Pids]);
    let mut limits = Limits::new().pids(5).cpuset_cpus("x");
    limits.rdma.insert("no-such-device".to_owned(), cgroup::RdmaLimits::new(Some(Max::At(1)), None));
    let skipped = group.apply_best_effort(&limits);
    let left_out: Controllers = skipped.iter().map(|skipped| skipped.controller).collect();
    assert_eq!(left_out, [Controller::Cpuset, Controller::Rdma].into_iter().collect());
    assert_eq!(group.read(Controller::Pids, "pids.max"), "5");
    assert!(group.apply(&limits).is_err());
}

#[test]
fn below_the_present_use() {
    let Some(hierarchy) = hierarchy_with(&[Controller::Memory]) else { return };
    let group = Guard::new(&hierarchy, "below", &[Controller::Memory]);
    // 32 MiB of memory that cannot be reclaimed.
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "read go; x=$(head -c 33554432 /dev/zero | tr '\\0' x); echo full; read end"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    group.add(child.id()).unwrap();
    use std::io::{BufRead, BufReader, Write};
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "full\n");

    let mut limits = Limits::new().memory(4 * MIB).swap(0);
    if hierarchy.version_of(Controller::Memory) == Some(Version::V1) {
        limits.memory.swap = None;
    }
    limits.memory.check_before_update = true;
    match group.apply(&limits) {
        Err(Error::BelowUsage { limit, usage, .. }) => assert!(limit == 4 * MIB && usage > 32 * MIB),
        other => panic!("{other:?}"),
    }
    limits.memory.check_before_update = false;
    let applied = group.apply(&limits);
    match hierarchy.version_of(Controller::Memory).unwrap() {
        Version::V1 => {
            let busy = matches!(&applied, Err(Error::Limit { controller: Controller::Memory, source, .. })
                if source.raw_os_error() == Some(libc_ebusy()));
            // With swap the kernel can push everything out.
            assert!(busy || applied.is_ok(), "{applied:?}");
        }
        Version::V2 => {
            applied.unwrap();
            assert!(
                group.wait_empty(Some(Duration::from_secs(20))).unwrap(),
                "the kernel kills until it fits"
            );
            assert!(group.stats().unwrap().memory.oom_kills.unwrap() >= 1);
        }
    }
    drop(stdin);
    let _ = child.kill();
    child.wait().unwrap();
}

fn libc_ebusy() -> i32 {
    rustix::io::Errno::BUSY.raw_os_error()
}

#[test]
fn a_missing_controller_is_named() {
    let Some(hierarchy) = hierarchy_with(USUAL) else { return };
    let group = Guard::new(&hierarchy, "missing", &[Controller::Pids]);
    match hierarchy.version_of(Controller::Memory).unwrap() {
        Version::V1 => match group.apply(&Limits::new().memory(MIB)) {
            Err(Error::NoController { controller: Controller::Memory, .. }) => {}
            other => panic!("{other:?}"),
        },
        // v2 hands controllers to all children of a group at once.
        Version::V2 => {}
    }
}
