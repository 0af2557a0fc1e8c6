//! Async twins of the blocking calls, for tokio.
//!
//! Starting takes a millisecond or two of system calls and runs on a blocking thread; waiting, feeding and reading are done by
//! the reactor, with no thread per container. Every call can be dropped at any point: a container that is being started is then
//! taken down, one that is being followed is killed, and a wait changes nothing.

use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::{Next, Watch};
use super::{Container, Created, Exec, ExecBuilder, Outcome, Output, Process};
use crate::builder::ContainerBuilder;
use crate::error::{Error, Result};

/// Runs a blocking call where it holds nobody up.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::unsupported("starting a container", "the runtime is shutting down")),
        },
    }
}

#[allow(
    deprecated,
    reason = "its successor is unsafe; every descriptor here is borrowed for as long as it is watched"
)]
fn watched<T: std::os::fd::AsRawFd>(descriptor: T, interest: Interest) -> Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
        .map_err(|e| Error::io("watch", "a descriptor of the process", e))
}

/// Waits until the process has ended; it stays uncollected.
async fn ended(process: &Process) -> Result<()> {
    let pidfd = watched(process.pidfd.as_fd(), Interest::READABLE)?;
    while !process.has_ended() {
        let company = process.company()?;
        // A reactor takes a descriptor once, and these are others' too.
        let duplicate = |other: BorrowedFd<'_>| {
            let own = other.try_clone_to_owned().map_err(|e| Error::io("duplicate", "pidfd", e))?;
            watched(own, Interest::READABLE)
        };
        let others = company.descriptors().map(duplicate).collect::<Result<Vec<_>>>()?;
        poll_fn(|context| {
            let own = pidfd.poll_read_ready(context).map_ok(|mut guard| guard.clear_ready());
            if own.is_ready() {
                return own;
            }
            let first = others.iter().map(|other| other.poll_read_ready(context).map_ok(drop));
            first.fold(Poll::Pending, |all, one| if all.is_ready() { all } else { one })
        })
        .await
        .map_err(|e| Error::io("watch", "pidfd", e))?;
    }
    Ok(())
}

/// Waits for whatever comes first: the end, room for input, output, or the time.
async fn any(watch: &Watch, process: &Process, until: Option<Instant>) -> Result<()> {
    let (input, [stdout, stderr]) = watch.capture.waiting();
    let input = input.map(|pipe| watched(pipe, Interest::WRITABLE)).transpose()?;
    let stdout = stdout.map(|pipe| watched(pipe, Interest::READABLE)).transpose()?;
    let stderr = stderr.map(|pipe| watched(pipe, Interest::READABLE)).transpose()?;
    let readable = async |pipe: &Option<AsyncFd<_>>| match pipe {
        Some(pipe) => pipe.readable().await.map(drop),
        None => std::future::pending().await,
    };
    let writable = async {
        match &input {
            Some(pipe) => pipe.writable().await.map(drop),
            None => std::future::pending().await,
        }
    };
    let time = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = ended(process) => result,
        result = readable(&stdout) => result.map_err(|e| Error::io("watch", "pipe", e)),
        result = readable(&stderr) => result.map_err(|e| Error::io("watch", "pipe", e)),
        result = writable => result.map_err(|e| Error::io("watch", "pipe", e)),
        () = time => Ok(()),
    }
}

impl ContainerBuilder {
    /// Async twin of [`spawn`](Self::spawn). The ends of piped streams become tokio's own with `pipe::Sender` and
    /// `pipe::Receiver`:
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use container_core::{Container, Stdio};
    /// use tokio::io::{AsyncBufReadExt, BufReader};
    /// use tokio::net::unix::pipe;
    ///
    /// let builder = Container::builder().rootfs("/srv/root").command(["make"]).stdout(Stdio::piped());
    /// let mut container = builder.spawn_async().await?;
    /// if let Some(stdout) = container.stdout.take() {
    ///     let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(stdout.into())?).lines();
    ///     while let Some(line) = lines.next_line().await? {
    ///         println!("{line}");
    ///     }
    /// }
    /// println!("{}", container.wait_async().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_async(&self) -> Result<Container> {
        let builder = self.clone();
        blocking(move || builder.spawn()).await
    }

    /// Async twin of [`create`](Self::create).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub async fn create_async(&self) -> Result<Created> {
        let builder = self.clone();
        blocking(move || builder.create()).await
    }

    /// Async twin of [`output`](Self::output).
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn output_async(&self) -> Result<Output> {
        self.run_async().await.map(Output::from)
    }

    /// Async twin of [`run`](Self::run).
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_async(&self) -> Result<Outcome> {
        let builder = self.clone();
        let container = blocking(move || builder.start_collecting()).await?;
        container.finish_async().await
    }
}

impl Created {
    /// Async twin of [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_async(self) -> Result<Container> {
        blocking(move || self.start()).await
    }
}

impl Container {
    /// Async twin of [`wait`](Self::wait).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_async(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        ended(&self.core.process).await?;
        // Ending what a first process without process ids of its own left behind takes its time.
        let core = Arc::clone(&self.core);
        blocking(move || core.last_word()).await
    }

    /// Async twin of [`finish`](Self::finish).
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub async fn finish_async(mut self) -> Result<Outcome> {
        let mut watch = self.watch()?;
        while !self.core.process.has_ended() {
            match watch.step(&|| self.core.cpu_time())? {
                Next::Wait(until) => any(&watch, &self.core.process, until).await?,
                Next::Kill => {
                    let core = Arc::clone(&self.core);
                    blocking(move || core.kill_for_limit()).await?;
                }
            }
        }
        // Reading the last figures and taking everything down is a millisecond of system calls.
        blocking(move || self.outcome(watch)).await
    }

    /// Async twin of [`stop`](Self::stop).
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub async fn stop_async(&mut self, grace: Duration) -> Result<ExitStatus> {
        drop(self.stdin.take());
        let core = Arc::clone(&self.core);
        blocking(move || core.ask_to_end()).await?;
        if tokio::time::timeout(grace, ended(&self.core.process)).await.is_err() {
            let core = Arc::clone(&self.core);
            blocking(move || core.kill_if_running()).await?;
        }
        self.wait_async().await
    }

    /// Async twin of [`remove`](Self::remove), which dropping is not: that takes a millisecond or two of the thread it
    /// happens on.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub async fn remove_async(self) -> Result<()> {
        blocking(move || self.remove()).await
    }
}

impl ExecBuilder {
    /// Async twin of [`spawn`](Self::spawn).
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_async(&self) -> Result<Exec> {
        let builder = self.clone();
        blocking(move || builder.spawn()).await
    }

    /// Async twin of [`output`](Self::output).
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn output_async(&self) -> Result<Output> {
        let builder = self.clone();
        let mut exec = blocking(move || builder.start_collecting()).await?;
        let mut watch = exec.watch()?;
        while !exec.process.has_ended() {
            match watch.step(&|| None)? {
                Next::Wait(until) => any(&watch, &exec.process, until).await?,
                Next::Kill => drop(exec.process.signal(libc::SIGKILL)?),
            }
        }
        exec.output(watch)
    }
}

impl Exec {
    /// Async twin of [`wait`](Self::wait).
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_async(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        ended(&self.process).await?;
        self.wait()
    }
}
