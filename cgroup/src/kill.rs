//! Killing every process of a group, and waiting until none is left.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::controller::Controller;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::freeze::{thaw_tree, wait_for};
use crate::group::Cgroup;
use crate::parse;

impl Cgroup {
    /// Sends SIGKILL to every process of the group and of those below it. None escapes by forking.
    ///
    /// One write to `cgroup.kill` (v2, kernel 5.14, also in the unified hierarchy of a hybrid host); else the group is frozen,
    /// signalled and thawed; without a freezer its limit of tasks is 0 meanwhile where it has one, and it is signalled until
    /// no new process appears. The call does not wait for the processes to be gone, see [`wait_empty`](Self::wait_empty):
    /// on v1 those that a frozen ancestor stops die when that is thawed.
    ///
    /// # Errors
    /// [`Error::Kill`], with EINTR when processes kept appearing.
    pub fn kill(&self) -> Result<()> {
        self.kill_each()?;
        // What v1 has frozen does not even die, and groups inside may be frozen on their own.
        self.v1_dir_of(Controller::Freezer).into_iter().for_each(thaw_tree);
        Ok(())
    }

    fn kill_each(&self) -> Result<()> {
        if let Some(dir) = self.unified_dir() {
            match dir.write("cgroup.kill", "1") {
                Ok(()) => return Ok(()),
                // The group was removed with its last process.
                Err(Errno::NODEV) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.kill_error(errno)),
            }
        }
        self.signal_until_settled()
    }

    /// Sends a signal to every process there is now, each once. For signals other than SIGKILL.
    ///
    /// # Errors
    /// [`Error::Kill`] when a process could not be signalled.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.signal_round(signal, &mut HashSet::new()).map(drop)
    }

    fn kill_error(&self, errno: Errno) -> Error {
        Error::Kill { path: self.path().to_owned(), source: errno.into() }
    }

    fn signal_until_settled(&self) -> Result<()> {
        // Not frozen within its time is no reason not to try.
        let frozen = self.freeze().is_ok();
        let tasks = if frozen { None } else { self.forbid_forks() };
        let mut signalled = HashSet::new();
        let mut result = Err(self.kill_error(Errno::INTR));
        // A fork bomb may win some rounds, but its processes die faster than they are made once they are signalled.
        for _ in 0..1000 {
            match self.signal_round(Signal::KILL, &mut signalled) {
                Ok(0) => {
                    result = Ok(());
                    break;
                }
                Ok(_) => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if frozen {
            self.thaw()?;
        }
        if let Some((dir, max)) = tasks {
            // The group may be gone, and with it the limit.
            let _ = dir.write("pids.max", &max);
        }
        result
    }

    /// Sets the limit of tasks to 0, which covers the groups inside too, and returns what it was.
    fn forbid_forks(&self) -> Option<(&Dir, String)> {
        let (dir, _) = self.dir_of(Controller::Pids)?;
        let max = dir.read("pids.max", &mut Vec::new()).ok()??.trim().to_owned();
        dir.write("pids.max", "0").ok()?;
        Some((dir, max))
    }

    /// Signals the processes that were not signalled before and returns how many those were.
    fn signal_round(&self, signal: Signal, signalled: &mut HashSet<u32>) -> Result<usize> {
        let mut handles = Vec::new();
        for pid in self.processes()? {
            if !signalled.contains(&pid)
                && let Some(handle) = open_process(pid).map_err(|errno| self.kill_error(errno))?
            {
                handles.push((pid, handle));
            }
        }
        if handles.is_empty() {
            return Ok(0);
        }
        // A number may have been reused between list and handle; what is listed again after the handle was taken is ours.
        let listed: HashSet<u32> = self.processes()?.into_iter().collect();
        let mut count = 0;
        for (pid, handle) in handles {
            if listed.contains(&pid) {
                match pidfd_send_signal(&handle, signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(self.kill_error(errno)),
                }
                count += 1;
            }
            signalled.insert(pid);
        }
        Ok(count)
    }

    /// Waits until no process is left in the group and those below it; `false` when that took longer than `timeout` (`None`
    /// waits for ever). Zombies do not count.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn wait_empty(&self, timeout: Option<Duration>) -> Result<bool> {
        // Far enough to be never, near enough not to overflow.
        let deadline = Instant::now() + timeout.unwrap_or(Duration::from_secs(60 * 60 * 24 * 365));
        if let Some(dir) = self.unified_dir().filter(|dir| dir.has("cgroup.events")) {
            let waited = dir.open_file("cgroup.events", OFlags::RDONLY).and_then(|events| {
                wait_for(&events, deadline, |text| parse::field(text, "populated") == Some(0))
            });
            return match waited {
                Err(Errno::NODEV | Errno::NOENT) => Ok(true),
                waited => waited.map_err(|errno| dir.read_error("cgroup.events", errno)),
            };
        }
        // v1 has no event for this, but each process has.
        loop {
            let mut handles = Vec::new();
            for pid in self.processes()? {
                handles.extend(open_process(pid).map_err(|errno| self.kill_error(errno))?);
            }
            if handles.is_empty() {
                return Ok(true);
            }
            for handle in &handles {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(false);
                }
                let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                let mut fds = [PollFd::new(handle, PollFlags::IN)];
                rustix::io::retry_on_intr(|| poll(&mut fds, Some(&left)))
                    .map_err(|errno| self.kill_error(errno))?;
            }
        }
    }
}

fn open_process(pid: u32) -> Result<Option<OwnedFd>, Errno> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}
