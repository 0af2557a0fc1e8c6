//! One more process of a running container.

use oci_spec::runtime::{Process, Spec};

use super::namespaces::Namespaces;
use super::operation::{FIRST_FREE, Operation, Slot};
use super::{CreateHooks, Extras, Facts, Plan, StateFields, c_string, process};
use crate::error::Result;

/// The slot of the container's init, by which all its namespaces are joined in one call.
pub(crate) const INIT: Slot = FIRST_FREE;

pub(super) fn process(process: &Process, container: &Spec, extras: &Extras, facts: &Facts) -> Result<Plan> {
    let mut slots = INIT + 1;
    // Whether a namespace was made or joined when the container started: its init is in it, and that is what counts now.
    let namespaces = Namespaces::from_spec(container, &mut slots)?;
    let kinds = namespaces.joined.iter().fold(namespaces.new, |kinds, joined| kinds | joined.kind);

    // The process that joins still has the host program's memory (a copy of it): nobody inside may look at it.
    let mut inside = vec![Operation::Shield];
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    let affinity = process.exec_cpu_affinity().as_ref();
    cpu_affinity(affinity.and_then(|a| a.initial().as_ref()), &mut inside)?;
    if !extras.no_cgroup {
        inside.push(Operation::EnterCgroup);
    }
    cpu_affinity(affinity.and_then(|a| a.cpu_affinity_final().as_ref()), &mut inside)?;
    inside.push(Operation::JoinAll { kinds });
    // Only children enter a pid namespace.
    inside.push(Operation::Succeed { flags: 0 });
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    if namespaces.has_user() {
        inside.push(Operation::BecomeRoot);
    }
    inside.push(Operation::Umask { mask: 0 });
    inside.push(Operation::Session);
    if extras.new_keyring {
        inside.push(Operation::Keyring { name: None });
    }
    if let Some(score) = process.oom_score_adj() {
        inside.push(Operation::OomScore { value: c_string("process.oomScoreAdj", score.to_string())? });
    }
    // The container's root is the root of the mount namespace just joined.
    inside.push(Operation::OpenRoot { path: c"/".to_owned() });
    let input = process::Input {
        process,
        spec: container,
        extras,
        facts,
        namespaces: &namespaces,
        start_hooks: false,
        gate: false,
    };
    process::lower(&input, &mut inside)?;
    let limits = if namespaces.has_user() { process::limits(process)? } else { Vec::new() };
    Ok(Plan {
        outside: Vec::new(),
        inside,
        slots,
        clone_flags: 0,
        isolated: false,
        may_share_memory: false,
        suspends_launcher: false,
        maps: None,
        time_offsets: None,
        idmaps: Vec::new(),
        cgroup: None,
        program: process::program(process, container, extras)?,
        limits: limits.into_iter().map(|(_, resource, soft, hard)| (resource, soft, hard)).collect(),
        hooks: CreateHooks::default(),
        state: StateFields {
            version: container.version().clone(),
            id: extras.id.clone(),
            bundle: extras.bundle.clone(),
            annotations: container.annotations().clone(),
        },
        user: extras.user.clone(),
        listener: process::listener(container)?,
        network_devices: Vec::new(),
    })
}

fn cpu_affinity(list: Option<&String>, inside: &mut Vec<Operation>) -> Result<()> {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        let mask = process::list_mask("process.execCPUAffinity", list)?;
        inside.push(Operation::CpuAffinity { mask, text: list.clone() });
    }
    Ok(())
}
