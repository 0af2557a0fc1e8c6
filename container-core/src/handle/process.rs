//! One process we started: known by descriptor, waited for without a signal handler, its pipes and terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::capture::{Capture, Collected};
use super::exit::{End, MemoryShortage, TimeLimit};
use super::streams::Streams;
use crate::error::{Error, Result};
use crate::sys;

/// What is known of a process that has ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    status: ExitStatus,
    used: Used,
}

/// What a process and its descendants used, as far as the kernel tells the parent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Option<Duration>,
    /// Bytes that had to go to storage.
    pub(crate) written: Option<u64>,
}

/// What a process is known by, shared by its handle and those who may kill it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// When the command was started.
    started: Mutex<Instant>,
    end: Mutex<Option<Ended>>,
    /// Where an init tells how the command ended, whose place it takes here.
    teller: Option<OwnedFd>,
    /// What it and its descendants had used when they were about to be killed: with the first process of a pid namespace all
    /// others go, and nobody waits for them.
    used_before: Mutex<Used>,
    /// The signals that were sent through a handle, one bit each.
    sent: AtomicU64,
    joined: Mutex<Joined>,
}

/// Processes that this program started in the pid namespace of another of its processes. The first process of a pid namespace ends
/// only when all others are collected, and these are ours to collect: whoever waits for it waits for them too.
#[derive(Debug, Default)]
struct Joined {
    processes: Vec<Arc<Process>>,
    /// Becomes readable, and stays so, when one more joins.
    more: Option<Arc<OwnedFd>>,
}

/// What else to wait for beside the end of a process.
#[derive(Debug)]
pub(crate) struct Company {
    running: Vec<Arc<Process>>,
    more: Arc<OwnedFd>,
}

impl Company {
    /// Readable when there is something to collect, or somebody joined.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.running.iter().map(|process| process.pidfd.as_fd());
        running.chain(std::iter::once(self.more.as_fd()))
    }
}

impl Process {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> Self {
        let started = Mutex::new(Instant::now());
        let used_before = Mutex::default();
        let (end, sent) = (Mutex::new(None), AtomicU64::new(0));
        Self { pid, pidfd, started, end, teller: None, used_before, sent, joined: Mutex::default() }
    }

    /// Gets its status from an init's pipe, where that says something.
    pub(crate) fn told_by(self, teller: Option<OwnedFd>) -> Self {
        Self { teller, ..self }
    }

    /// How the command of an init ended. Nothing, if the init was killed, or there is none.
    fn told(&self) -> Option<ExitStatus> {
        let mut status = [0; size_of::<i32>()];
        let length = rustix::io::read(self.teller.as_ref()?, &mut status).ok()?;
        (length == status.len()).then(|| ExitStatus::from_raw(i32::from_ne_bytes(status)))
    }

    /// The command starts only now.
    pub(crate) fn start_clock(&self) {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn started(&self) -> Instant {
        *self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one more process in the pid namespace of this one.
    pub(crate) fn joined_by(&self, process: &Arc<Self>) {
        self.collect_joined();
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.processes.push(Arc::clone(process));
        if let Some(more) = joined.more.take() {
            // Those who wait see it, and ask for their company anew.
            let _ = rustix::io::write(&more, &1u64.to_ne_bytes());
        }
    }

    /// Collects those who joined and have ended; gives the others.
    fn collect_joined(&self) -> Vec<Arc<Self>> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.processes.retain(|process| matches!(process.try_wait(), Ok(None)));
        joined.processes.clone()
    }

    /// Whom to wait for beside this process.
    pub(crate) fn company(&self) -> Result<Company> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let more = match &joined.more {
            Some(more) => Arc::clone(more),
            None => {
                let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
                let more = rustix::event::eventfd(0, flags).map_err(|e| Error::io("make", "eventfd", e))?;
                Arc::clone(joined.more.insert(Arc::new(more)))
            }
        };
        drop(joined);
        Ok(Company { running: self.collect_joined(), more })
    }

    /// The status, if the process has ended.
    pub(crate) fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.collect_joined();
        let mut known = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = &*known {
            return Ok(Some(end.status));
        }
        // Its directory in /proc goes with its status, and until then the number is its own.
        let written = match sys::pidfd::is_collectable(self.pidfd.as_fd()) {
            true => bytes_written(self.pid),
            false => None,
        };
        match sys::pidfd::collect(self.pidfd.as_fd()) {
            Ok(None) => return Ok(None),
            Ok(Some(sys::pidfd::Collected { status, cpu })) => {
                let status = self.told().unwrap_or(status);
                *known = Some(Ended { status, used: Used { cpu: Some(cpu), written } });
            }
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => {
                // Collected by somebody else, or no child of ours: an opened container. The descriptor tells whether it ended.
                if !self.ended_within(Some(Duration::ZERO))? {
                    return Ok(None);
                }
                let kept = || sys::pidfd::exit_status(self.pidfd.as_fd());
                match self.told().or_else(kept).or_else(|| self.status_after_collection()) {
                    Some(status) => *known = Some(Ended { status, used: Used::default() }),
                    None => return Err(Error::StatusLost { pid: self.pid }),
                }
            }
            Err(e) => return Err(Error::io("wait for", format!("process {}", self.pid), e)),
        }
        Ok(known.map(|end| end.status))
    }

    /// What it used, once its status is known.
    pub(crate) fn used(&self) -> Used {
        let before = *self.used_before.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).map(|end| end.used);
        let end = end.unwrap_or_default();
        Used { cpu: end.cpu.max(before.cpu), written: end.written.max(before.written) }
    }

    /// Notes what it used so far.
    pub(crate) fn note_used(&self, used: Used) {
        *self.used_before.lock().unwrap_or_else(PoisonError::into_inner) = used;
    }

    /// The kernel gives the status to others only once the parent has collected it, which an init does at once. The descriptor
    /// then hangs up.
    fn status_after_collection(&self) -> Option<ExitStatus> {
        if !sys::pidfd::keeps_exit_status() {
            return None;
        }
        let mut descriptors = [PollFd::new(&self.pidfd, PollFlags::empty())];
        let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
        poll(&mut descriptors, Some(&patience)).ok()?;
        sys::pidfd::exit_status(self.pidfd.as_fd())
    }

    /// Waits until the process has ended or the time is up (`None`: for ever). It stays uncollected.
    fn ended_within(&self, timeout: Option<Duration>) -> Result<bool> {
        // A time beyond what the clock can say never comes.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            // Just to look needs no company.
            let company = if timeout == Some(Duration::ZERO) { None } else { Some(self.company()?) };
            let mut descriptors = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            let others = company.iter().flat_map(Company::descriptors);
            descriptors.extend(others.map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
            match poll(&mut descriptors, timespec(until).as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) if descriptors[0].revents().is_empty() => {}
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::io("poll", format!("process {}", self.pid), e)),
            }
        }
    }

    pub(crate) fn wait_timeout(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        if let Some(status) = self.try_wait()? {
            return Ok(Some(status));
        }
        if !self.ended_within(timeout)? {
            return Ok(None);
        }
        // A process that was collected elsewhere at this very moment is told by the second look.
        self.try_wait()
    }

    pub(crate) fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_timeout(None)? {
                return Ok(status);
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.collect_joined();
        self.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
            || self.ended_within(Some(Duration::ZERO)).unwrap_or(true)
    }

    /// Sends a signal; `false` when the process has ended.
    pub(crate) fn signal(&self, number: i32) -> Result<bool> {
        if self.has_ended() {
            return Ok(false);
        }
        match sys::process::signal(&self.pidfd, number) {
            Ok(()) => {
                self.note_sent(number);
                Ok(true)
            }
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(Error::io("signal", format!("process {}", self.pid), e)),
        }
    }

    /// Remembers that the signal comes from the host program, so that an end by it is no surprise.
    pub(crate) fn note_sent(&self, number: i32) {
        self.sent.fetch_or(1 << (number & 63), Ordering::Relaxed);
    }

    /// Was a process that ended by `signal` sent it through its handle?
    pub(crate) fn was_sent(&self, signal: i32) -> bool {
        self.sent.load(Ordering::Relaxed) & 1 << (signal & 63) != 0
    }
}

/// What an ended process and its descendants had written to storage (`write_bytes` of proc_pid_io(5)).
pub(super) fn bytes_written(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

/// What may end a process before it ends by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) input: Option<Arc<[u8]>>,
    pub(crate) output: Option<crate::builder::OutputLimit>,
    pub(crate) wall: Option<Duration>,
    pub(crate) cpu: Option<Duration>,
}

/// Why this library ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Wall,
    Cpu,
    Output(super::capture::OutputStream),
}

/// Follows a process to its end: feeds and drains its streams, and says when a bound is crossed. No waiting in here, so that
/// blocking and async callers share it.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) capture: Capture,
    bounds: Bounds,
    deadline: Option<Instant>,
    pub(crate) verdict: Option<Verdict>,
}

/// What [`Watch::step`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for a descriptor, or until then.
    Wait(Option<Instant>),
    /// Kill it.
    Kill,
}

impl Watch {
    pub(crate) fn new(streams: Streams, bounds: Bounds, started: Instant) -> Result<Self> {
        let Streams { stdin, stdout, stderr } = streams;
        let limit = bounds.output.map(|limit| limit.bytes);
        let capture = Capture::new(stdin, stdout, stderr, bounds.input.clone(), limit)
            .map_err(|e| Error::io("prepare", "pipe of the process", e))?;
        let deadline = bounds.wall.and_then(|wall| started.checked_add(wall));
        Ok(Self { capture, bounds, deadline, verdict: None })
    }

    /// `cpu` gives the CPU time used so far.
    pub(crate) fn step(&mut self, cpu: &dyn Fn() -> Option<Duration>) -> Result<Next> {
        self.capture.pump().map_err(|e| Error::io("move data of", "a pipe of the process", e))?;
        if self.verdict.is_some() {
            return Ok(Next::Wait(None));
        }
        let now = Instant::now();
        if let Some(limit) = self.bounds.output
            && limit.kill
            && let Some(stream) = self.capture.over_limit()
        {
            return Ok(self.kill(Verdict::Output(stream)));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(self.kill(Verdict::Wall));
        }
        let mut until = self.deadline;
        if let Some(most) = self.bounds.cpu {
            let used = cpu().unwrap_or_default();
            if used >= most {
                return Ok(self.kill(Verdict::Cpu));
            }
            // Nothing tells when CPU time is used up, but it cannot be before all CPUs have worked for the rest of it.
            let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let check = now.checked_add(((most - used) / cpus).max(Duration::from_millis(2)));
            until = until.into_iter().chain(check).min();
        }
        Ok(Next::Wait(until))
    }

    fn kill(&mut self, verdict: Verdict) -> Next {
        self.verdict = Some(verdict);
        Next::Kill
    }

    /// Waits in poll(2) for whatever comes first.
    pub(crate) fn wait(&self, process: &Process, until: Option<Instant>) -> Result<()> {
        let (input, outputs) = self.capture.waiting();
        let company = process.company()?;
        let mut descriptors = vec![PollFd::new(&process.pidfd, PollFlags::IN)];
        descriptors.extend(company.descriptors().map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
        descriptors.extend(input.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::OUT)));
        descriptors
            .extend(outputs.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        match poll(&mut descriptors, timespec(until).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(Error::io("poll", format!("process {}", process.pid), e)),
        }
    }

    /// What was collected, once the process has ended.
    pub(crate) fn finish(self) -> Result<(Collected, Collected, Option<Verdict>)> {
        let verdict = self.verdict;
        let (out, err) = self.capture.finish().map_err(|e| Error::io("read", "a pipe of the process", e))?;
        Ok((out, err, verdict))
    }
}

/// Sorts out why a process ended.
pub(crate) fn end(
    status: ExitStatus,
    verdict: Option<Verdict>,
    stopped: bool,
    shortage: Option<MemoryShortage>,
) -> End {
    let Some(signal) = status.signal() else {
        // It was faster than whatever was about to end it.
        return End::Exited(status.code().unwrap_or_default());
    };
    match verdict {
        Some(Verdict::Wall) => End::TimedOut(TimeLimit::Wall),
        Some(Verdict::Cpu) => End::TimedOut(TimeLimit::Cpu),
        Some(Verdict::Output(stream)) => End::OutputLimit(stream),
        None if stopped => End::Stopped,
        None => match shortage.filter(|_| signal == libc::SIGKILL) {
            Some(shortage) => End::OutOfMemory(shortage),
            None => End::Signaled { signal, core_dumped: status.core_dumped() },
        },
    }
}

fn timespec(until: Option<Instant>) -> Option<Timespec> {
    until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up, so that the time is really over when poll says so.
        let left = left + Duration::from_micros(1);
        Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_apart() {
        let killed = ExitStatus::from_raw(libc::SIGKILL);
        let code = |n: i32| ExitStatus::from_raw(n << 8);
        let own = Some(MemoryShortage::Own);
        assert_eq!(end(code(137), None, false, None), End::Exited(137));
        assert_eq!(end(killed, None, false, None), End::Signaled { signal: 9, core_dumped: false });
        assert_eq!(end(killed, None, false, own), End::OutOfMemory(MemoryShortage::Own));
        assert_eq!(end(code(0), None, false, own), End::Exited(0));
        assert_eq!(end(killed, Some(Verdict::Wall), false, own), End::TimedOut(TimeLimit::Wall));
        assert_eq!(end(killed, None, true, None), End::Stopped);
        assert_eq!(end(code(3), Some(Verdict::Wall), false, None), End::Exited(3));
        let segv = ExitStatus::from_raw(libc::SIGSEGV | 0x80);
        assert_eq!(end(segv, None, false, own), End::Signaled { signal: 11, core_dumped: true });
    }
}
