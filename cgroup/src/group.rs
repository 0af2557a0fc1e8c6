use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::controller::{Controller, Controllers, Version};
use crate::dir::{self, Dir};
use crate::error::{Error, Result};
use crate::hierarchy::{Hierarchy, Mount};
use crate::make::{enable, fill_cpuset, make_path};
use crate::parse;
use crate::path::CgroupPath;
use crate::stats::Stats;

/// One group, in every hierarchy it was made or found in.
///
/// Dropping the value changes nothing: the group stays until [`remove`](Self::remove).
///
/// ```no_run
/// use cgroup::{Cgroup, CgroupPath, Hierarchy, Limits};
///
/// let hierarchy = Hierarchy::discover()?;
/// let group = Cgroup::create(&hierarchy, &CgroupPath::new("job-1")?)?;
/// group.apply(&Limits::new().memory(64 << 20).pids(100))?;
/// let child = std::process::Command::new("sleep").arg("1").spawn().expect("sleep runs");
/// group.add(child.id())?;
/// println!("{:?}", group.stats()?.memory.current);
/// group.kill()?;
/// group.remove()?;
/// # Ok::<(), cgroup::Error>(())
/// ```
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) dirs: Vec<GroupDir>,
    path: PathBuf,
    /// Whether this library made the directories, and so may remove them.
    ours: bool,
    /// Controllers of the unified hierarchy that this group could not be given, and why.
    pub(crate) refused: Vec<(Controller, Errno)>,
}

/// The group's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct GroupDir {
    /// Index in [`Hierarchy::mounts`].
    pub(crate) mount: usize,
    /// Below the mount's root, without a leading `/`.
    pub(crate) path: String,
    pub(crate) dir: Dir,
    /// The controllers the group was made with, or all there may be of a group that was found: what figures are read of.
    pub(crate) controllers: Controllers,
    /// How many components at the end of `path` were made for this group: it, and parents that did not exist.
    made: usize,
}

/// What a process needs to start out inside a group, see [`Cgroup::entry`].
#[derive(Debug)]
pub struct Entry {
    /// The directory in the unified hierarchy: the descriptor for clone3(2) with `CLONE_INTO_CGROUP` (kernel 5.7).
    pub clone_into: Option<OwnedFd>,
    /// The `tasks` files of the v1 hierarchies, open for writing. The child writes `0` to each while it still has one
    /// thread, which moves just that thread; unlike moving a process by its id this needs no lock and no grace period
    /// (7 to 15 ms on an idle machine).
    pub tasks: Vec<OwnedFd>,
}

impl Cgroup {
    /// Makes a group with every controller this host offers; see [`create_with`](Self::create_with).
    ///
    /// # Errors
    /// As [`create_with`](Self::create_with).
    pub fn create(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Self> {
        Self::create_with(hierarchy, path, Controllers::ALL)
    }

    /// Makes a group for `controllers`; those that are not mounted are passed over and only missed by a limit that needs them.
    ///
    /// On v1 every controller is another directory to make, enter and remove, so fewer are quicker. On a hybrid host
    /// [`Controller::Freezer`] stands for the directory in the unified hierarchy, which also kills at once, tells when it is
    /// empty, and has pressure figures; it is passed over where the caller may not write to it.
    /// Parents that do not exist are made, and removed with the group when nothing else has come to use them. A new v1
    /// `cpuset` starts with the CPUs and nodes of its parent.
    ///
    /// # Errors
    /// [`Error::Exists`] when a hierarchy already has a group of that name; [`Error::Create`] with the kernel's answer, such as
    /// EACCES without delegation or EROFS; [`Error::Hidden`] for a relative path when the caller's own group is not
    /// visible. Nothing stays behind.
    pub fn create_with(hierarchy: &Hierarchy, path: &CgroupPath, controllers: Controllers) -> Result<Self> {
        Self::create_in(hierarchy, path, controllers, false)
    }

    /// As [`create_with`](Self::create_with), but a group of that name which has no processes is taken over with the limits it
    /// has, and [removed](Self::remove) like one that was made. For a name that was agreed upon with somebody who may
    /// have made it, as managers do with the runtimes they call.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] when it has processes; else as [`create_with`](Self::create_with).
    pub fn create_or_take(
        hierarchy: &Hierarchy,
        path: &CgroupPath,
        controllers: Controllers,
    ) -> Result<Self> {
        Self::create_in(hierarchy, path, controllers, true)
    }

    fn create_in(
        hierarchy: &Hierarchy,
        path: &CgroupPath,
        controllers: Controllers,
        take: bool,
    ) -> Result<Self> {
        let mut group = Self::new(hierarchy, path, true);
        for (index, mount) in hierarchy.mounts().iter().enumerate() {
            let carried =
                controllers.iter().filter(|controller| hierarchy.index_of(*controller) == Some(index));
            let carried: Controllers = carried.collect();
            let is_only = hierarchy.mounts().len() == 1;
            if carried.is_empty() && !is_only {
                continue;
            }
            // Nothing depends on a hybrid host's unified hierarchy that carries no controller.
            let optional = mount.version() == Version::V2 && !is_only && !needs_unified(carried);
            match group.make(index, mount, path, carried, take) {
                Ok(()) => {}
                Err(_) if optional => {}
                Err(error) => {
                    // The failure that started this is the one to report.
                    let _ = group.remove_dirs();
                    return Err(error);
                }
            }
        }
        Ok(group)
    }

    /// Finds a group that exists, in every hierarchy that has it. Everything can be done with it but
    /// [`remove`](Self::remove): what this handle did not make it leaves alone.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no hierarchy has it.
    pub fn open(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Self> {
        Self::find(hierarchy, path, false)
    }

    /// Takes over a group that this library made and whose owner is gone, so that it can be removed. The caller vouches for
    /// that, usually by having written the path down when the group was made.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no hierarchy has it.
    pub fn adopt(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Self> {
        Self::find(hierarchy, path, true)
    }

    /// The groups a process is in, wherever they are.
    ///
    /// # Errors
    /// [`Error::Read`] when there is no such process, [`Error::NotFound`] when its groups lie outside of what is mounted.
    pub fn of_process(hierarchy: &Hierarchy, pid: u32) -> Result<Self> {
        let mut group = Self::new(hierarchy, &CgroupPath::new("/")?, false);
        for (index, mount) in hierarchy.mounts().iter().enumerate() {
            if let Some(path) = mount.group_of(pid)? {
                group.open_dir(index, mount, path, 0)?;
            }
        }
        group.found()
    }

    /// As [`adopt`](Self::adopt), from what [`directories`](Self::directories) said when the group was made: a relative path
    /// means another place to another process, absolute directories stay true. Those that are gone are passed over.
    ///
    /// # Errors
    /// [`Error::NotFound`] when none is left or none lies in a mounted hierarchy.
    pub fn adopt_directories(
        hierarchy: &Hierarchy,
        directories: impl IntoIterator<Item = impl AsRef<Path>>,
    ) -> Result<Self> {
        let mut group = Self::new(hierarchy, &CgroupPath::new("/")?, true);
        for directory in directories {
            let directory = directory.as_ref();
            // The longest mountpoint wins: hierarchies may be mounted below one another.
            let below =
                |mount: &Mount| directory.strip_prefix(mount.mountpoint()).ok()?.to_str().map(str::to_owned);
            let found = hierarchy.mounts().iter().enumerate().filter_map(|(index, mount)| {
                Some((index, mount, below(mount).filter(|path| !path.is_empty())?))
            });
            let Some((index, mount, path)) =
                found.max_by_key(|(_, mount, _)| mount.mountpoint().as_os_str().len())
            else {
                continue;
            };
            if group.dirs.is_empty() {
                group.path = PathBuf::from("/").join(&path);
            }
            group.open_dir(index, mount, path, 1)?;
        }
        group.found()
    }

    fn find(hierarchy: &Hierarchy, path: &CgroupPath, ours: bool) -> Result<Self> {
        let mut group = Self::new(hierarchy, path, ours);
        for (index, mount) in hierarchy.mounts().iter().enumerate() {
            if let Ok(path) = hierarchy.resolve(mount, path) {
                group.open_dir(index, mount, path, usize::from(ours))?;
            }
        }
        group.found()
    }

    fn new(hierarchy: &Hierarchy, path: &CgroupPath, ours: bool) -> Self {
        let path = PathBuf::from(path.to_string());
        Self { hierarchy: hierarchy.clone(), dirs: Vec::new(), path, ours, refused: Vec::new() }
    }

    fn found(self) -> Result<Self> {
        if self.dirs.is_empty() { Err(Error::NotFound { path: self.path }) } else { Ok(self) }
    }

    fn open_dir(&mut self, index: usize, mount: &Mount, path: String, made: usize) -> Result<()> {
        match mount.root().open_below(&path) {
            Ok(dir) => {
                let controllers = mount.controllers();
                self.dirs.push(GroupDir { mount: index, path, dir, controllers, made });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { path: mount.root().path_of(&path), source }),
        }
        Ok(())
    }

    /// Makes the directory in one hierarchy.
    fn make(
        &mut self,
        index: usize,
        mount: &Mount,
        path: &CgroupPath,
        carried: Controllers,
        take: bool,
    ) -> Result<()> {
        let path = self.hierarchy.resolve(mount, path)?;
        let made = match make_path(mount.root(), &path) {
            Err(Error::Exists { path: found }) if take && found == mount.root().path_of(&path) => None,
            made => Some(made?),
        };
        let opened = mount.root().open_below(&path);
        let dir = opened.map_err(|source| Error::Create { path: mount.root().path_of(&path), source })?;
        let made = match made {
            Some(made) => made,
            None => {
                let mut buffer = Vec::new();
                let processes = dir.read("cgroup.procs", &mut buffer)?.map_or(0, |text| text.lines().count());
                if processes > 0 {
                    return Err(Error::NotEmpty { path: dir.path().to_owned(), processes });
                }
                1
            }
        };
        self.dirs.push(GroupDir { mount: index, path, dir, controllers: carried, made });
        let Some(own) = self.dirs.last() else { return Ok(()) };
        match mount.version() {
            Version::V2 => {
                let words = carried.iter().filter(|controller| controller.v2_name().is_some()).collect();
                self.refused = enable(mount.root(), &own.path, words)?;
            }
            Version::V1 if carried.contains(Controller::Cpuset) => {
                fill_cpuset(mount.root(), &own.path, made)?
            }
            Version::V1 => {}
        }
        Ok(())
    }

    /// The path as it was asked for.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group's directories with the hierarchies they are in.
    pub fn directories(&self) -> impl Iterator<Item = (&Mount, &Path)> {
        self.dirs.iter().map(|own| (&self.hierarchy.mounts()[own.mount], own.dir.path()))
    }

    /// The group's path in `mount`, seen from its root without a leading `/`; `None` when it has no directory there.
    #[must_use]
    pub fn path_in(&self, mount: &Mount) -> Option<&str> {
        let same = |own: &&GroupDir| std::ptr::eq(&self.hierarchy.mounts()[own.mount], mount);
        self.dirs.iter().find(same).map(|own| own.path.as_str())
    }

    pub(crate) fn dir_of(&self, controller: Controller) -> Option<(&Dir, Version)> {
        let index = self.hierarchy.index_of(controller)?;
        let own = self.dirs.iter().find(|own| own.mount == index)?;
        Some((&own.dir, self.hierarchy.mounts()[index].version()))
    }

    /// The directory in the v1 hierarchy of `controller`, whether or not that is the preferred one.
    pub(crate) fn v1_dir_of(&self, controller: Controller) -> Option<&Dir> {
        let is_it = |own: &&GroupDir| {
            let mount = &self.hierarchy.mounts()[own.mount];
            mount.version() == Version::V1 && mount.controllers().contains(controller)
        };
        self.dirs.iter().find(is_it).map(|own| &own.dir)
    }

    pub(crate) fn unified_dir(&self) -> Option<&Dir> {
        let is_unified = |own: &&GroupDir| self.hierarchy.mounts()[own.mount].version() == Version::V2;
        self.dirs.iter().find(is_unified).map(|own| &own.dir)
    }

    /// Opens what a new process needs to start out in this group.
    ///
    /// # Errors
    /// [`Error::Attach`] when the files may not be written.
    pub fn entry(&self) -> Result<Entry> {
        let mut entry = Entry { clone_into: None, tasks: Vec::with_capacity(self.dirs.len()) };
        for own in &self.dirs {
            let opened = match self.hierarchy.mounts()[own.mount].version() {
                Version::V2 => own.dir.open_file(".", OFlags::RDONLY | OFlags::DIRECTORY),
                Version::V1 => own.dir.open_file("tasks", OFlags::WRONLY),
            };
            let fd = opened.map_err(|errno| attach_error(0, &own.dir, errno))?;
            match self.hierarchy.mounts()[own.mount].version() {
                Version::V2 => entry.clone_into = Some(fd),
                Version::V1 => entry.tasks.push(fd),
            }
        }
        Ok(entry)
    }

    /// Moves a process, with all its threads, into the group. On v1 this waits for an RCU grace period; [`entry`](Self::entry)
    /// does not.
    ///
    /// # Errors
    /// [`Error::Attach`]: ESRCH when there is no such process, EBUSY on v2 when the group hands controllers to children,
    /// ENOSPC for a v1 cpuset without CPUs. The process then is in the hierarchies before the failing one.
    pub fn add(&self, pid: u32) -> Result<()> {
        let pid_text = pid.to_string();
        for own in &self.dirs {
            own.dir.write("cgroup.procs", &pid_text).map_err(|errno| attach_error(pid, &own.dir, errno))?;
        }
        Ok(())
    }

    /// The processes of the group and of the groups below it, in ascending order.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        // Every hierarchy has the same processes unless somebody moved one; then it is still one of the group's.
        for own in &self.dirs {
            collect_processes(&own.dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Reads every figure once.
    ///
    /// # Errors
    /// [`Error::Read`] when the kernel refuses a file that exists.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        let mut buffer = Vec::with_capacity(4096);
        for own in &self.dirs {
            let mount = &self.hierarchy.mounts()[own.mount];
            let is_unified = mount.version() == Version::V2;
            if is_unified {
                crate::v2::stats::read_core(&own.dir, &mut stats, &mut buffer)?;
            }
            for controller in own.controllers.iter() {
                if is_unified {
                    // A hybrid host's v1 hierarchies come first for what both have.
                    if self.hierarchy.index_of(controller) == Some(own.mount) {
                        crate::v2::stats::read(controller, &own.dir, &mut stats, &mut buffer)?;
                    }
                } else if controller != Controller::Cpuacct || stats.cpu.usage.is_none() {
                    crate::v1::stats::read(controller, &own.dir, &mut stats, &mut buffer)?;
                }
            }
        }
        Ok(stats)
    }

    /// Reads the CPU time used, nothing else.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::NoController`] when no hierarchy of the group accounts for CPU time.
    pub fn cpu_usage(&self) -> Result<Duration> {
        let usage = self.read_cpu_usage(&mut Vec::with_capacity(512))?;
        usage.ok_or_else(|| self.no_controller(Controller::Cpuacct))
    }

    pub(crate) fn read_cpu_usage(&self, buffer: &mut Vec<u8>) -> Result<Option<Duration>> {
        match (self.unified_dir(), self.dir_of(Controller::Cpuacct)) {
            (Some(dir), _) => crate::v2::stats::cpu_usage(dir, buffer),
            (None, Some((dir, _))) => crate::v1::stats::cpu_usage(dir, buffer),
            (None, None) => Ok(None),
        }
    }

    /// Removes the group, the groups that were made inside it, and parents that were made for it and are empty now.
    ///
    /// Processes that were killed leave a group some time after they are gone for their parent; removal waits for that, at
    /// most two seconds. A hierarchy where the group is gone already is no error.
    ///
    /// # Errors
    /// [`Error::NotOurs`] for a group from [`open`](Self::open), [`Error::Busy`] when processes stay, [`Error::Remove`].
    /// Removal can be tried again.
    pub fn remove(&self) -> Result<()> {
        if !self.ours {
            return Err(Error::NotOurs { path: self.path.clone() });
        }
        self.remove_dirs()
    }

    fn remove_dirs(&self) -> Result<()> {
        let mut result = Ok(());
        let deadline = Instant::now() + crate::remove::PATIENCE;
        for own in &self.dirs {
            let root = self.hierarchy.mounts()[own.mount].root();
            let removed = crate::remove::remove(root, &own.path, own.made, deadline);
            // One hierarchy in the way does not keep the others.
            if result.is_ok() {
                result = removed;
            }
        }
        result
    }
}

/// Whether a group can do without its directory in the unified hierarchy.
fn needs_unified(carried: Controllers) -> bool {
    carried.iter().any(|controller| controller.v2_name().is_some())
}

fn attach_error(pid: u32, dir: &Dir, errno: Errno) -> Error {
    Error::Attach { pid, path: dir.path().to_owned(), source: errno.into() }
}

pub(crate) fn collect_processes(dir: &Dir, pids: &mut Vec<u32>) -> Result<()> {
    use std::os::fd::AsFd;
    let gone = |errno| matches!(errno, Errno::NOENT | Errno::NODEV);
    let mut buffer = Vec::new();
    let listed =
        dir.open_file("cgroup.procs", OFlags::RDONLY).and_then(|fd| dir::read_list(fd.as_fd(), &mut buffer));
    match listed {
        Ok(()) => parse::pids(&String::from_utf8_lossy(&buffer), pids),
        // EOPNOTSUPP: a threaded group, whose processes are listed by the group above.
        Err(errno) if gone(errno) || errno == Errno::OPNOTSUPP => {}
        Err(errno) => return Err(dir.read_error("cgroup.procs", errno)),
    }
    let children = match dir.children() {
        Ok(children) => children,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Read { path: dir.path().to_owned(), source }),
    };
    for child in children {
        if let Ok(child) = dir.open_below(&child) {
            collect_processes(&child, pids)?;
        }
    }
    Ok(())
}
