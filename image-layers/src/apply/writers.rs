//! Threads that create files while the reader goes on.
//!
//! The reader hands over whole small files and goes on with the next header; when all writers are busy it writes the
//! file itself. Two threads in one directory tree are worth 35 % on ext4 and 40 % on tmpfs (measured); with a single
//! processor, or when several layers are unpacked side by side, the reader works alone.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::decode::Piece;
use crate::{Error, Result};

use super::metadata::{self, Metadata, Ownership, failed};

/// A file whose content is complete.
#[derive(Debug)]
pub(crate) struct FileJob {
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) name: Vec<u8>,
    pub(crate) meta: Metadata,
    pub(crate) body: Vec<Piece>,
}

impl FileJob {
    pub(crate) fn run(&self, owners: &Ownership, umask_is_zero: bool) -> Result<()> {
        let file =
            create_file(&self.dir, &self.name, self.meta.mode).map_err(failed("create", &self.name))?;
        for piece in &self.body {
            write_all(&file, piece.as_ref()).map_err(failed("write", &self.name))?;
        }
        metadata::finish_file(file.as_fd(), &self.meta, owners, umask_is_zero)
            .map_err(failed("set metadata of", &self.name))
    }
}

/// Opens a file that is not there yet, with its final mode; nothing that exists is ever opened.
pub(crate) fn create_file(dir: impl AsFd, name: &[u8], mode: u16) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    crate::owners::reach::openat(dir, name, flags, Mode::from_raw_mode(u32::from(mode)))
}

pub(crate) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file.as_fd(), bytes) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return Err(rustix::io::Errno::NOSPC),
            other => bytes = &bytes[other?..],
        }
    }
    Ok(())
}

/// Files that wait for a writer hold decoded buffers, so there must not be many.
const QUEUE: usize = 24;

/// A wake-up costs as much as a small file. So few files must leave enough buffers for the decoder: each holds up to two.
const WORTH_WAKING: usize = 4;

/// The queue between the reader and the writers.
#[derive(Debug)]
pub(crate) struct Writers {
    state: Mutex<State>,
    /// A file was queued, or no more will be.
    work: Condvar,
    /// A writer is done with its last file.
    idle: Condvar,
    threads: usize,
    owners: Ownership,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<FileJob>,
    busy: usize,
    closed: bool,
    error: Option<Error>,
}

impl Writers {
    pub(crate) fn new(threads: usize, owners: &Ownership) -> Writers {
        let owners = owners.clone();
        Writers { state: Mutex::default(), work: Condvar::new(), idle: Condvar::new(), threads, owners }
    }

    /// Runs `reader` with the writer threads beside it.
    pub(crate) fn run<T>(&self, reader: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let _close = Close(self);
            for _ in 0..self.threads {
                scope.spawn(|| self.serve());
            }
            let result = reader()?;
            self.wait()?;
            Ok(result)
        })
    }

    /// Writes a file, sooner or later.
    ///
    /// # Errors
    ///
    /// Those of earlier files too: the layer has failed then.
    pub(crate) fn submit(&self, job: FileJob, umask_is_zero: bool) -> Result<()> {
        if self.threads > 0 {
            let mut state = self.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.queue.len() < QUEUE {
                state.queue.push_back(job);
                // A writer that is at work looks at the queue by itself; one that sleeps is not woken for a single file.
                if state.busy < self.threads && state.queue.len() >= WORTH_WAKING {
                    self.work.notify_one();
                }
                return Ok(());
            }
        }
        job.run(&self.owners, umask_is_zero)
    }

    /// Waits until every file that was submitted is on disk.
    pub(crate) fn wait(&self) -> Result<()> {
        let mut state = self.lock();
        self.work.notify_all();
        while (state.busy > 0 || !state.queue.is_empty()) && state.error.is_none() {
            state = self.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.error.take().map_or(Ok(()), Err)
    }

    fn serve(&self) {
        let umask_is_zero = crate::sys::private_umask();
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.busy += 1;
                drop(state);
                let result = job.run(&self.owners, umask_is_zero);
                drop(job);
                state = self.lock();
                state.busy -= 1;
                if let Err(error) = result {
                    state.error.get_or_insert(error);
                    state.queue.clear();
                }
                if state.busy == 0 && state.queue.is_empty() {
                    self.idle.notify_all();
                }
            } else if state.closed {
                return;
            } else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the writers go, also when the reader fails or panics.
struct Close<'a>(&'a Writers);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.queue.clear();
        drop(state);
        self.0.work.notify_all();
    }
}
