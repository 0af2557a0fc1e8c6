//! What a container is, for all who hold it, and the right to end it.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::process::Signal;

use super::{Process, tree};
use crate::error::{Error, Result};
use crate::plan::LowerLayer;

/// What a container is, for all who hold it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) process: Process,
    pub(crate) cgroup: Option<cgroup::Cgroup>,
    pub(crate) spec: Spec,
    pub(crate) stop_signal: i32,
    /// Killing the first process kills them all.
    pub(crate) own_pids: bool,
    /// The writable layer is a file system of its own.
    pub(crate) sized_layer: bool,
    pub(crate) skipped_limits: Vec<String>,
    /// The layers below the one that takes what the container writes, the topmost first; `None` when there is none.
    pub(crate) lower: Option<Vec<LowerLayer>>,
}

/// The right to end a container, from any thread and for as long as one likes: once the container is gone it does nothing.
#[derive(Clone, Debug)]
pub struct Killer {
    pub(super) core: Arc<Core>,
}

impl Killer {
    /// Sends a signal to the first process; see [`Container::kill`](crate::Container::kill).
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended, [`Error::Io`].
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.core.kill(signal.as_raw())
    }

    /// Asks it to end, waits for `grace`, then kills everything; see [`Container::stop`](crate::Container::stop).
    ///
    /// # Errors
    /// As [`Container::stop`](crate::Container::stop).
    pub fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        self.core.stop(grace)
    }
}

impl Core {
    pub(crate) fn not_running(&self) -> Error {
        Error::NotRunning { id: self.id.clone() }
    }

    pub(crate) fn group(&self) -> Result<&cgroup::Cgroup> {
        self.cgroup.as_ref().ok_or_else(|| {
            Error::unsupported(
                "this call",
                "the container has no control group (none can be made here, or no_cgroup)",
            )
        })
    }

    pub(crate) fn is_paused(&self) -> Result<bool> {
        match &self.cgroup {
            // What nothing can freeze is not frozen.
            Some(group) => match group.is_frozen() {
                Err(cgroup::Error::NoController { .. }) => Ok(false),
                other => other.map_err(cgroup_error),
            },
            None => Ok(false),
        }
    }

    pub(crate) fn kill(&self, signal: i32) -> Result<()> {
        if !self.process.signal(signal)? {
            return Err(self.not_running());
        }
        if signal == libc::SIGKILL
            && let Some(group) = &self.cgroup
        {
            if !self.own_pids {
                group.kill().map_err(cgroup_error)?;
            } else if group.is_frozen().unwrap_or(false) {
                // A frozen process dies when it is let go.
                group.thaw().map_err(cgroup_error)?;
            }
        }
        Ok(())
    }

    /// Where the container has no process ids of its own, what its first process left behind dies with it here.
    pub(crate) fn end_stragglers(&self) {
        if !self.own_pids
            && let Some(group) = &self.cgroup
        {
            let _ = group.kill();
            let _ = group.wait_empty(Some(Duration::from_secs(2)));
        }
    }

    pub(crate) fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        if self.ask_to_end()? && self.process.wait_timeout(Some(grace))?.is_none() {
            self.kill_if_running()?;
        }
        self.last_word()
    }

    /// Sends the stop signal, to a paused container too; `false` when it has ended.
    pub(crate) fn ask_to_end(&self) -> Result<bool> {
        if !self.process.signal(self.stop_signal)? {
            return Ok(false);
        }
        if self.is_paused()? {
            self.group()?.thaw().map_err(cgroup_error)?;
        }
        Ok(true)
    }

    /// Kills everything, and notes before what it used.
    pub(crate) fn kill_for_limit(&self) -> Result<()> {
        if self.own_pids {
            self.process.note_used(tree::used(self.process.pid));
        }
        self.kill_if_running()
    }

    /// Kills everything; that it had just ended by itself is as good.
    pub(crate) fn kill_if_running(&self) -> Result<()> {
        match self.kill(libc::SIGKILL) {
            Ok(()) | Err(Error::NotRunning { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The status, and nobody is left.
    pub(crate) fn last_word(&self) -> Result<ExitStatus> {
        let status = self.process.wait()?;
        self.end_stragglers();
        Ok(status)
    }
}

/// A failed limit is told as one; anything else is about the control group.
pub(crate) fn cgroup_error(error: cgroup::Error) -> Error {
    match &error {
        cgroup::Error::Limit { .. } | cgroup::Error::NoController { .. } => {
            let limit = error.to_string();
            Error::Limit { limit, reason: "it could not be set".to_owned(), source: Box::new(error) }
        }
        _ => Error::Cgroup(Box::new(error)),
    }
}
