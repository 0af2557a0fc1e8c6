//! The part of an image that is written while the layer is read: files.

use std::fs::{File, OpenOptions};
use std::path::Path;

use crate::{Error, Result};

use super::format::{BLOCK, Identity, Inode, Layout, SLOT, encode_xattrs, links_field};
use super::output::{Output, block_number};
use super::shelf::{self, Shelf};
use super::{Metadata, Nid, Xattrs};

/// Writes one image. Without [`finish`](Writer::finish) the file is no image, and whoever gave its name removes it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) output: Output,
    shelf: Shelf,
    /// Where the shelves that were put into the image are.
    shelves: Vec<u64>,
    /// The first preliminary number.
    base: Nid,
    /// What the file that was started last still lacks.
    body: Body,
    pub(super) identity: Identity,
}

#[derive(Clone, Copy, Debug, Default)]
struct Body {
    /// Bytes that belong to blocks, before those that belong on the shelf.
    in_blocks: u64,
    inline: u64,
    inline_at: u64,
}

/// Marks a number that was given out before the place was known. Without the mark it is below the final one, and unique.
const PRELIMINARY: Nid = 1 << 63;

impl Writer {
    /// Starts an image in a new, empty file, which `path` names in errors. It has to be on a file system that EROFS can
    /// be mounted from, which tmpfs is not. `uuid` identifies the file system; it should follow from the content.
    pub(crate) fn new(file: File, path: &Path, uuid: [u8; 16]) -> Writer {
        let identity = Identity { uuid, epoch: None };
        Writer::at(Output::new(file, path, BLOCK), identity)
    }

    /// Goes on with an image that was put aside by [`suspend`](Writer::suspend).
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn resume(path: &Path) -> Result<Writer> {
        let io = Error::io("open", path);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let end = file.metadata().map_err(Error::io("stat", path))?.len();
        let output = Output::new(file, path, end);
        let mut first = vec![0; BLOCK as usize];
        output.read_at(0, &mut first)?;
        Ok(Writer::at(output, Identity::read(&first)))
    }

    fn at(output: Output, identity: Identity) -> Writer {
        let base = output.position() / SLOT;
        Writer { output, shelf: Shelf::full(), shelves: Vec::new(), base, body: Body::default(), identity }
    }

    /// Puts an unfinished image aside: nothing of it stays open or in memory, therefore preliminary numbers are to be
    /// replaced before.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn suspend(mut self) -> Result<()> {
        self.end_files()?;
        self.output.complete()?;
        let mut first = vec![0; BLOCK as usize];
        self.identity.write(&mut first);
        self.output.write_at(0, &first)
    }

    /// Starts a file whose `size` bytes follow by [`append`](Writer::append) and [`skip`](Writer::skip), before anything
    /// else is written. It becomes part of the image if the tree has it in the end, with all its hard links. The number is
    /// preliminary, see [`final_nid`](Writer::final_nid).
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedLayer`] for attributes that EROFS does not have, [`Error::Io`].
    pub(crate) fn file(&mut self, metadata: &Metadata, xattrs: &Xattrs, size: u64) -> Result<Nid> {
        debug_assert_eq!(self.body.in_blocks + self.body.inline, 0, "the file before is incomplete");
        let xattrs = encode_xattrs(xattrs)?;
        let short = self.short(metadata, size);
        let head = Inode::len(short) + xattrs.len() as u64;
        let layout = Layout::new(size, head, BLOCK);
        let on_shelf = head <= BLOCK;
        let (nid, place) = if on_shelf { self.place(head + layout.inline)? } else { self.place_long()? };
        let mut data = 0;
        if layout.in_blocks() > 0 {
            let start = if on_shelf { self.output.align()? } else { place + head.next_multiple_of(BLOCK) };
            data = block_number(start)?;
            block_number(start.saturating_add(layout.in_blocks()))?;
        }
        let mode = 0o100000 | metadata.mode & 0o7777;
        let inode = Inode { short, mode, metadata: *metadata, xattrs: xattrs.len(), layout, data, links: 1 };
        let (bytes, len) = inode.encode(nid);
        if on_shelf {
            let room = self.shelf.at(place);
            room[..len].copy_from_slice(&bytes[..len]);
            room[len..len + xattrs.len()].copy_from_slice(&xattrs);
        } else {
            self.output.append(&bytes[..len])?;
            self.output.append(&xattrs)?;
            self.output.align()?;
        }
        self.body = Body { in_blocks: layout.in_blocks(), inline: layout.inline, inline_at: place + head };
        Ok(nid)
    }

    /// More of the file that was started last.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let (blocks, tail) = bytes.split_at(self.in_blocks(bytes.len() as u64) as usize);
        if !blocks.is_empty() {
            self.output.append(blocks)?;
        }
        if !tail.is_empty() {
            debug_assert!(tail.len() as u64 <= self.body.inline, "more bytes than the file has");
            self.shelf.at(self.body.inline_at)[..tail.len()].copy_from_slice(tail);
            self.skip_inline(tail.len() as u64);
        }
        Ok(())
    }

    /// A hole in the file that was started last: `n` bytes of zeros that take no space.
    pub(crate) fn skip(&mut self, n: u64) -> Result<()> {
        let blocks = self.in_blocks(n);
        self.output.skip(blocks)?;
        self.skip_inline(n - blocks);
        Ok(())
    }

    /// How many of the next `n` bytes belong to blocks; they are counted as written.
    fn in_blocks(&mut self, n: u64) -> u64 {
        let blocks = n.min(self.body.in_blocks);
        self.body.in_blocks -= blocks;
        blocks
    }

    fn skip_inline(&mut self, n: u64) {
        self.body.inline -= n;
        self.body.inline_at += n;
    }

    /// Whether the short form of an inode will do.
    pub(super) fn short(&mut self, metadata: &Metadata, size: u64) -> bool {
        let Metadata { uid, gid, mtime, .. } = *metadata;
        *self.identity.epoch.get_or_insert(mtime) == mtime
            && u16::try_from(uid.max(gid)).is_ok()
            && u32::try_from(size).is_ok()
    }

    /// Room for `len` bytes on the shelf, or else on a new one: the preliminary number and the offset on the shelf.
    fn place(&mut self, len: u64) -> Result<(Nid, u64)> {
        let place = match self.shelf.place(len) {
            Some(place) => place,
            None => {
                self.end_files()?;
                self.shelf.empty();
                // There is always room on an empty shelf, nothing longer than a block comes here.
                let what = || "an inode longer than a block".to_owned();
                self.shelf.place(len).ok_or_else(|| Error::UnsupportedLayer { what: what() })?
            }
        };
        let number = (self.shelves.len() as u64 * shelf::LEN + place) / SLOT;
        Ok((PRELIMINARY | (self.base + number), place))
    }

    /// The place of an inode with more attributes than a shelf takes; it goes to the image at once.
    fn place_long(&mut self) -> Result<(Nid, u64)> {
        let place = self.output.align()?;
        Ok((place / SLOT, place))
    }

    /// Brings all files into the image, so that their numbers are known. To be called before the image is put aside and
    /// before numbers are kept for good.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn end_files(&mut self) -> Result<()> {
        if let Some(bytes) = self.shelf.take() {
            let start = self.output.align()?;
            self.output.append(bytes)?;
            self.shelves.push(start);
        }
        Ok(())
    }

    /// What has become of a number that [`file`](Writer::file) returned, after [`end_files`](Writer::end_files).
    pub(crate) fn final_nid(&self, nid: Nid) -> Nid {
        if nid & PRELIMINARY == 0 {
            return nid;
        }
        let place = ((nid & !PRELIMINARY) - self.base) * SLOT;
        (self.shelves[(place / shelf::LEN) as usize] + place % shelf::LEN) / SLOT
    }

    /// Corrects the number of links of a file, which is on the disk already.
    pub(super) fn set_links(&mut self, nid: Nid, links: u32) -> Result<()> {
        let place = nid * SLOT;
        let mut start = [0; 2];
        self.output.read_at(place, &mut start)?;
        let (at, field) = links_field(start, links).ok_or_else(too_many_links)?;
        self.output.write_at(place + at, &field)
    }
}

pub(super) fn too_many_links() -> Error {
    Error::UnsupportedLayer { what: "more than 65535 hard links to one inode".to_owned() }
}
