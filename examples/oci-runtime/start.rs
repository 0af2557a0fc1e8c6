//! `start`: lets a created container execute its command.

use std::os::fd::AsFd;

use container_core::launch::{self, Target};
use container_core::plan::Extras;
use container_core::state::Status;

use crate::context::Context;
use crate::failure::Failure;

pub fn start(context: &Context, id: &str) -> Result<(), Failure> {
    let found = context.lock(id)?;
    match found.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(Failure::new(format!(
                "cannot start {id}: cannot start a container that has stopped"
            )));
        }
        Status::Running => {
            return Err(Failure::new(format!(
                "cannot start {id}: cannot start an already running container"
            )));
        }
        status => return Err(Failure::new(format!("cannot start {id}: container is {status}"))),
    }
    let spec = found.entry.spec()?;
    let Some(pidfd) = found.record.pidfd()? else { return Err(Failure::not_running("start", id)) };
    let cgroup = found.cgroup()?;
    let target = Target { pidfd: pidfd.as_fd(), pid: found.record.pid, cgroup: cgroup.as_ref() };
    let mut extras = Extras::new(id);
    extras.bundle.clone_from(&found.record.bundle);
    extras.keep_groups = crate::bundle::keeps_groups(&spec);
    let started = launch::release(&found.entry.gate(), &target, &spec, &extras);
    // Started or failed: it waits no more.
    found.entry.remove_gate()?;
    let poststart = || crate::create::poststart(context, found, spec.hooks().as_ref()).map(drop);
    match started {
        Ok(()) => poststart(),
        // runc and youki do not wait for the startContainer hooks, so there poststart hooks run even when one of those fails.
        Err(error @ container_core::Error::Hook { .. }) => poststart().and(Err(error.into())),
        Err(error) => Err(error.into()),
    }
}
