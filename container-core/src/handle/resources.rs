//! What was made for a container, and goes with it.

use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use super::disk;
use super::rootfs::Held;
use super::shared::{Core, cgroup_error};
use crate::error::Result;

/// What was made for a container and goes with it.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    /// The container's root directory, which keeps the mount alive after the processes are gone.
    pub(super) root: OnceLock<OwnedFd>,
    /// What stays mounted for a container without a mount namespace of its own.
    pub(super) root_mount: Option<crate::launch::RootMount>,
    pub(super) layer: Held,
    pub(super) disk: Option<disk::DiskLayer>,
    pub(super) entry: Option<crate::state::Entry>,
    /// Keeps the mounts in place until everything else is done: taking them down is not waited for by who waits for the end.
    pub(super) mounts: Option<OwnedFd>,
    /// The pool it came of, which removes what it leaves.
    pub(super) pool: Option<Sender<crate::pool::Event>>,
    /// The container is somebody else's from now on, or was never ours.
    pub(super) released: bool,
}

/// What is left of a container whose processes are gone. Dropping it removes that.
#[derive(Debug)]
pub(crate) struct Leftovers {
    pub(super) core: Arc<Core>,
    pub(super) resources: Resources,
}

impl Leftovers {
    /// Removes it, or leaves that to the pool which the container came of.
    pub(super) fn dispose(mut self) -> Result<()> {
        let Some(pool) = self.resources.pool.take() else { return self.remove() };
        // A pool that is gone gives it back to be dropped.
        let _ = pool.send(crate::pool::Event::Ended(Box::new(self)));
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.resources.released, true) {
            return Ok(());
        }
        let group = match &self.core.cgroup {
            Some(group) => group.remove().map_err(cgroup_error),
            None => Ok(()),
        };
        group.and(self.resources.remove())
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

impl Resources {
    /// Removes layer and record.
    pub(super) fn remove(&mut self) -> Result<()> {
        // The mount of the root goes first: the layer is in use while it is there.
        drop(self.root.take());
        drop(self.mounts.take());
        self.disk = None;
        let unmounted = match self.root_mount.take() {
            Some(mount) => mount.unmount(),
            None => Ok(()),
        };
        let layer = std::mem::take(&mut self.layer).remove();
        let entry = match self.entry.take() {
            Some(entry) => entry.remove(),
            None => Ok(()),
        };
        unmounted.and(layer).and(entry)
    }
}
