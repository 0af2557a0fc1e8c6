//! Where a container's standard streams go.

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a standard stream of the container is connected to. Shaped as [`std::process::Stdio`], and can be used for any number of
/// containers.
#[derive(Clone, Debug)]
pub struct Stdio(pub(crate) Stream);

#[derive(Clone, Debug)]
pub(crate) enum Stream {
    Inherit,
    Null,
    Piped,
    Descriptor(Arc<OwnedFd>),
}

impl Stdio {
    /// The host program's own stream.
    pub fn inherit() -> Self {
        Self(Stream::Inherit)
    }

    /// `/dev/null` of the host.
    pub fn null() -> Self {
        Self(Stream::Null)
    }

    /// A new pipe whose other end is in the handle.
    pub fn piped() -> Self {
        Self(Stream::Piped)
    }
}

impl From<OwnedFd> for Stdio {
    fn from(descriptor: OwnedFd) -> Self {
        Self(Stream::Descriptor(Arc::new(descriptor)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<PipeReader> for Stdio {
    fn from(pipe: PipeReader) -> Self {
        OwnedFd::from(pipe).into()
    }
}

impl From<PipeWriter> for Stdio {
    fn from(pipe: PipeWriter) -> Self {
        OwnedFd::from(pipe).into()
    }
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

impl Default for WindowSize {
    /// 24 lines of 80 characters.
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}
