//! The legacy hierarchies: Documentation/admin-guide/cgroup-v1 of the kernel.

pub(crate) mod limits;
pub(crate) mod stats;
