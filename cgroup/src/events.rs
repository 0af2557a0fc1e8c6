//! Things that happen to a group, as descriptors for poll(2) and friends.

use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{OFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::controller::{Controller, Version};
use crate::dir::{self, Dir};
use crate::error::{Error, Result};
use crate::group::Cgroup;
use crate::parse;

/// What to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watched {
    /// The group ran out of memory, or a process of it was killed for that.
    OutOfMemory,
    /// A fork failed for the limit of tasks. v1 has no event for this (and had one by accident before kernel 6.11), so there
    /// the descriptor is a timer that looks four times a second.
    PidsLimit,
    /// The first process came or the last one went, descendants included. v2, also in the unified hierarchy of a hybrid host.
    Populated,
    /// Tasks lost time waiting for a resource. v2, also in the unified hierarchy of a hybrid host; kernel 5.2.
    Pressure(Trigger),
}

/// When pressure is to be reported (Documentation/accounting/psi.rst, "Monitoring for pressure thresholds").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// Waiting for what.
    pub resource: Resource,
    /// Whether all tasks have to wait at once; else some task.
    pub full: bool,
    /// How much time may be lost in each window.
    pub stall: Duration,
    /// The window, half a second to ten seconds. Without CAP_SYS_RESOURCE a multiple of two seconds (kernel 6.4).
    pub window: Duration,
}

/// A resource to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Block devices.
    Io,
}

/// What happened since the last time it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// Memory ran out at this level or, on v1, at one above. `kills` processes of the group were killed since the last time;
    /// the kernel reports before it has chosen whom to kill, so that this may be 0 and count only in
    /// [`MemoryStats::oom_kills`](crate::MemoryStats::oom_kills) a moment later.
    OutOfMemory {
        /// Processes killed.
        kills: u64,
    },
    /// This many forks failed.
    PidsLimit {
        /// Failed forks.
        count: u64,
    },
    /// Whether there are processes now.
    Populated(bool),
    /// The trigger's threshold was passed.
    Pressure,
    /// The group is gone, and nothing more will come.
    Removed,
}

/// How a [`Watch`] makes itself known to poll(2), epoll(7) or an async runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// `POLLPRI`.
    Priority,
    /// `POLLIN`.
    Readable,
}

/// A descriptor that becomes ready when something happens to a group; made by [`Cgroup::watch`].
///
/// Wait for [`interest`](Self::interest) on the descriptor, then call [`take`](Self::take), which also arms it again. Being
/// ready is a hint: `take` may find that nothing happened.
#[derive(Debug)]
pub struct Watch {
    watched: Watched,
    path: PathBuf,
    source: Source,
    last: Counts,
}

#[derive(Debug)]
enum Source {
    /// A file that the kernel marks when it changes.
    File(OwnedFd),
    /// v1: an eventfd for the occasion, and the file with the count.
    Notified { event: OwnedFd, count: OwnedFd },
    /// v1: a timer, and the file with the count.
    Ticking { timer: OwnedFd, count: OwnedFd },
}

const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    occasions: u64,
    kills: u64,
}

impl Cgroup {
    /// Watches for something to happen from now on.
    ///
    /// # Errors
    /// [`Error::NoController`] when the hierarchy that knows is not mounted, [`Error::Read`] with the kernel's answer: EINVAL or
    /// EPERM for a pressure trigger out of range, ENOENT where the kernel is too old.
    pub fn watch(&self, watched: Watched) -> Result<Watch> {
        match watched {
            Watched::OutOfMemory => match self.dir_of(Controller::Memory) {
                Some((dir, Version::V2)) => Watch::file(watched, dir, "memory.events", OFlags::RDONLY),
                Some((dir, Version::V1)) => Watch::v1_memory(dir),
                None => Err(self.no_controller(Controller::Memory)),
            },
            Watched::PidsLimit => match self.dir_of(Controller::Pids) {
                Some((dir, Version::V2)) => Watch::file(watched, dir, "pids.events", OFlags::RDONLY),
                Some((dir, Version::V1)) => Watch::v1_pids(dir),
                None => Err(self.no_controller(Controller::Pids)),
            },
            Watched::Populated => {
                Watch::file(watched, self.unified(Controller::Pids)?, "cgroup.events", OFlags::RDONLY)
            }
            Watched::Pressure(trigger) => {
                let (file, controller) = match trigger.resource {
                    Resource::Cpu => ("cpu.pressure", Controller::Cpu),
                    Resource::Memory => ("memory.pressure", Controller::Memory),
                    Resource::Io => ("io.pressure", Controller::Blkio),
                };
                let dir = self.unified(controller)?;
                let watch = Watch::file(watched, dir, file, OFlags::RDWR)?;
                let kind = if trigger.full { "full" } else { "some" };
                let line = format!("{kind} {} {}\0", trigger.stall.as_micros(), trigger.window.as_micros());
                rustix::io::write(watch.as_fd(), line.as_bytes())
                    .map_err(|errno| dir.read_error(file, errno))?;
                Ok(watch)
            }
        }
    }

    fn unified(&self, controller: Controller) -> Result<&Dir> {
        let reason =
            || "this event takes the unified hierarchy, which is not mounted or not writable".to_owned();
        self.unified_dir().ok_or_else(|| Error::NoController { controller, reason: reason() })
    }
}

impl Watch {
    fn file(watched: Watched, dir: &Dir, file: &str, flags: OFlags) -> Result<Self> {
        let source = dir.open_file(file, flags).map_err(|errno| dir.read_error(file, errno))?;
        Self::start(watched, dir.path_of(file), Source::File(source))
    }

    fn v1_memory(dir: &Dir) -> Result<Self> {
        let file = "memory.oom_control";
        let error = |errno| dir.read_error(file, errno);
        let count = dir.open_file(file, OFlags::RDONLY).map_err(error)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(error)?;
        let line = format!("{} {}", event.as_raw_fd(), count.as_raw_fd());
        dir.write("cgroup.event_control", &line)
            .map_err(|errno| dir.read_error("cgroup.event_control", errno))?;
        Self::start(Watched::OutOfMemory, dir.path_of(file), Source::Notified { event, count })
    }

    fn v1_pids(dir: &Dir) -> Result<Self> {
        let file = "pids.events";
        let error = |errno| dir.read_error(file, errno);
        let count = dir.open_file(file, OFlags::RDONLY).map_err(error)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(error)?;
        let ticks = Itimerspec { it_interval: TICK, it_value: TICK };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks).map_err(error)?;
        Self::start(Watched::PidsLimit, dir.path_of(file), Source::Ticking { timer, count })
    }

    fn start(watched: Watched, path: PathBuf, source: Source) -> Result<Self> {
        let mut watch = Self { watched, path, source, last: Counts::default() };
        // The first reading is what later ones are compared with, and arms the descriptor.
        watch.last = watch.counts()?.unwrap_or_default();
        Ok(watch)
    }

    /// What to wait for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        match self.source {
            Source::File(_) => Interest::Priority,
            Source::Notified { .. } | Source::Ticking { .. } => Interest::Readable,
        }
    }

    /// What is watched.
    #[must_use]
    pub fn watched(&self) -> Watched {
        self.watched
    }

    /// Says what happened since the last call, `None` for nothing, and arms the descriptor again. Does not wait.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn take(&mut self) -> Result<Option<Happened>> {
        if let Watched::Pressure(_) = self.watched {
            // There is no count to compare: the kernel says it once, at poll(2).
            return self.ready(Some(Duration::ZERO));
        }
        let mut value = [0; 8];
        let notified = match &self.source {
            Source::File(_) => false,
            Source::Notified { event, .. } => rustix::io::read(event, &mut value).is_ok(),
            Source::Ticking { timer, .. } => {
                // Only to make it quiet again.
                let _ = rustix::io::read(timer, &mut value);
                false
            }
        };
        let Some(now) = self.counts()? else { return Ok(Some(Happened::Removed)) };
        let before = std::mem::replace(&mut self.last, now);
        if now == before && !notified {
            return Ok(None);
        }
        Ok(Some(match self.watched {
            Watched::OutOfMemory => Happened::OutOfMemory { kills: now.kills.saturating_sub(before.kills) },
            Watched::PidsLimit => {
                Happened::PidsLimit { count: now.occasions.saturating_sub(before.occasions) }
            }
            Watched::Populated => Happened::Populated(now.occasions != 0),
            Watched::Pressure(_) => Happened::Pressure,
        }))
    }

    /// Waits until something happens; `None` when nothing did within `timeout` (which `None` makes endless).
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Happened>> {
        // A time beyond what the clock can say never comes.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let ready = self.ready(left)?;
            if ready.is_none() || matches!(self.watched, Watched::Pressure(_)) {
                return Ok(ready);
            }
            if let Some(happened) = self.take()? {
                return Ok(Some(happened));
            }
        }
    }

    /// Polls; the answer is exact for pressure and a hint for the others.
    fn ready(&self, timeout: Option<Duration>) -> Result<Option<Happened>> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let flags = match self.interest() {
            Interest::Priority => PollFlags::PRI,
            Interest::Readable => PollFlags::IN,
        };
        let mut fds = [PollFd::new(self, flags)];
        let count = rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
            .map_err(|errno| self.error(errno))?;
        let got = fds[0].revents();
        Ok((count > 0).then_some(match self.watched {
            Watched::Pressure(_) if !got.contains(PollFlags::PRI) => Happened::Removed,
            _ => Happened::Pressure,
        }))
    }

    /// The present counts; `None` when the group is gone.
    fn counts(&self) -> Result<Option<Counts>> {
        let file = match &self.source {
            Source::File(file) => file,
            Source::Notified { count, .. } | Source::Ticking { count, .. } => count,
        };
        let mut buffer = Vec::with_capacity(256);
        match dir::read_all(file.as_fd(), &mut buffer) {
            Ok(()) => {}
            Err(Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(self.error(errno)),
        }
        let text = String::from_utf8_lossy(&buffer);
        let field = |name| parse::field(&text, name).unwrap_or(0);
        Ok(Some(match self.watched {
            Watched::OutOfMemory => Counts { occasions: field("oom"), kills: field("oom_kill") },
            Watched::PidsLimit => Counts { occasions: field("max"), kills: 0 },
            Watched::Populated => Counts { occasions: field("populated"), kills: 0 },
            Watched::Pressure(_) => Counts::default(),
        }))
    }

    fn error(&self, errno: Errno) -> Error {
        Error::Read { path: self.path.clone(), source: errno.into() }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::File(file) => file.as_fd(),
            Source::Notified { event: descriptor, .. } | Source::Ticking { timer: descriptor, .. } => {
                descriptor.as_fd()
            }
        }
    }
}
