//! Removing a group's directory in one hierarchy.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::group::collect_processes;

/// How long the kernel may take to let go of processes that have exited.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Removes `path` below `root`, and the `made - 1` components before it as far as nothing else uses them.
pub(crate) fn remove(root: &Dir, path: &str, made: usize, deadline: Instant) -> Result<()> {
    // Nothing is opened or listed in the common case.
    match root.remove(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::BUSY | Errno::NOTEMPTY) => remove_busy(root, path, deadline)?,
        Err(errno) => return Err(remove_error(root, path, errno)),
    }
    let mut parent = path;
    for _ in 1..made {
        let Some((shorter, _)) = parent.rsplit_once('/') else { break };
        match root.remove(shorter) {
            Ok(()) | Err(Errno::NOENT) => parent = shorter,
            // Another group has come to live there, and takes care of it.
            Err(_) => break,
        }
    }
    Ok(())
}

fn remove_error(root: &Dir, path: &str, errno: Errno) -> Error {
    Error::Remove { path: root.path_of(path), source: errno.into() }
}

/// Removes the groups inside first, and gives processes that are exiting the time to do so.
fn remove_busy(root: &Dir, path: &str, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        let Ok(dir) = root.open_below(path) else { return Ok(()) };
        remove_children(&dir)?;
        match root.remove(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(remove_error(root, path, errno)),
        }
        if Instant::now() >= deadline {
            let mut processes = Vec::new();
            collect_processes(&dir, &mut processes)?;
            return Err(Error::Busy { path: dir.path().to_owned(), processes });
        }
        // No event says that the kernel has let go of the last task on v1, and on v2 it comes before rmdir works.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn remove_children(dir: &Dir) -> Result<()> {
    let children = match dir.children() {
        Ok(children) => children,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Read { path: dir.path().to_owned(), source }),
    };
    for child in children {
        match dir.remove(&child) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(remove_error(dir, &child, errno)),
        }
        if let Ok(inner) = dir.open_below(&child) {
            remove_children(&inner)?;
            // Still busy: the caller comes back.
            let _ = dir.remove(&child);
        }
    }
    Ok(())
}
