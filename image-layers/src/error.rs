//! What can go wrong, and the broad class each failure belongs to.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, Platform};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, naming the step and its subject. The cause, where there is one, is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a path failed.
    #[error("{action} {}", path.display())]
    Io {
        /// The step, as a verb: `open`, `rename`, `mkdir`...
        action: &'static str,
        /// What it was applied to.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something happened while one layer of an image was worked on; the source says what.
    #[error("layer {} ({digest})", index + 1)]
    Layer {
        /// Position in the image, from 0 at the bottom.
        index: usize,
        /// The layer's DiffID or blob digest.
        digest: Digest,
        /// What happened there.
        source: Box<Error>,
    },

    /// A digest that is not `algorithm:hex` with the exact length.
    #[error("invalid digest {input:?}: {reason}")]
    InvalidDigest {
        /// What was given.
        input: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest algorithm this crate does not compute.
    #[error("unsupported digest algorithm {algorithm:?} (sha256 and sha512 are supported)")]
    UnsupportedAlgorithm {
        /// The name before the colon.
        algorithm: String,
    },
    /// A name that is not an image reference.
    #[error("invalid image reference {input:?}: {reason}")]
    InvalidReference {
        /// What was given.
        input: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A platform that is not `os/architecture[/variant]`.
    #[error("invalid platform {input:?}: expected os/architecture[/variant]")]
    InvalidPlatform {
        /// What was given.
        input: String,
    },
    /// The key of a writable layer holds something other than letters, digits, `.`, `_` and `-`.
    #[error("invalid key {key:?}: 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit")]
    InvalidKey {
        /// What was given.
        key: String,
    },

    /// The input to import does not exist.
    #[error("no such image file or directory: {}", path.display())]
    SourceNotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// The input is neither an archive nor a layout with images.
    #[error("not an image ({}): {reason}", path.display())]
    NotAnImage {
        /// The file or directory.
        path: PathBuf,
        /// What was expected and not found.
        reason: String,
    },
    /// The input ends before it is complete.
    #[error("truncated: {what} ends early")]
    Truncated {
        /// What is too short.
        what: String,
    },
    /// An archive names a member that it does not hold.
    #[error("member {member:?} not found in {}", archive.display())]
    MemberNotFound {
        /// The archive or layout.
        archive: PathBuf,
        /// The name that was looked for.
        member: String,
    },
    /// An archive refers to something outside of itself.
    #[error("escape: {member:?} leads out of {}", archive.display())]
    MemberEscapes {
        /// The archive or layout.
        archive: PathBuf,
        /// The offending name.
        member: String,
    },
    /// A JSON document is not what its descriptor says.
    #[error("invalid {what}: {reason}")]
    InvalidDocument {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit of [`Limits`](crate::Limits) was reached.
    #[error("too large: {what} exceeds the limit of {limit} ({name})")]
    LimitExceeded {
        /// What was being read.
        what: String,
        /// The field of `Limits`.
        name: &'static str,
        /// Its value.
        limit: u64,
    },

    /// A layer is not the tar archive it should be.
    #[error("invalid layer: entry {entry:?}: {reason}")]
    InvalidLayer {
        /// The entry's name, or where it stands.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a layer leads out of the tree.
    #[error("escape: entry {entry:?} leads out of the root")]
    LayerEscape {
        /// The entry's name.
        entry: String,
    },
    /// Symbolic links that a path of a layer leads through go in circles.
    #[error("loop: too many symbolic links in {path:?}")]
    LinkLoop {
        /// The path.
        path: String,
    },
    /// The target of a hard link is not in the tree.
    #[error("hard link {entry:?}: target {target:?} not found")]
    LinkTargetNotFound {
        /// The entry's name.
        entry: String,
        /// What it should link to.
        target: String,
    },
    /// A layer holds something well formed that this crate or this host cannot do.
    #[error("unsupported: {what}")]
    UnsupportedLayer {
        /// What it is, and what to do instead where there is something.
        what: String,
    },
    /// The file system has no place for an extended attribute that an entry has. `allow_loss` of
    /// [`UnpackOptions`](crate::UnpackOptions) unpacks without it.
    #[error("unsupported: the file system of {} cannot store {attribute} of {entry:?}", path.display())]
    UnsupportedAttribute {
        /// The entry's path in the layer.
        entry: PathBuf,
        /// The attribute's name.
        attribute: String,
        /// Where the layer was being unpacked.
        path: PathBuf,
    },
    /// A checksum inside of an archive or of compressed data is wrong.
    #[error("checksum mismatch in {what}")]
    Checksum {
        /// Where it is.
        what: String,
    },
    /// Compressed data is malformed.
    #[error("invalid {format} data: {reason}")]
    InvalidCompression {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// The index of a snapshot cannot be read: the snapshot is damaged. [`Store::verify`](crate::Store::verify) finds
    /// and repairs such snapshots.
    #[error("invalid snapshot index {}: {reason}", path.display())]
    InvalidIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Content does not have the digest that was promised.
    #[error("digest mismatch of {what}: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// Content does not have the size that was promised.
    #[error("size mismatch of {what}: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// Which content.
        what: String,
        /// What was promised.
        expected: u64,
        /// What there is (at least).
        actual: u64,
    },
    /// The manifest lists more or fewer layers than the configuration has DiffIDs.
    #[error(
        "invalid image {image}: {layers} layers in the manifest, but {diff_ids} DiffIDs in the configuration"
    )]
    DiffIdCount {
        /// The manifest's digest.
        image: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// DiffIDs in the configuration.
        diff_ids: usize,
    },

    /// No image goes by this reference.
    #[error("image {reference:?} not found{}", list(available, "; there is "))]
    ReferenceNotFound {
        /// What was looked for.
        reference: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The input holds several images and none was chosen.
    #[error("{} holds {} images, choose one{}", path.display(), available.len(), list(available, ": "))]
    SeveralImages {
        /// The archive or layout.
        path: PathBuf,
        /// Their references, or digests where they have none.
        available: Vec<String>,
    },
    /// No image fits the wanted platform.
    #[error("platform {wanted} not found in {what}{}", list(available, "; it is for "))]
    PlatformMismatch {
        /// Which image or index.
        what: String,
        /// The platform that was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A document or layer has a media type that cannot be used here.
    #[error("unsupported media type {media_type:?} of {what}")]
    UnsupportedMediaType {
        /// Which content.
        what: String,
        /// Its media type.
        media_type: String,
    },
    /// A foreign (non-distributable) layer is not part of the input; it would have to be fetched from its own address.
    #[error("unsupported: foreign layer {digest} is not in the input{}", list(urls, "; it is to be had at "))]
    ForeignLayer {
        /// The layer.
        digest: Digest,
        /// Where its descriptor says it can be had.
        urls: Vec<String>,
    },
    /// A blob is not in the store or source.
    #[error("blob {digest} not found in {}", path.display())]
    BlobNotFound {
        /// The blob.
        digest: Digest,
        /// The store or layout.
        path: PathBuf,
    },

    /// The directory holds a store of another version, or something that is no store.
    #[error("{} is not a store of this version: {reason}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// An unpacked layer is not what its blob unpacks to.
    #[error("damaged snapshot {}: {reason}", path.display())]
    DamagedSnapshot {
        /// Where it is.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is no writable layer with this key.
    #[error("writable layer {key:?} not found")]
    KeyNotFound {
        /// The key.
        key: String,
    },
    /// There is a writable layer with this key already.
    #[error("writable layer {key:?} exists already")]
    KeyExists {
        /// The key.
        key: String,
    },
    /// Files of subordinate ids of an ordinary user cannot be made, reached or removed.
    #[error("files of other ids than the own one are out of reach: {reason}")]
    Owners {
        /// Which file, program or setting stands in the way.
        reason: String,
    },
    /// What should be removed is in use by this or another process.
    #[error("{what} is in use")]
    InUse {
        /// The layer or snapshot.
        what: String,
    },
    /// The work was cancelled through its [`Cancel`](crate::Cancel).
    #[error("cancelled")]
    Cancelled,
}

/// The broad class of an [`Error`], for programs that only want to know what kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// A name tries to leave the tree.
    Escape,
    /// Malformed input.
    Invalid,
    /// Content and digest differ.
    Digest,
    /// Something named is not there.
    NotFound,
    /// Well formed, but not supported here.
    Unsupported,
    /// A limit was reached.
    TooLarge,
    /// The input ends early.
    Truncated,
    /// No image for the wanted platform.
    Platform,
    /// Content and size differ.
    Size,
    /// Symbolic links go in circles.
    Loop,
    /// A checksum inside the data is wrong.
    Checksum,
    /// In use, or exists already.
    Busy,
    /// The caller cancelled.
    Cancelled,
    /// The system refused: permissions, space, input or output.
    Io,
}

impl Class {
    /// The class in words, as the example `unpack` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Escape => "escape",
            Class::Invalid => "invalid",
            Class::Digest => "digest",
            Class::NotFound => "not found",
            Class::Unsupported => "unsupported",
            Class::TooLarge => "too large",
            Class::Truncated => "truncated",
            Class::Platform => "platform",
            Class::Size => "size",
            Class::Loop => "loop",
            Class::Checksum => "checksum",
            Class::Busy => "busy",
            Class::Cancelled => "cancelled",
            Class::Io => "io",
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// The broad class of this error.
    pub fn class(&self) -> Class {
        match self {
            Error::Layer { source, .. } => source.class(),
            Error::Io { .. } => Class::Io,
            Error::InvalidDigest { .. }
            | Error::InvalidReference { .. }
            | Error::InvalidPlatform { .. }
            | Error::InvalidKey { .. }
            | Error::NotAnImage { .. }
            | Error::NotAStore { .. }
            | Error::InvalidDocument { .. }
            | Error::InvalidLayer { .. }
            | Error::InvalidCompression { .. }
            | Error::InvalidIndex { .. }
            | Error::DamagedSnapshot { .. }
            | Error::SeveralImages { .. }
            | Error::DiffIdCount { .. } => Class::Invalid,
            Error::UnsupportedAlgorithm { .. }
            | Error::UnsupportedMediaType { .. }
            | Error::UnsupportedLayer { .. }
            | Error::UnsupportedAttribute { .. }
            | Error::ForeignLayer { .. }
            | Error::Owners { .. } => Class::Unsupported,
            Error::SourceNotFound { .. }
            | Error::MemberNotFound { .. }
            | Error::LinkTargetNotFound { .. }
            | Error::ReferenceNotFound { .. }
            | Error::BlobNotFound { .. }
            | Error::KeyNotFound { .. } => Class::NotFound,
            Error::Truncated { .. } => Class::Truncated,
            Error::MemberEscapes { .. } | Error::LayerEscape { .. } => Class::Escape,
            Error::LinkLoop { .. } => Class::Loop,
            Error::Checksum { .. } => Class::Checksum,
            Error::LimitExceeded { .. } => Class::TooLarge,
            Error::DigestMismatch { .. } => Class::Digest,
            Error::SizeMismatch { .. } => Class::Size,
            Error::PlatformMismatch { .. } => Class::Platform,
            Error::KeyExists { .. } | Error::InUse { .. } => Class::Busy,
            Error::Cancelled => Class::Cancelled,
        }
    }

    /// An `Io` error; for use with `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Error {
        move |source| Error::Io { action, path: path.as_ref().to_path_buf(), source: source.into() }
    }

    /// An `Io` error, unless `source` wraps an [`Error`] from a reader further down, which is taken out as it is.
    pub(crate) fn from_io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
        match source.downcast::<Error>() {
            Ok(inner) => inner,
            Err(source) => Error::Io { action, path: path.as_ref().to_path_buf(), source },
        }
    }

    /// Adds which layer of an image it happened in; a cancelled layer stays just cancelled.
    pub(crate) fn in_layer(self, index: usize, digest: &Digest) -> Error {
        match self {
            Error::Cancelled | Error::Layer { .. } => self,
            other => Error::Layer { index, digest: digest.clone(), source: Box::new(other) },
        }
    }
}

fn list<T: ToString>(items: &[T], lead: &str) -> String {
    if items.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = items.iter().take(8).map(T::to_string).collect();
    let more = if items.len() > 8 { format!(", and {} more", items.len() - 8) } else { String::new() };
    format!("{lead}{}{more}", shown.join(", "))
}
