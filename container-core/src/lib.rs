//! A container engine as a library: typed builder, one launch path, safe defaults, root and rootless, no daemon.

mod capability;
mod error;
mod features;
mod hooks;
mod id_map;
pub mod launch;
mod mount_options;
mod netlink;
pub mod plan;
pub mod seccomp;
pub mod state;
mod step;
mod sys;
mod user;

pub use capability::CapabilitySets;
pub use error::{Error, Result};
pub use features::features;
pub use hooks::{HookKind, HookState, run_hooks};
pub use id_map::{IdMapping, SubordinateRange};
pub use oci_spec;
pub use step::Step;
pub use sys::process::signal;
pub use user::ResolvedUser;
