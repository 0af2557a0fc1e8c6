//! What is said about a group when its processes are gone.

use std::time::Duration;

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::Result;
use crate::group::Cgroup;
use crate::limits::Max;
use crate::parse;

/// What a group used in all, and which of its limits were met: five or six files, where [`Cgroup::stats`] reads about twenty.
///
/// As in [`Stats`](crate::Stats), where each field is explained, a figure is `None` when its controller is not available to the
/// group or this kernel does not offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// CPU time used.
    pub cpu_usage: Option<Duration>,
    /// The most memory that was ever in use, in bytes.
    pub memory_peak: Option<u64>,
    /// The memory limit in force at this level.
    pub memory_max: Option<Max>,
    /// How often an allocation met the memory limit.
    pub memory_limit_hits: Option<u64>,
    /// How often the memory limit was met and reclaim could not help; v2.
    pub oom: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// How often a fork failed for a limit on tasks.
    pub pids_limit_hits: Option<u64>,
}

impl Cgroup {
    /// Reads what is said about a group in the end.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read) when the kernel refuses a file that exists.
    pub fn totals(&self) -> Result<Totals> {
        let mut buffer = Vec::with_capacity(4096);
        let mut totals = Totals { cpu_usage: self.read_cpu_usage(&mut buffer)?, ..Totals::default() };
        match self.dir_of(Controller::Memory) {
            Some((dir, Version::V1)) => memory_v1(dir, &mut totals, &mut buffer)?,
            Some((dir, Version::V2)) => memory_v2(dir, &mut totals, &mut buffer)?,
            None => {}
        }
        if let Some((dir, _)) = self.dir_of(Controller::Pids) {
            totals.pids_limit_hits =
                dir.read("pids.events", &mut buffer)?.and_then(|text| parse::field(text, "max"));
        }
        Ok(totals)
    }
}

fn memory_v1(dir: &Dir, totals: &mut Totals, buffer: &mut Vec<u8>) -> Result<()> {
    totals.memory_peak = dir.read("memory.max_usage_in_bytes", buffer)?.and_then(parse::number);
    totals.memory_max = dir.read("memory.limit_in_bytes", buffer)?.and_then(parse::max);
    totals.memory_limit_hits = dir.read("memory.failcnt", buffer)?.and_then(parse::number);
    totals.oom_kills =
        dir.read("memory.oom_control", buffer)?.and_then(|text| parse::field(text, "oom_kill"));
    Ok(())
}

fn memory_v2(dir: &Dir, totals: &mut Totals, buffer: &mut Vec<u8>) -> Result<()> {
    totals.memory_peak = dir.read("memory.peak", buffer)?.and_then(parse::number);
    totals.memory_max = dir.read("memory.max", buffer)?.and_then(parse::max);
    if let Some(text) = dir.read("memory.events", buffer)? {
        parse::flat(text, |key, value| match key {
            "max" => totals.memory_limit_hits = Some(value),
            "oom" => totals.oom = Some(value),
            "oom_kill" => totals.oom_kills = Some(value),
            _ => {}
        });
    }
    Ok(())
}
