//! The threads that clone.
//!
//! A container's process is cloned by a thread that lives as long as the host program: a signal on the parent's death then means
//! the program and not whichever thread happened to start the container. Where mounts may be made, the thread has a mount namespace
//! of its own that holds a single empty read-only directory: a clone copies that and not the host's table, whatever its
//! size, and nothing of the host is in it that could leak.
//!
//! A thread whose child shares the program's memory stands still until that has executed its command (CLONE_VFORK): the kernel
//! tells such a child from a program of its own and spares the memory's other users when it runs out of its memory limit.
//! So there are as many of these threads as starts at one time; they serve all threads of the program, stay for later starts, and
//! are made again after a fork of the program.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::step::Step;
use crate::sys::clone::Ready;
use crate::sys::raw::Sys;
use crate::sys::{fd, mount, thread};

/// What a launcher's mount namespace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// The host's tree: the thread is in the program's own mount namespace.
    Host,
    /// An empty directory.
    Empty,
    /// An empty directory beside a procfs and a sysfs: the kernel mounts these in a user namespace only for whoever can see
    /// them already.
    Visible,
}

#[derive(Debug)]
struct Launcher {
    /// Fork leaves the threads behind: what the parent program had is of no use to its child.
    pid: u32,
    job: Mutex<Job>,
    changed: Condvar,
}

#[derive(Debug)]
enum Job {
    /// Nobody's.
    Idle,
    /// Somebody's, who has not given it anything to do yet.
    Reserved,
    Wanted(Ready, Option<OwnedFd>),
    Running,
    Done(Sys<i32>),
}

static LAUNCHERS: [Mutex<Vec<Arc<Launcher>>>; 3] = [const { Mutex::new(Vec::new()) }; 3];

/// A clone that a launcher is about to make or has made.
#[derive(Debug)]
pub(super) struct Pending(Arc<Launcher>);

/// Has a launcher of the given kind clone. `end` is closed when the call returns to it: when the child exists, or for one that
/// shares memory, when it has executed its command or ended.
pub(super) fn begin(surroundings: Surroundings, ready: Ready, end: Option<OwnedFd>) -> Result<Pending> {
    let launcher = reserve(surroundings)?;
    *lock(&launcher.job) = Job::Wanted(ready, end);
    launcher.changed.notify_all();
    Ok(Pending(launcher))
}

impl Pending {
    /// Waits until the clone has returned; gives the process id.
    pub(super) fn wait(self) -> Result<i32> {
        let mut job = lock(&self.0.job);
        loop {
            if let Job::Done(result) = *job {
                *job = Job::Idle;
                return result.map_err(|errno| Error::setup(Step::Clone, "the container's process", errno));
            }
            job = wait(&self.0.changed, job);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// An idle launcher, which is the caller's from here on.
fn reserve(surroundings: Surroundings) -> Result<Arc<Launcher>> {
    let pid = std::process::id();
    let mut launchers = lock(&LAUNCHERS[surroundings as usize]);
    launchers.retain(|launcher| launcher.pid == pid);
    for launcher in launchers.iter() {
        let mut job = lock(&launcher.job);
        if matches!(*job, Job::Idle) {
            *job = Job::Reserved;
            return Ok(Arc::clone(launcher));
        }
    }
    let launcher = start(surroundings, pid)?;
    launchers.push(Arc::clone(&launcher));
    Ok(launcher)
}

fn start(surroundings: Surroundings, pid: u32) -> Result<Arc<Launcher>> {
    let launcher = Arc::new(Launcher { pid, job: Mutex::new(Job::Reserved), changed: Condvar::new() });
    let own = Arc::clone(&launcher);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let failed = |e| Error::setup(Step::Clone, "the launching thread", e);
    std::thread::Builder::new()
        .name("launcher".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            // For good: no signal of the program is to be handled here, and children start with all of them blocked.
            thread::block_signals();
            let settled = settle(surroundings);
            let failed = settled.is_err();
            if tell.send(settled).is_err() || failed {
                return;
            }
            serve(&own);
        })
        .map_err(failed)?;
    match told.recv() {
        Ok(Ok(())) => Ok(launcher),
        Ok(Err(errno)) => Err(failed(errno.into())),
        Err(_) => Err(failed(std::io::ErrorKind::BrokenPipe.into())),
    }
}

fn serve(launcher: &Launcher) {
    let mut job = lock(&launcher.job);
    loop {
        if matches!(*job, Job::Wanted(..))
            && let Job::Wanted(ready, end) = std::mem::replace(&mut *job, Job::Running)
        {
            drop(job);
            let result = ready.clone_now();
            // Before the result is told: whoever reads from the other end learns of a failure by its end.
            drop(end);
            job = lock(&launcher.job);
            *job = Job::Done(result);
            launcher.changed.notify_all();
        }
        job = wait(&launcher.changed, job);
    }
}

/// Leaves the host's tree for an empty one.
fn settle(surroundings: Surroundings) -> Sys<()> {
    if surroundings == Surroundings::Host {
        return Ok(());
    }
    use crate::mount_options::attr::{NODEV, NOEXEC, NOSUID, RDONLY};
    const HARMLESS: u64 = NODEV | NOEXEC | NOSUID;
    thread::unshare((libc::CLONE_FS | libc::CLONE_NEWNS) as u64)?;
    mount::root_propagation(libc::MS_REC | libc::MS_PRIVATE)?;
    let tree = file_system(c"tmpfs", &[(c"size", c"16k"), (c"mode", c"555")], HARMLESS)?;
    // Relative to the new root, whose only directory it is.
    fd::mkdirat(tree, c"root", 0o755)?;
    mount::attach_at(tree, c"/")?;
    if surroundings == Surroundings::Visible {
        for (kind, name) in [(c"proc", c"proc"), (c"sysfs", c"sys")] {
            fd::mkdirat(tree, name, 0o555)?;
            let place = fd::openat(tree, name, libc::O_PATH, 0)?;
            let made = file_system(kind, &[], HARMLESS)?;
            mount::attach(made, place)?;
            fd::close(made);
            fd::close(place);
        }
    }
    fd::fchdir(tree)?;
    mount::pivot_root_here()?;
    mount::detach_here()?;
    fd::fchdir(tree)?;
    let read_only = mount::MountAttr { set: RDONLY, ..mount::MountAttr::default() };
    mount::set_attributes(tree, &read_only, false)?;
    fd::close(tree);
    Ok(())
}

fn file_system(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Sys<i32> {
    let context = mount::fs_open(kind)?;
    let made = options
        .iter()
        .try_for_each(|(key, value)| mount::fs_set(context, key, Some(value)))
        .and_then(|()| mount::fs_create(context, attributes));
    fd::close(context);
    made
}
