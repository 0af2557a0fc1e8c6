use crate::controller::{Controller, Version};
use crate::convert::{swap_total, v1_number};
use crate::devices;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::limits::{Limits, Max, MemoryLimits, Swap};
use crate::setting::Settings;

/// What to write for one controller. `dir` is only read, and only where the present state decides.
pub(crate) fn settings(controller: Controller, limits: &Limits, dir: &Dir) -> Result<Settings> {
    let mut settings = Settings::of(controller);
    match controller {
        Controller::Memory => memory(&limits.memory, dir, &mut settings)?,
        Controller::Cpu => cpu(limits, &mut settings),
        Controller::Cpuset => {
            limits.cpuset.cpus.iter().for_each(|cpus| settings.add("cpuset.cpus", cpus));
            limits.cpuset.mems.iter().for_each(|mems| settings.add("cpuset.mems", mems));
        }
        Controller::Pids => limits.pids.iter().for_each(|pids| settings.add("pids.max", pids)),
        Controller::Blkio => blkio(limits, dir, &mut settings),
        Controller::Hugetlb => {
            for (size, limit) in &limits.hugetlb {
                let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
                if let Some(max) = limit.reserved.or(limit.max.filter(|_| dir.has(&reserved))) {
                    settings.add(reserved, v1_number(max));
                }
                if let Some(max) = limit.max {
                    settings.add(format!("hugetlb.{size}.limit_in_bytes"), v1_number(max));
                }
            }
        }
        Controller::Devices => {
            for (file, value) in devices::v1_writes(limits.devices.as_deref().unwrap_or_default())? {
                settings.add(file, value);
            }
        }
        Controller::NetCls => {
            limits.network.class_id.iter().for_each(|id| settings.add("net_cls.classid", id))
        }
        Controller::NetPrio => {
            for (interface, priority) in &limits.network.priorities {
                settings.add("net_prio.ifpriomap", format!("{interface} {priority}"));
            }
        }
        // The same files as on v2.
        Controller::Rdma | Controller::Misc => return crate::v2::limits::settings(controller, limits, dir),
        Controller::Cpuacct | Controller::Freezer | Controller::PerfEvent => {}
    }
    Ok(settings)
}

fn memory(memory: &MemoryLimits, dir: &Dir, settings: &mut Settings) -> Result<()> {
    for (limit, is_set) in [
        ("memory.high", memory.high.is_some()),
        ("memory.min", memory.min.is_some()),
        ("memory.oom_group", memory.oom_group.is_some()),
    ] {
        if is_set {
            return Err(Error::Unsupported { limit, version: Version::V1 });
        }
    }
    let mut buffer = Vec::new();
    if let (true, Some(Max::At(limit))) = (memory.check_before_update, memory.max) {
        check_usage(dir, "memory.usage_in_bytes", limit, &mut buffer)?;
    }
    // Swap alone is added to the memory limit in force when that is not changed at the same time.
    let present = match (memory.max, memory.swap) {
        (None, Some(Swap::Only(Max::At(_)))) => {
            let text = dir.read("memory.limit_in_bytes", &mut buffer)?.unwrap_or("");
            text.trim().parse().ok().map(Max::At)
        }
        (max, _) => max,
    };
    if let Some(max) = memory.max {
        settings.add("memory.limit_in_bytes", v1_number(max));
    }
    if let Some(total) = swap_total(present, memory.swap)? {
        // Unlimited memory without a word about swap: a kernel without swap accounting has no total to raise.
        if memory.swap.is_some() || dir.has("memory.memsw.limit_in_bytes") {
            settings.add("memory.memsw.limit_in_bytes", v1_number(total));
        }
    }
    if let Some(low) = memory.low {
        settings.add("memory.soft_limit_in_bytes", v1_number(low));
    }
    if let Some(kernel) = memory.kernel {
        settings.add("memory.kmem.limit_in_bytes", v1_number(kernel));
    }
    if let Some(kernel_tcp) = memory.kernel_tcp {
        settings.add("memory.kmem.tcp.limit_in_bytes", v1_number(kernel_tcp));
    }
    if let Some(swappiness) = memory.swappiness {
        settings.add("memory.swappiness", swappiness);
    }
    if let Some(disable) = memory.oom_kill_disable {
        settings.add("memory.oom_control", u8::from(disable));
    }
    Ok(())
}

pub(crate) fn check_usage(dir: &Dir, file: &str, limit: u64, buffer: &mut Vec<u8>) -> Result<()> {
    let text = dir.read(file, buffer)?.unwrap_or("0");
    match text.trim().parse() {
        Ok(usage) if limit < usage => Err(Error::BelowUsage { path: dir.path().to_owned(), limit, usage }),
        Ok(_) => Ok(()),
        Err(_) => Err(dir.malformed(file, "number", text)),
    }
}

fn cpu(limits: &Limits, settings: &mut Settings) {
    let cpu = &limits.cpu;
    if let Some(period) = cpu.realtime_period {
        settings.add("cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime {
        settings.add("cpu.rt_runtime_us", runtime);
    }
    if let Some(period) = cpu.period {
        settings.add("cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota {
        settings.add("cpu.cfs_quota_us", v1_number(quota));
    }
    if let Some(burst) = cpu.burst {
        settings.add("cpu.cfs_burst_us", burst);
    }
    // Idle groups have a fixed weight, so leaving idle comes before the weight and entering it after.
    if cpu.idle == Some(false) {
        settings.add("cpu.idle", 0);
    }
    if let Some(weight) = cpu.weight {
        settings.add("cpu.shares", weight.as_shares());
    }
    if cpu.idle == Some(true) {
        settings.add("cpu.idle", 1);
    }
}

fn blkio(limits: &Limits, dir: &Dir, settings: &mut Settings) {
    let io = &limits.io;
    // CFQ's file went with CFQ in 5.0; BFQ, where it is in use, has its own name for the same thing.
    let prefix = |file: &str| !dir.has(file) && dir.has("blkio.bfq.weight");
    if let Some(weight) = io.weight {
        let file = if prefix("blkio.weight") { "blkio.bfq.weight" } else { "blkio.weight" };
        settings.add(file, weight.as_blkio());
    }
    if let Some(weight) = io.leaf_weight {
        settings.add("blkio.leaf_weight", weight);
    }
    for (device, weight) in &io.device_weight {
        let file =
            if prefix("blkio.weight_device") { "blkio.bfq.weight_device" } else { "blkio.weight_device" };
        settings.add(file, format!("{device} {}", weight.as_blkio()));
    }
    for (device, weight) in &io.device_leaf_weight {
        settings.add("blkio.leaf_weight_device", format!("{device} {weight}"));
    }
    for (device, rates) in &io.rates {
        for (file, rate) in [
            ("blkio.throttle.read_bps_device", rates.read_bps),
            ("blkio.throttle.write_bps_device", rates.write_bps),
            ("blkio.throttle.read_iops_device", rates.read_iops),
            ("blkio.throttle.write_iops_device", rates.write_iops),
        ] {
            match rate {
                None => {}
                // 0 takes the limit away.
                Some(Max::Unlimited) => settings.add(file, format!("{device} 0")),
                Some(Max::At(rate)) => settings.add(file, format!("{device} {rate}")),
            }
        }
    }
}
