//! OCI images as layers: import, verify, unpack into immutable snapshots, writable layers, diff and commit.

mod digest;
mod error;
mod limits;
mod platform;
mod progress;
mod rootfs;

pub use digest::{Algorithm, Digest, Digester, Verifier};
pub use error::{Class, Error, Result};
pub use limits::Limits;
pub use platform::Platform;
pub use progress::{Cancel, Event, Progress, Step};
pub use rootfs::{LowerLayer, RootfsMount};
