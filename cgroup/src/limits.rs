use std::collections::BTreeMap;
use std::fmt;

use crate::controller::{Controller, Controllers};
use crate::devices::DeviceRule;

/// An upper bound, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Max {
    /// No bound at this level; ancestors still may have one.
    Unlimited,
    /// At most this much.
    At(u64),
}

impl From<u64> for Max {
    fn from(value: u64) -> Self {
        Self::At(value)
    }
}

impl fmt::Display for Max {
    /// As the v2 files write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("max"),
            Self::At(value) => value.fmt(f),
        }
    }
}

/// What a group may use, in plain units. A field that is `None` or empty is left as it is, so one value serves both
/// for a new group and for an update.
///
/// The same limits mean the same on v1 and on v2; where the kernel's files differ they are converted as the OCI runtime
/// specification says (see the table in `convert.rs`). A limit that the present hierarchy cannot express is an error, never
/// dropped, unless [`Cgroup::apply_best_effort`](crate::Cgroup::apply_best_effort) is asked to report it instead.
///
/// ```
/// use cgroup::{Limits, Max};
///
/// let mut limits = Limits::new().memory(64 << 20).cpus(1.5).pids(100);
/// limits.memory.swap = Some(cgroup::Swap::Only(Max::At(0)));
/// assert_eq!(limits.controllers().to_string(), "cpu memory pids");
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Limits {
    /// Memory and swap.
    pub memory: MemoryLimits,
    /// CPU time.
    pub cpu: CpuLimits,
    /// CPUs and memory nodes.
    pub cpuset: CpusetLimits,
    /// Number of tasks (processes and threads). Default of a new group: unlimited.
    pub pids: Option<Max>,
    /// Block devices.
    pub io: IoLimits,
    /// Huge pages, by page size as the kernel names it (`2MB`, `1GB`).
    pub hugetlb: BTreeMap<String, HugetlbLimits>,
    /// RDMA, by device (`mlx5_0`).
    pub rdma: BTreeMap<String, RdmaLimits>,
    /// Scalar resources, by name (`sev`); kernel 5.13.
    pub misc: BTreeMap<String, Max>,
    /// Which device nodes may be used. The list is complete: what no rule allows is denied, later rules win. `None` leaves
    /// device access as it is.
    pub devices: Option<Vec<DeviceRule>>,
    /// Marks on network traffic; v1 only.
    pub network: NetworkLimits,
    /// v2 files to write as they are, after everything else: file name to value (`memory.high` to `1G`). The way to what
    /// this crate does not know yet. An error on a host without v2.
    pub unified: BTreeMap<String, String>,
}

/// Memory and swap, in bytes. The kernel rounds down to whole pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryLimits {
    /// Beyond this the group's processes are killed (v2 `memory.max`, v1 `memory.limit_in_bytes`).
    ///
    /// Setting it below the present use makes the kernel reclaim first. Where that is not enough, v2 kills until the group
    /// fits; v1 refuses with EBUSY and keeps the old limit.
    pub max: Option<Max>,
    /// Swap. On v1 a swap limit needs a kernel with swap accounting.
    pub swap: Option<Swap>,
    /// Beyond this the group is throttled and reclaimed from, but nothing is killed; v2 only (`memory.high`).
    pub high: Option<Max>,
    /// Best-effort protection from reclaim (v2 `memory.low`; v1 `memory.soft_limit_in_bytes`, which is the OCI
    /// specification's `reservation`).
    pub low: Option<Max>,
    /// Hard protection from reclaim; v2 only (`memory.min`).
    pub min: Option<Max>,
    /// Whether running out of memory kills the whole group rather than one process; v2 only, kernel 4.19.
    pub oom_group: Option<bool>,
    /// Whether the kernel's OOM killer is off, so that processes wait instead; v1 only.
    pub oom_kill_disable: Option<bool>,
    /// How willingly anonymous memory is swapped, 0 to 100; v1 only.
    pub swappiness: Option<u64>,
    /// Kernel memory; v1 only, obsolete: the kernel ignores it since 5.16 or refuses it.
    pub kernel: Option<Max>,
    /// Buffers of TCP sockets; v1 only.
    pub kernel_tcp: Option<Max>,
    /// Refuse a `max` below the present use with [`Error::BelowUsage`](crate::Error::BelowUsage) rather than have the kernel
    /// kill. Default: false.
    pub check_before_update: bool,
}

/// A limit of swap, in one of the two ways the kernel versions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Swap alone, as v2 counts. `Only(Max::At(0))` means no swap.
    Only(Max),
    /// Memory and swap together, as v1 and the OCI specification count; at least the memory limit.
    Total(Max),
}

/// CPU time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CpuLimits {
    /// CPU time in microseconds the group may use in each period, at least 1000. [`Limits::cpus`] sets both.
    pub quota: Option<Max>,
    /// The period in microseconds, 1000 to 1000000. Default of a new group: 100000.
    pub period: Option<u64>,
    /// CPU time in microseconds that may be saved up from unused quota, at most `quota`; kernel 5.14.
    pub burst: Option<u64>,
    /// Share of CPU time relative to siblings when there is not enough for all.
    pub weight: Option<CpuWeight>,
    /// Run only when nothing else wants the CPU (`SCHED_IDLE`); kernel 5.15.
    pub idle: Option<bool>,
    /// Real-time scheduling: microseconds in each period; v1 only, needs `CONFIG_RT_GROUP_SCHED`.
    pub realtime_runtime: Option<i64>,
    /// Real-time scheduling: the period in microseconds; v1 only, needs `CONFIG_RT_GROUP_SCHED`.
    pub realtime_period: Option<u64>,
}

/// A weight of CPU time, in the scale of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuWeight {
    /// v2: 1 to 10000, default 100.
    Weight(u64),
    /// v1 and the OCI specification: 2 to 262144, default 1024.
    Shares(u64),
}

/// CPUs and memory nodes, as lists such as `0-3,7` (cpuset(7), "List format").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CpusetLimits {
    /// The CPUs the group may run on.
    pub cpus: Option<String>,
    /// The NUMA nodes the group may take memory from.
    pub mems: Option<String>,
}

/// Block devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IoLimits {
    /// Share of the devices' time relative to siblings.
    pub weight: Option<IoWeight>,
    /// The same relative to tasks in child groups; v1 with the CFQ scheduler only (gone since 5.0).
    pub leaf_weight: Option<u16>,
    /// Weights for single devices.
    pub device_weight: BTreeMap<DeviceNumber, IoWeight>,
    /// Leaf weights for single devices; v1 with CFQ only.
    pub device_leaf_weight: BTreeMap<DeviceNumber, u16>,
    /// Rates for single devices. Whole disks, not partitions, on most kernels.
    pub rates: BTreeMap<DeviceNumber, IoRates>,
}

/// A weight of block device time, in the scale of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoWeight {
    /// v2: 1 to 10000, default 100.
    Weight(u64),
    /// v1 and the OCI specification: 10 to 1000.
    Blkio(u16),
}

/// Major and minor number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device among the driver's.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Rates of one block device, per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IoRates {
    /// Bytes read.
    pub read_bps: Option<Max>,
    /// Bytes written.
    pub write_bps: Option<Max>,
    /// Read operations.
    pub read_iops: Option<Max>,
    /// Write operations.
    pub write_iops: Option<Max>,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HugetlbLimits {
    /// Pages in use; beyond it the process gets SIGBUS.
    pub max: Option<Max>,
    /// Pages reserved, checked when mapping; kernel 5.7.
    pub reserved: Option<Max>,
}

/// One RDMA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RdmaLimits {
    /// Handles of the device.
    pub handles: Option<Max>,
    /// Objects of the device.
    pub objects: Option<Max>,
}

/// Marks on network traffic; v1 only. On v2 this is what eBPF and nftables' `socket cgroupv2` are for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NetworkLimits {
    /// Class id of packets, for tc(8) and iptables.
    pub class_id: Option<u32>,
    /// Priority of traffic by interface name.
    pub priorities: BTreeMap<String, u32>,
}

impl Limits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits memory, in bytes: [`MemoryLimits::max`].
    #[must_use]
    pub fn memory(mut self, bytes: impl Into<Max>) -> Self {
        self.memory.max = Some(bytes.into());
        self
    }

    /// Limits swap alone, in bytes; 0 forbids it.
    #[must_use]
    pub fn swap(mut self, bytes: impl Into<Max>) -> Self {
        self.memory.swap = Some(Swap::Only(bytes.into()));
        self
    }

    /// Limits CPU time to that of `cpus` CPUs: `1.5` sets quota 150000 and period 100000. At least 0.01; a value that is no
    /// number is refused by `apply`.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        const PERIOD: u64 = 100_000;
        self.cpu.period = Some(PERIOD);
        // A float cast saturates, and NaN and negatives become 0, which `apply` refuses.
        self.cpu.quota = Some(Max::At((cpus * PERIOD as f64).round() as u64));
        self
    }

    /// Sets the CPU weight in the v2 scale, 1 to 10000.
    #[must_use]
    pub fn cpu_weight(mut self, weight: u64) -> Self {
        self.cpu.weight = Some(CpuWeight::Weight(weight));
        self
    }

    /// Limits the number of tasks.
    #[must_use]
    pub fn pids(mut self, tasks: impl Into<Max>) -> Self {
        self.pids = Some(tasks.into());
        self
    }

    /// Restricts to CPUs such as `0-3,7`.
    #[must_use]
    pub fn cpuset_cpus(mut self, cpus: impl Into<String>) -> Self {
        self.cpuset.cpus = Some(cpus.into());
        self
    }

    /// Restricts to memory nodes such as `0`.
    #[must_use]
    pub fn cpuset_mems(mut self, mems: impl Into<String>) -> Self {
        self.cpuset.mems = Some(mems.into());
        self
    }

    /// Sets the rates of one block device.
    #[must_use]
    pub fn io_rates(mut self, device: DeviceNumber, rates: IoRates) -> Self {
        self.io.rates.insert(device, rates);
        self
    }

    /// Sets which device nodes may be used, see [`Limits::devices`].
    #[must_use]
    pub fn devices(mut self, rules: impl IntoIterator<Item = DeviceRule>) -> Self {
        self.devices = Some(rules.into_iter().collect());
        self
    }

    /// Writes `value` to a v2 file as it is, see [`Limits::unified`].
    #[must_use]
    pub fn unified(mut self, file: impl Into<String>, value: impl Into<String>) -> Self {
        self.unified.insert(file.into(), value.into());
        self
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers these limits need.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        let defaults = Self::default();
        let unified = self.unified.keys().filter_map(|file| Controller::from_name(file.split('.').next()?));
        let needs = [
            (Controller::Cpu, self.cpu != defaults.cpu),
            (Controller::Cpuset, self.cpuset != defaults.cpuset),
            (Controller::Memory, self.memory != defaults.memory),
            (Controller::Blkio, self.io != defaults.io),
            (Controller::Pids, self.pids.is_some()),
            (Controller::Hugetlb, !self.hugetlb.is_empty()),
            (Controller::Rdma, !self.rdma.is_empty()),
            (Controller::Misc, !self.misc.is_empty()),
            (Controller::Devices, self.devices.is_some()),
            (Controller::NetCls, self.network.class_id.is_some()),
            (Controller::NetPrio, !self.network.priorities.is_empty()),
        ];
        needs
            .into_iter()
            .filter_map(|(controller, needed)| needed.then_some(controller))
            .chain(unified)
            .collect()
    }
}

impl IoRates {
    /// No rates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits bytes read per second.
    #[must_use]
    pub fn read_bps(mut self, bytes: impl Into<Max>) -> Self {
        self.read_bps = Some(bytes.into());
        self
    }

    /// Limits bytes written per second.
    #[must_use]
    pub fn write_bps(mut self, bytes: impl Into<Max>) -> Self {
        self.write_bps = Some(bytes.into());
        self
    }

    /// Limits read operations per second.
    #[must_use]
    pub fn read_iops(mut self, operations: impl Into<Max>) -> Self {
        self.read_iops = Some(operations.into());
        self
    }

    /// Limits write operations per second.
    #[must_use]
    pub fn write_iops(mut self, operations: impl Into<Max>) -> Self {
        self.write_iops = Some(operations.into());
        self
    }
}

impl HugetlbLimits {
    /// Limits pages in use, in bytes.
    #[must_use]
    pub fn max(bytes: impl Into<Max>) -> Self {
        Self { max: Some(bytes.into()), reserved: None }
    }
}

impl RdmaLimits {
    /// Limits handles and objects.
    #[must_use]
    pub fn new(handles: Option<Max>, objects: Option<Max>) -> Self {
        Self { handles, objects }
    }
}
