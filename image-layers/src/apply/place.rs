//! A layer as a directory tree: everything is made below an open directory, by a single component, exclusively.
//!
//! Nothing that exists is opened, nothing is followed, no path is walked twice; so nothing escapes, no path is too long
//! and a process that swaps things meanwhile gains nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::Result;
use crate::decode::Ahead;
use crate::owners::reach;
use crate::tar::{Extent, Reader};

use super::merge::Merged;
use super::metadata::{self, Metadata, Ownership, failed};
use super::remove::remove_at;
use super::stage::Sink;
use super::tree::{NodeId, NodeKind, Tree, Visit, Walk, flags};
use super::writers::{FileJob, Writers, create_file, write_all};

/// Files up to this size are handed to the writers as a whole; it is the size of a decoded buffer, so that one job
/// cannot hold more than two of them.
const WHOLE: u64 = 128 << 10;

/// Open directories that are kept; far below the usual limit of descriptors, far above the depth of usual trees.
const OPEN_DIRECTORIES: usize = 48;

/// How deletions are written for the file system that stacks the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Markers {
    /// Not at all: the index is enough.
    None,
    /// For overlayfs mounted by root.
    Trusted,
    /// For overlayfs mounted in a user namespace, with `userxattr`.
    User,
}

impl Markers {
    fn opaque(self) -> Option<&'static str> {
        match self {
            Markers::None => None,
            Markers::Trusted => Some("trusted.overlay.opaque"),
            Markers::User => Some("user.overlay.opaque"),
        }
    }
}

/// Writes entries into a directory.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    root: Arc<OwnedFd>,
    /// Most recently used last.
    open: Vec<(NodeId, Arc<OwnedFd>)>,
    writers: &'a Writers,
    owners: &'a Ownership,
    umask_is_zero: bool,
    /// Hard links wait until the files are there: target, new name.
    links: Vec<(NodeId, NodeId)>,
    /// Whether inodes may be shared with the layers below.
    share: bool,
}

impl<'a> Directory<'a> {
    /// Works in `root`, an empty directory of our own.
    pub(crate) fn new(
        root: OwnedFd,
        writers: &'a Writers,
        owners: &'a Ownership,
        umask_is_zero: bool,
    ) -> Directory<'a> {
        Directory {
            root: Arc::new(root),
            open: Vec::new(),
            writers,
            owners,
            umask_is_zero,
            links: Vec::new(),
            share: true,
        }
    }

    /// Whether what is copied from below may be the same inode as there (the default): only where neither changes.
    pub(crate) fn share(&mut self, share: bool) {
        self.share = share;
    }

    /// An open descriptor of a directory of the tree, which is made now if it was not needed before.
    pub(crate) fn directory(&mut self, tree: &mut Tree, id: NodeId) -> Result<Arc<OwnedFd>> {
        // The way up to a directory that is open, and down again.
        let mut way = Vec::new();
        let mut at = id;
        let mut dir = loop {
            if at == NodeId::ROOT {
                break self.root.clone();
            }
            if let Some(index) = self.open.iter().rposition(|(other, _)| *other == at) {
                let entry = self.open.remove(index);
                let dir = entry.1.clone();
                self.open.push(entry);
                break dir;
            }
            way.push(at);
            at = tree.parent(at).unwrap_or(NodeId::ROOT);
        };
        for &id in way.iter().rev() {
            self.make(tree, id, dir.as_fd())?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = reach::openat(&dir, tree.name(id), flags, Mode::empty())
                .map_err(|e| failed("open", &tree.path(id))(e))?;
            dir = Arc::new(opened);
            if self.open.len() == OPEN_DIRECTORIES {
                self.open.remove(0);
            }
            self.open.push((id, dir.clone()));
        }
        Ok(dir)
    }

    /// Makes a directory, accessible to ourselves until the layer is settled.
    pub(crate) fn make(&mut self, tree: &mut Tree, id: NodeId, parent: BorrowedFd<'_>) -> Result<()> {
        let node = tree.node(id);
        if node.has(flags::MADE) {
            return Ok(());
        }
        // mkdir ignores set-id bits, and without privileges a directory must stay writable for now.
        let final_mode = node.mode;
        let mode = if self.owners.is_root() { final_mode & 0o1777 } else { final_mode & 0o1777 | 0o700 };
        reach::mkdirat(parent, tree.name(id), Mode::from_raw_mode(u32::from(mode)))
            .map_err(|e| failed("mkdir", &tree.path(id))(e))?;
        let node = tree.node_mut(id);
        node.flags |= flags::MADE;
        if mode != final_mode || !self.umask_is_zero {
            node.flags |= flags::STALE;
        }
        Ok(())
    }

    /// Makes the hard links that wait.
    pub(crate) fn flush_links(&mut self, tree: &mut Tree) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        self.writers.wait()?;
        for (target, node) in std::mem::take(&mut self.links) {
            self.link_now(tree, target, node)?;
        }
        Ok(())
    }

    fn link_now(&mut self, tree: &mut Tree, target: NodeId, node: NodeId) -> Result<()> {
        let dir_of = |tree: &Tree, id| tree.parent(id).unwrap_or(NodeId::ROOT);
        let (from, to) = (dir_of(tree, target), dir_of(tree, node));
        let (from, to) = (self.directory(tree, from)?, self.directory(tree, to)?);
        reach::linkat(&from, tree.name(target), &to, tree.name(node))
            .map_err(|e| failed("link", &tree.path(node))(e))
    }

    /// Gives the settled layer its final shape: directories nobody needed so far, overlay's markers, and all metadata of
    /// directories but the root, deepest first, so that nothing changes their times afterwards.
    pub(crate) fn complete(&mut self, tree: &mut Tree, markers: Markers) -> Result<()> {
        let mut walk = Walk::new(NodeId::ROOT);
        while let Some(visit) = walk.next(tree) {
            let (Visit::Enter(id) | Visit::Leave(id)) = visit;
            let Some(parent) = tree.parent(id) else { continue };
            match (visit, tree.node(id).kind) {
                (Visit::Enter(_), NodeKind::Directory) if !tree.node(id).has(flags::MADE) => {
                    let dir = self.directory(tree, parent)?;
                    self.make(tree, id, dir.as_fd())?;
                }
                (Visit::Enter(_), NodeKind::Whiteout) if markers != Markers::None => {
                    let dir = self.directory(tree, parent)?;
                    let name = tree.name(id);
                    reach::mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                        .map_err(|e| failed("make whiteout", &tree.path(id))(e))?;
                }
                (Visit::Leave(_), _) => {
                    let dir = self.directory(tree, parent)?;
                    self.complete_directory(tree, id, dir.as_fd(), markers)
                        .map_err(|e| failed("set metadata of", &tree.path(id))(e))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn complete_directory(
        &self,
        tree: &Tree,
        id: NodeId,
        dir: BorrowedFd<'_>,
        markers: Markers,
    ) -> rustix::io::Result<()> {
        let (node, name) = (tree.node(id), tree.name(id));
        if node.has(flags::HIDES)
            && let Some(attribute) = markers.opaque()
        {
            let path = metadata::through_proc(dir, name);
            reach::lsetxattr(&path, attribute.as_bytes(), b"y")?;
        }
        let meta = metadata_of(tree, id);
        if self.owners.beyond_caller(&meta) {
            // Its mode too, which takes an open descriptor as long as there is a right to one.
            let opened = metadata::open_directory(dir, name)?;
            return metadata::finish_file(opened.as_fd(), &meta, self.owners, false);
        }
        metadata::finish_named(dir, name, &meta, self.owners)?;
        if node.has(flags::STALE) {
            // Neither changes the times.
            metadata::chmod_directory(dir, name, node.mode)?;
        }
        Ok(())
    }

    /// Sets the metadata of the root, the very last thing: an ordinary user may be locked out by it.
    pub(crate) fn complete_root(tree: &Tree, root: OwnedFd, owners: &Ownership) -> Result<()> {
        let meta = metadata_of(tree, NodeId::ROOT);
        metadata::finish_file(root.as_fd(), &meta, owners, false).map_err(failed("set metadata of", b"/"))
    }

    /// Writes a file that comes in pieces, in this thread.
    fn stream(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        meta: &Metadata,
        size: u64,
        sparse: Option<&[Extent]>,
        reader: &mut Reader<Ahead>,
    ) -> Result<()> {
        let file = create_file(dir, name, meta.mode).map_err(failed("create", name))?;
        let whole = [Extent { offset: 0, len: size }];
        for extent in sparse.unwrap_or(&whole) {
            if extent.offset > 0 {
                rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(extent.offset))
                    .map_err(failed("seek", name))?;
            }
            reader.take(extent.len, |bytes| write_all(&file, bytes).map_err(failed("write", name)))?;
        }
        if sparse.is_some() {
            rustix::fs::ftruncate(&file, size).map_err(failed("truncate", name))?;
        }
        metadata::finish_file(file.as_fd(), meta, self.owners, self.umask_is_zero)
            .map_err(failed("set metadata of", name))
    }
}

impl Sink for Directory<'_> {
    fn file(
        &mut self,
        tree: &mut Tree,
        id: NodeId,
        sparse: Option<&[Extent]>,
        reader: &mut Reader<Ahead>,
    ) -> Result<()> {
        let parent = tree.parent(id).unwrap_or(NodeId::ROOT);
        let dir = self.directory(tree, parent)?;
        let meta = metadata_of(tree, id);
        let size = tree.node(id).size;
        if size > WHOLE || sparse.is_some() {
            return self.stream(&dir, tree.name(id), &meta, size, sparse, reader);
        }
        let mut body = Vec::with_capacity(usize::from(size > 0));
        while let Some(piece) = reader.piece()? {
            body.push(piece);
        }
        self.writers.submit(FileJob { dir, name: tree.name(id).to_vec(), meta, body }, self.umask_is_zero)
    }

    fn special(&mut self, tree: &mut Tree, id: NodeId) -> Result<()> {
        let parent = tree.parent(id).unwrap_or(NodeId::ROOT);
        let dir = self.directory(tree, parent)?;
        make_special(tree, id, dir.as_fd(), self.owners, self.umask_is_zero)
    }

    fn link(&mut self, _: &mut Tree, target: NodeId, node: NodeId) -> Result<()> {
        self.links.push((target, node));
        Ok(())
    }

    fn remove(&mut self, tree: &mut Tree, id: NodeId) -> Result<()> {
        self.writers.wait()?;
        self.flush_links(tree)?;
        if on_disk(tree, id) {
            let parent = tree.parent(id).unwrap_or(NodeId::ROOT);
            let dir = self.directory(tree, parent)?;
            self.open.clear();
            remove_at(dir.as_fd(), tree.name(id)).map_err(|e| failed("remove", &tree.path(id))(e))?;
        }
        Ok(())
    }

    fn finish(&mut self, tree: &mut Tree) -> Result<()> {
        self.writers.wait()?;
        self.flush_links(tree)
    }

    fn relocate(&mut self, tree: &mut Tree, id: NodeId, parent: NodeId) -> Result<()> {
        if on_disk(tree, id) {
            let from = tree.parent(id).unwrap_or(NodeId::ROOT);
            let (from, to) = (self.directory(tree, from)?, self.directory(tree, parent)?);
            let name = tree.name(id);
            reach::renameat(&from, name, &to, name).map_err(|e| failed("rename", &tree.path(id))(e))?;
        }
        tree.relocate(id, parent);
        Ok(())
    }

    fn copy_up(&mut self, tree: &mut Tree, id: NodeId, below: &Merged, source: NodeId) -> Result<()> {
        let parent = tree.parent(id).unwrap_or(NodeId::ROOT);
        let dir = self.directory(tree, parent)?;
        let tree = &*tree;
        let fail = |action| move |e| failed(action, &tree.path(id))(e);
        let (from, name) = below.open_parent(source)?;
        // Snapshots never change, so they may share the inode.
        let linked = match self.share {
            true => reach::linkat(&from, name, &dir, tree.name(id)),
            false => Err(Errno::XDEV),
        };
        match linked {
            Ok(()) => return Ok(()),
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(e) => return Err(fail("link")(e)),
        }
        if tree.node(id).kind != NodeKind::File {
            return make_special(tree, id, dir.as_fd(), self.owners, self.umask_is_zero);
        }
        let mode = Mode::from_raw_mode(u32::from(tree.node(id).mode));
        let from = metadata::open_for_reading(from.as_fd(), name, mode, FileType::RegularFile)
            .map_err(fail("open"))?;
        let to = create_file(&dir, tree.name(id), tree.node(id).mode).map_err(fail("create"))?;
        copy_content(&from, &to).map_err(fail("copy"))?;
        metadata::finish_file(to.as_fd(), &metadata_of(tree, id), self.owners, self.umask_is_zero)
            .map_err(fail("set metadata of"))
    }
}

/// Copies a whole file, holes as holes; the file system shares the blocks where it can.
pub(crate) fn copy_content(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::fs::SeekFrom;
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = rustix::fs::fstat(from)?.st_size as u64;
    rustix::fs::ftruncate(to, size)?;
    let mut buffer = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(Errno::INVAL) => at,
            other => other?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size);
        rustix::fs::seek(from, SeekFrom::Start(start))?;
        rustix::fs::seek(to, SeekFrom::Start(start))?;
        at = start;
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match rustix::io::read(from, &mut buffer[..want]) {
                Err(Errno::INTR) => {}
                Ok(0) => return Ok(()),
                n => {
                    let n = n?;
                    write_all(to, &buffer[..n])?;
                    at += n as u64;
                }
            }
        }
    }
    Ok(())
}

/// Makes a symlink, device or fifo, with all its metadata. Where a device may not be made, an empty file stands for it.
pub(crate) fn make_special(
    tree: &Tree,
    id: NodeId,
    dir: BorrowedFd<'_>,
    owners: &Ownership,
    umask_is_zero: bool,
) -> Result<()> {
    let (node, name) = (tree.node(id), tree.name(id));
    let meta = metadata_of(tree, id);
    let mode = Mode::from_raw_mode(u32::from(node.mode));
    let (kind, device) = match node.kind {
        NodeKind::Symlink => {
            reach::symlinkat(tree.target(id), dir, name).map_err(|e| failed("symlink", &tree.path(id))(e))?;
            return metadata::finish_named(dir, name, &meta, owners)
                .map_err(|e| failed("set metadata of", &tree.path(id))(e));
        }
        NodeKind::Char => (FileType::CharacterDevice, node.device()),
        NodeKind::Block => (FileType::BlockDevice, node.device()),
        _ => (FileType::Fifo, (0, 0)),
    };
    match reach::mknodat(dir, name, kind, mode, rustix::fs::makedev(device.0, device.1)) {
        Err(Errno::PERM) if kind != FileType::Fifo => {
            let file = create_file(dir, name, node.mode).map_err(|e| failed("create", &tree.path(id))(e))?;
            return metadata::finish_file(file.as_fd(), &meta, owners, umask_is_zero)
                .map_err(|e| failed("set metadata of", &tree.path(id))(e));
        }
        other => other.map_err(|e| failed("mknod", &tree.path(id))(e))?,
    }
    let finish = || {
        metadata::finish_named(dir, name, &meta, owners)?;
        if umask_is_zero && node.mode & 0o6000 == 0 {
            return Ok(());
        }
        // A node must not be opened for this; its path descriptor does.
        let opened = reach::node(dir, name)?;
        let path = metadata::through_proc(opened.as_fd(), b"");
        reach::chmod(&path[..path.len() - 1], mode)
    };
    finish().map_err(|e| failed("set metadata of", &tree.path(id))(e))
}

pub(crate) fn metadata_of(tree: &Tree, id: NodeId) -> Metadata {
    let node = tree.node(id);
    Metadata {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: node.mtime(),
        xattrs: tree.xattrs(id).to_vec(),
    }
}

/// Whether an entry has something on disk (yet).
pub(crate) fn on_disk(tree: &Tree, id: NodeId) -> bool {
    match tree.node(id).kind {
        NodeKind::Directory => tree.node(id).has(flags::MADE),
        NodeKind::Whiteout | NodeKind::Link => false,
        _ => true,
    }
}
