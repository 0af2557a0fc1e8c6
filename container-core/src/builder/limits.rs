//! Setters for limits.

use std::time::Duration;

use super::{ContainerBuilder, OutputLimit};
use crate::rlimit::Resource;

/// Limits. They hold for the container as a whole, and one that cannot be set is an error before anything runs.
impl ContainerBuilder {
    /// Memory in bytes, without additional swap.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.limits = self.limits.memory(bytes);
        self.limits.memory.swap.get_or_insert(cgroup::Swap::Only(cgroup::Max::At(0)));
        self
    }

    /// CPUs' worth of time, as in 1.5.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.limits = self.limits.cpus(cpus);
        self
    }

    /// Tasks (processes and threads), the first process included, so at least 1. Default: [`DEFAULT_PIDS`](crate::DEFAULT_PIDS), where the host
    /// lets it be set.
    pub fn pids(mut self, tasks: u64) -> Self {
        self.limits = self.limits.pids(tasks);
        self
    }

    /// All limits at once, in place of what was set before.
    pub fn limits(mut self, limits: cgroup::Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Limits that this host cannot set are left out and listed in [`Container::skipped_limits`](crate::Container::skipped_limits)
    /// instead of being an error. Default: false.
    pub fn limits_best_effort(mut self, best_effort: bool) -> Self {
        self.limits_best_effort = best_effort;
        self
    }

    /// The control group: absolute, or relative to the host program's own. Default: one named as the container, below the host
    /// program's own.
    pub fn cgroup(mut self, path: impl Into<String>) -> Self {
        self.cgroup = Some(path.into());
        self
    }

    /// Makes no control group. Default: false. Without one there are no limits and no figures.
    pub fn no_cgroup(mut self, without: bool) -> Self {
        self.no_cgroup = without;
        self
    }

    /// A limit of each process by itself.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.rlimits.push((resource, soft, hard));
        self
    }

    /// How likely the kernel is to choose the container when memory is short, -1000 to 1000. Default: the host program's.
    pub fn oom_score_adj(mut self, score: i32) -> Self {
        self.oom_score = Some(score);
        self
    }

    /// Wall-clock time after which [`run`](Self::run), [`output`](Self::output) and [`status`](Self::status) kill the container.
    /// Default: none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// CPU time of all processes together after which [`run`](Self::run) kills the container. Default: none. Checked every few
    /// milliseconds at the end, so it is exceeded by no more than that times the number of CPUs. Without a control group the
    /// processes of the container's own pid namespace are added up (needs CONFIG_PROC_CHILDREN).
    pub fn cpu_time(mut self, time: Duration) -> Self {
        self.cpu_time = Some(time);
        self
    }

    /// How many bytes of each stream [`run`](Self::run) and [`output`](Self::output) keep. The container goes on, what it
    /// writes beyond that is read and thrown away, and the result says so. Default: no limit.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = Some(OutputLimit { bytes, kill: false });
        self
    }

    /// As [`output_limit`](Self::output_limit), but a container that writes more is killed
    /// ([`End::OutputLimit`](crate::End::OutputLimit)).
    pub fn output_limit_kill(mut self, bytes: usize) -> Self {
        self.output_limit = Some(OutputLimit { bytes, kill: true });
        self
    }
}
