//! From and to the OCI runtime specification's `linux.resources` (config-linux.md, "Control groups").
//!
//! The specification counts in v1's units; [`crate::convert`] does the arithmetic when a limit meets a v2 file, so nothing is
//! lost here. Where the specification leaves room, this follows what runc and crun do: 0 means "not set" for CPU figures and
//! "no limit" for pids; negative numbers mean "no limit".

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxInterfacePriorityBuilder,
    LinuxMemory, LinuxMemoryBuilder, LinuxNetworkBuilder, LinuxPidsBuilder, LinuxRdmaBuilder, LinuxResources,
    LinuxResourcesBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use crate::devices::{Access, DeviceKind, DeviceRule};
use crate::error::{Error, Result};
use crate::limits::{
    CpuLimits, CpuWeight, CpusetLimits, DeviceNumber, HugetlbLimits, IoLimits, IoRates, IoWeight, Limits,
    Max, MemoryLimits, NetworkLimits, RdmaLimits, Swap,
};

impl TryFrom<&LinuxResources> for Limits {
    type Error = Error;

    /// # Errors
    /// [`Error::InvalidLimit`] for a value that has no meaning, such as a device access letter that is none of `rwm`.
    fn try_from(resources: &LinuxResources) -> Result<Self> {
        let mut limits = Self::new();
        if let Some(memory) = resources.memory() {
            limits.memory = from_memory(memory);
        }
        if let Some(cpu) = resources.cpu() {
            limits.cpu = from_cpu(cpu)?;
            limits.cpuset = CpusetLimits { cpus: non_empty(cpu.cpus()), mems: non_empty(cpu.mems()) };
        }
        limits.pids =
            resources.pids().map(|pids| if pids.limit() == 0 { Max::Unlimited } else { max(pids.limit()) });
        if let Some(io) = resources.block_io() {
            limits.io = from_block_io(io)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            limits.hugetlb.insert(limit.page_size().clone(), HugetlbLimits::max(max(limit.limit())));
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            let handles = limit.hca_handles().map(|handles| Max::At(handles.into()));
            let objects = limit.hca_objects().map(|objects| Max::At(objects.into()));
            limits.rdma.insert(device.clone(), RdmaLimits { handles, objects });
        }
        if let Some(network) = resources.network() {
            let priorities = network.priorities().iter().flatten();
            limits.network = NetworkLimits {
                class_id: network.class_id(),
                priorities: priorities.map(|entry| (entry.name().clone(), entry.priority())).collect(),
            };
        }
        if let Some(devices) = resources.devices().as_ref().filter(|devices| !devices.is_empty()) {
            let rules: Result<Vec<Option<DeviceRule>>> = devices.iter().map(from_device).collect();
            limits.devices = Some(rules?.into_iter().flatten().collect());
        }
        limits.unified = resources.unified().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(limits)
    }
}

fn max(value: i64) -> Max {
    u64::try_from(value).map_or(Max::Unlimited, Max::At)
}

fn non_empty(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

#[allow(deprecated, reason = "a spec may still ask for kernel memory, and then deserves an answer")]
fn from_memory(memory: &LinuxMemory) -> MemoryLimits {
    // Engines write 0 for "not set" here.
    let some = |value: Option<i64>| value.filter(|value| *value != 0).map(max);
    MemoryLimits {
        max: some(memory.limit()),
        swap: some(memory.swap()).map(Swap::Total),
        low: some(memory.reservation()),
        kernel: some(memory.kernel()),
        kernel_tcp: some(memory.kernel_tcp()),
        swappiness: memory.swappiness(),
        // False is the kernel's default, and v2 cannot do anything else.
        oom_kill_disable: memory.disable_oom_killer().filter(|disable| *disable),
        check_before_update: memory.check_before_update().unwrap_or(false),
        ..MemoryLimits::default()
    }
}

fn from_cpu(cpu: &LinuxCpu) -> Result<CpuLimits> {
    Ok(CpuLimits {
        quota: cpu.quota().filter(|quota| *quota != 0).map(max),
        period: cpu.period().filter(|period| *period != 0),
        burst: cpu.burst(),
        weight: cpu.shares().filter(|shares| *shares != 0).map(CpuWeight::Shares),
        idle: cpu.idle().map(from_idle).transpose()?,
        realtime_runtime: cpu.realtime_runtime().filter(|runtime| *runtime != 0),
        realtime_period: cpu.realtime_period().filter(|period| *period != 0),
    })
}

fn from_idle(idle: i64) -> Result<bool> {
    match idle {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::InvalidLimit {
            limit: "cpu.idle",
            value: idle.to_string(),
            reason: "it must be 0 or 1",
        }),
    }
}

fn number(limit: &'static str, value: i64) -> Result<u32> {
    let reason = "a device number must be from 0 to 4294967295";
    u32::try_from(value).map_err(|_| Error::InvalidLimit { limit, value: value.to_string(), reason })
}

fn from_block_io(io: &LinuxBlockIo) -> Result<IoLimits> {
    let device = |major, minor| -> Result<DeviceNumber> {
        Ok(DeviceNumber { major: number("io.major", major)?, minor: number("io.minor", minor)? })
    };
    let some = |weight: Option<u16>| weight.filter(|weight| *weight != 0);
    let mut limits = IoLimits {
        weight: some(io.weight()).map(IoWeight::Blkio),
        leaf_weight: some(io.leaf_weight()),
        ..IoLimits::default()
    };
    for entry in io.weight_device().iter().flatten() {
        let device = device(entry.major(), entry.minor())?;
        limits.device_weight.extend(some(entry.weight()).map(|weight| (device, IoWeight::Blkio(weight))));
        limits.device_leaf_weight.extend(some(entry.leaf_weight()).map(|weight| (device, weight)));
    }
    type Field = fn(&mut IoRates) -> &mut Option<Max>;
    let read_bps: Field = |rates| &mut rates.read_bps;
    let write_bps: Field = |rates| &mut rates.write_bps;
    let read_iops: Field = |rates| &mut rates.read_iops;
    let write_iops: Field = |rates| &mut rates.write_iops;
    let lists = [
        (io.throttle_read_bps_device(), read_bps),
        (io.throttle_write_bps_device(), write_bps),
        (io.throttle_read_iops_device(), read_iops),
        (io.throttle_write_iops_device(), write_iops),
    ];
    for (list, field) in lists {
        for entry in list.iter().flatten() {
            let rates = limits.rates.entry(device(entry.major(), entry.minor())?).or_default();
            // 0 is how v1 says "no limit"; v2's file refuses it.
            *field(rates) = Some(if entry.rate() == 0 { Max::Unlimited } else { Max::At(entry.rate()) });
        }
    }
    Ok(limits)
}

/// `None` for a rule about something that device access does not cover.
fn from_device(device: &LinuxDeviceCgroup) -> Result<Option<DeviceRule>> {
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => DeviceKind::All,
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
        Some(LinuxDeviceType::P) => return Ok(None),
    };
    // -1 is an old word for any.
    let part = |limit, value: Option<i64>| {
        value.filter(|value| *value != -1).map(|value| number(limit, value)).transpose()
    };
    let access = match device.access().as_deref() {
        None | Some("") => Access::ALL,
        Some(letters) => Access::from_letters(letters).ok_or_else(|| Error::InvalidLimit {
            limit: "devices.access",
            value: letters.to_owned(),
            reason: "it must be made of the letters r, w and m",
        })?,
    };
    Ok(Some(DeviceRule {
        allow: device.allow(),
        kind,
        major: part("devices.major", device.major())?,
        minor: part("devices.minor", device.minor())?,
        access,
    }))
}

impl TryFrom<&Limits> for LinuxResources {
    type Error = Error;

    /// # Errors
    /// [`Error::InvalidLimit`] for a limit that the specification cannot express other than as a raw `unified` entry where
    /// that is not possible either, and for numbers beyond its integer types.
    fn try_from(limits: &Limits) -> Result<Self> {
        let mut unified: HashMap<String, String> = HashMap::new();
        let mut builder = LinuxResourcesBuilder::default();
        if let Some(memory) = to_memory(&limits.memory, &mut unified)? {
            builder = builder.memory(memory);
        }
        if let Some(cpu) = to_cpu(&limits.cpu, &limits.cpuset)? {
            builder = builder.cpu(cpu);
        }
        if let Some(pids) = limits.pids {
            builder = builder.pids(build(LinuxPidsBuilder::default().limit(signed("pids", pids)?).build())?);
        }
        if let Some(io) = to_block_io(&limits.io)? {
            builder = builder.block_io(io);
        }
        let mut pages = Vec::new();
        for (size, limit) in &limits.hugetlb {
            if let Some(reserved) = limit.reserved {
                unified.insert(format!("hugetlb.{size}.rsvd.max"), reserved.to_string());
            }
            if let Some(max) = limit.max {
                let entry = LinuxHugepageLimitBuilder::default().page_size(size.clone());
                pages.push(build(entry.limit(signed("hugetlb.max", max)?).build())?);
            }
        }
        if !pages.is_empty() {
            builder = builder.hugepage_limits(pages);
        }
        let mut rdma = HashMap::new();
        for (device, limit) in &limits.rdma {
            let mut entry = LinuxRdmaBuilder::default();
            // Unlimited is what an absent figure means here.
            if let Some(Max::At(handles)) = limit.handles {
                entry = entry.hca_handles(narrow::<u32>("rdma.handles", handles)?);
            }
            if let Some(Max::At(objects)) = limit.objects {
                entry = entry.hca_objects(narrow::<u32>("rdma.objects", objects)?);
            }
            rdma.insert(device.clone(), build(entry.build())?);
        }
        if !rdma.is_empty() {
            builder = builder.rdma(rdma);
        }
        if limits.network != NetworkLimits::default() {
            let mut network = LinuxNetworkBuilder::default();
            if let Some(id) = limits.network.class_id {
                network = network.class_id(id);
            }
            let entry = |(name, priority): (&String, &u32)| {
                build(LinuxInterfacePriorityBuilder::default().name(name.clone()).priority(*priority).build())
            };
            let priorities: Result<Vec<_>> = limits.network.priorities.iter().map(entry).collect();
            builder = builder.network(build(network.priorities(priorities?).build())?);
        }
        if let Some(rules) = &limits.devices {
            // An empty list reads as "no list": what is meant is that nothing is allowed.
            let nothing = [DeviceRule::deny(DeviceKind::All, None, None, Access::ALL)];
            let rules = if rules.is_empty() { &nothing[..] } else { rules };
            builder = builder.devices(rules.iter().map(to_device).collect::<Result<Vec<_>>>()?);
        }
        for (resource, max) in &limits.misc {
            let lines: &mut String = unified.entry("misc.max".to_owned()).or_default();
            lines.push_str(&format!("{}{resource} {max}", if lines.is_empty() { "" } else { "\n" }));
        }
        // What was said in so many words wins.
        unified.extend(limits.unified.iter().map(|(file, value)| (file.clone(), value.clone())));
        if !unified.is_empty() {
            builder = builder.unified(unified);
        }
        build(builder.build())
    }
}

/// The specification's builders fail for missing fields only, and these have none.
fn build<T>(built: Result<T, oci_spec::OciSpecError>) -> Result<T> {
    built.map_err(|error| Error::InvalidLimit {
        limit: "resources",
        value: error.to_string(),
        reason: "the OCI specification refuses it",
    })
}

fn narrow<T: TryFrom<u64>>(limit: &'static str, value: u64) -> Result<T> {
    let reason = "it is beyond the integer type the OCI specification has for it";
    T::try_from(value).map_err(|_| Error::InvalidLimit { limit, value: value.to_string(), reason })
}

fn signed(limit: &'static str, max: Max) -> Result<i64> {
    match max {
        Max::Unlimited => Ok(-1),
        Max::At(value) => narrow(limit, value),
    }
}

#[allow(deprecated, reason = "kernel memory that came in goes out again")]
fn to_memory(memory: &MemoryLimits, unified: &mut HashMap<String, String>) -> Result<Option<LinuxMemory>> {
    // v2 files the specification has no field for.
    for (file, max) in [("memory.high", memory.high), ("memory.min", memory.min)] {
        unified.extend(max.map(|max| (file.to_owned(), max.to_string())));
    }
    unified
        .extend(memory.oom_group.map(|group| ("memory.oom.group".to_owned(), u8::from(group).to_string())));
    let rest = MemoryLimits { high: None, min: None, oom_group: None, ..memory.clone() };
    if rest == MemoryLimits::default() {
        return Ok(None);
    }
    let mut builder = LinuxMemoryBuilder::default();
    if let Some(max) = memory.max {
        builder = builder.limit(signed("memory.max", max)?);
    }
    if let Some(total) =
        crate::convert::swap_total(memory.max, memory.swap)?.filter(|_| memory.swap.is_some())
    {
        builder = builder.swap(signed("memory.swap", total)?);
    }
    if let Some(low) = memory.low {
        builder = builder.reservation(signed("memory.low", low)?);
    }
    if let Some(kernel) = memory.kernel {
        builder = builder.kernel(signed("memory.kernel", kernel)?);
    }
    if let Some(kernel_tcp) = memory.kernel_tcp {
        builder = builder.kernel_tcp(signed("memory.kernel_tcp", kernel_tcp)?);
    }
    if let Some(swappiness) = memory.swappiness {
        builder = builder.swappiness(swappiness);
    }
    if let Some(disable) = memory.oom_kill_disable {
        builder = builder.disable_oom_killer(disable);
    }
    if memory.check_before_update {
        builder = builder.check_before_update(true);
    }
    build(builder.build()).map(Some)
}

fn to_cpu(cpu: &CpuLimits, cpuset: &CpusetLimits) -> Result<Option<LinuxCpu>> {
    if *cpu == CpuLimits::default() && *cpuset == CpusetLimits::default() {
        return Ok(None);
    }
    let mut builder = LinuxCpuBuilder::default();
    if let Some(quota) = cpu.quota {
        builder = builder.quota(signed("cpu.quota", quota)?);
    }
    if let Some(period) = cpu.period {
        builder = builder.period(period);
    }
    if let Some(burst) = cpu.burst {
        builder = builder.burst(burst);
    }
    if let Some(weight) = cpu.weight {
        builder = builder.shares(weight.as_shares());
    }
    if let Some(idle) = cpu.idle {
        builder = builder.idle(i64::from(idle));
    }
    if let Some(runtime) = cpu.realtime_runtime {
        builder = builder.realtime_runtime(runtime);
    }
    if let Some(period) = cpu.realtime_period {
        builder = builder.realtime_period(period);
    }
    if let Some(cpus) = &cpuset.cpus {
        builder = builder.cpus(cpus.clone());
    }
    if let Some(mems) = &cpuset.mems {
        builder = builder.mems(mems.clone());
    }
    build(builder.build()).map(Some)
}

fn to_block_io(io: &IoLimits) -> Result<Option<LinuxBlockIo>> {
    if *io == IoLimits::default() {
        return Ok(None);
    }
    let mut builder = LinuxBlockIoBuilder::default();
    if let Some(weight) = io.weight {
        builder = builder.weight(narrow::<u16>("io.weight", weight.as_blkio())?);
    }
    if let Some(weight) = io.leaf_weight {
        builder = builder.leaf_weight(weight);
    }
    let devices: std::collections::BTreeSet<_> =
        io.device_weight.keys().chain(io.device_leaf_weight.keys()).collect();
    let mut weights = Vec::new();
    for device in devices {
        let mut entry = LinuxWeightDeviceBuilder::default().major(device.major).minor(device.minor);
        if let Some(weight) = io.device_weight.get(device) {
            entry = entry.weight(narrow::<u16>("io.weight", weight.as_blkio())?);
        }
        if let Some(weight) = io.device_leaf_weight.get(device) {
            entry = entry.leaf_weight(*weight);
        }
        weights.push(build(entry.build())?);
    }
    if !weights.is_empty() {
        builder = builder.weight_device(weights);
    }
    let list = |field: fn(&IoRates) -> Option<Max>| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let mut list = Vec::new();
        for (device, rates) in &io.rates {
            let rate = match field(rates) {
                None => continue,
                Some(Max::Unlimited) => 0,
                Some(Max::At(rate)) => rate,
            };
            let entry = LinuxThrottleDeviceBuilder::default().major(device.major).minor(device.minor);
            list.push(build(entry.rate(rate).build())?);
        }
        Ok((!list.is_empty()).then_some(list))
    };
    if let Some(list) = list(|rates| rates.read_bps)? {
        builder = builder.throttle_read_bps_device(list);
    }
    if let Some(list) = list(|rates| rates.write_bps)? {
        builder = builder.throttle_write_bps_device(list);
    }
    if let Some(list) = list(|rates| rates.read_iops)? {
        builder = builder.throttle_read_iops_device(list);
    }
    if let Some(list) = list(|rates| rates.write_iops)? {
        builder = builder.throttle_write_iops_device(list);
    }
    build(builder.build()).map(Some)
}

fn to_device(rule: &DeviceRule) -> Result<LinuxDeviceCgroup> {
    let kind = match rule.kind {
        DeviceKind::All => LinuxDeviceType::A,
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    };
    let mut builder =
        LinuxDeviceCgroupBuilder::default().allow(rule.allow).typ(kind).access(rule.access.to_string());
    if let Some(major) = rule.major {
        builder = builder.major(major);
    }
    if let Some(minor) = rule.minor {
        builder = builder.minor(minor);
    }
    build(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_the_specification_says_is_read() {
        let limits = Limits::try_from(&resources(
            r#"{
            "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                        {"allow": true, "type": "b", "major": 8, "minor": -1}],
            "memory": {"limit": 1048576, "reservation": 524288, "swap": 2097152, "swappiness": 10, "disableOOMKiller": false},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "", "idle": 1},
            "pids": {"limit": -1},
            "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 300}],
                        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854771712}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
            "unified": {"memory.high": "1G"}
        }"#,
        ))
        .unwrap();
        assert_eq!(limits.memory.max, Some(Max::At(1 << 20)));
        assert_eq!(limits.memory.swap, Some(Swap::Total(Max::At(2 << 20))));
        assert_eq!((limits.memory.low, limits.memory.oom_kill_disable), (Some(Max::At(1 << 19)), None));
        assert_eq!(
            (limits.cpu.quota, limits.cpu.weight),
            (Some(Max::At(50_000)), Some(CpuWeight::Shares(512)))
        );
        assert_eq!((limits.cpuset.cpus.as_deref(), limits.cpuset.mems.as_deref()), (Some("0-1"), None));
        assert_eq!((limits.cpu.idle, limits.pids), (Some(true), Some(Max::Unlimited)));
        let disk = DeviceNumber { major: 8, minor: 0 };
        assert_eq!(limits.io.rates[&disk].read_bps, Some(Max::At(600)));
        assert_eq!(limits.io.device_weight[&disk], IoWeight::Blkio(300));
        let rules: Vec<_> = limits.devices.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(rules, ["deny a *:* rwm", "allow c 1:3 rw", "allow b 8:* rwm"]);
        assert_eq!(limits.rdma["mlx5_1"].handles, Some(Max::At(3)));
        assert_eq!(limits.unified["memory.high"], "1G");

        let back = LinuxResources::try_from(&limits).unwrap();
        assert_eq!(Limits::try_from(&back).unwrap(), limits);
    }

    #[test]
    fn zeros_are_not_limits() {
        let limits = Limits::try_from(&resources(
            r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0},
                "pids": {"limit": 0}, "devices": []}"#,
        ))
        .unwrap();
        assert_eq!(limits, Limits::new().pids(Max::Unlimited));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"{"devices": [{"allow": true, "access": "rx"}]}"#,
            r#"{"devices": [{"allow": true, "major": -7}]}"#,
            r#"{"cpu": {"idle": -1}}"#,
            r#"{"cpu": {"idle": 2}}"#,
            r#"{"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}"#,
        ] {
            assert!(matches!(Limits::try_from(&resources(json)), Err(Error::InvalidLimit { .. })), "{json}");
        }
        let too_much = Limits::new().memory(u64::MAX);
        assert!(LinuxResources::try_from(&too_much).is_err());
        let swap_alone = Limits::new().swap(5);
        assert!(LinuxResources::try_from(&swap_alone).is_err(), "the specification only knows the total");
    }

    #[test]
    fn what_the_specification_lacks_goes_through_raw_entries() {
        let mut limits = Limits::new().unified("io.latency", "8:0 target=1");
        limits.memory.high = Some(Max::At(7));
        limits.memory.oom_group = Some(true);
        limits.misc.insert("sev".to_owned(), Max::At(1));
        let resources = LinuxResources::try_from(&limits).unwrap();
        let unified = resources.unified().clone().unwrap();
        assert_eq!(unified["memory.high"], "7");
        assert_eq!(unified["memory.oom.group"], "1");
        assert_eq!(unified["misc.max"], "sev 1");
        assert_eq!(unified["io.latency"], "8:0 target=1");
        assert!(resources.memory().is_none());
    }
}
