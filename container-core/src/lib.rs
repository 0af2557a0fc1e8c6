//! A container engine as a library: typed builder, one launch path, safe defaults, root and rootless, no daemon.

mod builder;
mod capability;
mod error;
mod features;
mod handle;
mod hooks;
mod host;
mod id_map;
pub mod launch;
mod mount;
mod mount_options;
mod namespace;
mod netlink;
pub mod plan;
mod pool;
mod rlimit;
pub mod seccomp;
mod spec;
pub mod state;
mod stdio;
mod step;
mod sys;
mod user;

pub use builder::{ContainerBuilder, DEFAULT_PIDS};
pub use capability::CapabilitySets;
pub use cgroup;
pub use error::{Error, Result};
pub use features::{SPEC_VERSION, features};
pub use handle::{
    Change, ChangeKind, Container, ContainerSummary, Created, End, Exec, ExecBuilder, Killer, MemoryShortage,
    Outcome, Output, OutputStream, TimeLimit,
};
pub use hooks::{HookKind, HookState, run_hooks};
pub use host::{Feature, Host, Verdict};
pub use id_map::{IdMapping, SubordinateRange};
pub use mount::Mount;
pub use namespace::{Namespace, NamespaceKind};
pub use oci_spec;
pub use oci_spec::runtime::Capability;
pub use plan::Plan;
pub use pool::Pool;
pub use rlimit::{Resource, UNLIMITED};
pub use rustix::process::Signal;
pub use std::process::ExitStatus;
pub use stdio::{Stdio, WindowSize};
pub use step::Step;
pub use sys::process::signal;
pub use user::ResolvedUser;
