//! `events`: statistics and out-of-memory events, in the shape that runc prints and clients read.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cgroup::{Cgroup, IoDevice, Max, Pressure, PressureAverages, Stats};
use container_core::state::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::Failure;

pub fn events(context: &Context, id: &str, once: bool, interval: Duration) -> Result<(), Failure> {
    let found = context.find(id)?;
    if found.status() == Status::Stopped {
        return Err(Failure::not_running("show events of", id));
    }
    let cgroup = found
        .cgroup()?
        .ok_or_else(|| Failure::new(format!("{id} has no control group: there are no figures")))?;
    print_stats(id, &cgroup)?;
    if once {
        return Ok(());
    }
    let Some(pidfd) = found.record.pidfd()? else { return Ok(()) };
    let mut out_of_memory = oom_kills(&cgroup);
    let mut next = Instant::now() + interval;
    // The interval is how often figures are printed; that memory ran out is told within a second.
    const GLANCE: Duration = Duration::from_secs(1);
    loop {
        let wait = next.saturating_duration_since(Instant::now()).min(GLANCE);
        let timeout = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Failure::because("wait for the container", errno)),
        }
        let now = oom_kills(&cgroup);
        if now > out_of_memory {
            print_event(&json!({ "type": "oom", "id": id }))?;
        }
        out_of_memory = now;
        if Instant::now() >= next {
            print_stats(id, &cgroup)?;
            next += interval;
        }
    }
}

fn oom_kills(cgroup: &Cgroup) -> u64 {
    cgroup.stats().ok().and_then(|stats| stats.memory.oom_kills).unwrap_or(0)
}

fn print_stats(id: &str, cgroup: &Cgroup) -> Result<(), Failure> {
    let stats =
        cgroup.stats().map_err(|error| Failure::because(format!("read the figures of {id}"), error))?;
    let text =
        serde_json::to_string(&data(&stats)).map_err(|error| Failure::because("print the figures", error))?;
    // `type` and `id` first: what reads these lines looks for them there.
    print_line(&format!("{{\"type\":\"stats\",\"id\":{},\"data\":{text}}}", json!(id)))
}

fn print_event(event: &Value) -> Result<(), Failure> {
    print_line(&format!("{{\"type\":{},\"id\":{}}}", event["type"], event["id"]))
}

fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::because("print an event", error))
}

/// The figures under the names that runc gives them; what this host does not have is left out.
fn data(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    let memory = &stats.memory;
    let nanoseconds = |time: Option<Duration>| time.map(|time| time.as_nanos() as u64);
    let mut data = json!({
        "cpu": {
            "usage": compact([
                ("total", nanoseconds(cpu.usage)),
                ("kernel", nanoseconds(cpu.system)),
                ("user", nanoseconds(cpu.user)),
            ]),
            "throttling": compact([
                ("periods", cpu.periods),
                ("throttledPeriods", cpu.throttled_periods),
                ("throttledTime", nanoseconds(cpu.throttled)),
            ]),
            "burst": compact([("burstsPeriods", cpu.bursts), ("burstTime", nanoseconds(cpu.burst))]),
        },
        "memory": {
            "cache": memory.file,
            "usage": compact([
                ("limit", memory.max.map(number)),
                ("usage", memory.current),
                ("max", memory.peak),
                ("failcnt", memory.limit_hits),
            ]),
            "swap": compact([("usage", memory.swap), ("max", memory.swap_peak)]),
            "kernel": compact([("usage", memory.kernel)]),
            "raw": compact([
                ("anon", memory.anon),
                ("file", memory.file),
                ("shmem", memory.shmem),
                ("inactive_file", memory.inactive_file),
                ("pgfault", memory.page_faults),
                ("pgmajfault", memory.major_page_faults),
            ]),
        },
        "pids": compact([("current", stats.pids.current), ("limit", stats.pids.max.map(number))]),
        "blkio": {
            "ioServiceBytesRecursive": io(stats, |device| (device.read_bytes, device.write_bytes)),
            "ioServicedRecursive": io(stats, |device| (device.read_operations, device.write_operations)),
        },
        "hugetlb": stats.hugetlb.iter().map(|(size, pages)| {
            let pages = compact([("usage", pages.current), ("max", pages.peak), ("failcnt", pages.limit_hits)]);
            (size.clone(), pages)
        }).collect::<Map<String, Value>>(),
    });
    for (name, pressure) in [("cpu", cpu.pressure), ("memory", memory.pressure), ("blkio", stats.io.pressure)]
    {
        if let Some(pressure) = pressure {
            data[name]["psi"] = psi(&pressure);
        }
    }
    data
}

/// The figures that are there.
fn compact<const N: usize>(figures: [(&str, Option<u64>); N]) -> Value {
    figures
        .into_iter()
        .filter_map(|(name, figure)| Some((name.to_owned(), Value::from(figure?))))
        .collect::<Map<_, _>>()
        .into()
}

/// "No limit" is the greatest number, as the kernel's own files of version 1 have it.
fn number(limit: Max) -> u64 {
    match limit {
        Max::At(value) => value,
        Max::Unlimited => u64::MAX,
    }
}

fn io(stats: &Stats, figures: impl Fn(&IoDevice) -> (Option<u64>, Option<u64>)) -> Value {
    let entries = stats.io.devices.iter().flat_map(|(number, device)| {
        let (read, write) = figures(device);
        [("Read", read), ("Write", write)].into_iter().filter_map(move |(op, value)| {
            Some(json!({ "major": number.major, "minor": number.minor, "op": op, "value": value? }))
        })
    });
    entries.collect()
}

fn psi(pressure: &Pressure) -> Value {
    let averages = |averages: &PressureAverages| {
        json!({
            "avg10": averages.avg10,
            "avg60": averages.avg60,
            "avg300": averages.avg300,
            "total": averages.total.as_micros() as u64,
        })
    };
    json!({ "some": averages(&pressure.some), "full": pressure.full.as_ref().map(averages) })
}
