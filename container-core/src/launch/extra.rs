//! What a starting process asks for less often: hooks, network devices, somewhere to send the seccomp listener.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::Hook;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use serde_json::json;

use super::{Io, Target, exec};
use crate::error::{Error, Result};
use crate::hooks::{self, HookKind, HookProcess, HookState, run_hooks};
use crate::plan::operation::Request;
use crate::plan::{self, Plan, Services, StartHook};
use crate::state::Status;
use crate::step::Step;
use crate::sys::socket;

/// Does what `request` asks for the process.
pub(super) fn answer(
    services: &Services,
    request: u32,
    fd: Option<OwnedFd>,
    target: &Target<'_>,
) -> Result<()> {
    let is = |known: Request| request == known as u32;
    if is(Request::CreateHooks) {
        let state = state(services, Status::Creating, target.pid);
        // Of old, prestart hooks belonged to start: they were told that the container is created, and still expect it.
        let of_old = HookState { status: Status::Created, ..state.clone() };
        run_hooks(HookKind::Prestart, &services.hooks.prestart, &of_old)?;
        run_hooks(HookKind::CreateRuntime, &services.hooks.create_runtime, &state)?;
        for (index, hook) in services.hooks.create_container.iter().enumerate() {
            let plan = plan::exec::hook(hook, services.kinds, &services.state.root)?;
            // A program of the host's: it is no process of the container.
            let target = Target { cgroup: None, ..*target };
            run_inside(HookKind::CreateContainer, index, hook, &plan, &state, &target)?;
        }
        Ok(())
    } else if is(Request::StartHooks) {
        let state = state(services, Status::Created, target.pid);
        for (index, StartHook { hook, plan }) in services.hooks.start_container.iter().enumerate() {
            run_inside(HookKind::StartContainer, index, hook, plan, &state, target)?;
        }
        Ok(())
    } else if is(Request::NetworkDevices) {
        crate::netlink::move_devices(&services.network_devices, target.pid)
    } else if is(Request::Listener) {
        send_listener(services, fd, target.pid)
    } else {
        Ok(())
    }
}

fn state(services: &Services, status: Status, pid: i32) -> HookState {
    let fields = &services.state;
    let mut state = HookState::new(&fields.version, &fields.id, status, &fields.bundle);
    state.pid = pid;
    state.annotations = fields.annotations.clone();
    state
}

/// Runs a hook in the container's namespaces.
fn run_inside(
    kind: HookKind,
    index: usize,
    hook: &Hook,
    plan: &Plan,
    state: &HookState,
    target: &Target<'_>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::setup(Step::Hooks, format!("{kind}: its input and output"), e);
    let (stdio, output) = hooks::stdio(state).map_err(failed)?;
    let io = Io {
        stdin: Some(stdio.input),
        stderr: Some(stdio.output.try_clone().map_err(failed)?),
        stdout: Some(stdio.output),
        ..Io::default()
    };
    let running = exec(target, plan, io).map_err(|error| hooks::not_started(kind, index, hook, &error))?;
    let pid = Pid::from_raw(running.pid)
        .ok_or_else(|| failed(std::io::Error::from(std::io::ErrorKind::NotFound)))?;
    hooks::supervise(kind, index, hook, HookProcess::new(pid, running.pidfd, output))
}

/// Sends the listener of the filter to whoever is to answer, with what the runtime specification says about the process.
fn send_listener(services: &Services, fd: Option<OwnedFd>, pid: i32) -> Result<()> {
    let (Some(listener), Some(fd)) = (&services.listener, fd) else { return Ok(()) };
    let failed = |errno: rustix::io::Errno| {
        let subject = format!("failed to connect with seccomp agent {}", listener.path.display());
        Error::setup(Step::Seccomp, subject, errno)
    };
    let fields = &services.state;
    let message = json!({
        "ociVersion": fields.version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata.clone().unwrap_or_default(),
        "state": state(services, Status::Creating, pid),
    });
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    let address = SocketAddrUnix::new(&listener.path).map_err(failed)?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    let text = message.to_string();
    socket::send(socket.as_fd().as_raw_fd(), text.as_bytes(), Some(fd.as_raw_fd()))
        .map_err(|errno| failed(rustix::io::Errno::from_raw_os_error(errno.0)))
}
