//! A limit of the CPU time of a whole tree of processes, which no kernel has: RLIMIT_CPU counts each process alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::error::{Error, Result};
use crate::group::Cgroup;

/// Kills a group when the CPU time of all processes that ever were in it passes a limit.
///
/// No thread and no fixed rhythm: the timer is set for the earliest moment at which the limit can be passed, with every CPU
/// of the machine at work, and set again when that turns out not to be the case. Wait until the descriptor is readable,
/// then [`check`](Self::check). The limit is passed by at most 5 ms on each CPU, and by what the caller takes to check.
///
/// ```no_run
/// # fn run(group: &cgroup::Cgroup) -> cgroup::Result<()> {
/// use std::time::Duration;
/// let mut limit = cgroup::CpuTimeLimit::new(group, Duration::from_secs(10))?;
/// // A program with an event loop waits for the descriptor there instead.
/// while let cgroup::CpuTime::Within { .. } = limit.wait(group, None)? {}
/// println!("used up");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CpuTimeLimit {
    timer: OwnedFd,
    limit: Duration,
    cpus: u32,
}

/// How a group stands against its [`CpuTimeLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuTime {
    /// The limit is not reached.
    Within {
        /// CPU time used so far.
        usage: Duration,
    },
    /// The limit was reached, and every process of the group was sent SIGKILL.
    Exceeded {
        /// CPU time used.
        usage: Duration,
    },
}

/// The shortest time between two checks.
const SHORTEST: Duration = Duration::from_millis(5);

impl CpuTimeLimit {
    /// Limits the CPU time counted since the group was made.
    ///
    /// # Errors
    /// [`Error::NoController`] when no hierarchy of the group accounts for CPU time.
    pub fn new(group: &Cgroup, limit: Duration) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|errno| Error::Read { path: "timerfd".into(), source: errno.into() })?;
        let limit = Self { timer, limit, cpus: online_cpus() };
        limit.arm(group.cpu_usage()?)?;
        Ok(limit)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Compares, and kills the group when its time is used up. The descriptor is quiet then; else it is armed again.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Kill`].
    pub fn check(&mut self, group: &Cgroup) -> Result<CpuTime> {
        let mut expirations = [0; 8];
        // Nothing to read when it is called early: that is fine.
        let _ = rustix::io::read(&self.timer, &mut expirations);
        let usage = group.cpu_usage()?;
        if usage >= self.limit {
            group.kill()?;
            return Ok(CpuTime::Exceeded { usage });
        }
        self.arm(usage)?;
        Ok(CpuTime::Within { usage })
    }

    /// Waits for the next check that is due, at most `timeout`, and makes it.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn wait(&mut self, group: &Cgroup, timeout: Option<Duration>) -> Result<CpuTime> {
        use rustix::event::{PollFd, PollFlags, poll};
        let timeout = timeout.map(timespec);
        let mut fds = [PollFd::new(&self.timer, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
            .map_err(|errno| Error::Read { path: "timerfd".into(), source: errno.into() })?;
        self.check(group)
    }

    fn arm(&self, usage: Duration) -> Result<()> {
        let earliest = (self.limit.saturating_sub(usage) / self.cpus).max(SHORTEST);
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(earliest) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .map(drop)
            .map_err(|errno| Error::Read { path: "timerfd".into(), source: errno.into() })
    }
}

impl AsFd for CpuTimeLimit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn online_cpus() -> u32 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    // Without sysfs: check rather too often.
    if text.is_empty() { 64 } else { count_list(&text).max(1) }
}

/// How many numbers a list such as `0-3,7` has.
pub(crate) fn count_list(list: &str) -> u32 {
    let count = |range: &str| -> Option<u32> {
        let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(count).fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lists() {
        for (list, count) in
            [("0-1\n", 2), ("0\n", 1), ("0-3,7,9-10", 7), ("", 0), ("3-1", 0), ("0-4294967295", 0)]
        {
            assert_eq!(super::count_list(list), count, "{list:?}");
        }
    }
}
