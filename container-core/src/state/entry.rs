//! One container's directory: its record, its configuration, its gate and its lock.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::record::{Record, Status};
use crate::error::{Error, Result};

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
const GATE: &str = "gate";

/// One container in a [`StateDirectory`](super::StateDirectory).
#[derive(Debug)]
pub struct Entry {
    pub(super) directory: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) id: String,
}

impl Entry {
    /// Name of the container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, as a descriptor.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(super) fn take_lock(&self) -> Result<()> {
        loop {
            match rustix::fs::flock(&self.directory, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", &self.path, errno)),
            }
        }
        // The lock may have been waited for until its owner removed the container.
        match rustix::fs::fstat(&self.directory) {
            Ok(stat) if stat.st_nlink > 0 => Ok(()),
            Ok(_) => Err(Error::NotFound { id: self.id.clone() }),
            Err(errno) => Err(Error::io("stat", &self.path, errno)),
        }
    }

    /// Lets others change the container while this value lives on.
    pub fn unlock(&self) {
        // Cannot fail for a descriptor that is open.
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }

    /// The container's record.
    ///
    /// # Errors
    /// [`Error::NotFound`] while the container has none (it is being created, or its creator died), [`Error::State`] when it
    /// cannot be understood.
    pub fn record(&self) -> Result<Record> {
        let bytes = self.read(RECORD)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::State { path: self.path.join(RECORD), reason: error.to_string() })
    }

    /// The configuration that the container was created from.
    ///
    /// # Errors
    /// As for [`Entry::record`].
    pub fn spec(&self) -> Result<Spec> {
        let bytes = self.read(CONFIG)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::State { path: self.path.join(CONFIG), reason: error.to_string() })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(Error::NotFound { id: self.id.clone() }),
            Err(errno) => return Err(Error::io("open", self.path.join(name), errno)),
        };
        let mut bytes = Vec::new();
        File::from(file)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("read", self.path.join(name), error))?;
        Ok(bytes)
    }

    /// Writes the container's record. Readers see the old one or the new one, never a part.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::State { path: self.path.join(RECORD), reason: error.to_string() })?;
        // Not synced to disk: no container survives the reboot that this would guard against.
        const NEW: &str = ".state.json";
        self.write(NEW, &bytes)?;
        rustix::fs::renameat(&self.directory, NEW, &self.directory, RECORD)
            .map_err(|errno| Error::io("rename", self.path.join(NEW), errno))
    }

    /// Keeps the configuration: the JSON text of a `Spec`. Later changes of the bundle have no effect on the container.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save_spec(&self, json: &[u8]) -> Result<()> {
        self.write(CONFIG, json)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| Error::io("open", self.path.join(name), errno))?;
        File::from(file).write_all(bytes).map_err(|error| Error::io("write", self.path.join(name), error))
    }

    /// Where the gate of a created container is bound.
    pub fn gate(&self) -> PathBuf {
        self.path.join(GATE)
    }

    /// Whether the container still waits for its start.
    pub fn has_gate(&self) -> bool {
        rustix::fs::statat(&self.directory, GATE, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Marks the container as started: from here on it is not in the state `created` any more, whatever becomes of it.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket cannot be removed.
    pub fn remove_gate(&self) -> Result<()> {
        match rustix::fs::unlinkat(&self.directory, GATE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("remove", self.gate(), errno)),
        }
    }

    /// The container's status as far as its first process and its gate say: everything but `Paused`, which only its control
    /// group knows.
    pub fn status(&self, record: &Record) -> Status {
        if record.pid == 0 {
            return Status::Creating;
        }
        if !record.is_alive() {
            return Status::Stopped;
        }
        if self.has_gate() { Status::Created } else { Status::Running }
    }

    /// Forgets the container: its name is free again.
    ///
    /// # Errors
    /// [`Error::Io`] when its directory cannot be removed.
    pub fn remove(self) -> Result<()> {
        for name in [RECORD, CONFIG, GATE] {
            match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::io("remove", self.path.join(name), errno)),
            }
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // Somebody left a file of his own here, or a write of ours was cut short.
            Err(Errno::NOTEMPTY | Errno::EXIST) => std::fs::remove_dir_all(&self.path)
                .map_err(|error| Error::io("remove directory", &self.path, error)),
            Err(errno) => Err(Error::io("remove directory", &self.path, errno)),
        }
    }
}
