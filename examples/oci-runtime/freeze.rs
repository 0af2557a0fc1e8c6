//! `pause` and `resume`.

use container_core::state::Status;

use crate::context::{Context, Found};
use crate::failure::Failure;

pub fn pause(context: &Context, id: &str) -> Result<(), Failure> {
    let found = context.lock(id)?;
    match found.status() {
        Status::Running | Status::Created => {}
        status => {
            return Err(Failure::new(format!(
                "cannot pause {id}: container not running or created: {status}"
            )));
        }
    }
    cgroup_of(&found, id)?.freeze().map_err(|error| Failure::because(format!("pause {id}"), error))
}

pub fn resume(context: &Context, id: &str) -> Result<(), Failure> {
    let found = context.lock(id)?;
    if found.status() != Status::Paused {
        return Err(Failure::new(format!("cannot resume {id}: container not paused: {}", found.status())));
    }
    cgroup_of(&found, id)?.thaw().map_err(|error| Failure::because(format!("resume {id}"), error))
}

fn cgroup_of(found: &Found, id: &str) -> Result<cgroup::Cgroup, Failure> {
    found.cgroup()?.ok_or_else(|| Failure::new(format!("{id} has no control group of its own")))
}
