//! Running a plan: the parent's side of starting a process.
//!
//! The calling thread opens what of the host is to be seen inside, makes the control group, has a [launcher] clone, and serves the
//! new process until it has executed the command. What runs in that process is in [`child`]; what the two say to each other is
//! in [`protocol`]. Whatever fails, the process is reaped and everything made so far is gone before an error is returned.

mod cgroups;
mod child;
mod copy_up;
mod extra;
mod failure;
mod gate;
mod identity;
mod init;
mod launcher;
mod maps;
mod overlay;
mod path;
mod program;
mod protocol;
mod root_mount;
mod rootfs;
mod serve;
mod shield;
mod terminal;
mod wiring;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

pub use gate::release;
pub use root_mount::RootMount;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::operation::Operation;
use crate::step::Step;
use crate::sys::clone::{Born, CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP, CloneArgs, Cradle, Main};
use cgroups::Made;
use child::{Context, GateKind};
use launcher::{Reserved, Surroundings};
use serve::{Outcome, Server};
use shield::Shield;
use wiring::Wiring;

/// Descriptors a process starts with.
#[derive(Debug, Default)]
pub struct Io {
    /// Standard input; `None`: the calling process's own.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `None`: the calling process's own.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None`: the calling process's own.
    pub stderr: Option<OwnedFd>,
    /// Further descriptors with the number each has inside, 3 or more.
    pub inherit: Vec<(OwnedFd, i32)>,
    /// How many of the calling process's descriptors from 3 on stay as they are.
    pub preserve: u32,
    /// A connected Unix socket that gets the terminal's master side, when the process has a terminal. `None`: it is in
    /// [`Running::terminal`].
    pub console: Option<OwnedFd>,
}

/// How a created container waits for its start.
#[derive(Clone, Debug)]
pub enum Gate {
    /// This process gives the order, by [`Created::start`]; if it ends before, the container does too.
    Held,
    /// Whoever calls [`release`] with this path does, from any process. The path is made here, as a Unix socket. Its directory
    /// may have any length; the socket is removed by the one who made the directory. The container waits on when the creator
    /// ends, from [`Created::detach`] on: before, nobody else may know of it.
    Socket(PathBuf),
}

/// A process that executes its command.
#[derive(Debug)]
#[non_exhaustive]
pub struct Running {
    /// Its id, as the calling process sees it. The pidfd is what identifies it.
    pub pid: i32,
    /// Refers to this very process, whatever happens to its number.
    pub pidfd: OwnedFd,
    /// The control group that was made for it. `None` for a process that joined, or where none was made.
    pub cgroup: Option<cgroup::Cgroup>,
    /// The master side of its terminal, when it has one and nobody else got it.
    pub terminal: Option<OwnedFd>,
    /// Limits that this host could not set, where they were asked for as best effort.
    pub skipped: Vec<String>,
    /// Where an init ([`Extras::init`](crate::plan::Extras::init)) writes the wait status of the command, an int in the machine's byte
    /// order, before it ends itself. The pipe does not block.
    pub status: Option<OwnedFd>,
    /// What stays mounted in the calling process's namespace, for a container without a mount namespace of its own: to be
    /// unmounted when it has ended.
    pub root_mount: Option<RootMount>,
}

/// A process with everything set up that waits for the order to execute its command.
#[derive(Debug)]
#[non_exhaustive]
pub struct Created {
    /// As in [`Running`].
    pub pid: i32,
    /// As in [`Running`].
    pub pidfd: OwnedFd,
    /// As in [`Running`].
    pub cgroup: Option<cgroup::Cgroup>,
    /// As in [`Running`].
    pub terminal: Option<OwnedFd>,
    /// As in [`Running`].
    pub skipped: Vec<String>,
    /// As in [`Running`].
    pub status: Option<OwnedFd>,
    /// As in [`Running`].
    pub root_mount: Option<RootMount>,
    /// The process ends when this is closed without a word.
    channel: Option<OwnedFd>,
    /// What there is to do at the start, when this process gives the order.
    plan: Option<Plan>,
}

/// A running container to start one more process in.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its first process.
    pub pidfd: BorrowedFd<'a>,
    /// Its number.
    pub pid: i32,
    /// The control group the new process enters.
    pub cgroup: Option<&'a cgroup::Cgroup>,
}

/// Starts the container of a plan and returns when its command runs.
///
/// # Errors
/// [`Error::Setup`] with the step that failed, [`Error::Exec`] when the command cannot be executed, [`Error::Limit`] for a limit
/// that cannot be set, [`Error::Hook`] for a hook that failed. Nothing is left behind then.
pub fn spawn(plan: &Plan, io: Io) -> Result<Running> {
    let (started, _) = start(plan, io, GateKind::Open, None)?;
    Ok(started)
}

/// Sets the container of a plan up and returns when only the order to start is missing.
///
/// # Errors
/// As [`spawn`]; that the command is not there or may not be executed shows here already.
pub fn create(plan: &Plan, io: Io, gate: Gate) -> Result<Created> {
    let ((started, channel), plan) = match &gate {
        Gate::Held => (start(plan, io, GateKind::Held, None)?, Some(plan.clone())),
        Gate::Socket(path) => {
            let listener = gate::listen(path)?;
            let started = start(plan, io, GateKind::Socket(listener.as_raw_fd()), None);
            if started.is_err() {
                let _ = std::fs::remove_file(path);
            }
            (started?, None)
        }
    };
    let Running { pid, pidfd, cgroup, terminal, skipped, status, root_mount } = started;
    Ok(Created { pid, pidfd, cgroup, terminal, skipped, status, root_mount, channel, plan })
}

/// Starts one more process in a running container, by a plan made with [`Plan::exec`].
///
/// # Errors
/// As [`spawn`].
pub fn exec(target: &Target<'_>, plan: &Plan, io: Io) -> Result<Running> {
    let (started, _) = start(plan, io, GateKind::Open, Some(target))?;
    Ok(started)
}

impl Created {
    /// Gives the order to start and returns when the command runs. For a container made with [`Gate::Held`].
    ///
    /// # Errors
    /// As [`spawn`], and [`Error::Invalid`] for one made with [`Gate::Socket`]: that is started with [`release`].
    pub fn start(mut self) -> Result<Running> {
        let Some((channel, plan)) = self.channel.take().zip(self.plan.take()) else {
            return Err(Error::invalid(
                "start",
                "the container waits at a socket: use release with its path",
            ));
        };
        let outcome = gate::order(&channel).and_then(|()| {
            let born = Born::of(self.pid, self.pidfd.as_raw_fd());
            let mut server = Server::new(&plan.services, channel, &born, None, self.cgroup.as_ref());
            server.serve(&plan.inside)
        });
        if let Err(error) = outcome {
            serve::put_down(self.pidfd.as_fd());
            if let Some(cgroup) = &self.cgroup {
                let _ = cgroup.remove();
            }
            if let Some(mount) = &self.root_mount {
                let _ = mount.unmount();
            }
            return Err(error);
        }
        let Self { pid, pidfd, cgroup, terminal, skipped, status, root_mount, .. } = self;
        Ok(Running { pid, pidfd, cgroup, terminal, skipped, status, root_mount })
    }

    /// Lets the container wait for its start without this process, which nobody can give before. For a container made with
    /// [`Gate::Socket`]; one that is dropped without it ends. To be called when whatever others find the container by is in its
    /// place: so a creator that is killed in the middle leaves no process that nobody knows of.
    ///
    /// # Errors
    /// [`Error::Setup`] when the process has ended meanwhile, and [`Error::Invalid`] for one made with [`Gate::Held`].
    pub fn detach(&mut self) -> Result<()> {
        if self.plan.is_some() {
            return Err(Error::invalid("detach", "the container waits for the order of this process"));
        }
        self.channel.take().map_or(Ok(()), |channel| gate::order(&channel))
    }
}

/// The interpreter and its part of the plan, as the new process has them.
#[derive(Debug)]
struct Child {
    operations: *const [Operation],
    context: Context,
}

impl Main for Child {
    fn main(&mut self) -> ! {
        child::main(crate::sys::clone::borrow(&self.operations), &mut self.context)
    }
}

fn start(
    plan: &Plan,
    io: Io,
    gate: GateKind,
    target: Option<&Target<'_>>,
) -> Result<(Running, Option<OwnedFd>)> {
    let launcher = reserve(plan)?;
    let cgroup = cgroups::make(plan.cgroup.as_ref())?;
    let (mut root_mount, mut status) = (None, None);
    let started = Wiring::new(plan, io, gate, target).and_then(|mut wiring| {
        let started = start_in(plan, &mut wiring, gate, target, &cgroup, launcher);
        match &plan.root_stays_at {
            Some(path) if started.is_ok() => root_mount = RootMount::of(wiring.root(), path),
            Some(_) => drop(root_mount::detach(wiring.root())),
            None => {}
        }
        status = wiring.init_status();
        started
    });
    let started = started.map_err(|error| cgroups::explain(cgroup.group.as_ref(), error));
    if started.is_err()
        && let Some(made) = &cgroup.group
    {
        // The error that counts is the one that led here.
        let _ = made.remove();
    }
    let (pid, pidfd, terminal, channel) = started?;
    let Made { group, skipped } = cgroup;
    let running = Running { pid, pidfd, cgroup: group, terminal, skipped, status, root_mount };
    Ok((running, channel))
}

/// A launcher for the plan's process.
fn reserve(plan: &Plan) -> Result<Reserved> {
    let surroundings = match (plan.isolated, plan.services.kinds & crate::plan::USER) {
        (false, _) => Surroundings::Host,
        (true, 0) => Surroundings::Empty,
        (true, _) => Surroundings::Visible,
    };
    let owned = plan.clone_flags & crate::plan::USER != 0;
    launcher::reserve(surroundings, plan.clone_flags & libc::CLONE_NEWNET as u64 != 0 && !owned)
}

type Started = (i32, OwnedFd, Option<OwnedFd>, Option<OwnedFd>);

fn start_in(
    plan: &Plan,
    wiring: &mut Wiring,
    gate: GateKind,
    target: Option<&Target<'_>>,
    cgroup: &Made,
    mut launcher: Reserved,
) -> Result<Started> {
    let group = target.and_then(|target| target.cgroup).or(cgroup.group.as_ref());
    let entry = group.map(|group| group.entry().map_err(cgroups::error)).transpose()?;
    wiring.prepare(plan)?;
    let into = entry.as_ref().and_then(|entry| entry.clone_into.as_ref());
    if let Some(into) = into.filter(|_| !STILLBORN.load(Ordering::Relaxed)) {
        if let Some(started) = attempt(plan, wiring, gate, group, entry.as_ref(), Some(into), launcher)? {
            return Ok(started);
        }
        STILLBORN.store(true, Ordering::Relaxed);
        wiring.renew_channel()?;
        launcher = reserve(plan)?;
    }
    if let Some(into) = into {
        wiring.enter_by_writing(into)?;
    }
    attempt(plan, wiring, gate, group, entry.as_ref(), None, launcher)?.ok_or_else(ended_early)
}

/// Children that are cloned into a control group are killed at birth. Linux 6.14 and later do so when the calling process's own
/// group, or the other one, was ever killed as a whole (`cgroup.kill`): they compare the marks of two different groups. As
/// that stays so, later children enter their group by themselves from the beginning.
static STILLBORN: AtomicBool = AtomicBool::new(false);

fn ended_early() -> Error {
    Error::setup(
        Step::Clone,
        "the process ended before its command ran (killed from outside?)",
        std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
    )
}

/// Clones and serves the child, which is born in the control group `into`, or enters it by itself. `None`: it was killed before it
/// said anything, and is gone.
fn attempt(
    plan: &Plan,
    wiring: &mut Wiring,
    gate: GateKind,
    group: Option<&cgroup::Cgroup>,
    entry: Option<&cgroup::Entry>,
    into: Option<&OwnedFd>,
    launcher: Reserved,
) -> Result<Option<Started>> {
    let shares_memory = plan.may_share_memory && gate == GateKind::Open;
    let shield = shares_memory.then(|| Shield::raise(plan.capable));
    let context = wiring.context(plan, gate, shares_memory, entry);
    let state = Child { operations: &raw const *plan.inside, context };
    let mut cradle = Cradle::new(state).map_err(|e| Error::setup(Step::Clone, "a stack", e))?;

    let mut args =
        CloneArgs { flags: plan.clone_flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if shares_memory {
        // Without CLONE_VFORK a child that meets its memory limit would take all who share its memory with it.
        args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    }
    args.flags |= CLONE_CLEAR_SIGHAND;
    if let Some(into) = into {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = into.as_raw_fd() as u64;
    }
    let (channel, child_end) = wiring.channel()?;
    let pending = launcher.begin(cradle.ready(args), Some(child_end));
    // While memory is shared the launcher only comes back when the command runs: the child's first word tells that it lives.
    let console = wiring.console.as_ref().map(AsFd::as_fd);
    let mut server = Server::new(&plan.services, channel, cradle.born(), console, group);
    let asks = |operation: &Operation| matches!(operation, Operation::FromHost { .. });
    server.open_with(plan.inside.iter().any(asks).then(|| wiring.outside_context(plan)));
    let (outcome, cloned) = if shares_memory {
        let outcome = server.serve(&plan.inside);
        if outcome.is_err()
            && let Some(pidfd) = cradle.born().lend()
        {
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
        (outcome, pending.wait())
    } else {
        match pending.wait() {
            Ok(pid) => (server.serve(&plan.inside), Ok(pid)),
            Err(error) => (Ok(Outcome::Ready), Err(error)),
        }
    };
    let silent = server.heard_nothing();
    let (pid, successor, terminal, channel) = server.finish();
    if let Err(error) = cloned {
        cradle.vacate();
        return Err(maps::explain_clone(error, plan));
    }
    let pidfd = wiring::adopt(cradle.born().pidfd());
    let announced = shares_memory && cradle.state().context.executing;
    let result = match outcome {
        Ok(Outcome::Executed { announced: told }) if told || announced => Ok(None),
        Ok(Outcome::Executed { .. }) => Err(ended_early()),
        Ok(Outcome::Ready) => Ok(Some(channel)),
        Err(error) => Err(error),
    };
    match result {
        Ok(channel) => {
            cradle.vacate();
            drop(shield);
            let pidfd = match successor {
                Some(successor) => {
                    // The process that went first has ended; its status is of no interest.
                    serve::reap(pidfd.as_fd());
                    successor
                }
                None => pidfd,
            };
            Ok(Some((pid, pidfd, terminal, channel)))
        }
        Err(error) => {
            let status = match &successor {
                None if plan.has_second_stage() => serve::put_down_group(pidfd.as_fd(), pid),
                _ => serve::put_down(pidfd.as_fd()),
            };
            if let Some(successor) = &successor {
                serve::put_down(successor.as_fd());
            }
            cradle.vacate();
            drop(shield);
            let killed = status.and_then(|status| status.terminating_signal()) == Some(libc::SIGKILL);
            if into.is_some() && silent && !announced && killed { Ok(None) } else { Err(error) }
        }
    }
}

/// An owned copy above `min`.
fn raise(fd: BorrowedFd<'_>, min: i32) -> Result<OwnedFd> {
    let raw = crate::sys::fd::duplicate_above(fd.as_raw_fd(), min)
        .map_err(|errno| Error::setup(Step::Descriptors, "", errno))?;
    Ok(wiring::adopt(raw))
}
