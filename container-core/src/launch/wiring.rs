//! What one launch opens: slots, channel, streams. Closed when the launch is over, however it ends.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::child::{self, Context, Failure, GateKind, Scratch};
use super::identity::Identity;
use super::{Io, Target, failure, init, maps, overlay, program, raise};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::operation::{Operation, PROC, ROOT};
use crate::step::Step;
use crate::sys::fd;
use crate::sys::init_program::InitProgram;

pub(super) use crate::sys::fd::adopt;

/// The parent's side of everything that is open during a launch.
#[derive(Debug)]
pub(super) struct Wiring {
    slots: Vec<i32>,
    parent: Option<OwnedFd>,
    child: Option<OwnedFd>,
    /// The file by which the process enters a version 2 group, when it is not born there.
    cgroup_processes: Option<OwnedFd>,
    streams: [Option<OwnedFd>; 3],
    inherited: Vec<(OwnedFd, i32)>,
    preserve: u32,
    above: i32,
    pub(super) console: Option<OwnedFd>,
    init_pidfd: i32,
    /// The init in front of the command, with the two ends of the pipe for the command's status.
    init: Option<(InitProgram, OwnedFd, OwnedFd)>,
}

impl Wiring {
    pub(super) fn new(plan: &Plan, io: Io, gate: GateKind, target: Option<&Target<'_>>) -> Result<Self> {
        if let Some((_, wrong)) = io.inherit.iter().find(|(_, number)| *number < 3) {
            return Err(Error::invalid(format!("inherited descriptor {wrong}"), "numbers start at 3"));
        }
        let highest = io.inherit.iter().map(|(_, number)| *number).max().unwrap_or(2);
        let above = (highest + 1).max(3 + io.preserve as i32);
        let lift = |fd: OwnedFd| if fd.as_raw_fd() < above { raise(fd.as_fd(), above) } else { Ok(fd) };
        let (parent, child) = pair(above)?;
        let streams = [io.stdin, io.stdout, io.stderr].map(|stream| stream.map(lift).transpose());
        let [stdin, stdout, stderr] = streams;
        let inherited =
            io.inherit.into_iter().map(|(fd, number)| Ok((lift(fd)?, number))).collect::<Result<Vec<_>>>()?;
        let _ = gate;
        let has_init = plan.inside.iter().any(|operation| matches!(operation, Operation::Init { .. }));
        let init = has_init.then(|| init_program(above)).transpose()?;
        Ok(Self {
            slots: vec![-1; plan.slots],
            parent: Some(parent),
            child: Some(child),
            cgroup_processes: None,
            streams: [stdin?, stdout?, stderr?],
            inherited,
            preserve: io.preserve,
            above,
            console: io.console,
            init_pidfd: target.map_or(-1, |target| target.pidfd.as_raw_fd()),
            init,
        })
    }

    /// Runs the plan's outside part.
    pub(super) fn prepare(&mut self, plan: &Plan) -> Result<()> {
        let proc = fd::openat(fd::CWD, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0)
            .map_err(|errno| Error::io("open", "/proc", errno))?;
        self.slots[PROC] = proc;
        for (slot, maps) in &plan.idmaps {
            self.slots[*slot] = maps::user_namespace(maps)?;
        }
        let mut context = self.outside_context(plan);
        let done = run_outside(&plan.outside, &mut context);
        // What was opened is ours to close, also when a later operation failed.
        self.slots = context.slots;
        done.map_err(|(index, failure)| {
            failure::explain(&plan.outside, index, failure, &context.scratch.text, &plan.services)
        })
    }

    /// What the calling thread works with, in the caller's own mount namespace.
    pub(super) fn outside_context(&self, plan: &Plan) -> Context {
        Context { own_mounts: false, ..self.context(plan, GateKind::Open, false, None) }
    }

    /// What the process gets to see of all this. Its descriptors are copies with the same numbers.
    pub(super) fn context(
        &self,
        plan: &Plan,
        gate: GateKind,
        shares_memory: bool,
        entry: Option<&cgroup::Entry>,
    ) -> Context {
        let phrases = match gate {
            // Somebody without the plan at hand may have to say what failed.
            GateKind::Socket(_) => plan.inside.iter().map(failure::phrase).collect(),
            _ => Vec::new(),
        };
        Context {
            slots: self.slots.clone(),
            channel: self.child.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            parent_end: self.parent.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            privileged: plan.privileged,
            gate,
            own_mounts: true,
            cgroup_entries: {
                let tasks = entry.iter().flat_map(|entry| &entry.tasks);
                tasks.chain(&self.cgroup_processes).map(AsRawFd::as_raw_fd).collect()
            },
            stdio: [0, 1, 2].map(|n: usize| self.streams[n].as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            inherited: self.inherited.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect(),
            first_closed: 3 + self.preserve as i32,
            above: self.above,
            shares_memory,
            executing: false,
            init_pidfd: self.init_pidfd,
            phrases,
            command: program::Command::new(&plan.program),
            init: self.init.as_ref().and_then(|(program, _, status)| init_of(plan, program, status)),
            identity: Identity::new(),
            scratch: Scratch::new(),
        }
    }

    /// Where the command's status comes out, if there is an init.
    pub(super) fn init_status(&mut self) -> Option<OwnedFd> {
        self.init.take().map(|(_, status, _)| status)
    }

    /// A new channel, for one more clone.
    pub(super) fn renew_channel(&mut self) -> Result<()> {
        let (parent, child) = pair(self.above)?;
        (self.parent, self.child) = (Some(parent), Some(child));
        Ok(())
    }

    /// The process is to enter this version 2 group by itself.
    pub(super) fn enter_by_writing(&mut self, group: &OwnedFd) -> Result<()> {
        let file = fd::openat(group.as_raw_fd(), c"cgroup.procs", libc::O_WRONLY, 0)
            .map_err(|errno| Error::setup(Step::EnterCgroup, "cgroup.procs", errno))?;
        self.cgroup_processes = Some(adopt(file));
        Ok(())
    }

    /// The root, as it was opened before the clone; -1 when it was not.
    pub(super) fn root(&self) -> i32 {
        self.slots[ROOT]
    }

    /// The parent's and the process's end of the channel. The second is closed once the process has a copy.
    pub(super) fn channel(&mut self) -> Result<(OwnedFd, OwnedFd)> {
        self.parent.take().zip(self.child.take()).ok_or_else(|| {
            Error::setup(Step::Clone, "the channel", std::io::Error::from(std::io::ErrorKind::BrokenPipe))
        })
    }
}

/// All in the caller's mount namespace, but for an overlay that this kernel makes only of attached mounts, or only attached.
fn run_outside(operations: &[Operation], context: &mut Context) -> Result<(), (usize, Failure)> {
    let mut done = 0;
    while let Some(rest) = operations.get(done..) {
        let (index, failure) = match child::run(rest, context) {
            Ok(()) => break,
            Err((index, failure)) => (done + index, failure),
        };
        match &operations[index] {
            operation @ Operation::Overlay { overlay: layers, .. }
                if overlay::needs_own_mounts(layers, failure.errno) =>
            {
                child::perform_aside(operation, context).map_err(|failure| (index, failure))?;
            }
            _ => return Err((index, failure)),
        }
        done = index + 1;
    }
    Ok(())
}

/// The parent's and the process's end, the latter out of the way of descriptors that get a number.
fn pair(above: i32) -> Result<(OwnedFd, OwnedFd)> {
    let (parent, child) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Error::setup(Step::Descriptors, "the channel", e))?;
    let child = if child.as_raw_fd() < above { raise(child.as_fd(), above)? } else { child };
    Ok((parent, child))
}

fn init_program(above: i32) -> Result<(InitProgram, OwnedFd, OwnedFd)> {
    let failed = |e: std::io::Error| Error::setup(Step::Init, "", e);
    let mut program = InitProgram::new().map_err(failed)?;
    program.raise(above).map_err(|errno| failed(errno.into()))?;
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (read, write) = rustix::pipe::pipe_with(flags).map_err(|e| failed(e.into()))?;
    let write = if write.as_raw_fd() < above { raise(write.as_fd(), above)? } else { write };
    Ok((program, read, write))
}

fn init_of(plan: &Plan, program: &InitProgram, status: &OwnedFd) -> Option<init::Init> {
    plan.inside.iter().enumerate().find_map(|(own_step, operation)| match operation {
        Operation::Init { close_all } => Some(init::Init {
            file: program.file().as_raw_fd(),
            status: status.as_raw_fd(),
            parameters: program.parameters(),
            own_step,
            exec_step: plan.inside.len() - 1,
            close_all: *close_all,
        }),
        _ => None,
    })
}

impl Drop for Wiring {
    fn drop(&mut self) {
        for slot in self.slots.iter().filter(|slot| **slot >= 0) {
            fd::close(*slot);
        }
    }
}
