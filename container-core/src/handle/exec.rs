//! One more process in a running container.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{BoxBuilder, Process as SpecProcess};
use rustix::process::Signal;

use super::process::{self, Next, Watch};
use super::start::facts;
use super::streams::{DefaultStreams, Streams, connect};
use super::{Bounds, Container, Core, Output, Process};
use crate::builder::OutputLimit;
use crate::error::{Error, Result};
use crate::plan::{Extras, Plan};
use crate::stdio::{Stdio, WindowSize};
use crate::step::Step;
use crate::{launch, spec};

/// Describes one more process in a running container and starts it, any number of times. Made by [`Container::exec`].
///
/// It has the container's namespaces, control group, capabilities and seccomp filter, and starts with the environment, working
/// directory and user of the container's command.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until a verb such as `spawn` is called"]
pub struct ExecBuilder {
    core: Arc<Core>,
    command: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
    user: Option<String>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    terminal: Option<WindowSize>,
    bounds: Bounds,
}

impl Container {
    /// Describes one more process in it: the program and its arguments.
    pub fn exec<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> ExecBuilder {
        ExecBuilder {
            core: Arc::clone(&self.core),
            command: command.into_iter().map(|word| word.as_ref().to_owned()).collect(),
            env: Vec::new(),
            current_dir: None,
            user: None,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            bounds: Bounds::default(),
        }
    }
}

impl ExecBuilder {
    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.push(argument.as_ref().to_owned());
        self
    }

    /// Sets an environment variable, beside those of the container's command.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.current_dir = Some(directory.as_ref().to_owned());
        self
    }

    /// Who runs it: `user`, `user:group`, names or numbers, looked up in the container's files as they are now.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Standard input. Default: inherited for [`spawn`](Self::spawn) and [`status`](Self::status), else null.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdio.into());
        self
    }

    /// Standard output. Default: inherited for [`spawn`](Self::spawn) and [`status`](Self::status), else collected.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdio.into());
        self
    }

    /// Standard error. Default: as standard output.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stderr = Some(stdio.into());
        self
    }

    /// Gives the process a terminal of this size.
    pub fn terminal(mut self, size: WindowSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// What [`output`](Self::output) feeds to standard input.
    pub fn input(mut self, input: impl Into<Arc<[u8]>>) -> Self {
        self.bounds.input = Some(input.into());
        self
    }

    /// Time after which [`output`](Self::output) and [`status`](Self::status) kill the process. What it started goes on until the
    /// container ends.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.bounds.wall = Some(timeout);
        self
    }

    /// How many bytes of each stream [`output`](Self::output) keeps; what comes beyond is read and thrown away.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.bounds.output = Some(OutputLimit { bytes, kill: false });
        self
    }

    /// Starts the process. Its streams are inherited unless told otherwise.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when the container has ended, [`Error::Paused`] when it is paused, else as for a container's own
    /// command.
    pub fn spawn(&self) -> Result<Exec> {
        self.launch(DefaultStreams::Inherit)
    }

    /// Runs the process to its end and returns its status.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Container::wait`].
    pub fn status(&self) -> Result<ExitStatus> {
        Ok(self.launch(DefaultStreams::Inherit)?.wait_with_output()?.status)
    }

    /// Runs the process to its end and returns its status and what it wrote until then.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn output(&self) -> Result<Output> {
        self.start_collecting()?.wait_with_output()
    }

    /// Starts it with streams that are fed and collected.
    pub(crate) fn start_collecting(&self) -> Result<Exec> {
        self.launch(DefaultStreams::Collect)
    }

    fn launch(&self, default: DefaultStreams) -> Result<Exec> {
        let core = &self.core;
        if core.process.has_ended() {
            return Err(core.not_running());
        }
        if core.is_paused()? {
            return Err(Error::Paused { id: core.id.clone() });
        }
        let facts = facts()?;
        let (process, extras) = self.describe()?;
        let plan = Plan::exec(&process, &core.spec, &extras, &facts)?;
        let choices = [self.stdin.as_ref(), self.stdout.as_ref(), self.stderr.as_ref()];
        let ends = connect(choices, default, self.bounds.input.is_some(), self.terminal.is_some())?;
        let target = launch::Target {
            pid: core.process.pid,
            pidfd: core.process.pidfd.as_fd(),
            cgroup: core.cgroup.as_ref(),
        };
        let running = launch::exec(&target, &plan, ends.io).map_err(|error| {
            // Whatever a container that is going away answered: it is not running. These answers come of a process that is about
            // to have ended, so its end is waited for.
            let refused =
                matches!(error.errno(), Some(libc::ESRCH | libc::ENOMEM | libc::ENOENT | libc::EINVAL));
            // With the container's first process all others in its pid namespace are killed, the joining one too.
            let killed = matches!(&error, Error::Setup { step: Step::Clone, source, .. } if matches!(
                source.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ));
            let gone = killed || error.errno() == Some(libc::ESRCH);
            let grace = match (gone, refused) {
                // Beyond doubt, and only a matter of when a busy host comes to it.
                (true, _) => Duration::from_secs(5),
                (false, true) => Duration::from_millis(200),
                (false, false) => Duration::ZERO,
            };
            match core.process.wait_timeout(Some(grace)) {
                Ok(None) => error,
                _ => core.not_running(),
            }
        })?;
        let launch::Running { pid, pidfd, terminal, .. } = running;
        let Streams { stdin, stdout, stderr } = ends.streams;
        let process = Arc::new(Process::new(pid, pidfd));
        core.process.joined_by(&process);
        Ok(Exec {
            stdin,
            stdout,
            stderr,
            process,
            terminal,
            bounds: self.bounds.clone(),
            container: Arc::clone(core),
        })
    }

    fn describe(&self) -> Result<(SpecProcess, Extras)> {
        let mut process = self.core.spec.process().clone().unwrap_or_default();
        let mut extras = Extras::new(&*self.core.id);
        extras.own_working_directory = true;
        if self.command.is_empty() {
            return Err(Error::invalid("command", "it is empty"));
        }
        spec::set_args(&mut process, self.command.clone(), &mut extras)?;
        let mut env: Vec<OsString> = process.env().iter().flatten().map(OsString::from).collect();
        for (name, value) in &self.env {
            spec::check_variable(name, value)?;
            env.retain(|known| {
                !known.as_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
            });
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            env.push(variable);
        }
        spec::set_env(&mut process, env, &mut extras);
        if let Some(directory) = &self.current_dir {
            process.set_cwd(directory.clone());
        }
        extras.user = self.user.clone();
        process.set_terminal(Some(self.terminal.is_some()));
        let size = self
            .terminal
            .and_then(|size| BoxBuilder::default().height(size.rows).width(size.columns).build().ok());
        process.set_console_size(size);
        Ok((process, extras))
    }
}

/// A process that was started in a running container. Dropping it kills that process.
#[derive(Debug)]
pub struct Exec {
    /// The writing end of standard input, if that is a pipe.
    pub stdin: Option<PipeWriter>,
    /// The reading end of standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// The reading end of standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    pub(crate) process: Arc<Process>,
    terminal: Option<OwnedFd>,
    bounds: Bounds,
    container: Arc<Core>,
}

impl Exec {
    /// Its process id, as the host program sees it.
    pub fn pid(&self) -> u32 {
        self.process.pid as u32
    }

    /// A descriptor of it, readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// The host's end of its terminal.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Takes the host's end of its terminal.
    pub fn take_terminal(&mut self) -> Option<File> {
        self.terminal.take().map(File::from)
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// As [`Container::resize`].
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        super::streams::resize(self.terminal.as_ref(), size)
    }

    /// Waits for its end, after closing its standard input.
    ///
    /// # Errors
    /// As [`Container::wait`].
    pub fn wait(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        self.process.wait()
    }

    /// The status, if it has ended.
    ///
    /// # Errors
    /// As [`Container::wait`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// Waits for so long at most.
    ///
    /// # Errors
    /// As [`Container::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.process.wait_timeout(Some(timeout))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it has ended, [`Error::Io`].
    pub fn kill(&self, signal: Signal) -> Result<()> {
        match self.process.signal(signal.as_raw())? {
            true => Ok(()),
            false => Err(Error::NotRunning { id: format!("process {}", self.process.pid) }),
        }
    }

    /// Collects what it writes, while waiting for its end.
    ///
    /// # Errors
    /// As [`Container::wait`].
    pub fn wait_with_output(mut self) -> Result<Output> {
        let mut watch = self.watch()?;
        while !self.process.has_ended() {
            match watch.step(&|| None)? {
                Next::Wait(until) => watch.wait(&self.process, until)?,
                Next::Kill => drop(self.process.signal(libc::SIGKILL)?),
            }
        }
        self.output(watch)
    }

    pub(crate) fn watch(&mut self) -> Result<Watch> {
        let streams =
            Streams { stdin: self.stdin.take(), stdout: self.stdout.take(), stderr: self.stderr.take() };
        Watch::new(streams, self.bounds.clone(), self.process.started())
    }

    pub(crate) fn output(self, watch: Watch) -> Result<Output> {
        let status = self.process.wait()?;
        let (out, err, verdict) = watch.finish()?;
        let stopped = status.signal().is_some_and(|signal| self.process.was_sent(signal));
        Ok(Output {
            end: process::end(status, verdict, stopped, None),
            status,
            stdout: out.bytes,
            stderr: err.bytes,
            stdout_cut: out.cut,
            stderr_cut: err.cut,
        })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Somebody has to collect it, and it is our child.
        let killed = matches!(self.process.signal(libc::SIGKILL), Ok(true));
        // A frozen process dies when it is let go, and is collected by whoever waits for the container.
        if killed && !self.container.is_paused().unwrap_or(false) {
            let _ = self.process.wait();
        }
        let _ = self.process.try_wait();
    }
}
