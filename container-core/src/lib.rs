//! A container engine as a library: typed builder, one launch path, safe defaults, root and rootless, no daemon.
//!
//! A [`Container`] is a process tree with its own view of the system: files, processes, users, network, limits. This crate starts
//! one from the calling program, with the calls a Rust programmer knows from [`std::process`], and leaves nothing of it behind.
//!
//! # A container
//!
//! ```no_run
//! use container_core::Container;
//! use image_layers::{ImportOptions, Store};
//!
//! let store = Store::open_or_create("/var/lib/my-program")?;
//! let image = store.import("alpine.tar", &ImportOptions::new())?.remove(0);
//! let output = Container::builder().image(&store, &image).command(["cat", "/etc/alpine-release"]).output()?;
//! print!("{}", String::from_utf8_lossy(&output.stdout));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Any directory will do in place of an image ([`ContainerBuilder::rootfs`]), and so will an OCI bundle
//! ([`ContainerBuilder::bundle`]).
//!
//! # Code nobody has read
//!
//! One call feeds the input, collects the output, holds every limit and returns when nobody is left alive:
//!
//! ```no_run
//! use std::time::Duration;
//! use container_core::{Container, End};
//!
//! let outcome = Container::builder()
//!     .rootfs("/srv/python")
//!     .command(["python3", "-"])
//!     .sandbox() // no capabilities, read-only, nobody
//!     .memory(256 << 20)
//!     .pids(32)
//!     .timeout(Duration::from_secs(10))
//!     .cpu_time(Duration::from_secs(2))
//!     .output_limit_kill(1 << 20)
//!     .input(*b"print(6 * 7)")
//!     .run()?;
//! match outcome.end {
//!     End::Exited(code) => println!("exited with {code}: {}", outcome.stdout.escape_ascii()),
//!     End::OutOfMemory(_) => println!("out of memory at {:?} bytes", outcome.peak_memory),
//!     other => println!("{other:?} after {:?}", outcome.wall_time),
//! }
//! # Ok::<(), container_core::Error>(())
//! ```
//!
//! # A service
//!
//! ```no_run
//! # use std::time::Duration;
//! use container_core::Container;
//!
//! let mut service = Container::builder()
//!     .rootfs("/srv/service")
//!     .command(["server", "--listen", "/run/socket"])
//!     .bind("/var/lib/service", "/run")
//!     .spawn()?;
//! let check = service.exec(["server", "--check"]).output()?; // one more process inside
//! println!("{:?} bytes in use, check {}", service.stats()?.memory.current, check.status);
//! service.stop(Duration::from_secs(5))?; // asks, waits, kills
//! # Ok::<(), container_core::Error>(())
//! ```
//!
//! Dropping the handle kills the container and removes what was made for it. With a
//! [state directory](ContainerBuilder::state_directory) it can be [detached](Container::detach), and
//! [opened](Container::open) by another program.
//!
//! # The road
//!
//! | step | where | what comes out |
//! | --- | --- | --- |
//! | describe it | [`Container::builder`], or a bundle | an OCI runtime [`Spec`](oci_spec::runtime::Spec): [`ContainerBuilder::spec`] |
//! | lower it | [`ContainerBuilder::plan`] | a [`Plan`]: every step that will be done, printable, nothing done yet |
//! | carry it out | [`spawn`](ContainerBuilder::spawn), or [`create`](ContainerBuilder::create) and [`start`](Created::start) | a [`Container`] |
//! | all in one | [`status`](ContainerBuilder::status), [`output`](ContainerBuilder::output), [`run`](ContainerBuilder::run) | [`ExitStatus`], [`Output`], [`Outcome`] |
//! | many, prepared ahead | [`Pool`] | a start for about the price of an exec |
//! | what works here | [`Host::probe`] | for each [`Feature`] a [`Verdict`] that names what stands in the way |
//!
//! The modules [`plan`], [`launch`], [`state`] and [`seccomp`] are the parts a runtime of one's own is made of; the example
//! `oci-runtime` is one.
//!
//! # What it promises
//!
//! - **Nothing of the host program changes**: not its working directory, umask, signals, limits or children. Only processes started
//!   here are waited for, by descriptor.
//! - **A failed set-up is an error**, [`Error`], that names the step, its subject and the cause; never an exit code. Everything made
//!   until then is gone.
//! - **Any program can call it**, with many threads or a gigabyte of memory: between clone and exec the new process only makes
//!   system calls on memory prepared before.
//! - **Identity is a descriptor** (pidfd) from the first moment on, never a process number that may be used again.
//!
//! # As an ordinary user
//!
//! | | with subordinate ids | without |
//! | --- | --- | --- |
//! | takes | lines in `/etc/subuid` and `/etc/subgid`, newuidmap and newgidmap (package `uidmap`) | nothing |
//! | ids inside | root is the caller, the ids from 1 on are the granted ones | one: the wanted user is the caller |
//! | files of an image | have the owners the image says | belong to the one user; who is meant stays with the image |
//! | processes | change to any user that is mapped, as entrypoints do | stay who they are |
//! | files in and out, changes, commits | owners as seen inside | as in the image, new files are root's |
//! | costs | the two programs: 1.5 to 2 ms a start | |
//!
//! Both kinds of container can share one store; [`ContainerBuilder::id_mappings`] chooses. [`Feature::SubordinateIds`] names what
//! is missing. What such users leave behind goes with the container, as everything does; a whole store with
//! [`Store::destroy`](image_layers::Store::destroy). A user whose number is beyond the granted ids gets a container with that
//! one id. Ranges that overlap are an error, never silently done without.
//!
//! # Kernel features
//!
//! | feature | since | without it |
//! | --- | --- | --- |
//! | `mount_setattr`, and with it this crate | 5.12 | [`Host::probe`] says so |
//! | overlay as an ordinary user | 5.11 | layers are copied (`image-layers`) |
//! | `cgroup.kill` | 5.14 | freeze, signal all, let go |
//! | layers by `lowerdir+` | 6.5 | by option string |
//! | EROFS layers mounted from their file, as root | 6.12 | [`Error::Unsupported`] |
//! | overlay of mounts that are attached nowhere | 6.15 | attached for a moment, in a mount namespace of their own |
//! | exit status kept behind the pidfd | 6.15 | [`Error::StatusLost`] when somebody else collected it, [`Error::SigchldIgnored`] |
//!
//! # Features
//!
//! - `images` (default): [`ContainerBuilder::image`], with the crate `image-layers`.
//! - `tokio`: async twins of the calls that wait, safe to cancel.

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
