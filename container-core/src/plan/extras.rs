//! What a launch needs and a runtime specification cannot say.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What a launch needs beside the OCI `Spec`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Extras {
    /// Name of the container: in the state that hooks get, and as the control group where the spec names none.
    pub id: String,
    /// The directory that relative paths of the spec (`root.path`, bind sources) start from. Default: `/`.
    pub bundle: PathBuf,
    /// The root file system in place of the spec's `root.path`.
    pub rootfs: Option<Rootfs>,
    /// `user`, `user:group` or numbers, looked up in the container's own files; wins over the spec's numbers.
    pub user: Option<String>,
    /// The command, in place of the spec's `process.args`: for bytes that are not UTF-8.
    pub args: Option<Vec<OsString>>,
    /// The environment, in place of the spec's `process.env`: for bytes that are not UTF-8.
    pub env: Option<Vec<OsString>>,
    /// The container ends when the host program does. Default: false.
    pub die_with_parent: bool,
    /// A session keyring of its own, so that the host program's keys stay out of reach. Default: true.
    pub new_keyring: bool,
    /// Limits this host cannot set are left out (and reported) instead of being an error. Default: false.
    pub limits_best_effort: bool,
    /// A line feed that the command writes to its terminal comes out as carriage return and line feed (ONLCR), as terminals
    /// have it at first. Who relays the terminal to another one, which does so itself, wants false. Default: true.
    pub terminal_onlcr: bool,
    /// Process 1 is a tiny init that starts the command, collects orphans, passes signals on, and ends as the command does: with its
    /// exit code, or 128 and the signal that killed it (what it was exactly is told by
    /// [`Running::status`](crate::launch::Running::status)). Needs a new pid namespace. Default: false.
    pub init: bool,
    /// Starts on all CPUs that its control group allows, even if the caller is bound to some. Default: false.
    pub all_cpus: bool,
    /// The process keeps the caller's supplementary groups, in place of the spec's. Default: false.
    pub keep_groups: bool,
    /// A control group of the container's name that is there and has no processes is taken over, with the limits that it has.
    /// Default: false, it is an error.
    pub take_cgroup: bool,
    /// The controllers the container's group gets; fewer are quicker to make and to enter on version 1. Default: all.
    pub controllers: cgroup::Controllers,
    /// Do not make a control group at all. Default: false.
    pub no_cgroup: bool,
    /// A missing working directory is made for the user of the command, and where the container cannot be written that is an
    /// error. Default: false: it is root's, and made before the root turns read-only, as OCI runtimes have it.
    pub own_working_directory: bool,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            id: String::new(),
            bundle: PathBuf::from("/"),
            rootfs: None,
            user: None,
            args: None,
            env: None,
            die_with_parent: false,
            new_keyring: true,
            limits_best_effort: false,
            terminal_onlcr: true,
            init: false,
            all_cpus: false,
            keep_groups: false,
            take_cgroup: false,
            controllers: cgroup::Controllers::ALL,
            no_cgroup: false,
            own_working_directory: false,
        }
    }
}

impl Extras {
    /// Extras with the defaults for the container `id`.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }
}

/// Where the root file system of a container comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// A directory of the host, with what is mounted below it.
    Directory {
        /// The directory.
        source: PathBuf,
        /// Nothing in it may be changed from inside.
        read_only: bool,
    },
    /// Layers on top of each other (overlayfs).
    Overlay {
        /// Read-only layers, the top one first. At least one.
        lower: Vec<LowerLayer>,
        /// Takes the changes. `None`: read-only.
        upper: Option<UpperLayer>,
        /// Overlay keeps its own attributes in `user.overlay.*`: for ordinary users.
        userxattr: bool,
        /// No sync to disk: for containers whose changes are thrown away.
        volatile: bool,
    },
}

/// The layer of an overlay that takes the changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpperLayer {
    /// A directory, and overlay's work directory on the same file system.
    Directories {
        /// Where the changes go.
        upper: PathBuf,
        /// For overlay itself; empty.
        work: PathBuf,
    },
    /// The directories `upper` and `work` in the root of a mount that is attached nowhere.
    Mount {
        /// Descriptor of the mount, open for as long as the plan is used.
        mount: RawFd,
    },
    /// A file system in memory that is gone with the container.
    Memory {
        /// The most bytes it holds; beyond it writes fail with ENOSPC.
        size: u64,
    },
}

/// One read-only layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LowerLayer {
    /// An unpacked directory.
    Directory(PathBuf),
    /// A file holding an EROFS file system (mounted from the file: Linux 6.12).
    Erofs(PathBuf),
}

#[cfg(feature = "images")]
impl TryFrom<image_layers::RootfsMount> for Rootfs {
    type Error = crate::Error;

    fn try_from(mount: image_layers::RootfsMount) -> crate::Result<Self> {
        Ok(match mount {
            image_layers::RootfsMount::Directory { source, read_only } => {
                Self::Directory { source, read_only }
            }
            image_layers::RootfsMount::Overlay { lower, upper, work, userxattr, volatile } => Self::Overlay {
                lower: lower.into_iter().map(LowerLayer::try_from).collect::<crate::Result<_>>()?,
                upper: upper.zip(work).map(|(upper, work)| UpperLayer::Directories { upper, work }),
                userxattr,
                volatile,
            },
            other => {
                return Err(crate::Error::unsupported(
                    format!("a root of the form {other:?}"),
                    "it is too new",
                ));
            }
        })
    }
}

#[cfg(feature = "images")]
impl TryFrom<image_layers::LowerLayer> for LowerLayer {
    type Error = crate::Error;

    fn try_from(layer: image_layers::LowerLayer) -> crate::Result<Self> {
        Ok(match layer {
            image_layers::LowerLayer::Directory(path) => Self::Directory(path),
            image_layers::LowerLayer::Erofs(path) => Self::Erofs(path),
            other => {
                return Err(crate::Error::unsupported(
                    format!("a layer of the form {other:?}"),
                    "it is too new",
                ));
            }
        })
    }
}
