//! When, where and with what priority the process runs, and whose memory it takes.

use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Spec};

use super::operation::Operation;
use crate::error::{Error, Result};
use crate::sys::thread::SchedAttr;

pub(super) fn scheduling(process: &Process, inside: &mut Vec<Operation>) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        let policy = match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        };
        let flags = scheduler.flags().iter().flatten().fold(0, |bits, flag| {
            bits | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
        });
        let priority = scheduler.priority().unwrap_or(0);
        let priority = u32::try_from(priority).map_err(|_| {
            Error::invalid(format!("process.scheduler.priority {priority}"), "it is negative")
        })?;
        inside.push(Operation::Scheduler(SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy,
            flags,
            nice: scheduler.nice().unwrap_or(0),
            priority,
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
        }));
    }
    if let Some(io) = process.io_priority() {
        let class = match io.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = io.priority();
        if !(0..=7).contains(&level) {
            return Err(Error::invalid(
                format!("process.ioPriority.priority {level}"),
                "it goes from 0 to 7",
            ));
        }
        inside.push(Operation::IoPriority { value: class << 13 | level as i32 });
    }
    Ok(())
}

pub(super) fn memory_policy(spec: &Spec, inside: &mut Vec<Operation>) -> Result<()> {
    use oci_spec::runtime::{MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let Some(policy) = spec.linux().as_ref().and_then(|l| l.memory_policy().as_ref()) else { return Ok(()) };
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            Flag::MpolFNumaBalancing => 1 << 13,
            Flag::MpolFRelativeNodes => 1 << 14,
            Flag::MpolFStaticNodes => 1 << 15,
        }
    });
    let nodes = match policy.nodes().as_ref().filter(|nodes| !nodes.is_empty()) {
        Some(nodes) => list_mask("memory policy nodes", nodes)?,
        None => Vec::new(),
    };
    let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
    if matches!(policy.mode(), Mode::MpolDefault | Mode::MpolLocal) && count != 0 {
        return Err(Error::invalid(
            format!("memory policy {:?}", policy.mode()),
            format!("this mode requires 0 nodes but got {count}"),
        ));
    }
    inside.push(Operation::MemoryPolicy { mode: mode | flags, nodes });
    Ok(())
}

/// `0-3,7` as a bit mask.
pub(super) fn list_mask(field: &str, list: &str) -> Result<Vec<u64>> {
    const MOST: u32 = 1 << 14;
    let wrong = || Error::invalid(format!("{field} {list:?}"), "it is a list like 0-3,7");
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| wrong())?;
        let last: u32 = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= MOST {
            return Err(wrong());
        }
        for bit in first..=last {
            let word = bit as usize / 64;
            if mask.len() <= word {
                mask.resize(word + 1, 0);
            }
            mask[word] |= 1 << (bit % 64);
        }
    }
    if mask.is_empty() { Err(wrong()) } else { Ok(mask) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(list_mask("x", "0-3,7").unwrap(), [0x8f]);
        assert_eq!(list_mask("x", "64").unwrap(), [0, 1]);
        for wrong in ["", "3-1", "a", "1-", "99999"] {
            assert!(list_mask("x", wrong).is_err(), "{wrong}");
        }
    }
}
