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

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
const GATE: &str = "gate";

/// Where a container is in its life, as the runtime specification has it, and `Paused` as every runtime has it besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Its environment is being set up.
    Creating,
    /// Everything is set up, and the command waits to be started.
    Created,
    /// The command runs.
    Running,
    /// The command and all its descendants are frozen.
    Paused,
    /// The first process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What is kept about a container: enough to find its processes and control groups again, and to answer `state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the runtime specification that the container's configuration names.
    pub oci_version: String,
    /// Name of the container.
    pub id: String,
    /// First process, in the pid namespace of the program that created the container; 0 until there is one.
    pub pid: i32,
    /// When that process was started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// The boot that `pid` and `start_time` belong to (`/proc/sys/kernel/random/boot_id`), where the state directory may
    /// outlive one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Inode of the pid namespace that `pid` belongs to, where programs in several share the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// Absolute path of the bundle directory.
    pub bundle: PathBuf,
    /// Absolute path of the root file system on the host.
    pub rootfs: PathBuf,
    /// When the container was created: RFC 3339, UTC.
    pub created: String,
    /// Annotations of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Directories of the container's control groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<CgroupDirectory>,
    /// What the program that created the container wants to find again.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// One control group of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupDirectory {
    /// Controllers that the directory serves (`memory`, or `cpu,cpuacct`); empty for version 2.
    pub controllers: String,
    /// The directory.
    pub path: PathBuf,
}

impl Record {
    /// Whether the first process is still there: the very process, not a later one with its number, and not a zombie.
    pub fn is_alive(&self) -> bool {
        self.pid > 0
            && self.boot_id.as_ref().is_none_or(|kept| boot_id().is_ok_and(|now| *kept == now))
            && self.pid_namespace.is_none_or(|kept| pid_namespace().is_ok_and(|own| kept == own))
            && process_stat(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !stat.ended)
    }

    /// A descriptor for the first process that no later process can be confused with; `None` when it has ended.
    ///
    /// # Errors
    /// The kernel's answer when it has no pidfds (before 5.3) or no descriptor is left.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(None) };
        // The descriptor first: while it is open the number cannot be given away, so the check holds afterwards.
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(Error::io("open process", format!("/proc/{}", self.pid), errno)),
        }
    }
}

/// What identifies a process, and whether it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    start_time: u64,
    ended: bool,
}

fn process_stat(pid: i32) -> std::io::Result<ProcessStat> {
    let path = format!("/proc/{pid}/stat");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0_u8; 1024];
    let length = rustix::io::read(&file, &mut buffer)?;
    parse_stat(&buffer[..length]).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}

/// The command name (field 2) may hold blanks and parentheses: fields count from the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<ProcessStat> {
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // In the middle of its end, and for as long as others of its pid namespace are not reaped, which is not in its hands.
    const PF_EXITING: u64 = 4;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(ProcessStat { start_time, ended: matches!(state, "Z" | "X" | "x") || flags & PF_EXITING != 0 })
}

/// When process `pid` was started, in clock ticks since boot.
///
/// # Errors
/// When there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    process_stat(pid)
        .map(|stat| stat.start_time)
        .map_err(|error| Error::io("read", format!("/proc/{pid}/stat"), error))
}

/// What tells this boot of the host from every other one.
///
/// # Errors
/// When `/proc` is not there.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    Ok(text.trim_end().to_owned())
}

/// What tells the pid namespace of this process from every other one on this host.
///
/// # Errors
/// When `/proc` is not there.
pub fn pid_namespace() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    rustix::fs::stat(path).map(|stat| stat.st_ino).map_err(|errno| Error::io("stat", path, errno))
}

/// `time` as RFC 3339 in UTC with nanoseconds, as in `2026-11-25T03:14:07.000000000Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date by eras of 400 years, with years that begin in March, so that the leap day comes last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

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
        let mode = Mode::from_raw_mode(0o711);
        let made = match rustix::fs::mkdir(&path, mode) {
            Err(Errno::NOENT) => {
                make_directories(&self.path)?;
                rustix::fs::mkdir(&path, mode)
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let pid = self.open(id).and_then(|entry| entry.record()).map_or(0, |record| record.pid);
                return Err(Error::InUse { id: id.to_owned(), pid });
            }
            Err(errno) => return Err(Error::io("make directory", path, errno)),
        }
        let entry = self.open(id)?;
        entry.take_lock()?;
        Ok(entry)
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

/// One container in a [`StateDirectory`].
#[derive(Debug)]
pub struct Entry {
    directory: OwnedFd,
    path: PathBuf,
    id: String,
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

    fn take_lock(&self) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
    fn dates_are_rfc_3339() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, 5));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000000005Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000005Z");
    }

    #[test]
    fn a_command_name_cannot_confuse_the_fields() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
        for name in ["sh", "a b", "x) R 1 1", "((", ")"] {
            let parsed = parse_stat(format!("12 ({name}) {tail}").as_bytes());
            assert_eq!(parsed, Some(ProcessStat { start_time: 4711, ended: false }), "{name}");
        }
        assert_eq!(parse_stat(b"12 (sh) Z"), None);
        assert_eq!(parse_stat(b""), None);
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
