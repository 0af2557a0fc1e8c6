//! Advisory locks that die with their owner.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::progress::Control;
use crate::{Error, Result};

/// A lock that is held until this is dropped, and given up then. To close the file would not be enough: a process that is just being
/// started by another thread has a copy of the descriptor until it executes its program, and with it the lock.
#[derive(Debug)]
pub(super) struct Guard {
    file: File,
}

impl Guard {
    /// Whether a shared lock could be made an exclusive one, but for a moment: see [`try_exclusive_soon`].
    pub(super) fn try_exclusive_soon(&self) -> rustix::io::Result<bool> {
        soon(|| attempt(&self.file, FlockOperation::NonBlockingLockExclusive))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Waits for a shared lock on a file that is never removed.
pub(super) fn shared(path: &Path) -> Result<Guard> {
    wait(path, FlockOperation::LockShared)
}

/// Waits for an exclusive lock on a file that is never removed.
pub(super) fn exclusive(path: &Path) -> Result<Guard> {
    wait(path, FlockOperation::LockExclusive)
}

fn wait(path: &Path, operation: FlockOperation) -> Result<Guard> {
    let file = open(path)?;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(Guard { file }),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("lock", path)(e)),
        }
    }
}

/// Waits for the exclusive right to make something, unless the work is cancelled meanwhile. The file may be removed by a
/// garbage collection while nobody holds it, and is made anew then.
///
/// `flock` cannot be waited for together with something else, so this asks again every few milliseconds.
pub(super) fn named(path: &Path, control: &Control) -> Result<Guard> {
    let mut pause = Duration::from_millis(1);
    loop {
        match try_exclusive(open(path)?).map_err(Error::io("lock", path))? {
            Some(guard) if is_linked(&guard.file) => return Ok(guard),
            Some(_) => {}
            None => {
                control.check()?;
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(25));
            }
        }
    }
}

/// The exclusive lock, if it can be had at once.
pub(super) fn try_exclusive(file: File) -> rustix::io::Result<Option<Guard>> {
    Ok(attempt(&file, FlockOperation::NonBlockingLockExclusive)?.then_some(Guard { file }))
}

/// The exclusive lock, if it can be had but for a moment: a process that was just being started by a program that is dead now may
/// still have its locks.
pub(super) fn try_exclusive_soon(file: File) -> rustix::io::Result<Option<Guard>> {
    Ok(soon(|| attempt(&file, FlockOperation::NonBlockingLockExclusive))?.then_some(Guard { file }))
}

/// A shared lock, if it can be had at once.
pub(super) fn try_shared(file: File) -> rustix::io::Result<Option<Guard>> {
    Ok(attempt(&file, FlockOperation::NonBlockingLockShared)?.then_some(Guard { file }))
}

fn attempt(file: &File, operation: FlockOperation) -> rustix::io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

fn soon(attempt: impl Fn() -> rustix::io::Result<bool>) -> rustix::io::Result<bool> {
    for _ in 0..20 {
        if attempt()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    attempt()
}

/// Whether the file still has a name.
fn is_linked(file: &File) -> bool {
    file.metadata().is_ok_and(|m| m.nlink() > 0)
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open", path))
}
