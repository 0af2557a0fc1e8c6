use std::time::Duration;

use crate::controller::Controller;
use crate::dir::Dir;
use crate::error::Result;
use crate::parse;
use crate::stats::{CpuStats, IoDevice, MemoryStats, PidsStats, Stats};

/// Reads the figures of one controller.
pub(crate) fn read(controller: Controller, dir: &Dir, stats: &mut Stats, buffer: &mut Vec<u8>) -> Result<()> {
    match controller {
        Controller::Memory => memory(dir, &mut stats.memory, buffer),
        Controller::Cpu => throttling(dir, &mut stats.cpu, buffer),
        Controller::Cpuacct => usage(dir, &mut stats.cpu, buffer),
        Controller::Pids => pids(dir, &mut stats.pids, buffer),
        Controller::Blkio => {
            // The throttling layer counts for every scheduler. Its plain file leaves descendants out.
            let files: [(&str, parse::BlkioField); 2] = [
                ("blkio.throttle.io_service_bytes_recursive", bytes),
                ("blkio.throttle.io_serviced_recursive", operations),
            ];
            for (file, field) in files {
                if let Some(text) = dir.read(file, buffer)? {
                    parse::blkio_stat(text, &mut stats.io.devices, field);
                }
            }
            Ok(())
        }
        Controller::Hugetlb => hugetlb(dir, stats, buffer),
        Controller::Rdma | Controller::Misc => crate::v2::stats::read(controller, dir, stats, buffer),
        _ => Ok(()),
    }
}

fn bytes<'d>(device: &'d mut IoDevice, operation: &str) -> Option<&'d mut Option<u64>> {
    match operation {
        "Read" => Some(&mut device.read_bytes),
        "Write" => Some(&mut device.write_bytes),
        "Discard" => Some(&mut device.discard_bytes),
        _ => None,
    }
}

fn operations<'d>(device: &'d mut IoDevice, operation: &str) -> Option<&'d mut Option<u64>> {
    match operation {
        "Read" => Some(&mut device.read_operations),
        "Write" => Some(&mut device.write_operations),
        "Discard" => Some(&mut device.discard_operations),
        _ => None,
    }
}

fn memory(dir: &Dir, memory: &mut MemoryStats, buffer: &mut Vec<u8>) -> Result<()> {
    let mut number = |file| Ok(dir.read(file, buffer)?.and_then(parse::number));
    memory.current = number("memory.usage_in_bytes")?;
    memory.peak = number("memory.max_usage_in_bytes")?;
    memory.limit_hits = number("memory.failcnt")?;
    memory.kernel = number("memory.kmem.usage_in_bytes")?;
    memory.max = dir.read("memory.limit_in_bytes", buffer)?.and_then(parse::max);
    memory.oom_kills =
        dir.read("memory.oom_control", buffer)?.and_then(|text| parse::field(text, "oom_kill"));
    if let Some(text) = dir.read("memory.stat", buffer)? {
        // The `total_` fields include descendants.
        parse::flat(text, |key, value| {
            let field = match key {
                "total_rss" => &mut memory.anon,
                "total_cache" => &mut memory.file,
                "total_shmem" => &mut memory.shmem,
                "total_inactive_file" => &mut memory.inactive_file,
                "total_swap" => &mut memory.swap,
                "total_pgfault" => &mut memory.page_faults,
                "total_pgmajfault" => &mut memory.major_page_faults,
                _ => return,
            };
            *field = Some(value);
        });
    }
    Ok(())
}

fn throttling(dir: &Dir, cpu: &mut CpuStats, buffer: &mut Vec<u8>) -> Result<()> {
    if let Some(text) = dir.read("cpu.stat", buffer)? {
        parse::flat(text, |key, value| match key {
            "nr_periods" => cpu.periods = Some(value),
            "nr_throttled" => cpu.throttled_periods = Some(value),
            "throttled_time" => cpu.throttled = Some(Duration::from_nanos(value)),
            "nr_bursts" => cpu.bursts = Some(value),
            "burst_time" => cpu.burst = Some(Duration::from_nanos(value)),
            _ => {}
        });
    }
    Ok(())
}

fn usage(dir: &Dir, cpu: &mut CpuStats, buffer: &mut Vec<u8>) -> Result<()> {
    let mut nanoseconds =
        |file| Ok(dir.read(file, buffer)?.and_then(parse::number).map(Duration::from_nanos));
    cpu.usage = nanoseconds("cpuacct.usage")?;
    // Not its sum: what passes between two ticks is in the whole and in neither part. Both parts in one file: kernel 4.7.
    if let Some((user, system)) = dir.read("cpuacct.usage_all", buffer)?.and_then(parse::usage_all) {
        (cpu.user, cpu.system) = (Some(user), Some(system));
        return Ok(());
    }
    let mut nanoseconds =
        |file| Ok(dir.read(file, buffer)?.and_then(parse::number).map(Duration::from_nanos));
    cpu.user = nanoseconds("cpuacct.usage_user")?;
    cpu.system = nanoseconds("cpuacct.usage_sys")?;
    Ok(())
}

pub(crate) fn cpu_usage(dir: &Dir, buffer: &mut Vec<u8>) -> Result<Option<Duration>> {
    Ok(dir.read("cpuacct.usage", buffer)?.and_then(parse::number).map(Duration::from_nanos))
}

pub(crate) fn pids(dir: &Dir, pids: &mut PidsStats, buffer: &mut Vec<u8>) -> Result<()> {
    pids.current = dir.read("pids.current", buffer)?.and_then(parse::number);
    pids.peak = dir.read("pids.peak", buffer)?.and_then(parse::number);
    pids.max = dir.read("pids.max", buffer)?.and_then(parse::max);
    pids.limit_hits = dir.read("pids.events", buffer)?.and_then(|text| parse::field(text, "max"));
    Ok(())
}

fn hugetlb(dir: &Dir, stats: &mut Stats, buffer: &mut Vec<u8>) -> Result<()> {
    for size in crate::hugetlb::page_sizes() {
        let mut number = |file: &str| {
            Result::Ok(dir.read(&format!("hugetlb.{size}.{file}"), buffer)?.and_then(parse::number))
        };
        if let Some(current) = number("usage_in_bytes")? {
            let entry = stats.hugetlb.entry(size.clone()).or_default();
            entry.current = Some(current);
            entry.peak = number("max_usage_in_bytes")?;
            entry.limit_hits = number("failcnt")?;
        }
    }
    Ok(())
}
