//! What the example `oci-runtime` promises to whoever drives it. `OCI_RUNTIME=PATH` tests another build of it.

mod cases;
mod configurations;
mod crashes;
mod hooks;
mod lifecycle;
mod mounts;
mod support;
mod together;
