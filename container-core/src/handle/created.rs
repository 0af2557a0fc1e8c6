//! The two-step start: everything set up, and the command still to be executed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::{Container, Outcome};
use crate::error::{Error, Result};
use crate::launch;

/// A container in which everything is set up and whose first process waits to execute the command.
///
/// Dropping it takes everything down again.
#[derive(Debug)]
pub struct Created {
    /// Dropped first: a container that was paused has to be let go before its process can end.
    pub(super) container: Container,
    pub(super) held: Option<launch::Created>,
    /// Whoever had the container in hand may have paused it.
    pub(super) touched: bool,
}

impl Created {
    /// Its name.
    pub fn id(&self) -> &str {
        self.container.id()
    }

    /// Process id of its first process.
    pub fn pid(&self) -> u32 {
        self.container.pid()
    }

    /// The container, for what can be done with it before it is started: limits, figures, and files (for privileged callers:
    /// until it executes its command the process hides from others).
    pub fn container(&mut self) -> &mut Container {
        self.touched = true;
        &mut self.container
    }

    /// What [`run`](Self::run) feeds to standard input, if that is a pipe.
    pub fn input(mut self, input: impl Into<Arc<[u8]>>) -> Self {
        self.container.bounds.input = Some(input.into());
        self
    }

    /// Its pool removes what it leaves.
    pub(crate) fn belongs_to(&mut self, pool: Sender<crate::pool::Event>) {
        let resources = &mut self.container.resources;
        resources.pool = Some(pool);
        resources.mounts =
            File::open(format!("/proc/{}/ns/mnt", self.container.core.process.pid)).ok().map(OwnedFd::from);
    }

    /// Executes the command and follows it to its end, as [`ContainerBuilder::run`](crate::ContainerBuilder::run) does. Streams that are to be collected
    /// have to be pipes.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Container::finish`].
    pub fn run(self) -> Result<Outcome> {
        self.start()?.finish()
    }

    /// Executes the command.
    ///
    /// # Errors
    /// [`Error::Exec`], [`Error::Hook`] for a hook that runs at the start, or [`Error::Paused`]. Everything was taken down then.
    pub fn start(mut self) -> Result<Container> {
        if self.touched && self.container.is_paused()? {
            return Err(Error::Paused { id: self.id().to_owned() });
        }
        if let Some(held) = self.held.take() {
            held.start()?;
        }
        self.container.core.process.start_clock();
        self.container.keep_root();
        Ok(self.container)
    }
}
