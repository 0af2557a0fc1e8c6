//! Containers on disk: how a container outlives the program that made it.
//!
//! ```text
//! STATE/                 one state directory, shared by any number of programs
//!   ID/                  made when the name is taken, removed when the container is
//!     state.json         the [`Record`]; replaced as a whole, so that readers need no lock
//!     config.json        the container's `Spec`, as it was when the container was created
//!     gate               socket on which a created container waits for its start; gone once it was started
//! ```
//!
//! Changes to one container exclude each other through an advisory lock on its directory ([`StateDirectory::lock`]). The
//! lock dies with its owner, so nothing has to be cleaned up after a crash, and there is no file with a pid to go stale.
//! Readers take no lock: a hook that asks for the state of the container being created must not wait for the creator.
//!
//! A process is identified by its pid *and* the time it was started: pids are used again, and the container's own may belong
//! to somebody else by the time a record is read.

mod entry;
mod record;

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use entry::Entry;
pub use record::{CgroupDirectory, Record, Status, boot_id, pid_namespace, rfc3339, start_time};

use crate::error::{Error, Result};

/// Whether `id` can name a container: letters, digits, `_`, `+`, `-` and `.`, at most 255 bytes, the first
/// one no `.`. Such a name is one path component whatever is done with it, and no hidden file.
pub fn is_valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 255
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.'))
}

/// A directory that holds the state of containers.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// The state directory at `path`, which is made when the first container is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the name `id` for a new container, and its lock.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an impossible name, [`Error::InUse`] when the name is taken, [`Error::Io`] when the directory
    /// cannot be written.
    pub fn reserve(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let path = self.path.join(id);
        loop {
            self.make(id, &path)?;
            let entry = match self.lock(id) {
                // Somebody who removes what has no record took the new directory for a dead program's.
                Err(Error::NotFound { .. }) => continue,
                other => other?,
            };
            // The same, and a third program was quicker to take the name again.
            return if entry.record().is_ok() { Err(self.in_use(id)) } else { Ok(entry) };
        }
    }

    fn make(&self, id: &str, path: &Path) -> Result<()> {
        let mode = Mode::from_raw_mode(0o711);
        let made = match rustix::fs::mkdir(path, mode) {
            Err(Errno::NOENT) => {
                make_directories(&self.path)?;
                rustix::fs::mkdir(path, mode)
            }
            other => other,
        };
        match made {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(self.in_use(id)),
            Err(errno) => Err(Error::io("make directory", path, errno)),
        }
    }

    fn in_use(&self, id: &str) -> Error {
        let pid = self.open(id).and_then(|entry| entry.record()).map_or(0, |record| record.pid);
        Error::InUse { id: id.to_owned(), pid }
    }

    /// The container `id`, for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name.
    pub fn open(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let path = self.path.join(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => Ok(Entry { directory, path, id: id.to_owned() }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(Error::NotFound { id: id.to_owned() }),
            Err(errno) => Err(Error::io("open", path, errno)),
        }
    }

    /// The container `id`, for changing: waits until nobody else changes it. The lock is held while the `Entry` lives.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name, or when it was removed while this call waited.
    pub fn lock(&self, id: &str) -> Result<Entry> {
        let entry = self.open(id)?;
        entry.take_lock()?;
        Ok(entry)
    }

    /// The names of all containers, sorted.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn list(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| Error::io("read directory", &self.path, error))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_valid_id(name))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Like `mkdir -p`, with mode 0711: others may pass through to what they know by name, and not look around.
fn make_directories(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|error| Error::io("make directory", path, error))
}

fn check_id(id: &str) -> Result<()> {
    if is_valid_id(id) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("container ID {id:?}"),
        "empty, too long, or an invalid character: it must be 1 to 255 letters, digits, '_', '+', '-' or '.', the first no '.'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    fn record(id: &str, pid: i32) -> Record {
        Record {
            oci_version: "1.2.0".into(),
            id: id.into(),
            pid,
            start_time: if pid > 0 { start_time(pid).unwrap() } else { 0 },
            boot_id: None,
            pid_namespace: None,
            bundle: "/bundle".into(),
            rootfs: "/bundle/rootfs".into(),
            created: rfc3339(SystemTime::now()),
            annotations: BTreeMap::from([("org.example.key".into(), "value".into())]),
            cgroups: Vec::new(),
            extra: serde_json::Map::new(),
        }
    }

    #[test]
    fn names_that_are_no_single_component_are_refused() {
        for id in ["", ".", "..", ".a", "a/b", "/a", "../x", "a b", "a\n", "ä", &"x".repeat(256)] {
            assert!(!is_valid_id(id), "{id:?}");
        }
        for id in ["a", "a.b", "a..", "-x", "A_1+2-3", &"x".repeat(255)] {
            assert!(is_valid_id(id), "{id:?}");
        }
    }

    #[test]
    fn a_container_is_kept_found_and_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = StateDirectory::new(scratch.path().join("deep/state"));
        assert_eq!(directory.list().unwrap(), Vec::<String>::new());
        assert!(matches!(directory.open("one"), Err(Error::NotFound { .. })));

        let entry = directory.reserve("one").unwrap();
        assert!(matches!(directory.reserve("one"), Err(Error::InUse { .. })));
        assert!(matches!(entry.record(), Err(Error::NotFound { .. })), "no record yet");
        let own = i32::try_from(std::process::id()).unwrap();
        let kept = record("one", own);
        entry.save(&kept).unwrap();
        assert_eq!(directory.open("one").unwrap().record().unwrap(), kept);
        assert_eq!(entry.status(&kept), Status::Running);
        std::fs::write(entry.gate(), "").unwrap();
        assert_eq!(entry.status(&kept), Status::Created);
        entry.remove_gate().unwrap();

        let here = Record { boot_id: boot_id().ok(), pid_namespace: pid_namespace().ok(), ..kept.clone() };
        assert!(here.is_alive());
        assert!(!Record { boot_id: Some("another".into()), ..kept.clone() }.is_alive());
        assert!(!Record { pid_namespace: Some(1), ..kept.clone() }.is_alive());
        let other = Record { start_time: kept.start_time + 1, ..kept.clone() };
        assert_eq!(entry.status(&other), Status::Stopped, "the number alone is not the process");
        assert!(other.pidfd().unwrap().is_none());
        assert!(kept.pidfd().unwrap().is_some());

        assert_eq!(directory.list().unwrap(), ["one"]);
        entry.remove().unwrap();
        assert_eq!(directory.list().unwrap(), Vec::<String>::new());
        directory.reserve("one").unwrap().remove().unwrap();
    }

    #[test]
    fn who_waits_for_a_container_that_goes_away_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = StateDirectory::new(scratch.path());
        let held = directory.reserve("c").unwrap();
        let waiting = {
            let directory = directory.clone();
            std::thread::spawn(move || directory.lock("c").map(drop))
        };
        held.remove().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::NotFound { .. })));
    }
}
