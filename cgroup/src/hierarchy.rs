use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, StatxFlags};

use crate::controller::{Controller, Controllers, Version};
use crate::dir::{Dir, read_proc};
use crate::error::{Error, Result};
use crate::path::CgroupPath;
use crate::proc::{self, MountLine};

/// Which versions a host has mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies for some controllers and v2, with the remaining controllers or none, beside them.
    Hybrid,
    /// Only the unified hierarchy.
    V2,
}

/// The cgroup hierarchies this process can see: found once, then shared by every group (cloning shares).
///
/// Everything is taken from `/proc/self/mountinfo` and `/proc/self/cgroup`; a directory is a hierarchy only when the
/// kernel says so, wherever it is mounted. The caller's own group is the one it is in *now*; discover again after
/// moving the process.
///
/// ```no_run
/// let hierarchy = cgroup::Hierarchy::discover()?;
/// println!("{:?}, memory is {:?}", hierarchy.mode(), hierarchy.version_of(cgroup::Controller::Memory));
/// # Ok::<(), cgroup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Hierarchy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mounts: Vec<Mount>,
    mode: Mode,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub struct Mount {
    line: MountLine,
    controllers: Controllers,
    root: Dir,
    own: Option<String>,
    /// Looked for when somebody asks: groups by an absolute path have no use for it.
    base: OnceLock<Option<String>>,
}

impl Hierarchy {
    /// Finds the hierarchies of this host, or of this container.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`] when none is mounted, [`Error::Read`] when procfs is not readable.
    pub fn discover() -> Result<Self> {
        let mountinfo = read_proc("/proc/self/mountinfo")?;
        let own = read_proc("/proc/self/cgroup")?;
        Self::from_proc(&mountinfo, &own)
    }

    fn from_proc(mountinfo: &str, own: &str) -> Result<Self> {
        let own = proc::memberships(own);
        // The same hierarchy may be mounted several times: take the mount that shows the caller's own group, can be
        // written, and shows most.
        let mut lines: Vec<_> = proc::mounts(mountinfo)
            .into_iter()
            .map(|line| (proc::path_below_mount(&line, &own), line))
            .filter(|(_, line)| !line.options.is_empty() || line.version == Version::V2)
            .collect();
        lines.sort_by_key(|(own, line)| (line.device, own.is_none(), line.read_only, line.root.len()));
        let mut mounts: Vec<Mount> = Vec::new();
        for (own, line) in lines {
            if mounts.last().is_some_and(|mount| mount.line.device == line.device) {
                continue;
            }
            let Some(root) = open_visible(&line) else { continue };
            mounts.push(Mount::new(line, root, own)?);
        }
        let has = |version| mounts.iter().any(|mount| mount.line.version == version);
        let mode = match (has(Version::V1), has(Version::V2)) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V1,
            (false, true) => Mode::V2,
            (false, false) => return Err(Error::NoHierarchy),
        };
        // Figures are read and groups removed in this order; v2 first, since it can kill and report emptiness.
        mounts.sort_by_key(|mount| (mount.line.version == Version::V1, mount.line.device));
        Ok(Self(Arc::new(Inner { mounts, mode })))
    }

    /// Which versions are mounted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// The mounted hierarchies.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.0.mounts
    }

    /// The mount of the unified hierarchy.
    #[must_use]
    pub fn unified(&self) -> Option<&Mount> {
        self.0.mounts.iter().find(|mount| mount.version() == Version::V2)
    }

    /// The mount that carries `controller`, `None` when nothing does.
    ///
    /// Device access, freezing and CPU accounting are part of every v2 group and so are carried by a v2 mount unless
    /// a v1 hierarchy has them.
    #[must_use]
    pub fn mount_of(&self, controller: Controller) -> Option<&Mount> {
        self.index_of(controller).map(|index| &self.0.mounts[index])
    }

    /// The version of the hierarchy that carries `controller`.
    #[must_use]
    pub fn version_of(&self, controller: Controller) -> Option<Version> {
        self.mount_of(controller).map(Mount::version)
    }

    /// Every controller some mount carries.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        Controller::ALL.iter().copied().filter(|controller| self.index_of(*controller).is_some()).collect()
    }

    /// The controllers that a group made by a relative path can have: those of hierarchies where the caller may make groups at
    /// all, as far as v2 has handed (or lets the caller hand) them down to there. Empty for an ordinary user without delegation.
    #[must_use]
    pub fn available(&self) -> Controllers {
        self.0.mounts.iter().fold(Controllers::NONE, |all, mount| all.union(mount.available()))
    }

    /// The group that relative paths are resolved in, as seen from the mount's root, for the hierarchy of `mount`.
    ///
    /// On v1 this is the caller's own group. On v2 a group that has processes cannot hand controllers to children
    /// ("no internal processes"), so it is the nearest ancestor of the caller's group, itself included, that can and
    /// that the caller may write to: the delegated parent for an ordinary user, usually the slice for root, the top
    /// of the hierarchy when the caller is there. Where none qualifies it is the caller's own group, and setting a
    /// limit will say what is in the way.
    ///
    /// # Errors
    /// [`Error::Hidden`] when the caller's group lies outside of what is mounted.
    pub fn base<'m>(&self, mount: &'m Mount) -> Result<&'m str> {
        mount.base().ok_or_else(|| Error::Hidden { mountpoint: mount.line.mountpoint.clone() })
    }

    pub(crate) fn index_of(&self, controller: Controller) -> Option<usize> {
        let carries = |version| {
            move |mount: &Mount| mount.version() == version && mount.controllers().contains(controller)
        };
        // Freezing is the one thing where v2 is the better choice when a hybrid host has both: frozen processes can be killed
        // there, and its directory also kills at once and tells when it is empty.
        let order = match controller {
            Controller::Freezer => [Version::V2, Version::V1],
            _ => [Version::V1, Version::V2],
        };
        order.into_iter().find_map(|version| self.0.mounts.iter().position(carries(version)))
    }

    /// Where `path` lies below the root of `mount`.
    pub(crate) fn resolve(&self, mount: &Mount, path: &CgroupPath) -> Result<String> {
        if path.is_absolute() {
            return Ok(path.components().to_owned());
        }
        let base = self.base(mount)?;
        Ok(if base.is_empty() {
            path.components().to_owned()
        } else {
            format!("{base}/{}", path.components())
        })
    }
}

impl Mount {
    fn new(line: MountLine, root: Dir, own: Option<String>) -> Result<Self> {
        let controllers = match line.version {
            Version::V1 => line.controllers,
            Version::V2 => v2_controllers(&root)?,
        };
        Ok(Self { line, controllers, root, own, base: OnceLock::new() })
    }

    fn base(&self) -> Option<&str> {
        let find = |own: &str| match self.line.version {
            Version::V1 => own.to_owned(),
            Version::V2 => distributing_ancestor(&self.root, own),
        };
        self.base.get_or_init(|| self.own.as_deref().map(find)).as_deref()
    }

    /// The controllers that a group made by a relative path can have.
    fn available(&self) -> Controllers {
        let base = self.base().and_then(|base| self.root.open_below(base).ok());
        match base.filter(Dir::is_writable) {
            None => Controllers::NONE,
            // Whoever may write to the top of v2 can hand down everything.
            Some(base)
                if self.line.version == Version::V2 && !self.root.may_write("cgroup.subtree_control") =>
            {
                v2_controllers(&base).unwrap_or(Controllers::NONE)
            }
            Some(_) => self.controllers,
        }
    }

    /// The version of this hierarchy.
    #[must_use]
    pub fn version(&self) -> Version {
        self.line.version
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.line.mountpoint
    }

    /// The controllers it carries, what is part of every v2 group included.
    #[must_use]
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Of v1: the name of a named hierarchy, such as `systemd`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.line.name.as_deref()
    }

    /// Of v1: the mount options that ask for this hierarchy, such as `cpu,cpuacct` or `name=systemd`; empty for v2.
    #[must_use]
    pub fn options(&self) -> &str {
        &self.line.options
    }

    /// Whether the mount (or the file system) is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.line.read_only
    }

    /// The caller's own group, as seen from the mount's root without a leading `/`; `None` when it lies outside.
    #[must_use]
    pub fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// The group of process `pid` (of the caller's pid namespace), as seen from the mount's root without a leading
    /// `/`; `None` when it lies outside.
    ///
    /// # Errors
    /// [`Error::Read`] when there is no such process.
    pub fn group_of(&self, pid: u32) -> Result<Option<String>> {
        let text = read_proc(&format!("/proc/{pid}/cgroup"))?;
        Ok(proc::path_below_mount(&self.line, &proc::memberships(&text)))
    }

    pub(crate) fn root(&self) -> &Dir {
        &self.root
    }
}

/// The controllers of a v2 group, and what is part of every group.
fn v2_controllers(dir: &Dir) -> Result<Controllers> {
    let mut buffer = Vec::new();
    let words = dir.read("cgroup.controllers", &mut buffer)?.unwrap_or("");
    let core = [Controller::Cpuacct, Controller::Devices, Controller::PerfEvent];
    let freezer = kernel_is_at_least((5, 2)).then_some(Controller::Freezer);
    Ok(words.split_whitespace().filter_map(Controller::from_name).chain(core).chain(freezer).collect())
}

/// Whether the running kernel has what `version` brought. A release that is not readable counts as new.
fn kernel_is_at_least(version: (u32, u32)) -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    proc::release(&release).is_none_or(|running| running >= version)
}

/// Opens the root of a mount if it is what the caller sees at that path: another mount may cover it, also one of the same
/// hierarchy, as in a container. (Linux before 5.8 does not tell which mount it is.)
fn open_visible(line: &MountLine) -> Option<Dir> {
    let dir = Dir::open(PathBuf::from(&line.mountpoint)).ok()?;
    let seen = rustix::fs::statx(&dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let told = seen.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let same =
        (seen.stx_dev_major, seen.stx_dev_minor) == line.device && (!told || seen.stx_mnt_id == line.id);
    same.then_some(dir)
}

fn distributing_ancestor(root: &Dir, own: &str) -> String {
    let mut path = own;
    let mut buffer = Vec::new();
    loop {
        let Ok(dir) = root.open_below(path) else { break };
        if !dir.is_writable() {
            break;
        }
        let mut is_empty = |file| matches!(dir.read(file, &mut buffer), Ok(Some("")));
        let is_top = !dir.has("cgroup.type");
        if is_top || !is_empty("cgroup.subtree_control") || is_empty("cgroup.procs") {
            return path.to_owned();
        }
        if path.is_empty() {
            break;
        }
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    own.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        let fake = format!("32 31 0:9999 / {}/memory rw - cgroup cgroup rw,memory\n", dir.path().display());
        assert!(matches!(Hierarchy::from_proc(&fake, "4:memory:/\n"), Err(Error::NoHierarchy)));
        assert!(matches!(Hierarchy::from_proc("", ""), Err(Error::NoHierarchy)));
    }
}
