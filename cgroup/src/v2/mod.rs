//! The unified hierarchy: Documentation/admin-guide/cgroup-v2.rst of the kernel.

pub(crate) mod devices;
pub(crate) mod limits;
pub(crate) mod stats;
