//! The part of an image that is written when the tree is known: directories, symlinks, devices, the superblock.
//!
//! Twice through the tree, directory by directory from the root down. The first pass gives everything its place, the
//! second one writes in that order, now that each directory can name the places of its entries and of its parent.

use std::ops::Range;

use crate::{Error, Result};

use super::directory::{self, Dirent};
use super::format::{BLOCK, Inode, Layout, ROOT, SLOT, Superblock, encode_xattrs, kind_fields};
use super::output::block_number;
use super::writer::too_many_links;
use super::{Kind, Nid, Tree, Writer};

/// The entries `.` and `..`, which are sorted in among the others.
const SELF: u32 = u32::MAX;
const PARENT: u32 = u32::MAX - 1;

/// What is known of an inode: nothing before its first name was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    nid: Nid,
    links: u32,
}

#[derive(Debug)]
struct Directory {
    entry: u32,
    /// The parent's number in the list of directories.
    parent: usize,
    /// Its entries in the list of all entries, sorted.
    entries: Range<usize>,
    placed: Placed,
}

/// Where something is going to be.
#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    layout: Layout,
    place: u64,
    /// The first of its own blocks, if it has some.
    data: u64,
    links: u32,
}

/// Gives out places in rising order.
#[derive(Debug)]
struct Cursor(u64);

impl Cursor {
    /// Room for an inode with what follows it, which crosses no border of a block unless it is longer than one.
    fn item(&mut self, len: u64) -> u64 {
        let mut place = self.0.next_multiple_of(SLOT);
        if place % BLOCK + len > BLOCK {
            place = place.next_multiple_of(BLOCK);
        }
        self.0 = place + len;
        place
    }

    fn blocks(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let place = self.0.next_multiple_of(BLOCK);
        self.0 = place + n * BLOCK;
        place
    }
}

/// The tree with places.
#[derive(Debug)]
struct Plan {
    directories: Vec<Directory>,
    entries: Vec<u32>,
    inodes: Vec<Known>,
}

impl Writer {
    /// Completes the image: `tree` says under which names the files are found, and has everything else.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedLayer`] for what EROFS does not have,
    /// [`Error::Io`].
    pub(crate) fn finish(mut self, tree: &impl Tree) -> Result<()> {
        self.end_files()?;
        let files_end = self.output.align()?;
        self.output.flush()?;
        let plan = self.plan(tree, files_end)?;
        for known in &plan.inodes {
            if known.links > 1 && known.nid * SLOT < files_end && known.nid * SLOT > ROOT {
                self.set_links(known.nid, known.links)?;
            }
        }
        let mut first = vec![0; BLOCK as usize];
        for at in 0..plan.directories.len() {
            self.directory(tree, &plan, at, &mut first)?;
        }
        let superblock = Superblock {
            identity: self.identity,
            inodes: plan.inodes.iter().filter(|known| known.links > 0).count() as u64,
            blocks: self.output.end()?,
        };
        superblock.write(&mut first);
        self.output.write_at(0, &first)
    }

    /// The first pass.
    fn plan(&mut self, tree: &impl Tree, start: u64) -> Result<Plan> {
        let root = tree.root();
        let mut plan = Plan {
            directories: Vec::new(),
            entries: Vec::new(),
            inodes: vec![Known::default(); tree.inodes()],
        };
        let mut cursor = Cursor(start);
        let mut next = 0;
        plan.directories.push(Directory::new(root, 0));
        while next < plan.directories.len() {
            self.plan_directory(tree, &mut plan, next, &mut cursor)?;
            next += 1;
        }
        Ok(plan)
    }

    fn plan_directory(
        &mut self,
        tree: &impl Tree,
        plan: &mut Plan,
        at: usize,
        cursor: &mut Cursor,
    ) -> Result<()> {
        let entry = plan.directories[at].entry;
        let from = plan.entries.len();
        plan.entries.extend([SELF, PARENT]);
        tree.children(entry, &mut plan.entries);
        let entries = from..plan.entries.len();
        plan.entries[from..].sort_unstable_by(|&a, &b| name(tree, a).cmp(name(tree, b)));
        let size = directory::size(plan.entries[from..].iter().map(|&child| name(tree, child)));
        let head = Inode::len(self.short(&tree.metadata(entry), size))
            + encode_xattrs(&tree.xattrs(entry))?.len() as u64;
        let (room, mut place) = if at == 0 { (BLOCK - ROOT, ROOT) } else { (BLOCK, 0) };
        let layout = Layout::new(size, head, room);
        if at > 0 {
            place = cursor.item(head + layout.inline);
        } else if head > room {
            let what = "more than 2880 bytes of extended attributes of the root in an EROFS image".to_owned();
            return Err(Error::UnsupportedLayer { what });
        }
        let data = cursor.blocks(layout.blocks());
        let mut links = 2;
        for i in entries.clone() {
            let child = plan.entries[i];
            if child == SELF || child == PARENT {
                continue;
            }
            let inode = tree.inode(child) as usize;
            let known = plan.inodes[inode];
            let nid = match tree.kind(child) {
                Kind::Directory => {
                    links += 1;
                    plan.directories.push(Directory::new(child, at));
                    continue;
                }
                Kind::File(nid) => self.final_nid(nid),
                _ if known.links > 0 => known.nid,
                kind => {
                    let (head, layout) = self.special(tree, child, kind)?;
                    let place = cursor.item(head + layout.inline);
                    cursor.blocks(layout.blocks());
                    place / SLOT
                }
            };
            plan.inodes[inode] = Known { nid, links: known.links + 1 };
        }
        plan.inodes[tree.inode(entry) as usize] = Known { nid: place / SLOT, links };
        let directory = &mut plan.directories[at];
        (directory.entries, directory.placed) = (entries, Placed { layout, place, data, links });
        Ok(())
    }

    /// How a symlink, device or fifo is laid out: inode and attributes, and what they are followed by.
    fn special(&mut self, tree: &impl Tree, entry: u32, kind: Kind<'_>) -> Result<(u64, Layout)> {
        let size = if let Kind::Symlink(target) = kind { target.len() as u64 } else { 0 };
        if size >= BLOCK {
            let what = format!("symlink to a target of {size} bytes");
            return Err(Error::UnsupportedLayer { what });
        }
        let head = Inode::len(self.short(&tree.metadata(entry), size))
            + encode_xattrs(&tree.xattrs(entry))?.len() as u64;
        Ok((head, Layout::new(size, head, BLOCK)))
    }

    /// The second pass: one directory and what is in it, except for files and other directories.
    fn directory(&mut self, tree: &impl Tree, plan: &Plan, at: usize, first: &mut [u8]) -> Result<()> {
        let Directory { entry, parent, ref entries, placed } = plan.directories[at];
        let Placed { layout, place, data, .. } = placed;
        let entries = &plan.entries[entries.clone()];
        let mut inline = self.head(tree, entry, Kind::Directory, placed)?;
        let nid_of = |child| plan.inodes[tree.inode(child) as usize].nid;
        let dirents = entries.iter().map(|&child| {
            let (nid, kind) = match child {
                SELF => (place / SLOT, Kind::Directory),
                PARENT => (plan.directories[parent].placed.place / SLOT, Kind::Directory),
                _ => (nid_of(child), tree.kind(child)),
            };
            Ok(Dirent { name: name(tree, child), nid, file_type: kind_fields(kind)?.1 })
        });
        let mut to_blocks = layout.in_blocks();
        let mut blocks = Vec::new();
        directory::blocks(dirents, |bytes| {
            if to_blocks > 0 {
                to_blocks -= bytes.len() as u64;
                blocks.extend_from_slice(bytes);
            } else {
                inline.extend_from_slice(bytes);
            }
            Ok(())
        })?;
        if at == 0 {
            first[ROOT as usize..][..inline.len()].copy_from_slice(&inline);
        } else {
            self.seek(place)?;
            self.output.append(&inline)?;
        }
        if !blocks.is_empty() {
            self.seek(data)?;
            self.output.append(&blocks)?;
        }
        for &child in entries.iter().filter(|&&child| child != SELF && child != PARENT) {
            let kind = tree.kind(child);
            let Known { nid, links } = plan.inodes[tree.inode(child) as usize];
            // Places rise, so what is behind the position is not written yet; files are always before it.
            if kind != Kind::Directory && nid * SLOT >= self.output.position() {
                let (len, layout) = self.special(tree, child, kind)?;
                let place = nid * SLOT;
                let data = (place + len + layout.inline).next_multiple_of(BLOCK);
                let head = self.head(tree, child, kind, Placed { layout, place, data, links })?;
                self.seek(place)?;
                self.output.append(&head)?;
                if let Kind::Symlink(target) = kind {
                    if layout.inline == 0 {
                        self.seek(data)?;
                    }
                    self.output.append(target)?;
                }
            }
        }
        Ok(())
    }

    /// Inode and extended attributes.
    fn head(&mut self, tree: &impl Tree, entry: u32, kind: Kind<'_>, placed: Placed) -> Result<Vec<u8>> {
        let Placed { layout, place, data, links } = placed;
        let metadata = tree.metadata(entry);
        let xattrs = encode_xattrs(&tree.xattrs(entry))?;
        let short = self.short(&metadata, layout.size);
        if short && links > u32::from(u16::MAX) {
            return Err(too_many_links());
        }
        let (type_bits, _, device) = kind_fields(kind)?;
        let mode = type_bits | metadata.mode & 0o7777;
        let data = if layout.in_blocks() > 0 { block_number(data)? } else { device };
        let inode = Inode { short, mode, metadata, xattrs: xattrs.len(), layout, data, links };
        let (bytes, len) = inode.encode(place / SLOT);
        Ok([&bytes[..len], &xattrs].concat())
    }

    /// Zeros up to a place that is not written yet.
    fn seek(&mut self, place: u64) -> Result<()> {
        self.output.skip(place - self.output.position())
    }
}

impl Directory {
    fn new(entry: u32, parent: usize) -> Directory {
        Directory { entry, parent, entries: 0..0, placed: Placed::default() }
    }
}

fn name<T: Tree>(tree: &T, entry: u32) -> &[u8] {
    match entry {
        SELF => b".",
        PARENT => b"..",
        _ => tree.name(entry),
    }
}
