use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::{DeviceNumber, Max};

/// The figures of a group at one moment, descendants included.
///
/// A figure is `None` when its controller is not available to the group or this kernel does not offer it; a figure that is
/// there is never made up from another one.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Memory and swap.
    pub memory: MemoryStats,
    /// CPU time.
    pub cpu: CpuStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub io: IoStats,
    /// Huge pages, by page size (`2MB`). v1 and v2.
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// RDMA: by device, then by resource (`hca_handle`, `hca_object`).
    pub rdma: BTreeMap<String, BTreeMap<String, u64>>,
    /// Scalar resources in use, by name.
    pub misc: BTreeMap<String, u64>,
    /// Processes of the group itself and, on v2, whether any descendant has some.
    pub populated: Option<bool>,
}

/// Memory and swap, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// In use, page cache included (v2 `memory.current`, v1 `memory.usage_in_bytes`).
    pub current: Option<u64>,
    /// The most that was ever in use (v2 `memory.peak`, kernel 5.19; v1 `memory.max_usage_in_bytes`).
    pub peak: Option<u64>,
    /// The limit in force at this level.
    pub max: Option<Max>,
    /// Anonymous memory (v1 `total_rss`).
    pub anon: Option<u64>,
    /// Page cache, shared memory included (v1 `total_cache`).
    pub file: Option<u64>,
    /// Shared memory and tmpfs.
    pub shmem: Option<u64>,
    /// Memory of the kernel for this group (v2 `kernel`, kernel 5.18; v1 `memory.kmem.usage_in_bytes`).
    pub kernel: Option<u64>,
    /// Cache that was not used lately and goes first.
    pub inactive_file: Option<u64>,
    /// Swap in use.
    pub swap: Option<u64>,
    /// The most swap ever in use; v2, kernel 6.5.
    pub swap_peak: Option<u64>,
    /// Page faults.
    pub page_faults: Option<u64>,
    /// Page faults that had to wait for a device.
    pub major_page_faults: Option<u64>,
    /// How often an allocation met the limit (v2 `memory.events: max`, v1 `memory.failcnt`).
    pub limit_hits: Option<u64>,
    /// How often throttling by `memory.high` happened; v2.
    pub high_hits: Option<u64>,
    /// How often the limit was met and reclaim could not help; v2.
    pub oom: Option<u64>,
    /// Processes killed for want of memory, whoever's limit it was; on v1 kernel 4.13.
    pub oom_kills: Option<u64>,
    /// Share of time lost waiting for memory; kernel 4.20.
    pub pressure: Option<Pressure>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct CpuStats {
    /// CPU time used.
    pub usage: Option<Duration>,
    /// Of it in user mode.
    pub user: Option<Duration>,
    /// Of it in the kernel.
    pub system: Option<Duration>,
    /// Periods of the bandwidth limit that have passed.
    pub periods: Option<u64>,
    /// Periods in which the group was held back.
    pub throttled_periods: Option<u64>,
    /// For how long it was held back, summed over CPUs.
    pub throttled: Option<Duration>,
    /// Periods in which saved-up time was used; kernel 5.16.
    pub bursts: Option<u64>,
    /// Saved-up time used; kernel 5.16.
    pub burst: Option<Duration>,
    /// Share of time lost waiting for a CPU.
    pub pressure: Option<Pressure>,
}

/// Tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PidsStats {
    /// Present number.
    pub current: Option<u64>,
    /// The most there ever were; kernel 6.1.
    pub peak: Option<u64>,
    /// The limit in force at this level.
    pub max: Option<Max>,
    /// How often a fork failed for a limit. Before kernel 6.11, and always on v1, counted where the fork failed, whichever
    /// level's limit it was.
    pub limit_hits: Option<u64>,
}

/// Block devices.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct IoStats {
    /// By device. A device the group never used is not listed.
    pub devices: BTreeMap<DeviceNumber, IoDevice>,
    /// Share of time lost waiting for block devices.
    pub pressure: Option<Pressure>,
}

/// One block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IoDevice {
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Read operations.
    pub read_operations: Option<u64>,
    /// Write operations.
    pub write_operations: Option<u64>,
    /// Bytes discarded.
    pub discard_bytes: Option<u64>,
    /// Discard operations.
    pub discard_operations: Option<u64>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HugetlbStats {
    /// Bytes in use.
    pub current: Option<u64>,
    /// The most bytes ever in use; v1.
    pub peak: Option<u64>,
    /// How often the limit was met.
    pub limit_hits: Option<u64>,
}

/// Pressure stall information (Documentation/accounting/psi.rst): the share of time lost to waiting.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Pressure {
    /// Some task waited.
    pub some: PressureAverages,
    /// All tasks waited at once; for CPUs kernel 5.13.
    pub full: Option<PressureAverages>,
}

/// Averages over time windows, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PressureAverages {
    /// Over the last 10 seconds.
    pub avg10: f64,
    /// Over the last minute.
    pub avg60: f64,
    /// Over the last five minutes.
    pub avg300: f64,
    /// Time lost since the group was made.
    pub total: Duration,
}
