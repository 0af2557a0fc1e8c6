//! How a container ended.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

pub use super::capture::OutputStream;

/// Why the first process of a container is no longer there. Exactly one is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// It exited with this code. 137 is just 137.
    Exited(i32),
    /// A signal killed it, sent by somebody else than this library.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// It left a core file.
        core_dumped: bool,
    },
    /// The kernel killed it for want of memory.
    OutOfMemory(MemoryShortage),
    /// This library killed it because its time was up.
    TimedOut(TimeLimit),
    /// This library killed it because it wrote more than allowed to this stream.
    OutputLimit(OutputStream),
    /// The host program stopped or killed it through its handle.
    Stopped,
}

/// Where memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryShortage {
    /// The container's own limit was reached.
    Own,
    /// The limit of a control group above it, or the whole host.
    Ancestor,
}

/// Which time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeLimit {
    /// Wall-clock time ([`timeout`](crate::ContainerBuilder::timeout)).
    Wall,
    /// CPU time ([`cpu_time`](crate::ContainerBuilder::cpu_time)).
    Cpu,
}

/// Everything about a container that has ended: what [`ContainerBuilder::run`](crate::ContainerBuilder::run) returns.
///
/// A container that never started is not here: that is an [`Error`](crate::Error).
#[derive(Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// The status of the first process as the kernel gave it: SIGKILL where this library killed it.
    pub status: ExitStatus,
    /// What it wrote to standard output, up to the limit. Empty if that went elsewhere.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Standard output was longer than the limit.
    pub stdout_cut: bool,
    /// Standard error was longer than the limit.
    pub stderr_cut: bool,
    /// Time from the start of the command to its end.
    pub wall_time: Duration,
    /// CPU time of all processes together. Without a control group, those that outlive the first one and are killed with it do
    /// not count.
    pub cpu_time: Option<Duration>,
    /// The most memory in use at once, in bytes. `None` without a memory controller (v2: before Linux 5.19).
    pub peak_memory: Option<u64>,
    /// Processes of the container that were killed for want of memory, the first one or others.
    pub oom_kills: u64,
    /// How often the container was refused a new process or thread by a limit on their number.
    pub pids_limit_hits: u64,
    /// Bytes that had to go to storage (`write_bytes` of proc_pid_io(5)), written back by now or not; what is written to memory
    /// file systems does not count. Of all processes, but for those that outlive the first one, with which they are killed.
    /// `None` for a container that another program started, where the kernel does not count (CONFIG_TASK_IO_ACCOUNTING), and for an
    /// ordinary user whose container ended by itself: of ended processes the kernel tells only root.
    pub bytes_written: Option<u64>,
    /// Limits that were asked for as best effort and could not be set.
    pub skipped_limits: Vec<String>,
}

impl Outcome {
    /// Did the command exit with 0?
    pub fn success(&self) -> bool {
        self.end == End::Exited(0)
    }
}

/// What a container wrote, and its status: what [`ContainerBuilder::output`](crate::ContainerBuilder::output) returns.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Why it ended.
    pub end: End,
    /// Its status.
    pub status: ExitStatus,
    /// Standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Standard output was longer than the limit.
    pub stdout_cut: bool,
    /// Standard error was longer than the limit.
    pub stderr_cut: bool,
}

impl From<Outcome> for Output {
    fn from(outcome: Outcome) -> Self {
        let Outcome { end, status, stdout, stderr, stdout_cut, stderr_cut, .. } = outcome;
        Self { end, status, stdout, stderr, stdout_cut, stderr_cut }
    }
}

/// The start of what was collected, so that a debug print of a gigabyte is none.
struct Shown<'a>(&'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 200;
        write!(f, "\"{}\"", self.0[..self.0.len().min(MOST)].escape_ascii())?;
        if self.0.len() > MOST { write!(f, "... ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("end", &self.end)
            .field("stdout", &Shown(&self.stdout))
            .field("stdout_cut", &self.stdout_cut)
            .field("stderr", &Shown(&self.stderr))
            .field("stderr_cut", &self.stderr_cut)
            .field("wall_time", &self.wall_time)
            .field("cpu_time", &self.cpu_time)
            .field("peak_memory", &self.peak_memory)
            .field("oom_kills", &self.oom_kills)
            .field("pids_limit_hits", &self.pids_limit_hits)
            .field("bytes_written", &self.bytes_written)
            .field("skipped_limits", &self.skipped_limits)
            .finish()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("end", &self.end)
            .field("stdout", &Shown(&self.stdout))
            .field("stdout_cut", &self.stdout_cut)
            .field("stderr", &Shown(&self.stderr))
            .field("stderr_cut", &self.stderr_cut)
            .finish()
    }
}
