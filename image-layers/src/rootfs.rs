//! What a container's root filesystem is made of, as plain data for whoever mounts it.

use std::path::PathBuf;

/// How to mount a root filesystem. This crate never mounts one for a container: the engine does that, in the container's
/// own mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootfsMount {
    /// A plain directory to bind.
    Directory {
        /// The directory.
        source: PathBuf,
        /// Whether it must not be written to.
        read_only: bool,
    },
    /// An overlay mount.
    Overlay {
        /// The read-only layers, the top one first. Never empty.
        lower: Vec<LowerLayer>,
        /// The writable layer; `None` for a read-only root. With a single lower layer and no upper one, mount that layer.
        upper: Option<PathBuf>,
        /// The overlay work directory; present when `upper` is.
        work: Option<PathBuf>,
        /// Mount with `userxattr`: the layers use `user.overlay.` attributes, as a user namespace needs (Linux 5.11).
        userxattr: bool,
        /// Mount with `volatile`: no sync, for containers whose changes may be lost in a crash (Linux 5.10).
        volatile: bool,
    },
}

/// One read-only layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowerLayer {
    /// A directory.
    Directory(PathBuf),
    /// An EROFS image file, mounted from the file (Linux 6.12).
    Erofs(PathBuf),
}
