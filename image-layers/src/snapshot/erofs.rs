//! Each layer an EROFS image, mounted from the file and stacked by overlayfs.
//!
//! Contents go to the image while the layer is read; what is known of a file in the index is where its inode is. Names,
//! overlayfs' markers and everything that is no file follow when the layer is settled.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::apply::merge::Merged;
use crate::apply::metadata::Ownership;
use crate::apply::settle::settle;
use crate::apply::stage::{Sink, stage};
use crate::apply::tree::{NodeId, NodeKind, Tree, flags};
use crate::decode::{Ahead, run_ahead};
use crate::erofs::{self, Content, Kind, Metadata, Writer, Xattrs};
use crate::tar::{Extent, Reader};
use crate::{Digest, Error, LowerLayer, Result, RootfsMount};

use super::directory::check_diff_id;
use super::overlay::{diff_upper, lower, mount, no_layers, prepare_upper};
use super::{Blob, DiffStats, Snapshotter};

/// In the image files have the owners that the layer says; what containers write is like any other upper directory.
#[derive(Debug)]
pub(super) struct Erofs {
    pub(super) owners: Ownership,
}

/// Name of the content inside a snapshot.
const CONTENT: &str = "layer.erofs";

impl Snapshotter for Erofs {
    fn content(&self) -> &'static str {
        CONTENT
    }

    fn stage(&self, blob: Blob<'_>, scratch: &Path) -> Result<Tree> {
        let Blob { reader, diff_id, control, .. } = blob;
        let path = scratch.join(CONTENT);
        let file = create(&path, OFlags::CREATE | OFlags::EXCL)?;
        let mut sink = Bodies { writer: Writer::new(file, &path, uuid(diff_id)) };
        let (mut tree, digest) = run_ahead(reader, control, diff_id.algorithm(), |ahead| {
            stage(Reader::new(ahead, control.limits()), &mut sink, control)
        })?;
        check_diff_id(diff_id, digest)?;
        sink.end(&mut tree)?;
        sink.writer.suspend()?;
        Ok(tree)
    }

    fn settle(&self, tree: &mut Tree, below: &Merged, scratch: &Path, _: bool) -> Result<()> {
        let mut sink = Bodies { writer: Writer::resume(&scratch.join(CONTENT))? };
        settle(tree, below, &mut sink)?;
        sink.end(tree)?;
        sink.writer.suspend()
    }

    fn seal(&self, tree: &Tree, scratch: &Path) -> Result<()> {
        Writer::resume(&scratch.join(CONTENT))?.finish(&Names(tree))
    }

    fn prepare(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        prepare_upper(chain, writable, &self.owners)?;
        self.mount(chain, writable)
    }

    fn mount(&self, chain: &[PathBuf], writable: &Path) -> Result<RootfsMount> {
        Ok(mount(lower(chain, layer)?, Some(writable), &self.owners))
    }

    fn view(&self, chain: &[PathBuf]) -> Result<RootfsMount> {
        let lower = lower(chain, layer)?;
        if lower.is_empty() { Err(no_layers()) } else { Ok(mount(lower, None, &self.owners)) }
    }

    fn diff(&self, chain: &[PathBuf], writable: &Path, out: &mut dyn Write) -> Result<DiffStats> {
        let below = Merged::load(chain, CONTENT)?;
        let content = |id| Ok(Box::new(content(&below, id)?) as Box<dyn Read>);
        diff_upper(writable, &self.owners, &below, &content, out)
    }
}

fn layer(dir: &Path) -> LowerLayer {
    LowerLayer::Erofs(dir.join(CONTENT))
}

/// The content of a file of the layers below.
fn content(below: &Merged, id: NodeId) -> Result<Content> {
    let node = below.tree.node(id);
    Content::open(below.root_of(node.layer), node.data)
}

/// Creates a file, or one without a name in a directory. A layer may hold what is not for everybody to read.
fn create(path: &Path, how: OFlags) -> Result<File> {
    let fd = rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC | how, Mode::RUSR | Mode::WUSR);
    fd.map(File::from).map_err(Error::io("create", path))
}

/// A UUID of version 8 from the layer's digest, so that the same layer gives the same image.
fn uuid(diff_id: &Digest) -> [u8; 16] {
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(diff_id.hex().as_bytes().chunks(2)) {
        let digit = |hex: u8| char::from(hex).to_digit(16).unwrap_or(0) as u8;
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Puts contents into an image.
#[derive(Debug)]
struct Bodies {
    writer: Writer,
}

impl Bodies {
    /// Starts the body of a file that is described in the tree.
    fn start(&mut self, tree: &mut Tree, id: NodeId) -> Result<()> {
        let size = tree.node(id).size;
        let nid = self.writer.file(&metadata_of(tree, id), &xattrs_of(tree, id), size)?;
        tree.node_mut(id).data = nid;
        Ok(())
    }

    /// Gives all files their final numbers.
    fn end(&mut self, tree: &mut Tree) -> Result<()> {
        self.writer.end_files()?;
        for node in tree.nodes_mut().filter(|node| node.kind == NodeKind::File) {
            node.data = self.writer.final_nid(node.data);
        }
        Ok(())
    }
}

impl Sink for Bodies {
    fn file(
        &mut self,
        tree: &mut Tree,
        id: NodeId,
        sparse: Option<&[Extent]>,
        reader: &mut Reader<Ahead>,
    ) -> Result<()> {
        self.start(tree, id)?;
        let size = tree.node(id).size;
        let whole = [Extent { offset: 0, len: size }];
        let mut at = 0;
        for extent in sparse.unwrap_or(&whole) {
            self.writer.skip(extent.offset - at)?;
            reader.take(extent.len, |bytes| self.writer.append(bytes))?;
            at = extent.offset + extent.len;
        }
        self.writer.skip(size - at)
    }

    fn special(&mut self, _: &mut Tree, _: NodeId) -> Result<()> {
        Ok(())
    }

    fn link(&mut self, _: &mut Tree, _: NodeId, _: NodeId) -> Result<()> {
        Ok(())
    }

    /// A body stays where it is: bytes without a name.
    fn remove(&mut self, _: &mut Tree, _: NodeId) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Tree) -> Result<()> {
        Ok(())
    }

    fn relocate(&mut self, tree: &mut Tree, id: NodeId, parent: NodeId) -> Result<()> {
        tree.relocate(id, parent);
        Ok(())
    }

    fn copy_up(&mut self, tree: &mut Tree, id: NodeId, below: &Merged, source: NodeId) -> Result<()> {
        if below.tree.node(source).kind != NodeKind::File {
            return Ok(());
        }
        self.start(tree, id)?;
        let mut content = content(below, source)?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = content.read(&mut buffer).map_err(|e| Error::from_io("read", "layer below", e))?;
            match &buffer[..n] {
                [] => return Ok(()),
                hole if hole.iter().all(|&byte| byte == 0) => self.writer.skip(n as u64)?,
                bytes => self.writer.append(bytes)?,
            }
        }
    }
}

/// A settled layer for the writer of its image.
struct Names<'a>(&'a Tree);

impl erofs::Tree for Names<'_> {
    fn root(&self) -> u32 {
        NodeId::ROOT.number()
    }

    fn children(&self, directory: u32, into: &mut Vec<u32>) {
        into.extend(self.0.children(NodeId::from_number(directory)).map(NodeId::number));
    }

    fn name(&self, entry: u32) -> &[u8] {
        self.0.name(NodeId::from_number(entry))
    }

    fn inode(&self, entry: u32) -> u32 {
        self.0.node(NodeId::from_number(entry)).inode
    }

    fn inodes(&self) -> usize {
        self.0.len()
    }

    fn kind(&self, entry: u32) -> Kind<'_> {
        let id = NodeId::from_number(entry);
        let node = self.0.node(id);
        let (major, minor) = node.device();
        match node.kind {
            NodeKind::File => Kind::File(node.data),
            NodeKind::Directory => Kind::Directory,
            NodeKind::Symlink => Kind::Symlink(self.0.target(id)),
            NodeKind::Char => Kind::Char { major, minor },
            NodeKind::Block => Kind::Block { major, minor },
            NodeKind::Fifo => Kind::Fifo,
            NodeKind::Whiteout => Kind::Char { major: 0, minor: 0 },
            NodeKind::Link => unreachable!("no link is pending in a settled layer"),
        }
    }

    fn metadata(&self, entry: u32) -> Metadata {
        metadata_of(self.0, NodeId::from_number(entry))
    }

    fn xattrs(&self, entry: u32) -> Cow<'_, Xattrs> {
        xattrs_of(self.0, NodeId::from_number(entry))
    }
}

fn metadata_of(tree: &Tree, id: NodeId) -> Metadata {
    let node = tree.node(id);
    let mode = match node.kind {
        NodeKind::Whiteout => return Metadata::default(),
        // As on every file system of Linux.
        NodeKind::Symlink => 0o777,
        _ => node.mode,
    };
    Metadata { mode, uid: node.uid, gid: node.gid, mtime: node.mtime() }
}

/// What overlayfs has to know, and of the rest what EROFS can show: the index has all of it.
fn xattrs_of(tree: &Tree, id: NodeId) -> Cow<'_, Xattrs> {
    let all = tree.xattrs(id);
    // Nothing is stacked below an opaque root.
    let opaque = tree.node(id).has(flags::HIDES) && id != NodeId::ROOT;
    if !opaque && all.iter().all(|(name, _)| erofs::has_attribute(name)) {
        return Cow::Borrowed(all);
    }
    let mut kept: Vec<_> = all.iter().filter(|(name, _)| erofs::has_attribute(name)).cloned().collect();
    if opaque {
        kept.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    }
    Cow::Owned(kept)
}

/// Why images in `dir` could not be mounted, found out by mounting one.
pub(super) fn refusal(dir: &Path) -> Option<String> {
    let image = || {
        let file = create(dir, OFlags::TMPFILE)?;
        let copy = file.try_clone().map_err(Error::io("duplicate", dir))?;
        Writer::new(copy, dir, [0; 16]).finish(&Names(&Tree::new()))?;
        Ok(file)
    };
    let file = match image() {
        Ok(file) => file,
        Err(error @ Error::Io { .. }) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            return Some(format!("{error}: {cause}"));
        }
        Err(error) => return Some(error.to_string()),
    };
    match mount_detached(&file) {
        // What a container writes lies in an overlay all the same.
        Ok(_) => super::overlay::refusal(dir),
        Err(Errno::PERM) => Some("mounting EROFS needs CAP_SYS_ADMIN of the host".to_owned()),
        Err(Errno::NODEV) => Some("the kernel has no EROFS".to_owned()),
        Err(Errno::NOTBLK) => Some(format!(
            "EROFS cannot be mounted from a file of {}: that needs Linux 6.12 and a file system on a disk, not tmpfs",
            dir.display()
        )),
        Err(errno) => Some(format!("mounting an EROFS image: {errno}")),
    }
}

/// Mounts an image at no place: the mount goes with the descriptor.
fn mount_detached(image: &File) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // A string of fsconfig has at most 255 bytes, a path may have more.
    rustix::mount::fsconfig_set_string(&context, "source", format!("/proc/self/fd/{}", image.as_raw_fd()))?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
}

#[cfg(test)]
mod tests;
