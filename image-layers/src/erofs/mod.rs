//! EROFS images: one layer as one file, written in a single pass and mounted straight from the file.
//!
//! The format is that of `fs/erofs/erofs_fs.h` of the Linux kernel and <https://erofs.docs.kernel.org/>, without
//! compression and without any feature that a kernel could lack (file-backed mounts need Linux 6.12 anyway). The crate
//! `erofs-rs` reads images only, so the writer is ours; it is made for a layer that passes by once:
//!
//! ```text
//! block 0      superblock (written last: an unfinished image never mounts), inode of the root
//! block 1...   as the archive comes: bodies of files in whole blocks, and between them shelves, that is runs of blocks
//!              that hold the inode of each file, its extended attributes and the last part of its body
//! then         when the tree is known: directories with their entries, symlinks, devices, whiteouts
//! ```
//!
//! So a small file costs its own size and not a block, its body is never held back, and what has to be remembered of
//! it is one number: its [`Nid`], the place of its inode, a preliminary one until its shelf is full and gets its place.
//! Only the number of links of a file is not known when it passes by; it is filled in at the end. Directories need all
//! places of what they hold, therefore they come last.
//!
//! Inodes have the long form of 64 bytes, or the short one if they have the time of the image's first inode, as all have
//! in a reproducible layer, and small numbers. The same calls give the same bytes.

mod directory;
mod finish;
mod format;
mod output;
mod read;
mod shelf;
mod writer;

use std::borrow::Cow;

use crate::tar::Timestamp;

pub(crate) use format::has_attribute;
pub(crate) use read::Content;
pub(crate) use writer::Writer;

/// Where an inode is: its offset in the image in units of 32 bytes.
pub(crate) type Nid = u64;

/// Extended attributes, full names and values.
pub(crate) type Xattrs = [(Vec<u8>, Vec<u8>)];

/// What every inode has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The low 12 bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
}

/// What an entry of a [`Tree`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A file that was written by [`Writer::file`], which also took its metadata.
    File(Nid),
    Directory,
    Symlink(&'a [u8]),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// The names of an image, for [`Writer::finish`]. Entries go by numbers below `u32::MAX - 1`, whatever those mean.
pub(crate) trait Tree {
    fn root(&self) -> u32;

    /// Appends the entries of a directory, in any order.
    fn children(&self, directory: u32, into: &mut Vec<u32>);

    fn name(&self, entry: u32) -> &[u8];

    /// Entries with the same number are hard links to one inode; below [`inodes`](Tree::inodes).
    fn inode(&self, entry: u32) -> u32;

    fn inodes(&self) -> usize;

    fn kind(&self, entry: u32) -> Kind<'_>;

    fn metadata(&self, entry: u32) -> Metadata;

    fn xattrs(&self, entry: u32) -> Cow<'_, Xattrs>;
}

#[cfg(test)]
pub(crate) mod tests;
