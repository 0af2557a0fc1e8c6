//! The root of a container without a mount namespace of its own: it is mounted where the caller lives, and stays when the
//! container is gone.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A mount in the caller's mount namespace that was made for a container without one of its own: its root, with everything
/// mounted below. Whoever takes the container down takes it away, in whatever program.
///
/// The kernel's number of the mount tells it from others at the same place, of the user or of a container manager. Numbers are
/// never used again from Linux 6.8; before, one that went away may give its number to a later mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMount {
    path: PathBuf,
    id: u64,
}

impl RootMount {
    /// What is mounted on top at `path` now; `None` when that cannot be told.
    pub fn at(path: &Path) -> Option<Self> {
        let place = open(path).ok()?;
        Self::of(place.as_raw_fd(), path)
    }

    /// The mount that the open directory `root` is in, which is, or is going to be, at `path`.
    pub(super) fn of(root: RawFd, path: &Path) -> Option<Self> {
        id_of(root).ok().map(|id| Self { path: path.to_owned(), id })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away, with all mounts below it. Nothing happens when it is gone, or when something else has been mounted over it.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel refuses.
    pub fn unmount(&self) -> Result<()> {
        let place = match open(&self.path) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(Error::io("open", &self.path, errno)),
        };
        if id_of(place.as_raw_fd()) != Ok(self.id) {
            return Ok(());
        }
        // By the descriptor: the path may lead elsewhere by now.
        detach(place.as_raw_fd()).map_err(|errno| Error::io("unmount", &self.path, errno))
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Takes the mount away that the open directory `root` is the root of, with all below it.
pub(super) fn detach(root: RawFd) -> rustix::io::Result<()> {
    match unmount(itself(root), UnmountFlags::DETACH) {
        // It was not attached yet, or is not in this namespace (any more).
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn id_of(file: RawFd) -> rustix::io::Result<u64> {
    // STATX_MNT_ID_UNIQUE (Linux 6.8). Older kernels pass over it, and give the number that is used again.
    let unique = StatxFlags::from_bits_retain(0x4000);
    rustix::fs::statx(CWD, itself(file), AtFlags::empty(), unique).map(|stat| stat.stx_mnt_id)
}

/// A path that leads to what is open, whatever becomes of its name.
fn itself(file: RawFd) -> String {
    format!("/proc/self/fd/{file}")
}
