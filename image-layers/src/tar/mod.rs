//! Tar archives: a strict reader that knows every form that is legal, and a writer that always gives the same bytes.
//!
//! The reader touches no file system. It yields whole entries: name and link target as bytes, kind, metadata, a
//! bounded body. What POSIX, GNU, star and pre-POSIX archives may hold is read; what is broken is an error.

mod header;
mod pax;
mod read;
mod source;
mod sparse;
mod write;

pub(crate) use read::Reader;
#[cfg(any(test, fuzzing))]
pub(crate) use source::Buffered;
pub(crate) use source::{Pieces, Source};
pub(crate) use write::Writer;

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands in the archive.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// The low 12 bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Bytes of the file once written out (with holes); 0 for all but files.
    pub(crate) size: u64,
    pub(crate) xattrs: Xattrs,
    /// Where the bytes of the body belong, for a sparse file.
    pub(crate) sparse: Option<Vec<Extent>>,
}

impl Entry {
    pub(crate) fn kind_is_symlink(&self) -> bool {
        matches!(self.kind, Kind::Symlink { .. })
    }
}

/// Extended attributes, in the order of the archive.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// A time with its fraction; the fraction counts forward also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    pub(crate) secs: i64,
    /// From 0 to 999,999,999.
    pub(crate) nanos: u32,
}

/// A run of bytes in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Bytes in a block, the unit of all archives.
pub(crate) const BLOCK: usize = 512;

#[cfg(test)]
mod tests;
