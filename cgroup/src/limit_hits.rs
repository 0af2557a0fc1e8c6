//! Which limit was met, and at whose level.

use std::path::PathBuf;

use crate::controller::{Controller, Version};
use crate::dir::Dir;
use crate::error::Result;
use crate::group::{Cgroup, GroupDir};
use crate::limits::Max;
use crate::parse;

/// The counters of a group and of its ancestors that tell which limits were met. Take one when the group is made and one at
/// its end, and compare.
///
/// ```no_run
/// # fn run(group: &cgroup::Cgroup) -> cgroup::Result<()> {
/// let before = group.limit_counters()?;
/// // ... the group's processes run and end ...
/// for hit in group.limit_counters()?.hits_since(&before) {
///     println!("{hit}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitCounters {
    memory: Vec<Level>,
    pids: Vec<Level>,
    /// Processes of the group that were killed for want of memory.
    oom_kills: u64,
    /// Occasions on which the limit of a group inside was met.
    oom_inside: u64,
    /// Forks that failed in the group, where the kernel counts them there and not where the limit is.
    failed_forks: Option<u64>,
}

/// One group: the one in question first, then its ancestors as far as they are visible.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Level {
    path: PathBuf,
    /// How often this level's own limit was met (and, for memory, could not be kept).
    met: u64,
    /// Whether this level's limit was reached at some time. Decides where the kernel does not count.
    is_tight: bool,
}

/// A limit that was met.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitHit {
    /// Which one.
    pub limit: LimitKind,
    /// Where it is set.
    pub level: LimitLevel,
    /// For memory, processes of the group that were killed; for tasks, forks that failed.
    pub count: u64,
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitKind {
    /// Memory, or memory and swap together.
    Memory,
    /// Number of tasks.
    Pids,
}

/// At which level a limit is set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitLevel {
    /// The group's own.
    Own,
    /// Of a group that was made inside.
    Inside,
    /// Of an ancestor: its directory.
    Ancestor(PathBuf),
    /// No visible group's: the machine itself ran out, or an ancestor outside of what is mounted.
    Host,
}

impl std::fmt::Display for LimitHit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.limit {
            LimitKind::Memory => write!(f, "{} processes killed: out of memory", self.count)?,
            LimitKind::Pids => write!(f, "{} forks failed: too many tasks", self.count)?,
        }
        match &self.level {
            LimitLevel::Own => f.write_str(" for the group's own limit"),
            LimitLevel::Inside => f.write_str(" for the limit of a group inside"),
            LimitLevel::Ancestor(path) => write!(f, " for the limit of {}", path.display()),
            LimitLevel::Host => f.write_str(" on the whole host"),
        }
    }
}

impl Cgroup {
    /// Reads the counters.
    ///
    /// # Errors
    /// [`Error::Read`](crate::Error::Read).
    pub fn limit_counters(&self) -> Result<LimitCounters> {
        let mut counters = LimitCounters::default();
        let mut buffer = Vec::with_capacity(512);
        if let Some((own, version)) = self.group_dir_of(Controller::Memory) {
            for dir in self.levels(own) {
                let (met, is_tight) = match version {
                    Version::V2 => {
                        (event(&dir, "memory.events.local", "oom", &mut buffer)?.unwrap_or(0), false)
                    }
                    Version::V1 => v1_memory(&dir, &mut buffer)?,
                };
                counters.memory.push(Level { path: dir.path().to_owned(), met, is_tight });
            }
            let (file, own_dir) = match version {
                Version::V2 => ("memory.events", &own.dir),
                Version::V1 => ("memory.oom_control", &own.dir),
            };
            counters.oom_kills = event(own_dir, file, "oom_kill", &mut buffer)?.unwrap_or(0);
            if version == Version::V2 {
                let all = event(own_dir, file, "oom", &mut buffer)?.unwrap_or(0);
                counters.oom_inside = all.saturating_sub(counters.memory.first().map_or(0, |own| own.met));
            }
        }
        if let Some((own, _)) = self.group_dir_of(Controller::Pids) {
            let mut local = false;
            for dir in self.levels(own) {
                let met = event(&dir, "pids.events.local", "max", &mut buffer)?;
                local |= met.is_some();
                let max = dir.read("pids.max", &mut buffer)?.and_then(parse::max);
                let peak = dir.read("pids.peak", &mut buffer)?.and_then(parse::number);
                let is_tight = match max {
                    Some(Max::At(max)) => peak.is_none_or(|peak| peak >= max),
                    _ => false,
                };
                counters.pids.push(Level { path: dir.path().to_owned(), met: met.unwrap_or(0), is_tight });
            }
            if !local {
                counters.failed_forks = event(&own.dir, "pids.events", "max", &mut buffer)?;
            }
        }
        Ok(counters)
    }

    fn group_dir_of(&self, controller: Controller) -> Option<(&GroupDir, Version)> {
        let index = self.hierarchy.index_of(controller)?;
        let own = self.dirs.iter().find(|own| own.mount == index)?;
        Some((own, self.hierarchy.mounts()[index].version()))
    }

    /// The group's directory and those above it, up to the mount.
    fn levels<'g>(&'g self, own: &'g GroupDir) -> impl Iterator<Item = Dir> + 'g {
        let root = self.hierarchy.mounts()[own.mount].root();
        let shorter = |path: &&'g str| {
            (!path.is_empty()).then(|| path.rsplit_once('/').map_or("", |(parent, _)| parent))
        };
        std::iter::successors(Some(own.path.as_str()), shorter).filter_map(|path| root.open_below(path).ok())
    }
}

fn event(dir: &Dir, file: &str, field: &str, buffer: &mut Vec<u8>) -> Result<Option<u64>> {
    Ok(dir.read(file, buffer)?.and_then(|text| parse::field(text, field)))
}

/// v1 counts failed charges, but not on every kernel (6.18 leaves the count at 0). Then the most that ever was in use tells:
/// the kernel charges up to 64 pages at a time and goes down to one when that does not fit.
fn v1_memory(dir: &Dir, buffer: &mut Vec<u8>) -> Result<(u64, bool)> {
    const BATCH: u64 = 64 * 4096;
    let (mut met, mut is_tight) = (0u64, false);
    for kind in ["memory", "memory.memsw"] {
        let mut number = |file| {
            let file = format!("{kind}.{file}");
            Result::Ok(dir.read(&file, buffer)?.and_then(parse::max))
        };
        if let Some(Max::At(count)) = number("failcnt")? {
            met = met.saturating_add(count);
        }
        if let (Some(Max::At(peak)), Some(Max::At(limit))) =
            (number("max_usage_in_bytes")?, number("limit_in_bytes")?)
        {
            is_tight |= peak.saturating_add(BATCH) >= limit;
        }
    }
    Ok((met, is_tight))
}

impl LimitCounters {
    /// The limits that were met between `before` and this reading. With `LimitCounters::default()` for `before`, and on
    /// v1 kernels that do not count, an ancestor whose limit was met long ago may be taken for the one that did it.
    #[must_use]
    pub fn hits_since(&self, before: &Self) -> Vec<LimitHit> {
        let grown = |levels: &[Level], old: &[Level]| -> Vec<u64> {
            let old = |path| old.iter().find(|level| level.path == path).map_or(0, |level| level.met);
            levels.iter().map(|level| level.met.saturating_sub(old(level.path.clone()))).collect()
        };
        let place = |levels: &[Level], index: usize| match index {
            0 => LimitLevel::Own,
            _ => LimitLevel::Ancestor(levels[index].path.clone()),
        };
        let mut hits = Vec::new();

        let kills = self.oom_kills.saturating_sub(before.oom_kills);
        let memory = grown(&self.memory, &before.memory);
        if kills > 0 {
            let counted = memory.iter().position(|met| *met > 0);
            let level = match counted.or_else(|| self.memory.iter().position(|level| level.is_tight)) {
                Some(0) => LimitLevel::Own,
                _ if self.oom_inside > before.oom_inside => LimitLevel::Inside,
                Some(index) => place(&self.memory, index),
                None => LimitLevel::Host,
            };
            hits.push(LimitHit { limit: LimitKind::Memory, level, count: kills });
        }

        match self.failed_forks {
            Some(failed) => {
                let count = failed.saturating_sub(before.failed_forks.unwrap_or(0));
                if count > 0 {
                    let tight = self.pids.iter().position(|level| level.is_tight);
                    let level = tight.map_or(LimitLevel::Host, |index| place(&self.pids, index));
                    hits.push(LimitHit { limit: LimitKind::Pids, level, count });
                }
            }
            None => {
                let pids = grown(&self.pids, &before.pids);
                if let Some(index) = pids.iter().position(|met| *met > 0) {
                    hits.push(LimitHit {
                        limit: LimitKind::Pids,
                        level: place(&self.pids, index),
                        count: pids[index],
                    });
                }
            }
        }
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(met: [u64; 3]) -> Vec<Level> {
        let paths = ["/own", "/parent", "/top"];
        paths.iter().zip(met).map(|(path, met)| Level { path: path.into(), met, is_tight: false }).collect()
    }

    #[test]
    fn whose_limit_it_was() {
        let before =
            LimitCounters { memory: levels([0, 5, 9]), pids: levels([0, 0, 7]), ..Default::default() };
        assert_eq!(before.hits_since(&before), []);
        let memory = |met, oom_inside| LimitCounters {
            memory: levels(met),
            oom_kills: 2,
            oom_inside,
            ..before.clone()
        };
        let level = |after: LimitCounters| after.hits_since(&before).remove(0).level;
        assert_eq!(level(memory([1, 5, 9], 0)), LimitLevel::Own);
        assert_eq!(level(memory([0, 5, 9], 1)), LimitLevel::Inside);
        assert_eq!(level(memory([0, 5, 10], 0)), LimitLevel::Ancestor("/top".into()));
        assert_eq!(level(memory([0, 5, 9], 0)), LimitLevel::Host);
        assert_eq!(memory([1, 5, 9], 0).hits_since(&before)[0].count, 2);

        let forks = LimitCounters { pids: levels([3, 0, 7]), ..before.clone() };
        let want = LimitHit { limit: LimitKind::Pids, level: LimitLevel::Own, count: 3 };
        assert_eq!(forks.hits_since(&before), [want]);
        let mut legacy = LimitCounters { failed_forks: Some(4), ..before.clone() };
        legacy.pids[1].is_tight = true;
        assert_eq!(level(legacy), LimitLevel::Ancestor("/parent".into()));
    }
}
