//! `start`: lets a created container execute its command.

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
    let hooks = spec.hooks().as_ref();
    let started = container_core::launch::release(&found.entry.gate(), || Ok(()));
    found.entry.remove_gate()?;
    started?;
    crate::create::poststart(context, &found, hooks)
}
