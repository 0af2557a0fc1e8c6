//! What will work on this host, for this user, and what stands in the way of the rest.

mod checks;
pub(crate) mod granted;
mod procfs;

use std::fmt;

use crate::error::{Error, Result};

pub(crate) use checks::{forbidding_setting, user_namespace_obstacle};
pub(crate) use procfs::covered_proc;

/// What a host can do for containers of this program, as found by trying.
///
/// ```
/// let host = container_core::Host::probe()?;
/// if let Some(obstacle) = host.verdict(container_core::Feature::Containers).obstacle() {
///     eprintln!("no containers here: {obstacle}");
/// }
/// # Ok::<(), container_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// Release of the kernel, as in `6.12.9-arch1-1`.
    pub kernel: String,
    /// Effective user id of this program.
    pub uid: u32,
    /// This program may mount without a user namespace (CAP_SYS_ADMIN).
    pub privileged: bool,
    verdicts: Vec<(Feature, Verdict)>,
}

/// Something a container may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Starting containers at all.
    Containers,
    /// The kernel's interfaces this crate is built on.
    Kernel,
    /// User namespaces for this user: the way of ordinary users, and optional for root.
    UserNamespaces,
    /// More than one id in a user namespace of an ordinary user.
    SubordinateIds,
    /// Layers shared between containers, with a writable one on top.
    Overlay,
    /// Layers in a single file each.
    Erofs,
    /// A control group for each container.
    Cgroups,
    /// Memory limits and figures.
    MemoryLimit,
    /// CPU limits.
    CpuLimit,
    /// Limits on the number of processes.
    PidsLimit,
    /// Pausing containers.
    Freezer,
    /// System call filters.
    Seccomp,
    /// Network namespaces.
    Network,
    /// Size limits of a writable layer on disk.
    DiskLimit,
    /// Exit statuses that survive a host program which ignores SIGCHLD or collects all children.
    ExitStatus,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Containers => "containers",
            Self::Kernel => "kernel interfaces",
            Self::UserNamespaces => "user namespaces",
            Self::SubordinateIds => "subordinate ids",
            Self::Overlay => "overlay",
            Self::Erofs => "erofs",
            Self::Cgroups => "control groups",
            Self::MemoryLimit => "memory limit",
            Self::CpuLimit => "cpu limit",
            Self::PidsLimit => "pids limit",
            Self::Freezer => "pause",
            Self::Seccomp => "seccomp",
            Self::Network => "network namespaces",
            Self::DiskLimit => "disk limit",
            Self::ExitStatus => "exit status",
        })
    }
}

/// What the probe found about a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It works; with a word on how.
    Works(String),
    /// It does not, or in a reduced way; with the very setting, file, package or kernel version that stands in the way.
    Missing(String),
}

impl Verdict {
    /// Does it work?
    pub fn works(&self) -> bool {
        matches!(self, Self::Works(_))
    }

    /// What stands in the way.
    pub fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Works(_) => None,
            Self::Missing(obstacle) => Some(obstacle),
        }
    }
}

impl Host {
    /// Looks at the host and tries what can be tried: a few processes and namespaces that are gone again at once.
    ///
    /// # Errors
    /// [`Error::Io`] where not even `/proc` can be read.
    pub fn probe() -> Result<Self> {
        checks::probe()
    }

    /// What was found about one feature.
    pub fn verdict(&self, feature: Feature) -> &Verdict {
        static UNKNOWN: Verdict = Verdict::Missing(String::new());
        self.verdicts.iter().find(|(known, _)| *known == feature).map_or(&UNKNOWN, |(_, verdict)| verdict)
    }

    /// Everything that was found, the important things first.
    pub fn verdicts(&self) -> impl Iterator<Item = (Feature, &Verdict)> {
        self.verdicts.iter().map(|(feature, verdict)| (*feature, verdict))
    }
}

impl fmt::Display for Host {
    /// One feature a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.privileged { "privileged" } else { "not privileged" };
        writeln!(f, "Linux {}, user {} ({who})", self.kernel, self.uid)?;
        for (feature, verdict) in &self.verdicts {
            match verdict {
                Verdict::Works(how) => writeln!(f, "  yes  {feature:<18}  {how}")?,
                Verdict::Missing(why) => writeln!(f, "  NO   {feature:<18}  {why}")?,
            }
        }
        Ok(())
    }
}

/// A refused namespace says EPERM, ENOSPC or EINVAL at best. Here it gets the name of what refuses it.
pub(crate) fn explain_user_namespaces(error: Error) -> Error {
    let refusal = matches!(
        error.errno(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS | libc::EINVAL | libc::ENOSYS)
    );
    if refusal
        && matches!(error, Error::Setup { .. })
        && let Some((setting, file)) = user_namespace_obstacle()
    {
        return Error::UserNamespacesForbidden { setting, file };
    }
    error
}
