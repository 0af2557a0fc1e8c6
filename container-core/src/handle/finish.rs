//! Following a container to its end, and what is then said about it.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::capture::Collected;
use super::exit::MemoryShortage;
use super::process::{self, Next, Verdict, Watch};
use super::streams::Streams;
use super::{Container, Core, Outcome, Output, tree};
use crate::error::Result;

impl Container {
    /// Collects what it writes, while waiting for its end. Standard input is closed, unless the builder has
    /// [`input`](crate::ContainerBuilder::input) for it.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_with_output(self) -> Result<Output> {
        self.finish().map(Output::from)
    }

    /// Follows a started container to its end, as [`ContainerBuilder::run`](crate::ContainerBuilder::run) does: with the input
    /// and the limits on time and output that the builder was given. The time counts from the start.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn finish(mut self) -> Result<Outcome> {
        let mut watch = self.watch()?;
        while !self.core.process.has_ended() {
            match watch.step(&|| self.core.cpu_time())? {
                Next::Wait(until) => watch.wait(&self.core.process, until)?,
                Next::Kill => self.core.kill_for_limit()?,
            }
        }
        self.outcome(watch)
    }

    pub(crate) fn watch(&mut self) -> Result<Watch> {
        let streams =
            Streams { stdin: self.stdin.take(), stdout: self.stdout.take(), stderr: self.stderr.take() };
        Watch::new(streams, self.bounds.clone(), self.core.process.started())
    }

    /// What is said in the end, read before the control group goes away. The container is taken down.
    pub(crate) fn outcome(mut self, watch: Watch) -> Result<Outcome> {
        let wall_time = self.core.process.started().elapsed();
        let status = self.core.process.wait()?;
        self.core.end_stragglers();
        let (out, err, verdict) = watch.finish()?;
        let outcome = self.core.outcome(status, wall_time, out, err, verdict);
        // What could not be removed must not cost the caller the answer.
        let _ = self.clean();
        Ok(outcome)
    }
}

impl Core {
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        match &self.cgroup {
            Some(group) => group.cpu_usage().ok(),
            None if self.own_pids => tree::cpu_time(self.process.pid),
            None => None,
        }
    }

    fn outcome(
        &self,
        status: std::process::ExitStatus,
        wall_time: Duration,
        out: Collected,
        err: Collected,
        verdict: Option<Verdict>,
    ) -> Outcome {
        let totals = self.cgroup.as_ref().and_then(|group| group.totals().ok()).unwrap_or_default();
        let used = self.process.used();
        let stopped = status.signal().is_some_and(|signal| self.process.was_sent(signal));
        Outcome {
            end: process::end(status, verdict, stopped, shortage(&totals)),
            status,
            stdout: out.bytes,
            stderr: err.bytes,
            stdout_cut: out.cut,
            stderr_cut: err.cut,
            wall_time,
            cpu_time: totals.cpu_usage.or(used.cpu),
            peak_memory: totals.memory_peak,
            oom_kills: totals.oom_kills.unwrap_or(0),
            pids_limit_hits: totals.pids_limit_hits.unwrap_or(0),
            bytes_written: used.written,
            skipped_limits: self.skipped_limits.clone(),
        }
    }
}

/// Whose memory was short, if somebody was killed for it.
fn shortage(totals: &cgroup::Totals) -> Option<MemoryShortage> {
    if totals.oom_kills.unwrap_or(0) == 0 {
        return None;
    }
    // v2 counts the times its own limit left no way out. v1 counts how often it was met, but not if that was the limit on memory
    // and swap together, so there the highest use tells.
    let hits = totals.oom.or(totals.memory_limit_hits).is_some_and(|hits| hits > 0);
    let reached = match (totals.memory_peak, totals.memory_max) {
        (Some(peak), Some(cgroup::Max::At(limit))) => peak + (64 << 10) >= limit,
        _ => false,
    };
    let own = hits || reached;
    Some(if own { MemoryShortage::Own } else { MemoryShortage::Ancestor })
}
