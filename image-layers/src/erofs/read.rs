//! Reading back: the content of files of an image that [`Writer`](super::Writer) wrote.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

use super::Nid;
use super::format::{BLOCK, Inode, SLOT, Superblock, field};

/// A finished image.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    path: PathBuf,
}

/// Where the bytes of a file are: in blocks first, the rest behind the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) size: u64,
    blocks: u64,
    in_blocks: u64,
    inline: u64,
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    ///
    /// [`Error::Checksum`] if its superblock is not intact, [`Error::Io`].
    pub(crate) fn open(path: &Path) -> Result<Image> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let image = Image { file, path: path.to_path_buf() };
        let mut first = vec![0; BLOCK as usize];
        image.read(0, &mut first)?;
        Superblock::check(&mut first).map_err(|reason| image.damaged(reason))?;
        Ok(image)
    }

    /// The body of the file at `nid`.
    pub(crate) fn body(&self, nid: Nid) -> Result<Body> {
        let place = nid.checked_mul(SLOT).ok_or_else(|| self.damaged("place of an inode"))?;
        let mut bytes = [0; 32];
        self.read(place, &mut bytes)?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let (format, xattrs, mode) = (u16_at(0), u64::from(u16_at(2)), u16_at(4));
        if mode & 0o170000 != 0o100000 || format & !7 != 0 || !matches!(format >> 1, 0 | 2) {
            return Err(self.damaged("inode of a file"));
        }
        let short = format & 1 == 0;
        let size = if short {
            u64::from(field(&bytes, 8))
        } else {
            u64::from(field(&bytes, 8)) | u64::from(field(&bytes, 12)) << 32
        };
        let head = Inode::len(short) + if xattrs == 0 { 0 } else { 12 + (xattrs - 1) * 4 };
        let tail = if format >> 1 == 2 { size % BLOCK } else { 0 };
        Ok(Body {
            size,
            blocks: u64::from(field(&bytes, 16)) * BLOCK,
            in_blocks: size - tail,
            inline: place + head,
        })
    }

    /// Fills `buffer` with what is at `offset` of a file; returns how much of it, which is less than all only at the
    /// end of the file or of its blocks.
    pub(crate) fn read_body(&self, body: &Body, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (from, left) = if offset < body.in_blocks {
            (body.blocks + offset, body.in_blocks - offset)
        } else {
            (body.inline + (offset - body.in_blocks), body.size.saturating_sub(offset))
        };
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.read(from, &mut buffer[..len])?;
        Ok(len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(Error::io("read", &self.path))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Checksum { what: format!("{}: {what}", self.path.display()) }
    }
}
