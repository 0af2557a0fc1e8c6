//! Serving a starting process until it has executed its command.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::child::{self, Context, Failure};
use super::protocol::{self, Message};
use super::{Target, failure, identity, maps};
use crate::error::{Error, Result};
use crate::plan::Services;
use crate::plan::operation::{Operation, Request};
use crate::step::Step;
use crate::sys::clone::Born;
use crate::sys::socket;

/// How serving ended well.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The channel is closed: by exec, when that was `announced`.
    Executed { announced: bool },
    /// The process waits at its gate.
    Ready,
}

/// The parent's side of the channel.
#[derive(Debug)]
pub(super) struct Server<'a> {
    services: &'a Services,
    channel: OwnedFd,
    born: &'a Born,
    successor: Option<(i32, OwnedFd)>,
    console: Option<BorrowedFd<'a>>,
    /// The container's control group, for hooks that run inside.
    cgroup: Option<&'a cgroup::Cgroup>,
    terminal: Option<OwnedFd>,
    /// What the host's part of mounts is made with, and how often that was asked for.
    host: Option<Context>,
    opened: usize,
    announced: bool,
    silent: bool,
}

impl<'a> Server<'a> {
    pub(super) fn new(
        services: &'a Services,
        channel: OwnedFd,
        born: &'a Born,
        console: Option<BorrowedFd<'a>>,
        cgroup: Option<&'a cgroup::Cgroup>,
    ) -> Self {
        Self {
            services,
            channel,
            born,
            successor: None,
            console,
            cgroup,
            terminal: None,
            host: None,
            opened: 0,
            announced: false,
            silent: true,
        }
    }

    /// Lets the process ask for parts of the host.
    pub(super) fn open_with(&mut self, context: Option<Context>) {
        self.host = context;
    }

    /// The process has not said a word.
    pub(super) fn heard_nothing(&self) -> bool {
        self.silent
    }

    /// Process id, the pidfd of a second process that took over, the terminal, and the channel.
    pub(super) fn finish(self) -> (i32, Option<OwnedFd>, Option<OwnedFd>, OwnedFd) {
        let pid = self.pid();
        (pid, self.successor.map(|(_, pidfd)| pidfd), self.terminal, self.channel)
    }

    /// Does what the process asks for, until its command runs, it waits at its gate, or something failed.
    pub(super) fn serve(&mut self, operations: &[Operation]) -> Result<Outcome> {
        loop {
            let mut message = [0; protocol::SIZE];
            let (length, fd) = socket::receive(self.channel.as_raw_fd(), &mut message)
                .map_err(|errno| Error::setup(Step::Clone, "the channel", errno))?;
            let fd = fd.map(crate::sys::fd::adopt);
            if length == 0 {
                return Ok(Outcome::Executed { announced: self.announced });
            }
            self.silent = false;
            match protocol::decode(&message) {
                Message::Failure { step, errno, detail, text } => {
                    let failure = Failure { errno, detail };
                    return Err(failure::explain(operations, step, failure, text, self.services));
                }
                Message::Request(request) if request == Request::Ready as u32 => return Ok(Outcome::Ready),
                Message::Request(request) if request == Request::Executing as u32 => self.announced = true,
                Message::Request(request) if request == Request::FromHost as u32 => {
                    self.open_sources(operations)?;
                }
                // It is told twice.
                Message::Request(request)
                    if request == Request::Successor as u32 && self.successor.is_some() => {}
                Message::Request(request) if request == Request::Successor as u32 => {
                    self.succeed(fd)?;
                    // To the second process, which waits to be known.
                    socket::send(self.channel.as_raw_fd(), &message, None)
                        .map_err(|errno| Error::setup(Step::Clone, "the channel", errno))?;
                }
                Message::Request(request) => {
                    let answer = self.answer(request, fd, &message)?;
                    socket::send(self.channel.as_raw_fd(), &answer, None)
                        .map_err(|errno| Error::setup(Step::Clone, "the channel", errno))?;
                }
            }
        }
    }

    /// Makes the host's part of mounts, the next in the plan that is not made yet, and hands it over.
    fn open_sources(&mut self, operations: &[Operation]) -> Result<()> {
        let mut lists = operations.iter().filter_map(|operation| match operation {
            Operation::FromHost { sources } => Some(sources),
            _ => None,
        });
        let (Some(sources), Some(context)) = (lists.nth(self.opened), &mut self.host) else {
            let unknown = std::io::Error::from(std::io::ErrorKind::InvalidData);
            return Err(Error::setup(Step::OpenTree, "what the process asks for", unknown));
        };
        self.opened += 1;
        let made = child::run(sources, context).map_err(|(index, failure)| {
            failure::explain(sources, index, failure, &context.scratch.text, self.services)
        });
        let mut take = |slot| std::mem::replace(&mut context.slots[slot], -1);
        let opened: Vec<OwnedFd> = sources
            .iter()
            .filter_map(Operation::opens)
            .map(&mut take)
            .filter(|fd| *fd >= 0)
            .map(crate::sys::fd::adopt)
            .collect();
        made?;
        for fd in &opened {
            let message = protocol::request(Request::FromHost);
            socket::send(self.channel.as_raw_fd(), &message, Some(fd.as_raw_fd()))
                .map_err(|errno| Error::setup(Step::Clone, "the channel", errno))?;
        }
        Ok(())
    }

    fn answer(&mut self, request: u32, fd: Option<OwnedFd>, message: &[u8]) -> Result<Vec<u8>> {
        let is = |known: Request| request == known as u32;
        if is(Request::MapIds) {
            if let Some(maps) = &self.services.maps {
                maps::write(self.pid(), maps)?;
            }
        } else if is(Request::TimeOffsets) {
            if let Some(offsets) = &self.services.time_offsets {
                let path = format!("/proc/{}/timens_offsets", self.pid());
                std::fs::write(path, offsets.to_bytes()).map_err(|e| {
                    Error::setup(Step::TimeOffset, offsets.to_string_lossy().trim().replace('\n', ", "), e)
                })?;
            }
        } else if is(Request::Limits) {
            for &(resource, soft, hard) in &self.services.limits {
                crate::sys::cred::set_limit_of(self.pid(), resource, soft, hard)
                    .map_err(|errno| Error::setup(Step::ResourceLimit, limit_name(resource), errno))?;
            }
        } else if is(Request::Identify) {
            return self.identify(fd);
        } else if is(Request::Terminal) {
            self.take_terminal(fd)?;
        } else if is(Request::CreateHooks)
            || is(Request::StartHooks)
            || is(Request::NetworkDevices)
            || is(Request::Listener)
        {
            let (pid, pidfd) = self.current()?;
            let target = Target { pidfd, pid, cgroup: self.cgroup };
            super::extra::answer(self.services, request, fd, &target)?;
        }
        Ok(message.to_vec())
    }

    fn pid(&self) -> i32 {
        self.successor.as_ref().map_or_else(|| self.born.pid(), |(pid, _)| *pid)
    }

    fn current(&self) -> Result<(i32, BorrowedFd<'_>)> {
        let pidfd = match &self.successor {
            Some((_, pidfd)) => Some(pidfd.as_fd()),
            None => self.born.lend(),
        };
        let gone =
            || Error::setup(Step::Clone, "the process", std::io::Error::from(std::io::ErrorKind::NotFound));
        Ok((self.pid(), pidfd.ok_or_else(gone)?))
    }

    fn identify(&mut self, root: Option<OwnedFd>) -> Result<Vec<u8>> {
        let (Some(root), Some(user)) = (root, &self.services.user) else {
            return Ok(identity::encode(0, 0, &[], b""));
        };
        let found = crate::user::resolve(root.as_fd(), user)?;
        let groups = found.additional_gids.len();
        if groups > identity::MOST_GROUPS {
            // Cut, it would have less rights than it should, or more where a group is there to refuse something.
            return Err(Error::invalid(
                format!("user {user}"),
                format!(
                    "it is in {groups} groups, and {} are the most that are taken over",
                    identity::MOST_GROUPS
                ),
            ));
        }
        let home = found.home.map(|home| home.into_os_string().into_encoded_bytes()).unwrap_or_default();
        Ok(identity::encode(found.uid, found.gid, &found.additional_gids, &home))
    }

    fn take_terminal(&mut self, master: Option<OwnedFd>) -> Result<()> {
        let Some(master) = master else { return Ok(()) };
        match &self.console {
            None => self.terminal = Some(master),
            // The name is what clients of the console socket expect as the message.
            Some(console) => socket::send(console.as_raw_fd(), b"/dev/ptmx", Some(master.as_raw_fd()))
                .map_err(|errno| Error::setup(Step::Terminal, "over the console socket", errno))?,
        }
        Ok(())
    }

    /// The process that went first hands over to the one it made beside itself.
    fn succeed(&mut self, pidfd: Option<OwnedFd>) -> Result<()> {
        let pidfd = pidfd.ok_or_else(|| {
            Error::setup(
                Step::Clone,
                "the second process",
                std::io::Error::from(std::io::ErrorKind::NotFound),
            )
        })?;
        self.successor = Some((pid_of(pidfd.as_fd())?, pidfd));
        Ok(())
    }
}

fn limit_name(resource: u32) -> String {
    format!("resource {resource}")
}

/// The process id behind a pidfd, as /proc sees it.
fn pid_of(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    pid.ok_or_else(|| Error::io("find the process in", &path, std::io::ErrorKind::InvalidData))
}

/// Waits for our own children, whatever signals come meanwhile.
fn wait(of: WaitId<'_>, options: WaitIdOptions) -> Option<WaitIdStatus> {
    loop {
        match rustix::process::waitid(of.clone(), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.ok().flatten(),
        }
    }
}

/// Waits for the end of our own child and takes its status away.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> Option<WaitIdStatus> {
    wait(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
}

/// Kills our own child and reaps it.
pub(super) fn put_down(pidfd: BorrowedFd<'_>) -> Option<WaitIdStatus> {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    reap(pidfd)
}

/// Kills our own child and whatever it made beside itself without being able to tell: that is in the process group which the
/// child leads. A group keeps its number as long as somebody, dead or alive, is in it, and the child is in it till the last.
pub(super) fn put_down_group(pidfd: BorrowedFd<'_>, group: i32) -> Option<WaitIdStatus> {
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    let _ = wait(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let Some(group) = rustix::process::Pid::from_raw(group) else { return reap(pidfd) };
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    // Whichever of the two comes first, the other one is left for the second turn.
    let mut own = None;
    for _ in 0..2 {
        let ended = wait(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED);
        own = own.or(ended);
    }
    own.or_else(|| reap(pidfd))
}
