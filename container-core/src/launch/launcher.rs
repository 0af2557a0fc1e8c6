//! The threads that clone.
//!
//! A container's process is cloned by a thread that lives as long as the host program: a signal on the parent's death then means
//! the program and not whichever thread happened to start the container. Where mounts may be made, the thread has a mount namespace
//! of its own that holds a single empty read-only directory: a clone copies that and not the host's table, whatever its
//! size, and nothing of the host is in it that could leak. Such threads serve all threads of the program; they are made
//! when first needed and made again after a fork of the program.

use std::ffi::CStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

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

struct Launcher {
    /// Fork leaves the threads behind: what the parent program had is of no use to its child.
    pid: u32,
    job: Mutex<Slot>,
    changed: Condvar,
}

enum Slot {
    Idle,
    Wanted(Ready),
    Done(Sys<i32>),
}

static LAUNCHERS: [Mutex<Option<Arc<Launcher>>>; 3] = [Mutex::new(None), Mutex::new(None), Mutex::new(None)];

/// Clones on the launcher of the given kind; gives the process id.
pub(super) fn clone(surroundings: Surroundings, ready: Ready) -> Result<i32> {
    let failed = |errno| Error::setup(Step::Clone, "the container's process", errno);
    let launcher = get(surroundings)?;
    let mut slot = lock(&launcher.job);
    // One at a time: wait until nobody else's job is in the slot.
    while !matches!(*slot, Slot::Idle) {
        slot = wait(&launcher.changed, slot);
    }
    *slot = Slot::Wanted(ready);
    launcher.changed.notify_all();
    loop {
        slot = wait(&launcher.changed, slot);
        if let Slot::Done(result) = *slot {
            *slot = Slot::Idle;
            launcher.changed.notify_all();
            return result.map_err(failed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: std::sync::MutexGuard<'a, T>) -> std::sync::MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

fn get(surroundings: Surroundings) -> Result<Arc<Launcher>> {
    let mut place = lock(&LAUNCHERS[surroundings as usize]);
    let pid = std::process::id();
    if let Some(launcher) = place.as_ref().filter(|launcher| launcher.pid == pid) {
        return Ok(Arc::clone(launcher));
    }
    let launcher = Arc::new(Launcher { pid, job: Mutex::new(Slot::Idle), changed: Condvar::new() });
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
        Ok(Ok(())) => {}
        Ok(Err(errno)) => return Err(failed(errno.into())),
        Err(_) => return Err(failed(std::io::ErrorKind::BrokenPipe.into())),
    }
    *place = Some(Arc::clone(&launcher));
    Ok(launcher)
}

fn serve(launcher: &Launcher) {
    let mut slot = lock(&launcher.job);
    loop {
        if let Slot::Wanted(_) = *slot {
            if let Slot::Wanted(ready) = std::mem::replace(&mut *slot, Slot::Idle) {
                *slot = Slot::Done(ready.clone_now());
                launcher.changed.notify_all();
            }
        }
        slot = wait(&launcher.changed, slot);
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
