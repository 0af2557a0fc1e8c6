use crate::controller::{Controller, Version};
use crate::convert::swap_only;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::limits::{IoRates, Limits, Max, MemoryLimits};
use crate::setting::Settings;

/// What to write for one controller. `dir` is only read, and only where the present state decides. Devices are no files on
/// v2, see [`super::devices`].
pub(crate) fn settings(controller: Controller, limits: &Limits, dir: &Dir) -> Result<Settings> {
    let mut settings = Settings::of(controller);
    match controller {
        Controller::Memory => memory(&limits.memory, dir, &mut settings)?,
        Controller::Cpu => cpu(limits, dir, &mut settings)?,
        Controller::Cpuset => {
            limits.cpuset.cpus.iter().for_each(|cpus| settings.add("cpuset.cpus", cpus));
            limits.cpuset.mems.iter().for_each(|mems| settings.add("cpuset.mems", mems));
        }
        Controller::Pids => limits.pids.iter().for_each(|pids| settings.add("pids.max", pids)),
        Controller::Blkio => io(limits, dir, &mut settings)?,
        Controller::Hugetlb => {
            for (size, limit) in &limits.hugetlb {
                let reserved = format!("hugetlb.{size}.rsvd.max");
                if let Some(max) = limit.reserved.or(limit.max.filter(|_| dir.has(&reserved))) {
                    settings.add(reserved, max);
                }
                if let Some(max) = limit.max {
                    settings.add(format!("hugetlb.{size}.max"), max);
                }
            }
        }
        Controller::Rdma => {
            for (device, limit) in &limits.rdma {
                let mut line = device.clone();
                for (key, max) in [("hca_handle", limit.handles), ("hca_object", limit.objects)] {
                    if let Some(max) = max {
                        line.push_str(&format!(" {key}={max}"));
                    }
                }
                settings.add("rdma.max", line);
            }
        }
        Controller::Misc => {
            for (resource, max) in &limits.misc {
                settings.add("misc.max", format!("{resource} {max}"));
            }
        }
        Controller::NetCls => return unsupported("network.class_id"),
        Controller::NetPrio => return unsupported("network.priorities"),
        Controller::Devices | Controller::Cpuacct | Controller::Freezer | Controller::PerfEvent => {}
    }
    Ok(settings)
}

fn unsupported<T>(limit: &'static str) -> Result<T> {
    Err(Error::Unsupported { limit, version: Version::V2 })
}

fn memory(memory: &MemoryLimits, dir: &Dir, settings: &mut Settings) -> Result<()> {
    for (limit, is_set) in [
        ("memory.oom_kill_disable", memory.oom_kill_disable == Some(true)),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.kernel", memory.kernel.is_some()),
        ("memory.kernel_tcp", memory.kernel_tcp.is_some()),
    ] {
        if is_set {
            return unsupported(limit);
        }
    }
    if let (true, Some(Max::At(limit))) = (memory.check_before_update, memory.max) {
        crate::v1::limits::check_usage(dir, "memory.current", limit, &mut Vec::new())?;
    }
    if let Some(min) = memory.min {
        settings.add("memory.min", min);
    }
    if let Some(low) = memory.low {
        settings.add("memory.low", low);
    }
    if let Some(high) = memory.high {
        settings.add("memory.high", high);
    }
    if let Some(group) = memory.oom_group {
        settings.add("memory.oom.group", u8::from(group));
    }
    // Swap before memory: lowering memory below its use pushes pages into swap, which must not pass the new bound.
    if let Some(swap) = swap_only(memory.max, memory.swap)?
        && (memory.swap.is_some() || dir.has("memory.swap.max"))
    {
        settings.add("memory.swap.max", swap);
    }
    if let Some(max) = memory.max {
        settings.add("memory.max", max);
    }
    Ok(())
}

fn cpu(limits: &Limits, dir: &Dir, settings: &mut Settings) -> Result<()> {
    let cpu = &limits.cpu;
    if cpu.realtime_period.is_some() || cpu.realtime_runtime.is_some() {
        return unsupported("cpu.realtime");
    }
    match (cpu.quota, cpu.period) {
        (None, None) => {}
        (Some(quota), None) => settings.add("cpu.max", quota),
        (Some(quota), Some(period)) => settings.add("cpu.max", format!("{quota} {period}")),
        (None, Some(period)) => {
            // The file takes no period alone.
            let mut buffer = Vec::new();
            let present = dir.read("cpu.max", &mut buffer)?.and_then(|text| text.split_whitespace().next());
            settings.add("cpu.max", format!("{} {period}", present.unwrap_or("max")));
        }
    }
    if let Some(burst) = cpu.burst {
        settings.add("cpu.max.burst", burst);
    }
    // Idle groups have a fixed weight, so leaving idle comes before the weight and entering it after.
    if cpu.idle == Some(false) {
        settings.add("cpu.idle", 0);
    }
    if let Some(weight) = cpu.weight {
        settings.add("cpu.weight", weight.as_weight());
    }
    if cpu.idle == Some(true) {
        settings.add("cpu.idle", 1);
    }
    Ok(())
}

fn io(limits: &Limits, dir: &Dir, settings: &mut Settings) -> Result<()> {
    let io = &limits.io;
    if io.leaf_weight.is_some() || !io.device_leaf_weight.is_empty() {
        return unsupported("io.leaf_weight");
    }
    if io.weight.is_some() || !io.device_weight.is_empty() {
        // BFQ's own file has v1's scale; where it is there, it is what the scheduler looks at.
        let bfq = dir.has("io.bfq.weight");
        let file = if bfq { "io.bfq.weight" } else { "io.weight" };
        let weight =
            |weight: crate::limits::IoWeight| if bfq { weight.as_blkio() } else { weight.as_weight() };
        if let Some(default) = io.weight {
            settings.add(file, format!("default {}", weight(default)));
        }
        for (device, own) in &io.device_weight {
            settings.add(file, format!("{device} {}", weight(*own)));
        }
    }
    for (device, rates) in &io.rates {
        let IoRates { read_bps, write_bps, read_iops, write_iops } = *rates;
        let keys = [("rbps", read_bps), ("wbps", write_bps), ("riops", read_iops), ("wiops", write_iops)];
        let mut line = device.to_string();
        for (key, max) in keys {
            if let Some(max) = max {
                line.push_str(&format!(" {key}={max}"));
            }
        }
        settings.add("io.max", line);
    }
    Ok(())
}
