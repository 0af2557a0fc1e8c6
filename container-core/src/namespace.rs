//! Which namespaces a container has of its own.

use std::path::PathBuf;

pub use oci_spec::runtime::LinuxNamespaceType as NamespaceKind;

/// Where a container's namespace of some kind comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Namespace {
    /// A new one. The default for all kinds but user (new for ordinary users only) and time (the host's). A new network has
    /// nothing but a loopback interface.
    #[default]
    New,
    /// The host program's.
    Host,
    /// The one at this path, as in `/run/netns/NAME` or `/proc/PID/ns/net`.
    Join(PathBuf),
}
