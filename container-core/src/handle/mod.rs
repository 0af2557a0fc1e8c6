//! What a program holds of a container it started: shaped as [`std::process::Child`].

#[cfg(feature = "tokio")]
mod asynchronous;
mod capture;
mod changes;

mod created;
mod detach;
mod disk;
mod exec;
mod exit;
mod files;
mod finish;
mod process;
mod reach;
mod resources;
mod rootfs;
mod shared;
mod start;
mod streams;
mod tree;

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;
use rustix::process::Signal;

pub use changes::{Change, ChangeKind};
pub use created::Created;
pub use detach::ContainerSummary;
pub use exec::{Exec, ExecBuilder};
pub use exit::{End, MemoryShortage, Outcome, Output, OutputStream, TimeLimit};
pub use shared::Killer;

pub(crate) use process::{Bounds, Process};
pub(crate) use resources::{Leftovers, Resources};
pub(crate) use shared::Core;

use self::shared::cgroup_error;
use self::streams::resize;
use crate::builder::ContainerBuilder;
use crate::error::{Error, Result};
use crate::stdio::WindowSize;

/// A container that was started.
///
/// Dropping it kills every process of the container and removes what was made for it: control group, writable layer, record.
/// [`detach`](Self::detach) leaves it running instead. All calls but those that change the handle itself can be made from any
/// thread; [`killer`](Self::killer) gives the right to end it to somebody else.
#[derive(Debug)]
pub struct Container {
    /// The writing end of standard input, if that is a pipe.
    pub stdin: Option<PipeWriter>,
    /// The reading end of standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// The reading end of standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    core: Arc<Core>,
    terminal: Option<OwnedFd>,
    bounds: Bounds,
    resources: Resources,
}

impl Container {
    /// Describes a new container.
    pub fn builder() -> ContainerBuilder {
        ContainerBuilder::default()
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.core.id
    }

    /// Process id of its first process, as the host program sees it. Good for messages; to signal it use
    /// [`kill`](Self::kill), which cannot hit another process.
    pub fn pid(&self) -> u32 {
        self.core.process.pid as u32
    }

    /// A descriptor of its first process, for `poll(2)` and the like: readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.core.process.pidfd.as_fd()
    }

    /// The specification it was started with.
    pub fn spec(&self) -> &Spec {
        &self.core.spec
    }

    /// Limits that were asked for as best effort and could not be set, each with the reason.
    pub fn skipped_limits(&self) -> &[String] {
        &self.core.skipped_limits
    }

    /// Its control group, if it has one.
    pub fn cgroup(&self) -> Option<&cgroup::Cgroup> {
        self.core.cgroup.as_ref()
    }

    /// The host's end of its terminal, if it was given one: read what the container writes, write what somebody types. After
    /// the container has ended reading gives EIO.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Takes the host's end of its terminal.
    pub fn take_terminal(&mut self) -> Option<File> {
        self.terminal.take().map(File::from)
    }

    /// Changes the size of its terminal; the foreground process gets SIGWINCH.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has no terminal (or that was taken), [`Error::Io`].
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        resize(self.terminal.as_ref(), size)
    }

    /// Waits for the first process to end, after closing its standard input, and returns its status. Again and again the
    /// same, once it has ended.
    ///
    /// What the container writes to a pipe is not read meanwhile: take the pipes, or use
    /// [`wait_with_output`](Self::wait_with_output).
    ///
    /// # Errors
    /// [`Error::StatusLost`] when another part of the program collected the status and this kernel keeps no second copy.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        self.core.last_word()
    }

    /// The status, if the first process has ended.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let status = self.core.process.try_wait()?;
        if status.is_some() {
            self.core.end_stragglers();
        }
        Ok(status)
    }

    /// Waits for so long at most; `None` when the first process still runs then. Nothing is killed.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let status = self.core.process.wait_timeout(Some(timeout))?;
        if status.is_some() {
            self.core.end_stragglers();
        }
        Ok(status)
    }

    /// Sends a signal to the first process. SIGKILL ends every process of the container, a paused one too.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended, [`Error::Io`].
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.core.kill(signal.as_raw())
    }

    /// Sends a signal to every process of the container.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended, [`Error::Unsupported`] without a control group, [`Error::Cgroup`].
    pub fn kill_all(&self, signal: Signal) -> Result<()> {
        if signal == Signal::KILL {
            return self.core.kill(libc::SIGKILL);
        }
        if self.core.process.has_ended() {
            return Err(self.core.not_running());
        }
        self.core.process.note_sent(signal.as_raw());
        self.core.group()?.signal(signal).map_err(cgroup_error)
    }

    /// Asks the first process to end (the image's stop signal, else SIGTERM), waits for `grace`, then kills everything.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`kill`](Self::kill). That it had ended before is no error.
    pub fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        drop(self.stdin.take());
        self.core.stop(grace)
    }

    /// Stops all its processes from running until [`resume`](Self::resume). Doing it twice is the same.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Unsupported`] without a control group, [`Error::Cgroup`].
    pub fn pause(&self) -> Result<()> {
        if self.core.process.has_ended() {
            return Err(self.core.not_running());
        }
        self.core.group()?.freeze().map_err(cgroup_error)
    }

    /// Lets its processes run again after [`pause`](Self::pause). Harmless when they do.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        if self.core.process.has_ended() {
            return Err(self.core.not_running());
        }
        self.core.group()?.thaw().map_err(cgroup_error)
    }

    /// Whether it is paused.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn is_paused(&self) -> Result<bool> {
        self.core.is_paused()
    }

    /// Changes limits; what is not mentioned stays.
    ///
    /// # Errors
    /// [`Error::Limit`] for the first that could not be set, [`Error::NotRunning`], [`Error::Unsupported`].
    pub fn update(&self, limits: &cgroup::Limits) -> Result<()> {
        if self.core.process.has_ended() {
            return Err(self.core.not_running());
        }
        self.core.group()?.apply(limits).map_err(cgroup_error)
    }

    /// What it uses: memory, CPU time, processes, input and output. Also after its end, while the handle lives.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a control group, [`Error::Cgroup`].
    pub fn stats(&self) -> Result<cgroup::Stats> {
        self.core.group()?.stats().map_err(cgroup_error)
    }

    /// Bytes in its writable layer, and the most there may be, if that has a size of its own
    /// ([`writable_memory`](crate::ContainerBuilder::writable_memory), [`disk_limit`](crate::ContainerBuilder::disk_limit)).
    /// Also after its end, while the handle lives.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a layer without a size, [`Error::Io`].
    pub fn layer_usage(&self) -> Result<(u64, u64)> {
        if !self.core.sized_layer {
            return Err(Error::unsupported(
                "the size of the layer",
                "it has none of its own: see writable_memory, disk_limit",
            ));
        }
        let root = self.root()?;
        // An overlay tells about the file system of its upper layer.
        let stat = rustix::fs::fstatvfs(root).map_err(|e| Error::io("stat", "/", e))?;
        Ok(((stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    /// Tells when something happens to it: it runs out of memory, is refused a process, or time is lost for want of a resource.
    /// A descriptor for poll(2) and async runtimes, with a blocking `wait` of its own.
    ///
    /// ```no_run
    /// # let container = container_core::Container::builder().rootfs("/srv/root").command(["true"]).spawn()?;
    /// use container_core::cgroup::{Happened, Watched};
    ///
    /// let mut watch = container.events(Watched::OutOfMemory)?;
    /// if let Ok(Some(Happened::OutOfMemory { kills })) = watch.wait(None) {
    ///     println!("{} is short of memory, {kills} killed", container.id());
    /// }
    /// # Ok::<(), container_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a control group, [`Error::Cgroup`] where the kernel does not tell.
    pub fn events(&self, watched: cgroup::Watched) -> Result<cgroup::Watch> {
        self.core.group()?.watch(watched).map_err(cgroup_error)
    }

    /// Ids of its processes, as the host program sees them. Without a control group and without process ids of its own only the
    /// first is known.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Cgroup`].
    pub fn processes(&self) -> Result<Vec<u32>> {
        if self.core.process.has_ended() {
            return Err(self.core.not_running());
        }
        match &self.core.cgroup {
            Some(group) => group.processes().map_err(cgroup_error),
            None if self.core.own_pids => Ok(tree::processes(self.core.process.pid)),
            None => Ok(vec![self.pid()]),
        }
    }

    /// The right to end the container, for another thread.
    pub fn killer(&self) -> Killer {
        Killer { core: Arc::clone(&self.core) }
    }

    /// Kills what still runs and removes what was made for the container. Dropping does the same without a word.
    ///
    /// # Errors
    /// The first thing that could not be removed; everything else was.
    pub fn remove(mut self) -> Result<()> {
        // Of an opened container too: there it is asked for in so many words.
        self.resources.released = false;
        self.resources.pool = None;
        self.clean()
    }

    pub(crate) fn clean(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.resources.released, true) {
            return Ok(());
        }
        let killed = self.core.kill_if_running();
        // Whoever has collected the status: what counts is that the process is gone.
        let ended = match self.core.process.wait() {
            Ok(_) | Err(Error::StatusLost { .. }) => Ok(()),
            Err(e) => Err(e),
        };
        self.core.end_stragglers();
        let mut resources = std::mem::take(&mut self.resources);
        (self.resources.released, resources.released) = (true, false);
        killed.and(ended).and(Leftovers { core: Arc::clone(&self.core), resources }.dispose())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // There is nobody to tell; `remove` is for who wants to know.
        let _ = self.clean();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_go_to_other_threads() {
        fn anywhere<T: Send + Sync>() {}
        anywhere::<Container>();
        anywhere::<Created>();
        anywhere::<Killer>();
        anywhere::<Exec>();
        anywhere::<Outcome>();
        anywhere::<Error>();
        anywhere::<ContainerBuilder>();
        anywhere::<crate::plan::Plan>();
    }
}
