use std::time::Duration;

use crate::controller::Controller;
use crate::dir::Dir;
use crate::error::Result;
use crate::parse;
use crate::stats::{CpuStats, MemoryStats, Stats};

/// Reads the figures of one controller.
pub(crate) fn read(controller: Controller, dir: &Dir, stats: &mut Stats, buffer: &mut Vec<u8>) -> Result<()> {
    match controller {
        Controller::Memory => memory(dir, &mut stats.memory, buffer),
        Controller::Pids => crate::v1::stats::pids(dir, &mut stats.pids, buffer),
        Controller::Blkio => {
            if let Some(text) = dir.read("io.stat", buffer)? {
                stats.io.devices = parse::io_stat(text);
            }
            Ok(())
        }
        Controller::Hugetlb => {
            for size in crate::hugetlb::page_sizes() {
                if let Some(text) = dir.read(&format!("hugetlb.{size}.current"), buffer)? {
                    let entry = stats.hugetlb.entry(size.clone()).or_default();
                    entry.current = parse::number(text);
                    let events = dir.read(&format!("hugetlb.{size}.events"), buffer)?;
                    entry.limit_hits = events.and_then(|text| parse::field(text, "max"));
                }
            }
            Ok(())
        }
        Controller::Rdma => {
            stats.rdma = dir.read("rdma.current", buffer)?.map(parse::nested).unwrap_or_default();
            Ok(())
        }
        Controller::Misc => {
            if let Some(text) = dir.read("misc.current", buffer)? {
                parse::flat(text, |name, value| {
                    stats.misc.insert(name.to_owned(), value);
                });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads what every v2 group has, whatever its controllers: CPU time, pressure, and whether it is populated.
pub(crate) fn read_core(dir: &Dir, stats: &mut Stats, buffer: &mut Vec<u8>) -> Result<()> {
    if let Some(text) = dir.read("cpu.stat", buffer)? {
        cpu_stat(text, &mut stats.cpu);
    }
    let mut pressure = |file| Ok(dir.read(file, buffer)?.and_then(parse::pressure));
    stats.cpu.pressure = pressure("cpu.pressure")?;
    stats.memory.pressure = pressure("memory.pressure")?;
    stats.io.pressure = pressure("io.pressure")?;
    stats.populated = populated(dir, buffer)?;
    Ok(())
}

pub(crate) fn populated(dir: &Dir, buffer: &mut Vec<u8>) -> Result<Option<bool>> {
    let populated = dir.read("cgroup.events", buffer)?.and_then(|text| parse::field(text, "populated"));
    Ok(populated.map(|populated| populated != 0))
}

pub(crate) fn cpu_usage(dir: &Dir, buffer: &mut Vec<u8>) -> Result<Option<Duration>> {
    let usage = dir.read("cpu.stat", buffer)?.and_then(|text| parse::field(text, "usage_usec"));
    Ok(usage.map(Duration::from_micros))
}

fn cpu_stat(text: &str, cpu: &mut CpuStats) {
    parse::flat(text, |key, value| {
        let time = Some(Duration::from_micros(value));
        match key {
            "usage_usec" => cpu.usage = time,
            "user_usec" => cpu.user = time,
            "system_usec" => cpu.system = time,
            "nr_periods" => cpu.periods = Some(value),
            "nr_throttled" => cpu.throttled_periods = Some(value),
            "throttled_usec" => cpu.throttled = time,
            "nr_bursts" => cpu.bursts = Some(value),
            "burst_usec" => cpu.burst = time,
            _ => {}
        }
    });
}

fn memory(dir: &Dir, memory: &mut MemoryStats, buffer: &mut Vec<u8>) -> Result<()> {
    let mut number = |file| Ok(dir.read(file, buffer)?.and_then(parse::number));
    memory.current = number("memory.current")?;
    memory.peak = number("memory.peak")?;
    memory.swap = number("memory.swap.current")?;
    memory.swap_peak = number("memory.swap.peak")?;
    memory.max = dir.read("memory.max", buffer)?.and_then(parse::max);
    if let Some(text) = dir.read("memory.events", buffer)? {
        parse::flat(text, |key, value| match key {
            "max" => memory.limit_hits = Some(value),
            "high" => memory.high_hits = Some(value),
            "oom" => memory.oom = Some(value),
            "oom_kill" => memory.oom_kills = Some(value),
            _ => {}
        });
    }
    if let Some(text) = dir.read("memory.stat", buffer)? {
        parse::flat(text, |key, value| {
            let field = match key {
                "anon" => &mut memory.anon,
                "file" => &mut memory.file,
                "shmem" => &mut memory.shmem,
                "kernel" => &mut memory.kernel,
                "inactive_file" => &mut memory.inactive_file,
                "pgfault" => &mut memory.page_faults,
                "pgmajfault" => &mut memory.major_page_faults,
                _ => return,
            };
            *field = Some(value);
        });
    }
    Ok(())
}
