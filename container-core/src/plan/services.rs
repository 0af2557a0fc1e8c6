//! What the parent does for a starting process, and with what: its half of the plan.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::{Hook, Hooks, Spec};

use super::namespaces::{Maps, Namespaces};
use super::{Extras, Plan, process};
use crate::error::Result;

/// Everything a starting process can ask its parent for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    pub(crate) maps: Option<Maps>,
    pub(crate) time_offsets: Option<CString>,
    /// Limits that only the parent may set, when there is a user namespace: resource, soft, hard.
    pub(crate) limits: Vec<(u32, u64, u64)>,
    pub(crate) hooks: CreateHooks,
    pub(crate) state: StateFields,
    /// Namespaces that the container has, new or joined.
    pub(crate) kinds: u64,
    /// The user to find by name.
    pub(crate) user: Option<String>,
    pub(crate) listener: Option<Listener>,
    /// Network devices of the host with the names they get inside.
    pub(crate) network_devices: Vec<(String, String)>,
    /// The first word of the command, for errors.
    pub(crate) command: CString,
}

/// Where the seccomp listener goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener {
    pub(crate) path: PathBuf,
    pub(crate) metadata: Option<String>,
}

/// Hooks that belong to create and start. Those of the start take the rest of the plan: see [`exec::start_hooks`](super::exec::start_hooks).
#[derive(Clone, Debug, Default)]
pub(crate) struct CreateHooks {
    pub(crate) prestart: Vec<Hook>,
    pub(crate) create_runtime: Vec<Hook>,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<StartHook>,
}

/// A startContainer hook, which is found among the container's own files, with the plan to run it as one more process of the
/// container: it has no right that the command has not.
#[derive(Clone, Debug)]
pub(crate) struct StartHook {
    pub(crate) hook: Hook,
    pub(crate) plan: Plan,
}

/// What hooks are told about the container, beside its pid and status.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateFields {
    pub(crate) version: String,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The root directory on the host.
    pub(crate) root: PathBuf,
    pub(crate) annotations: Option<HashMap<String, String>>,
}

impl Services {
    /// What every launch of this container needs, be it its first process, the release of that, or one more process.
    pub(crate) fn of(spec: &Spec, extras: &Extras, namespaces: &Namespaces) -> Result<Self> {
        Ok(Self {
            hooks: hooks(spec.hooks().as_ref()),
            state: StateFields {
                version: spec.version().clone(),
                id: extras.id.clone(),
                bundle: extras.bundle.clone(),
                root: super::rootfs::place(spec, extras),
                annotations: spec.annotations().clone(),
            },
            kinds: namespaces.kinds(),
            user: extras.user.clone(),
            listener: process::listener(spec)?,
            ..Self::default()
        })
    }
}

fn hooks(hooks: Option<&Hooks>) -> CreateHooks {
    let Some(hooks) = hooks else { return CreateHooks::default() };
    CreateHooks {
        prestart: hooks.prestart().clone().unwrap_or_default(),
        create_runtime: hooks.create_runtime().clone().unwrap_or_default(),
        create_container: hooks.create_container().clone().unwrap_or_default(),
        start_container: Vec::new(),
    }
}
