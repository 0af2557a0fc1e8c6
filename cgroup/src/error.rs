use std::io;
use std::path::PathBuf;

use crate::controller::{Controller, Version};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and with which value.
///
/// `Display` names step and subject and leaves the cause (usually the kernel's errno) to
/// [`source`](std::error::Error::source), so a chain printer shows every fact once.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `/proc/self/mountinfo` lists no cgroup file system of either version.
    #[error("no cgroup file system is mounted")]
    NoHierarchy,

    /// A file or directory of the kernel's could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A file of the kernel's does not hold what its documentation says.
    #[error("{} holds {text:?}, which is no {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected there.
        expected: &'static str,
        /// What was found, shortened.
        text: String,
    },

    /// A cgroup path that no hierarchy can have.
    #[error("cgroup path {path:?}: {reason}")]
    InvalidPath {
        /// The path as given.
        path: String,
        /// Which rule it breaks.
        reason: &'static str,
    },

    /// A limit outside of what the kernel accepts, or two limits that contradict each other.
    #[error("{limit} = {value}: {reason}")]
    InvalidLimit {
        /// The limit, as `controller.field`.
        limit: &'static str,
        /// The value as given.
        value: String,
        /// Which rule it breaks, with the permitted range.
        reason: &'static str,
    },

    /// The limit has no counterpart in the version of the hierarchy that carries its controller.
    #[error("{limit}: cgroup {version} has no such limit")]
    Unsupported {
        /// The limit, as `controller.field`.
        limit: &'static str,
        /// The version of the hierarchy that carries the controller here.
        version: Version,
    },

    /// A limit needs a controller that this group does not have.
    #[error("controller {controller} is not available to this group: {reason}")]
    NoController {
        /// The controller.
        controller: Controller,
        /// Why: not mounted, not delegated, or refused by the kernel.
        reason: String,
    },

    /// The kernel refused a limit.
    #[error("set {controller} limit: write {value:?} to {}", file.display())]
    Limit {
        /// The controller the file belongs to.
        controller: Controller,
        /// The file.
        file: PathBuf,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Device access on v2 could not be set. It takes a BPF program, and so CAP_BPF (before 5.8 CAP_SYS_ADMIN) and
    /// CAP_NET_ADMIN in the initial user namespace.
    #[error("{step} cgroup {}", path.display())]
    Devices {
        /// What failed.
        step: &'static str,
        /// The group.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The new memory limit is below what the group uses now, and
    /// [`check_before_update`](crate::MemoryLimits::check_before_update) asked to refuse that.
    #[error("memory limit {limit} is below the {usage} bytes in use by {}", path.display())]
    BelowUsage {
        /// The group.
        path: PathBuf,
        /// The limit asked for, in bytes.
        limit: u64,
        /// The present use, in bytes.
        usage: u64,
    },

    /// There already is a group of that name, and it is not this library's.
    #[error("cgroup {} exists already", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },

    /// A group that was to be taken over has processes.
    #[error("cgroup {} is not empty: {processes} process(es) found", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// How many there are.
        processes: usize,
    },

    /// There is no group of that name in any hierarchy.
    #[error("cgroup {} does not exist", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },

    /// The group of the caller lies outside of what is mounted here, so nothing can be placed below it.
    #[error("the caller's own cgroup is not visible below {}; give an absolute path", mountpoint.display())]
    Hidden {
        /// Where the hierarchy is mounted.
        mountpoint: PathBuf,
    },

    /// The directory of a group could not be made.
    #[error("create cgroup {}", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A process could not be moved into the group.
    #[error("move process {pid} into cgroup {}", path.display())]
    Attach {
        /// The process; 0 is the caller itself.
        pid: u32,
        /// The group.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The group's processes could not be signalled.
    #[error("kill the processes of cgroup {}", path.display())]
    Kill {
        /// The group.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The group could not be frozen or thawed.
    #[error("{} cgroup {}", if *freeze { "freeze" } else { "thaw" }, path.display())]
    Freeze {
        /// The group.
        path: PathBuf,
        /// Whether it was to be frozen (or thawed).
        freeze: bool,
        /// The kernel's answer; [`TimedOut`](io::ErrorKind::TimedOut) when it never finished.
        source: io::Error,
    },

    /// The group still holds processes.
    #[error("cgroup {} still holds processes {processes:?}", path.display())]
    Busy {
        /// The directory that could not be removed.
        path: PathBuf,
        /// The processes seen in it.
        processes: Vec<u32>,
    },

    /// The group was not made by this handle, see [`Cgroup::open`](crate::Cgroup::open).
    #[error("cgroup {} was not created through this handle and is left alone", path.display())]
    NotOurs {
        /// The group.
        path: PathBuf,
    },

    /// systemd could not be reached, or refused.
    #[cfg(feature = "systemd")]
    #[error("{action} {unit}")]
    Systemd {
        /// What it was asked to do.
        action: &'static str,
        /// To which unit.
        unit: String,
        /// Why it did not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The directory of a group could not be removed.
    #[error("remove cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// The errno behind this error, where the kernel was asked.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        let source = std::error::Error::source(self)?;
        source.downcast_ref::<io::Error>()?.raw_os_error()
    }
}
