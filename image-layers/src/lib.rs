//! OCI images as layers: import, verify, unpack into immutable snapshots, writable layers, diff and commit.

#[allow(dead_code, unused_imports)] // until store and snapshots use all of it
mod apply;
#[allow(dead_code, unused_imports)]
mod decode;
mod digest;
mod document;
mod error;
mod limits;
mod media_type;
mod platform;
mod progress;
mod reference;
mod rootfs;
#[allow(dead_code, unused_imports)]
mod snapshot;
mod sys;
#[allow(dead_code, unused_imports)]
mod tar;

pub use decode::Compression;
pub use digest::{Algorithm, Digest, Digester, Verifier};
pub use document::ImageConfig;
pub use error::{Class, Error, Result};
pub use limits::Limits;
pub use platform::Platform;
pub use progress::{Cancel, Event, Progress, Step};
pub use reference::Reference;
pub use rootfs::{LowerLayer, RootfsMount};
pub use snapshot::{SnapshotKind, SnapshotProbe, probe_snapshots};
