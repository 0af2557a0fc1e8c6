//! The processes of a container without a control group. With process ids of its own they all descend from its first one, which
//! orphans are given to, so that none can leave this tree.

use std::time::Duration;

use super::process::{Used, bytes_written};

/// The first process and all that descend from it, as far as `/proc` tells (CONFIG_PROC_CHILDREN).
pub(super) fn processes(first: i32) -> Vec<u32> {
    let mut found = vec![first as u32];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

/// CPU time of all of them and of those that were waited for.
pub(super) fn cpu_time(first: i32) -> Option<Duration> {
    sum(processes(first), ticks).map(duration)
}

/// What all of them used, and those that were waited for.
pub(super) fn used(first: i32) -> Used {
    let processes = processes(first);
    let written = sum(processes.iter().copied(), |pid| bytes_written(pid as i32));
    Used { cpu: sum(processes, ticks).map(duration), written }
}

fn sum(processes: impl IntoIterator<Item = u32>, figure: impl Fn(u32) -> Option<u64>) -> Option<u64> {
    processes.into_iter().filter_map(figure).reduce(|sum, more| sum + more)
}

fn duration(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Own and waited-for descendants' time in user and kernel mode: fields 14 to 17 of `/proc/PID/stat`.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The command name before them may hold anything, parentheses too.
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().skip(11).take(4);
    fields.map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_its_time_are_found() {
        let own = std::process::id();
        let mut child =
            std::process::Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id() as i32;
        while cpu_time(pid).unwrap() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        if std::path::Path::new("/proc/self/task").join(own.to_string()).join("children").exists() {
            assert!(processes(own as i32).contains(&child.id()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(cpu_time(pid), None);
    }
}
