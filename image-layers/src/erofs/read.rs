//! Reading back: the content of files of an image that [`Writer`](super::Writer) wrote.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

use super::Nid;
use super::format::{BLOCK, Inode, SLOT, Superblock, field};

/// The content of one file of a finished image.
#[derive(Debug)]
pub(crate) struct Content {
    image: File,
    path: PathBuf,
    /// Where its bytes are: whole blocks here, the rest behind the inode.
    blocks: u64,
    in_blocks: u64,
    inline: u64,
    size: u64,
    at: u64,
}

impl Content {
    /// Opens the file at `nid` of an image.
    ///
    /// # Errors
    ///
    /// [`Error::Checksum`] if the superblock is not intact or there is no file, [`Error::Io`].
    pub(crate) fn open(path: &Path, nid: Nid) -> Result<Content> {
        let image = File::open(path).map_err(Error::io("open", path))?;
        let damaged = |what: &str| Error::Checksum { what: format!("{}: {what}", path.display()) };
        let read =
            |offset, bytes: &mut [u8]| image.read_exact_at(bytes, offset).map_err(Error::io("read", path));
        let mut first = vec![0; BLOCK as usize];
        read(0, &mut first)?;
        Superblock::check(&mut first).map_err(damaged)?;
        let place = nid.checked_mul(SLOT).ok_or_else(|| damaged("place of an inode"))?;
        let mut inode = [0; 32];
        read(place, &mut inode)?;
        let half = |at: usize| u16::from_le_bytes([inode[at], inode[at + 1]]);
        let (format, xattrs, mode) = (half(0), u64::from(half(2)), half(4));
        if mode & 0o170000 != 0o100000 || format & !7 != 0 || !matches!(format >> 1, 0 | 2) {
            return Err(damaged("inode of a file"));
        }
        let short = format & 1 == 0;
        let high = if short { 0 } else { u64::from(field(&inode, 12)) << 32 };
        let size = u64::from(field(&inode, 8)) | high;
        let head = Inode::len(short) + if xattrs == 0 { 0 } else { 12 + (xattrs - 1) * 4 };
        let tail = if format >> 1 == 2 { size % BLOCK } else { 0 };
        Ok(Content {
            image,
            path: path.to_path_buf(),
            blocks: u64::from(field(&inode, 16)) * BLOCK,
            in_blocks: size - tail,
            inline: place + head,
            size,
            at: 0,
        })
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (from, left) = if self.at < self.in_blocks {
            (self.blocks + self.at, self.in_blocks - self.at)
        } else {
            (self.inline + (self.at - self.in_blocks), self.size - self.at)
        };
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.image.read_exact_at(&mut buffer[..len], from);
        read.map_err(|source| io::Error::other(Error::io("read", &self.path)(source)))?;
        self.at += len as u64;
        Ok(len)
    }
}
