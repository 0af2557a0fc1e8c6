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
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::step::Step;
use crate::sys::clone::Ready;
use crate::sys::raw::Sys;
use crate::sys::{fd, mount, thread};

const NETWORK: u64 = libc::CLONE_NEWNET as u64;

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
    /// Its thread is ending, or has ended.
    spent: AtomicBool,
    job: Mutex<Job>,
    changed: Condvar,
}

#[derive(Debug)]
enum Job {
    /// Nobody's.
    Idle,
    /// Somebody's, who has not given it anything to clone yet.
    Reserved {
        network: bool,
    },
    /// Nobody's again: the one whose it was did not get so far.
    Released,
    Wanted(Ready, Option<OwnedFd>),
    Running,
    Done(Sys<i32>),
}

static LAUNCHERS: [Mutex<Vec<Arc<Launcher>>>; 3] = [const { Mutex::new(Vec::new()) }; 3];

/// A launcher that is the caller's, for one clone.
#[derive(Debug)]
pub(super) struct Reserved(Arc<Launcher>);

/// A clone that a launcher is about to make or has made.
#[derive(Debug)]
pub(super) struct Pending(Arc<Launcher>);

/// Takes an idle launcher of the given kind, or a new one, which gets ready while the caller does.
///
/// `network`: the clone is going to be into a new network namespace, which no new user namespace has to own. Of all namespaces
/// that one takes long to make, a fifth of a whole start: the launcher makes it beforehand, too.
pub(super) fn reserve(surroundings: Surroundings, network: bool) -> Result<Reserved> {
    let pid = std::process::id();
    let mut launchers = lock(&LAUNCHERS[surroundings as usize]);
    launchers.retain(|launcher| launcher.pid == pid && !launcher.spent.load(Ordering::Relaxed));
    for launcher in launchers.iter() {
        let mut job = lock(&launcher.job);
        if matches!(*job, Job::Idle) {
            *job = Job::Reserved { network };
            launcher.changed.notify_all();
            return Ok(Reserved(Arc::clone(launcher)));
        }
    }
    let (spent, job) = (AtomicBool::new(false), Mutex::new(Job::Reserved { network }));
    let launcher = Arc::new(Launcher { pid, spent, job, changed: Condvar::new() });
    let own = Arc::clone(&launcher);
    std::thread::Builder::new()
        .name("launcher".into())
        .stack_size(128 * 1024)
        .spawn(move || own.live(surroundings))
        .map_err(|e| Error::setup(Step::Clone, "the launching thread", e))?;
    launchers.push(Arc::clone(&launcher));
    Ok(Reserved(launcher))
}

impl Reserved {
    /// Has the launcher clone. `end` is closed when the call returns to it: when the child exists, or for one that shares
    /// memory, when it has executed its command or ended.
    pub(super) fn begin(self, ready: Ready, end: Option<OwnedFd>) -> Pending {
        self.0.turn_to(Job::Wanted(ready, end));
        Pending(Arc::clone(&self.0))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut job = lock(&self.0.job);
        if matches!(*job, Job::Reserved { .. }) {
            *job = Job::Released;
            self.0.changed.notify_all();
            drop(job);
            // Until it is home, or the next start would take another one.
            drop(self.0.wait_while(|job| matches!(job, Job::Released | Job::Running)));
        }
    }
}

impl Pending {
    /// Waits until the clone has returned; gives the process id.
    pub(super) fn wait(self) -> Result<i32> {
        let mut job = self.0.wait_while(|job| !matches!(job, Job::Done(_)));
        match std::mem::replace(&mut *job, Job::Idle) {
            Job::Done(Ok(pid)) => Ok(pid),
            Job::Done(Err(errno)) => Err(Error::setup(Step::Clone, "the container's process", errno)),
            // Waited for above.
            _ => Err(Error::setup(Step::Clone, "the launching thread", io::ErrorKind::BrokenPipe)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launcher {
    fn turn_to(&self, job: Job) {
        *lock(&self.job) = job;
        self.changed.notify_all();
    }

    fn wait_while(&self, unfit: impl Fn(&Job) -> bool) -> MutexGuard<'_, Job> {
        let guard = self.changed.wait_while(lock(&self.job), |job| unfit(job));
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's whole life.
    fn live(&self, surroundings: Surroundings) {
        // For good: no signal of the program is to be handled here, and children start with all of them blocked.
        thread::block_signals();
        // Before its name is out of sight. Who could not come back does not leave: going where one is takes the same right, over
        // the namespace that owns this one.
        let home = fd::openat(fd::CWD, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0);
        let home = home.and_then(|home| {
            thread::set_namespace(home, NETWORK).inspect_err(|_| fd::close(home)).map(|()| home)
        });
        let mut able = settle(surroundings);
        loop {
            let network = match *self.wait_while(|job| matches!(job, Job::Idle | Job::Done(_))) {
                Job::Reserved { network } => network,
                _ => false,
            };
            // Where it cannot be made beforehand, the clone is asked for it, and tells why.
            let abroad = network && able.is_ok() && home.is_ok() && thread::unshare(NETWORK).is_ok();
            drop(self.wait_while(|job| matches!(job, Job::Reserved { .. })));
            let job = std::mem::replace(&mut *lock(&self.job), Job::Running);
            let (next, end) = match job {
                Job::Wanted(ready, end) => {
                    let ready = if abroad { ready.without(NETWORK) } else { ready };
                    (Job::Done(able.and_then(|()| ready.clone_now())), end)
                }
                _ => (Job::Idle, None),
            };
            if abroad {
                // At once, or the namespace would not end with the container.
                able = home.and_then(|home| thread::set_namespace(home, NETWORK));
            }
            // Now the caller goes on. Before the result is told: whoever reads from the other end learns of a failure by its end.
            drop(end);
            self.spent.store(able.is_err(), Ordering::Relaxed);
            self.turn_to(next);
            if able.is_err() {
                break;
            }
        }
        let _ = home.map(fd::close);
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
