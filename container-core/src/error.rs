//! One error type for the crate. A variant names the step and the subject in fields; the operating system's answer is the
//! `source`, and the message does not repeat it. Print the chain to see both.

use std::io;
use std::path::PathBuf;

use crate::step::Step;

/// What the crate's fallible calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container could not be described, started or handled.
///
/// How a container *ended* is never an error: see [`ExitStatus`](crate::ExitStatus) and [`Outcome`](crate::Outcome).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description of the container is wrong or contradicts itself. Nothing was done.
    #[error("invalid {subject}: {reason}")]
    Invalid {
        /// The field or option, in the words of the OCI runtime specification where it has one, with its value.
        subject: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },

    /// This host, or this user on this host, cannot do what was asked for. Nothing was done.
    #[error("{feature} is not possible here: {remedy}")]
    Unsupported {
        /// What was asked for.
        feature: String,
        /// The very setting, file, package or kernel version that stands in the way.
        remedy: String,
    },

    /// User namespaces are refused to this user, and the container needs one. Nothing was done.
    #[error("user namespaces are forbidden by {setting} ({file})")]
    UserNamespacesForbidden {
        /// The setting with its present value, as in `user.max_user_namespaces=0`.
        setting: String,
        /// The file that holds the setting.
        file: PathBuf,
    },

    /// A limit was asked for that could not be set. Everything made so far was removed.
    #[error("limit {limit}: {reason}")]
    Limit {
        /// Which limit, as in `memory`.
        limit: String,
        /// What stands in its way, as in `cgroup file system is read-only`.
        reason: String,
        /// What the control group crate or the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A step of the set-up failed. Everything made so far was removed.
    #[error("{step} {subject}")]
    Setup {
        /// Which step.
        step: Step,
        /// What the step was about: a path, a name, a mount.
        subject: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },

    /// The command could not be executed. Everything made so far was removed.
    #[error("exec {}{}", path.display(), interpreter.as_ref().map(|i| format!(" (its interpreter {} is missing)", i.display())).unwrap_or_default())]
    Exec {
        /// The resolved path of the command inside the container, or its plain name where no directory of `PATH` has it.
        path: PathBuf,
        /// The script interpreter or dynamic loader which the file asks for, when that one is what is missing.
        interpreter: Option<PathBuf>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },

    /// An OCI hook failed and the specification makes that fatal.
    #[error("error running {kind} hook #{index}: {}: {reason}", path.display())]
    Hook {
        /// Kind of the hook, as in `createRuntime`.
        kind: &'static str,
        /// Its place in the list of its kind, from 0.
        index: usize,
        /// The program of the hook.
        path: PathBuf,
        /// Its exit status and what it wrote to stderr, that it timed out, or that it could not be started.
        reason: String,
    },

    /// A user or group name is not in the container's own `/etc/passwd` or `/etc/group`.
    #[error("no {kind} {name:?} in the container")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// The name that was looked for.
        name: String,
    },

    /// No container of this name is known.
    #[error("no container {id:?}")]
    NotFound {
        /// The name.
        id: String,
    },

    /// The name is taken by a container that is alive.
    #[error("container {id:?} exists already (process {pid})")]
    InUse {
        /// The name.
        id: String,
        /// First process of the container that has it, as this process sees it.
        pid: i32,
    },

    /// The container is not running (any more), so the call has nothing to work on.
    #[error("container {id:?} is not running")]
    NotRunning {
        /// Its name.
        id: String,
    },

    /// The container is paused, so what was asked for would hang.
    #[error("container {id:?} is paused")]
    Paused {
        /// Its name.
        id: String,
    },

    /// The host program ignores SIGCHLD, so this kernel (older than 6.15) would throw the exit status away. Nothing was done.
    #[error(
        "SIGCHLD is ignored by this program, so no exit status can be had: set it to SIG_DFL or to a handler"
    )]
    SigchldIgnored,

    /// Another part of the host program collected the exit status (`waitpid(-1)`), and this kernel (older than 6.15) keeps no
    /// second copy of it.
    #[error("the exit status of process {pid} was collected by somebody else in this program")]
    StatusLost {
        /// The process.
        pid: i32,
    },

    /// A file or directory of the host could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, as in `open`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },

    /// A file of the state directory is not what this crate writes.
    #[error("state file {}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A control group could not be read, changed or removed.
    #[error("control group of the container")]
    Cgroup(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// An image could not be prepared.
    #[error("image of the container")]
    Image(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The error number of the kernel behind this error, when there is one.
    pub fn errno(&self) -> Option<i32> {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            if let Some(os) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return Some(os);
            }
            cause = error.source();
        }
        None
    }

    /// The set-up step that failed, when this is about one.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Setup { step, .. } => Some(*step),
            Self::Exec { .. } => Some(Step::Exec),
            _ => None,
        }
    }

    pub(crate) fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { subject: subject.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(feature: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unsupported { feature: feature.into(), remedy: remedy.into() }
    }

    pub(crate) fn setup(step: Step, subject: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Setup { step, subject: subject.into(), source: source.into() }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}
