//! Pausing and resuming every process of a group.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, Timespec};
use rustix::io::Errno;

use crate::controller::{Controller, Version};
use crate::dir::{self, Dir};
use crate::error::{Error, Result};
use crate::group::Cgroup;
use crate::parse;

/// How long a group may take to freeze: a task deep in the kernel (NFS, FUSE) holds it up.
const PATIENCE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Stops every process of the group and of those below it, children forked meanwhile included, and returns when all are
    /// stopped.
    ///
    /// # Errors
    /// [`Error::Freeze`], with `TimedOut` when a task did not stop within five seconds: then the group is thawed again.
    /// [`Error::NoController`] where neither v2 (kernel 5.2) nor the v1 freezer is there.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets the processes go on, except those that a frozen ancestor or a frozen group inside stops.
    ///
    /// # Errors
    /// [`Error::Freeze`]; [`Error::NoController`] as for [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    /// Whether the group was told to freeze. An ancestor that is frozen stops the processes too, and does not show here.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::NoController`] where nothing can freeze.
    pub fn is_frozen(&self) -> Result<bool> {
        let mut buffer = Vec::new();
        let text = match self.freezer()? {
            (dir, Version::V2) => dir.read("cgroup.freeze", &mut buffer)?,
            (dir, Version::V1) => dir.read("freezer.state", &mut buffer)?,
        };
        Ok(matches!(text.map(str::trim), Some("1" | "FROZEN" | "FREEZING")))
    }

    /// v2 where the group is in it, on hybrid hosts too: only there a frozen process can be killed and the end of freezing is
    /// an event.
    fn freezer(&self) -> Result<(&Dir, Version)> {
        if let Some(dir) = self.unified_dir().filter(|dir| dir.has("cgroup.freeze")) {
            return Ok((dir, Version::V2));
        }
        let v1 = self.v1_dir_of(Controller::Freezer).filter(|dir| dir.has("freezer.state"));
        let v1 = v1.map(|dir| (dir, Version::V1));
        v1.ok_or_else(|| Error::NoController {
            controller: Controller::Freezer,
            reason: "this is no group below the top of a v2 hierarchy (kernel 5.2) or of a v1 freezer"
                .to_owned(),
        })
    }

    fn set_frozen(&self, freeze: bool) -> Result<()> {
        let (dir, version) = self.freezer()?;
        let result = match (version, freeze) {
            (Version::V2, true) => freeze_v2(dir),
            (Version::V1, true) => freeze_v1(dir),
            // Nothing to wait for: the kernel has woken the processes when it returns, and what an ancestor stops stays so.
            (version, false) => thaw(dir, version).map_err(io::Error::from),
        };
        result.map_err(|source| Error::Freeze { path: dir.path().to_owned(), freeze, source })
    }
}

fn thaw(dir: &Dir, version: Version) -> Result<(), Errno> {
    match version {
        Version::V2 => dir.write("cgroup.freeze", "0"),
        Version::V1 => dir.write("freezer.state", "THAWED"),
    }
}

/// Thaws a v1 group and every group inside, as far as they can be.
pub(crate) fn thaw_tree(dir: &Dir) {
    let _ = thaw(dir, Version::V1);
    for child in dir.children().unwrap_or_default() {
        if let Ok(child) = dir.open_below(&child) {
            thaw_tree(&child);
        }
    }
}

fn freeze_v2(dir: &Dir) -> io::Result<()> {
    // Opened before the change, so that the event cannot be missed.
    let events = dir.open_file("cgroup.events", OFlags::RDONLY)?;
    dir.write("cgroup.freeze", "1")?;
    if !wait_for(&events, Instant::now() + PATIENCE, |text| parse::field(text, "frozen") == Some(1))? {
        thaw(dir, Version::V2)?;
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// Waits until `cgroup.events` says what is wanted.
pub(crate) fn wait_for(
    events: &OwnedFd,
    deadline: Instant,
    is_so: impl Fn(&str) -> bool,
) -> Result<bool, Errno> {
    let mut buffer = Vec::with_capacity(128);
    loop {
        match dir::read_all(events.as_fd(), &mut buffer) {
            // Reading also arms the descriptor for the next change.
            Ok(()) if is_so(&String::from_utf8_lossy(&buffer)) => return Ok(true),
            Ok(()) => {}
            Err(errno) => return Err(errno),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(events, PollFlags::PRI)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&left)))?;
    }
}

fn freeze_v1(dir: &Dir) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
    let mut buffer = Vec::new();
    loop {
        // Written again each time: a task that was forked or that woke up meanwhile is caught by the next attempt only.
        dir.write("freezer.state", "FROZEN")?;
        let state = dir.read("freezer.state", &mut buffer).map_err(io::Error::other)?;
        if state.map(str::trim) == Some("FROZEN") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            thaw(dir, Version::V1)?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The v1 freezer has no event.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
