//! The image file: written from front to back in large pieces, with a few late corrections.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::{Error, Result};

use super::format::BLOCK;

/// What is collected before it is written. Writes end at multiples of it in the file: the page cache takes such pieces
/// in large folios, for two thirds of the time of others (measured on ext4 and xfs).
const BUFFER: u64 = 256 << 10;
/// What is left out as a hole.
const HOLE: u64 = 32 << 10;
/// Space is asked for before it is written: the file system then has nothing to do for each block, which is another third
/// of the time of a write (measured on ext4). It is a sixteenth of what is there already, and at most this much: other
/// layers may need the room meanwhile.
const AHEAD: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Output {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    start: u64,
    /// Up to where space was asked for; everything, once the file system has refused.
    allocated: u64,
}

/// Bytes in front of an inode's attributes.
const ATTRIBUTES_HEADER: u64 = 12;

impl Output {
    /// Writes `file` from `start` on; `path` names it in errors.
    pub(super) fn new(file: File, path: &Path, start: u64) -> Output {
        Output { file, path: path.to_path_buf(), buffer: Vec::new(), start, allocated: start }
    }

    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let room = (BUFFER - self.position() % BUFFER) as usize;
            if bytes.len() < room {
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            }
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
    }

    /// Goes on `n` bytes further; what is between reads as zeros.
    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        if n >= HOLE {
            self.flush()?;
            self.free(n);
            self.start += n;
            return Ok(());
        }
        self.append(&[0; HOLE as usize][..n as usize])
    }

    /// Goes on at the next block, and tells where that is.
    pub(super) fn align(&mut self) -> Result<u64> {
        self.skip(self.position().next_multiple_of(BLOCK) - self.position())?;
        Ok(self.position())
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(Error::io("write", &self.path))
    }

    pub(super) fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(Error::io("read", &self.path))
    }

    /// Writes what is buffered.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.allocate(self.position());
        self.write_at(self.start, &self.buffer)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Asks for space up to `end` and somewhat beyond. That it cannot be had is no error yet: the write will tell.
    fn allocate(&mut self, end: u64) {
        if end <= self.allocated || end < BUFFER {
            return;
        }
        let from = self.allocated.max(self.start);
        let end = (end + (end / 16).min(AHEAD)).next_multiple_of(BUFFER);
        let asked = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, end - from);
        self.allocated = if asked.is_ok() { end } else { u64::MAX };
    }

    /// Gives the next `n` bytes back, as far as they were asked for: they become a hole.
    fn free(&self, n: u64) {
        let end = self.allocated.min(self.start + n);
        if self.allocated != u64::MAX && end > self.start {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Without it they read as zeros too.
            let _ = rustix::fs::fallocate(&self.file, how, self.start, end - self.start);
        }
    }

    /// Everything up to the position exists, in whole blocks.
    pub(super) fn complete(&mut self) -> Result<()> {
        self.align()?;
        self.flush()?;
        self.file.set_len(self.start).map_err(Error::io("resize", &self.path))
    }

    /// The same for good; returns how many blocks.
    pub(super) fn end(&mut self) -> Result<u32> {
        // fsck.erofs of erofs-utils 1.5 reads the header of attributes behind every inode, also of one that has none.
        self.skip(ATTRIBUTES_HEADER)?;
        self.complete()?;
        block_number(self.start)
    }
}

/// The number of the block at `offset`.
pub(super) fn block_number(offset: u64) -> Result<u32> {
    u32::try_from(offset / BLOCK)
        .map_err(|_| Error::UnsupportedLayer { what: "an EROFS image of more than 16 TiB".to_owned() })
}
