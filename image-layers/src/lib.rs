//! OCI images as layers: import, verify, unpack into immutable snapshots, writable layers, diff and commit.

#[allow(dead_code, unused_imports)] // until store and snapshots use all of it
mod apply;
mod build;
#[allow(dead_code, unused_imports)]
mod decode;
#[allow(dead_code, unused_imports)]
mod diff;
mod digest;
mod document;
#[allow(dead_code, unused_imports)]
mod erofs;
mod error;
mod image;
mod limits;
mod media_type;
mod platform;
mod progress;
mod reference;
mod rootfs;
#[allow(dead_code, unused_imports)]
mod snapshot;
mod source;
mod store;
mod sys;
#[allow(dead_code, unused_imports)]
mod tar;

pub use build::{ImageBuilder, LayerBuilder};
pub use decode::Compression;
pub use digest::{Algorithm, Digest, Digester, Verifier};
pub use document::ImageConfig;
pub use error::{Class, Error, Result};
pub use image::{Image, ImageLayer};
pub use limits::Limits;
pub use platform::Platform;
pub use progress::{Cancel, Event, Progress, Step, UnpackOptions};
pub use reference::Reference;
pub use rootfs::{LowerLayer, RootfsMount};
pub use snapshot::{SnapshotKind, SnapshotProbe, probe_snapshots};
pub use source::{ImportOptions, Source, SourceImage};
pub use store::{
    Collected, Damage, ImageUsage, LayerUsage, Lease, SnapshotUsage, Store, StoreOptions, Subject, Usage,
    View, WritableLayer,
};
