//! Advisory locks that die with their owner.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::progress::Control;
use crate::{Error, Result};

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    file: File,
}

impl Drop for Guard {
    fn drop(&mut self) {
        release(&self.file);
    }
}

/// Gives a lock up now. To close the file is not enough: a process that is just being started by another thread has a copy of
/// the descriptor until it executes its program, and with it the lock.
pub(super) fn release(file: &File) {
    let _ = flock(file, FlockOperation::Unlock);
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
        let file = open(path)?;
        match try_exclusive(&file).map_err(Error::io("lock", path))? {
            true if is_linked(&file) => return Ok(Guard { file }),
            true => {}
            false => {
                control.check()?;
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(25));
            }
        }
    }
}

/// Whether the exclusive lock could be had at once.
pub(super) fn try_exclusive(file: &File) -> rustix::io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the exclusive lock could be had, but for a moment: a process that was just being started by a program that is dead now
/// may still have its locks.
pub(super) fn try_exclusive_soon(file: &File) -> rustix::io::Result<bool> {
    for _ in 0..20 {
        if try_exclusive(file)? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    try_exclusive(file)
}

/// Whether a shared lock could be had at once.
pub(super) fn try_shared(file: &File) -> rustix::io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether the file still has a name.
pub(super) fn is_linked(file: &File) -> bool {
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
