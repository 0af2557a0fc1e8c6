//! `delete`: what a container left goes away.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use container_core::state::Status;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::context::{Context, Found};
use crate::failure::Failure;
use crate::kill::kill_everything;

/// How long a killed container may take to be gone. The kernel has to free its memory first.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn delete(context: &Context, id: &str, force: bool, regex: bool) -> Result<(), Failure> {
    if !regex {
        return one(context, id, force);
    }
    let pattern =
        regex_lite::Regex::new(id).map_err(|error| Failure::because(format!("pattern {id:?}"), error))?;
    for name in context.state.list()?.iter().filter(|name| pattern.is_match(name)) {
        one(context, name, force)?;
    }
    Ok(())
}

fn one(context: &Context, id: &str, force: bool) -> Result<(), Failure> {
    let entry = match context.state.lock(id) {
        // Clean-up after a failure asks for what was never made, or is gone: that is what was wanted.
        Err(container_core::Error::NotFound { .. }) if force => return Ok(()),
        other => other?,
    };
    let record = match entry.record() {
        Ok(record) => record,
        // Its creator died before there was anything but the name: nobody else holds the lock.
        Err(container_core::Error::NotFound { .. }) => return Ok(entry.remove()?),
        Err(error) => return Err(error.into()),
    };
    let found = Found { entry, record };
    match found.status() {
        // The specification wants `stopped`; every client deletes created containers too.
        Status::Stopped | Status::Created | Status::Creating => {}
        status if !force => {
            return Err(Failure::new(format!("cannot delete container {id} that is not stopped: {status}")));
        }
        _ => {}
    }
    destroy(context, found)
}

/// Ends a container and takes down what it leaves.
pub fn destroy(context: &Context, found: Found) -> Result<(), Failure> {
    if found.record.pid == 0 {
        // Its creator was killed. The container never was: no hooks.
        crate::record::clear_away(&found.record)?;
        return Ok(found.entry.remove()?);
    }
    kill_everything(&found)?;
    wait_for_end(&found)?;
    remove(context, found)
}

/// Waits until the first process is gone, or so far gone that only the reaping of others keeps it.
fn wait_for_end(found: &Found) -> Result<(), Failure> {
    let Some(pidfd) = found.record.pidfd()? else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    while found.record.is_alive() {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("container {} is still running after KILL", found.record.id)));
        }
        match nix::poll::poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100_u8))
        {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Failure::because("wait for the container to end", errno)),
        }
    }
    Ok(())
}

/// Removes what is left of a container whose processes are gone, and runs its poststop hooks.
pub fn remove(context: &Context, found: Found) -> Result<(), Failure> {
    if let Some(cgroup) = found.cgroup()? {
        cgroup.remove().map_err(|error| Failure::because(format!("remove {}", found.record.id), error))?;
    }
    let spec = found.entry.spec();
    let Found { entry, record } = found;
    crate::record::unmount(&record)?;
    entry.remove()?;
    if let Some(hooks) = spec.ok().as_ref().and_then(|spec| spec.hooks().as_ref()) {
        crate::create::poststop(context, hooks, &record);
    }
    Ok(())
}
