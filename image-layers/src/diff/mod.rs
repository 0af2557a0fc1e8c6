//! What a container changed, as a layer.
//!
//! Two kinds of writable layers: the upper directory of an overlay, where everything that is there is a change, and a
//! whole copy, which has to be compared. Either is held against the index of the layers below, which knows what there is
//! to be hidden, who owns what in truth when an ordinary user cannot show it on disk, and what a redirect leads to.
//!
//! The archive is in order of names, parents first, without anything of the machine: the same changes give the same
//! bytes.

mod entry;
mod stack;
mod walk;

pub(crate) use entry::{kind, names};

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use crate::apply::merge::Merged;
use crate::apply::metadata::Ownership;
use crate::apply::place::Markers;
use crate::apply::tree::NodeId;
use crate::owners::reach::Reach;
use crate::tar::{Timestamp, Writer};
use crate::{Error, Result};

/// What a diff has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiffStats {
    pub(crate) entries: u64,
    /// Sockets, which no archive can hold.
    pub(crate) skipped: u64,
}

/// How changes are found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// The upper directory of an overlay, with its attributes in this namespace.
    Upper(Markers),
    /// A whole tree that was a copy at this time (change time of the last thing made).
    Copy(Timestamp),
}

/// Opens the content of a file of the layers below.
pub(crate) type Content<'a> = &'a dyn Fn(NodeId) -> Result<Box<dyn Read>>;

/// Writes the changes in `root` as an uncompressed layer.
///
/// # Errors
///
/// [`Error::InvalidLayer`] for a name that is reserved for whiteouts; failures of the file system or of `out`.
pub(crate) fn diff(
    root: OwnedFd,
    form: Form,
    owners: &Ownership,
    below: &Merged,
    content: Content<'_>,
    out: &mut dyn Write,
) -> Result<DiffStats> {
    let _reach = Reach::keep();
    let mut walker = walk::Walker::new(form, owners, below, content, Writer::new(out));
    walker.run(root)?;
    walker.finish()
}

/// An error of the writer the layer goes to.
fn output(error: io::Error) -> Error {
    Error::from_io("write", "layer", error)
}
