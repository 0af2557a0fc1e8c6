//! Control groups for programs that run other programs: limits that hold, figures that are true, on v1, v2, hybrid and systemd.

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
mod v1;
mod v2;

pub use controller::{Controller, Controllers, Version};
pub use cpu_time::{CpuTime, CpuTimeLimit};
pub use devices::{Access, DeviceKind, DeviceRule};
pub use error::{Error, Result};
pub use events::{Happened, Interest, Resource, Trigger, Watch, Watched};
pub use group::{Cgroup, Entry, Skipped};
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
