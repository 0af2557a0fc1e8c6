//! What a container gets mounted besides its root.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount as SpecMount, MountBuilder};

/// One mount of a container, as the runtime specification describes it.
///
/// Missing destinations are made; symbolic links in a destination are resolved inside the container's root, and never lead out
/// of it. Options are those of mount(8) and of the specification, the recursive forms (`rro`) and `idmap` included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    kind: String,
    source: Option<PathBuf>,
    destination: PathBuf,
    options: Vec<String>,
}

impl Mount {
    /// A mount of any file system type, without options.
    pub fn new(kind: impl Into<String>, source: impl AsRef<Path>, destination: impl AsRef<Path>) -> Self {
        Self {
            kind: kind.into(),
            source: Some(source.as_ref().to_owned()),
            destination: destination.as_ref().to_owned(),
            options: Vec::new(),
        }
    }

    /// A directory or file of the host, with what is mounted below it: `rbind`, `rprivate`, `rnosuid`, `rnodev`.
    ///
    /// What an image's users could put there gets no privilege from it; take [`option`](Self::option)`("rsuid")` to allow it.
    pub fn bind(source: impl AsRef<Path>, destination: impl AsRef<Path>) -> Self {
        Self::new("none", source, destination).options(["rbind", "rprivate", "rnosuid", "rnodev"])
    }

    /// An empty file system in memory: `nosuid`, `nodev`, mode 1777, and at most half of the memory unless
    /// [sized](Self::size). It counts towards the container's memory limit.
    pub fn tmpfs(destination: impl AsRef<Path>) -> Self {
        Self::new("tmpfs", "tmpfs", destination).options(["nosuid", "nodev", "mode=1777"])
    }

    /// The container's own control group, read-only, at `/sys/fs/cgroup`.
    pub fn cgroup() -> Self {
        Self::new("cgroup", "cgroup", "/sys/fs/cgroup")
            .options(["ro", "nosuid", "noexec", "nodev", "relatime"])
    }

    /// Makes it read-only, with all mounts below it (Linux 5.12 for a bind).
    pub fn read_only(self) -> Self {
        let recursive = self.options.iter().any(|option| option == "rbind");
        self.option(if recursive { "rro" } else { "ro" })
    }

    /// The most bytes a tmpfs may hold, more than 0.
    pub fn size(self, bytes: u64) -> Self {
        self.option(format!("size={bytes}"))
    }

    /// Adds an option; a later one wins over an earlier one.
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Adds options.
    pub fn options<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// To tmpfs a size of 0 is no limit, which nobody who gives a size means.
    pub(crate) fn has_no_room(&self) -> bool {
        self.kind == "tmpfs" && self.options.iter().any(|option| option == "size=0")
    }

    pub(crate) fn destination(&self) -> &Path {
        &self.destination
    }

    pub(crate) fn to_spec(&self) -> SpecMount {
        let builder = MountBuilder::default()
            .typ(self.kind.clone())
            .destination(self.destination.clone())
            .options(self.options.clone());
        match &self.source {
            Some(source) => builder.source(source.clone()),
            None => builder,
        }
        .build()
        .expect("every required field is set")
    }
}

/// What every container has: the kernel's file systems, and a `/dev` of its own. In the order of mounting.
///
/// `terminal_group` is whether group 5 (tty) exists in the container, to own terminals.
pub(crate) fn defaults(terminal_group: bool) -> Vec<Mount> {
    let quiet = ["nosuid", "noexec", "nodev"];
    let pts = Mount::new("devpts", "devpts", "/dev/pts").options(["nosuid", "noexec"]).options([
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ]);
    vec![
        Mount::new("proc", "proc", "/proc").options(quiet),
        Mount::new("tmpfs", "tmpfs", "/dev").options(["nosuid", "strictatime", "mode=755", "size=65536k"]),
        if terminal_group { pts.option("gid=5") } else { pts },
        Mount::new("tmpfs", "shm", "/dev/shm").options(quiet).options(["mode=1777", "size=65536k"]),
        Mount::new("mqueue", "mqueue", "/dev/mqueue").options(quiet),
        Mount::new("sysfs", "sysfs", "/sys").options(quiet).option("ro"),
    ]
}

/// Paths that show the host's hardware or kernel, covered by something empty.
pub(crate) const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// Paths through which the host's kernel could be changed.
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
