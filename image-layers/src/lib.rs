//! OCI images as layers: import, verify, unpack into immutable snapshots, writable layers, diff, commit and export.
//!
//! This crate takes images apart and puts them together. It runs nothing and mounts nothing: what a container's root
//! filesystem is made of, it hands over as plain data ([`RootfsMount`]). It needs no daemon, no root and no network.
//!
//! # An image into a plain directory
//!
//! ```
//! use image_layers::{ImportOptions, Source};
//!
//! fn unpack(image: &str, directory: &str) -> image_layers::Result<Vec<String>> {
//!     let options = ImportOptions::new();
//!     let source = Source::open(image, &options)?; // docker save, OCI archive or OCI layout, compressed or not
//!     let image = source.image(&options)?; // the one for this platform
//!     image.unpack(directory)?; // every digest is checked; all of it or nothing
//!     Ok(image.config().args())
//! }
//! # assert!(unpack("/nowhere", "/nowhere").is_err());
//! ```
//!
//! # A store, and containers over its images
//!
//! A [`Store`] is a directory that keeps images and unpacks each layer once, however many images and containers share it.
//! Any number of programs can use one store at the same time, and any of them may be killed at any time.
//!
//! ```
//! use image_layers::{ImageBuilder, LayerBuilder, RootfsMount, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let store = Store::open_or_create(directory.path().join("store"))?;
//! // From a file: `store.import("image.tar", &ImportOptions::new())?`. Or made of files:
//! let image = ImageBuilder::new()
//!     .layer(LayerBuilder::new().content("/etc/motd", "hello\n", 0o644))
//!     .cmd(["/bin/sh"])
//!     .build(&store, Some(&"demo:1".parse()?))?;
//!
//! let container = store.prepare(&image, "job-1")?; // a writable layer of its own
//! if let RootfsMount::Overlay { lower, upper: Some(upper), .. } = container.mount() {
//!     println!("stack {} layers, write to {}", lower.len(), upper.display());
//! #   std::fs::write(upper.join("new"), "from the container")?;
//! }
//! let changed = container.commit(Some(&"demo:2".parse()?))?; // what it wrote becomes a layer
//! container.remove()?;
//! assert_eq!(changed.layers().len(), 2);
//! assert_eq!(store.resolve("demo:1")?.digest(), image.digest()); // images never change
//! # Ok(()) }
//! ```
//!
//! # The road
//!
//! | step | where | what comes out |
//! | --- | --- | --- |
//! | find the image in an archive or layout | [`Source`], [`ImportOptions`] | documents, checked against their digests |
//! | keep it | [`Store::import`] | blobs, and an entry in the list of images |
//! | unpack a layer | [`Store::unpack`] | an immutable snapshot, named by its ChainID |
//! | give a container its own layer | [`Store::prepare`] | a [`WritableLayer`] and how to mount it |
//! | turn changes into a layer | [`WritableLayer::commit`], [`ImageBuilder`] | a new image |
//! | pass images on | [`Image::export`], [`Export`] | an archive for every engine, or an OCI layout |
//! | tidy up | [`Store::collect_garbage`], [`Store::verify`], [`Store::usage`] | |
//!
//! How the snapshots are kept is a choice of [`SnapshotKind`]; [`probe_snapshots`] says what a host can do.
//!
//! # What is promised
//!
//! - **Nothing outside of the target is touched**, whatever names, links and types an image holds, and whatever changes
//!   meanwhile: paths are resolved in an index, the disk is touched by open directory and single name.
//! - **All or nothing.** What is visible is complete and has the size, digest and DiffID that it should have.
//! - **Bounded.** [`Limits`] on everything an image can ask for; memory does not grow with the size of an image.
//!   [`Cancel`] stops, [`Progress`] tells.
//! - **Faithful.** Whiteouts, opaque directories, hard links, sparse files, extended attributes, times with nanoseconds,
//!   names of any bytes: what the OCI image specification and the forms of tar say, in any order.
//! - **Errors are typed** and name step and subject; [`Error::class`] sorts them.
//!
//! As an ordinary user everything works too; whom files belong to on the disk depends on what that user was granted:
//!
//! | | with subordinate ids (`/etc/subuid`, `/etc/subgid`, newuidmap) | without |
//! | --- | --- | --- |
//! | files of a store | the ids that stand for the image's owners in a user namespace ([`Owners::Mapped`]) | the caller's |
//! | file capabilities, access lists | set, for the root and the ids of that namespace | kept in the index alone |
//! | devices | empty files | empty files |
//! | a plain directory ([`Image::unpack`]) | the caller's | the caller's |
//!
//! The true owners are in the snapshot's index either way, from where a commit takes what the disk cannot say. Only this crate
//! can remove files that belong to subordinate ids: [`WritableLayer::remove`], [`Store::collect_garbage`] and
//! [`Store::destroy`] do.

mod apply;
mod build;
mod decode;
mod diff;
mod digest;
mod document;
mod erofs;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod limits;
mod media_type;
mod owners;
mod platform;
mod progress;
mod reference;
mod rootfs;
mod snapshot;
mod source;
mod store;
mod sys;
mod tar;

pub use build::{ImageBuilder, LayerBuilder};
pub use decode::Compression;
pub use digest::{Algorithm, Digest, Digester, Verifier};
pub use document::ImageConfig;
pub use error::{Class, Error, Result};
pub use image::{Image, ImageLayer};
pub use limits::Limits;
/// For `container-core`, which copies files in and out of containers: no part of what this crate promises.
#[doc(hidden)]
pub use owners::reach;
pub use owners::{IdMaps, IdRange, Owners};
pub use platform::Platform;
pub use progress::{Cancel, Event, Loss, Progress, Step, UnpackOptions};
pub use reference::Reference;
pub use rootfs::{LowerLayer, RootfsMount};
pub use snapshot::{SnapshotKind, SnapshotProbe, probe_snapshots};
pub use source::{ImportOptions, Source, SourceImage};
pub use store::{
    Collected, Damage, Export, ImageUsage, LayerUsage, Lease, SnapshotUsage, Store, StoreOptions, Subject,
    Usage, View, WritableLayer,
};
