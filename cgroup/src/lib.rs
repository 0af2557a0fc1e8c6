//! Control groups for programs that run other programs: limits that hold, figures that are true, on v1, v2, hybrid and
//! systemd hosts.
//!
//! # Tour
//!
//! [`Hierarchy::discover`] finds what is mounted, once. A [`CgroupPath`] says where a group goes, below the caller's own or from the
//! top. [`Cgroup::create`] makes it, [`Limits`] in plain units say what it may use, and [`Cgroup::apply`] sets them or says which
//! one it could not set and why. Processes come in by [`Cgroup::add`], or are born inside by [`Cgroup::entry`].
//! [`Cgroup::stats`] reads all [figures](Stats) once, [`Cgroup::totals`] what is said about a group that has ended;
//! [`Cgroup::watch`] gives descriptors to poll for [events](Watched); [`CpuTimeLimit`] ends a tree of processes whose CPU time is used up; [`LimitCounters`] tell which limit was met, and whose.
//! In the end [`Cgroup::kill`] and [`Cgroup::remove`].
//!
//! ```no_run
//! use std::time::Duration;
//! use cgroup::{Cgroup, CgroupPath, Error, Happened, Hierarchy, Limits, Watched};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let hierarchy = Hierarchy::discover()?;
//!     let group = Cgroup::create(&hierarchy, &CgroupPath::new("job-1")?)?;
//!
//!     // Half a CPU, 64 MiB without swap, 100 tasks. Whatever cannot be set is an error that names controller, file and value.
//!     let limits = Limits::new().memory(64 << 20).swap(0).cpus(0.5).pids(100);
//!     match group.apply(&limits) {
//!         Err(Error::NoController { controller, reason }) => eprintln!("no {controller} here: {reason}"),
//!         applied => applied?,
//!     }
//!
//!     let before = group.limit_counters()?;
//!     let mut oom = group.watch(Watched::OutOfMemory)?;
//!     let mut child = std::process::Command::new("sleep").arg("1").spawn()?;
//!     group.add(child.id())?;
//!     if let Some(Happened::OutOfMemory { kills }) = oom.wait(Some(Duration::from_secs(2)))? {
//!         eprintln!("out of memory, {kills} killed");
//!     }
//!     group.kill()?;
//!     child.wait()?;
//!
//!     // The last reading, and what ended it.
//!     let stats = group.stats()?;
//!     println!("peak {:?} bytes, {:?} of CPU time", stats.memory.peak, stats.cpu.usage);
//!     for hit in group.limit_counters()?.hits_since(&before) {
//!         println!("{hit}");
//!     }
//!     group.remove()?;
//!     Ok(())
//! }
//! ```
//!
//! # What it promises
//!
//! - **Nothing silent.** A limit that was not set is an error. [`Cgroup::apply_best_effort`] is asked for by name and returns what
//!   was left out. A figure the kernel does not offer is `None`, never 0.
//! - **Nothing foreign.** Groups are made below the caller's own unless told otherwise, and only what was made is removed. A
//!   directory is a hierarchy only if `/proc/self/mountinfo` says so.
//! - **Nothing in the background.** No thread, no signal handler, no process state; every wait is a descriptor.
//! - **Quick.** Files are opened by directory descriptor and single name; making a group lists no directory and parses no
//!   mount table.
//!
//! # Kernel features
//!
//! | feature | since | without it |
//! |---|---|---|
//! | `memory.events`, `oom_kill` of v1 | 4.13 | figure is `None` |
//! | [`MemoryLimits::oom_group`] | 4.19 | error |
//! | pressure figures, [`Watched::Pressure`] | 4.20, 5.2 | `None`, error |
//! | freezing on v2 | 5.2 | v1 freezer, or error |
//! | `CLONE_INTO_CGROUP` with [`Entry::clone_into`] | 5.7 | [`Cgroup::add`] |
//! | handles of processes (pidfd) to signal and wait | 5.3 | error |
//! | `cgroup.kill` | 5.14 | freeze, signal all, thaw |
//! | [`CpuLimits::burst`], [`CpuLimits::idle`] | 5.14, 5.15 | error |
//! | [`MemoryStats::peak`], [`PidsStats::peak`] of v2 | 5.19, 6.1 | figure is `None` |
//!
//! # Delegation
//!
//! An ordinary user can use a group that was made over to it: on v2 whoever may write to a group's directory and to its
//! `cgroup.procs` and `cgroup.subtree_control` (Documentation/admin-guide/cgroup-v2.rst, "Delegation"). [`Hierarchy::available`]
//! says what that comes to, [`Hierarchy::base`] where. systemd does it for each login; feature `systemd` asks it for more.
//!
//! # Features
//!
//! - `oci` (default): [`Limits`] from and to `oci_spec::runtime::LinuxResources`.
//! - `systemd`: transient scopes over D-Bus, module `systemd`.
//!
//! # Why this is not built on `cgroups-rs`
//!
//! It was measured and read first (version 0.5.1). Its `apply()` throws write errors away (`update!` in `fs/mod.rs`, and the raw
//! attributes of each controller), as does enabling controllers on v2 (`enable_controllers` in `fs/cgroup.rs`), so a limit may
//! silently not hold; its parsers `unwrap` what the kernel writes (`fs/blkio.rs`); on v2 it reports swap in use as
//! `swappiness` (`fs/memory.rs`). It always brings zbus: 73 packages, where this crate has 11 without features and 42 with `oci`.
//! What was left after replacing that is opening and writing files. For a group with memory, CPU and task limits, a process put in,
//! every figure read and all removed again, it makes 318 system calls on a v1 host (267 when told which four controllers to
//! use), `libcgroups` 0.7 makes 873, this crate 84; times are in `benches/benches/cgroup.rs`.

mod apply;
mod check;
mod controller;
mod convert;
mod cpu_time;
mod devices;
mod dir;
mod error;
mod events;
mod freeze;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod hierarchy;
mod hugetlb;
mod kill;
mod limit_hits;
mod limits;
mod make;
#[cfg(feature = "oci")]
mod oci;
mod parse;
mod path;
mod proc;
mod remove;
mod setting;
mod stats;
mod sys;
#[cfg(feature = "systemd")]
pub mod systemd;
mod totals;
mod v1;
mod v2;

pub use apply::Skipped;
pub use controller::{Controller, Controllers, Version};
pub use cpu_time::{CpuTime, CpuTimeLimit};
pub use devices::{Access, DeviceKind, DeviceRule};
pub use error::{Error, Result};
pub use events::{Happened, Interest, Resource, Trigger, Watch, Watched};
pub use group::{Cgroup, Entry};
pub use hierarchy::{Hierarchy, Mode, Mount};
pub use limit_hits::{LimitCounters, LimitHit, LimitKind, LimitLevel};
pub use limits::{
    CpuLimits, CpuWeight, CpusetLimits, DeviceNumber, HugetlbLimits, IoLimits, IoRates, IoWeight, Limits,
    Max, MemoryLimits, NetworkLimits, RdmaLimits, Swap,
};
pub use path::CgroupPath;
pub use rustix::process::Signal;
pub use stats::{
    CpuStats, HugetlbStats, IoDevice, IoStats, MemoryStats, PidsStats, Pressure, PressureAverages, Stats,
};
pub use totals::Totals;
