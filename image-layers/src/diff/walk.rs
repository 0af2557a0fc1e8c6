//! Walking over a writable layer, beside the index of what is below.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;

use crate::apply::merge::Merged;
use crate::apply::metadata::{Ownership, failed};
use crate::apply::path::{Name, invalid};
use crate::apply::place::Markers;
use crate::apply::stage::{find, without_overlay};
use crate::apply::tree::{NodeId, NodeKind, Visit, Walk, flags};
use crate::tar::{Entry, Kind, Writer, Xattrs};
use crate::{Error, Result};

use super::entry::{ctime, is_of_host, kind, mtime, names, open, readlink, stat, xattrs};
use super::stack::{Frame, Stack};
use super::{Content, DiffStats, Form, output};

pub(super) struct Walker<'a> {
    form: Form,
    merged: &'a Merged,
    content: Content<'a>,
    out: Writer<&'a mut dyn Write>,
    stats: DiffStats,
    stack: Stack,
    /// Path of the current entry.
    path: Vec<u8>,
    /// First name of each inode that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    owners: &'a Ownership,
    buffer: Vec<u8>,
}

/// Overlay's attributes of one entry.
#[derive(Default)]
struct OverlayState {
    opaque: bool,
    whiteout: bool,
    metacopy: bool,
    redirect: Option<Vec<u8>>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        form: Form,
        owners: &'a Ownership,
        merged: &'a Merged,
        content: Content<'a>,
        out: Writer<&'a mut dyn Write>,
    ) -> Self {
        Walker {
            form,
            merged,
            content,
            out,
            stats: DiffStats::default(),
            stack: Stack::default(),
            path: Vec::new(),
            links: HashMap::new(),
            owners,
            buffer: vec![0; 64 << 10],
        }
    }

    pub(super) fn run(&mut self, root: OwnedFd) -> Result<()> {
        let info = stat(root.as_fd(), b".").map_err(|e| self.fail("stat", e))?;
        let attributes = xattrs(root.as_fd(), b".").map_err(|e| self.fail("read attributes of", e))?;
        let below = (!self.merged.is_empty()).then_some(NodeId::ROOT);
        let mut entry = self.describe(&info, attributes, below, Kind::Directory);
        entry.name = b"./".to_vec();
        let unchanged = below.is_some_and(|below| self.same_metadata(&entry, below));
        if !unchanged {
            self.write(&entry)?;
        }
        self.enter(root, |frame| frame.below = below)?;
        while let Some(frame) = self.stack.top() {
            self.path.truncate(frame.path);
            match frame.names.next() {
                Some(name) => self.entry(&name)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<DiffStats> {
        self.out.finish().map_err(output)?;
        Ok(self.stats)
    }

    fn enter(&mut self, dir: OwnedFd, complete: impl FnOnce(&mut Frame)) -> Result<()> {
        let names = names(&dir).map_err(|e| self.fail("read", e))?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        let mut frame = Frame::new(dir, self.path.len(), names).map_err(|e| self.fail("stat", e))?;
        complete(&mut frame);
        frame.seen = (frame.moved || matches!(self.form, Form::Copy(_))).then(HashSet::new);
        self.stack.push(frame);
        Ok(())
    }

    /// The current directory, which is never missing while its entries are looked at.
    fn frame(&mut self) -> Result<&mut Frame> {
        self.stack.top().ok_or(Error::Cancelled)
    }

    fn leave(&mut self) -> Result<()> {
        let frame = self.frame()?;
        if let (Some(seen), Some(below)) = (frame.seen.take(), frame.below) {
            let tree = &self.merged.tree;
            let mut missing: Vec<_> =
                tree.children(below).filter(|&id| !seen.contains(tree.name(id))).collect();
            missing.sort_unstable_by_key(|&id| tree.name(id));
            for id in missing {
                self.absent(id)?;
            }
        }
        self.stack.pop().map_err(|e| self.fail("leave", e))
    }

    /// Something below that the walk did not come upon: shown in a moved directory, removed from a copy.
    fn absent(&mut self, id: NodeId) -> Result<()> {
        if self.frame()?.moved {
            return self.write_below(id);
        }
        let name = Name::whiteout(self.merged.tree.name(id));
        self.write_marker(&name)
    }

    fn entry(&mut self, name: &[u8]) -> Result<()> {
        self.path.extend_from_slice(name);
        let frame = self.frame()?;
        if let Some(seen) = &mut frame.seen {
            seen.insert(name.to_vec());
        }
        let (dir, in_view, moved) = (frame.dir(), frame.below, frame.moved);
        let dir = dir.map_err(|e| self.fail("open", e))?;
        let info = stat(dir.as_fd(), name).map_err(|e| self.fail("stat", e))?;
        let below = in_view.and_then(|parent| self.merged.tree.child(parent, name));
        let attributes = xattrs(dir.as_fd(), name).map_err(|e| self.fail("read attributes of", e))?;
        let overlay = self.overlay_state(&attributes);
        let device = (rustix::fs::major(info.st_rdev), rustix::fs::minor(info.st_rdev));
        if kind(&info) == FileType::CharacterDevice && device == (0, 0) || overlay.whiteout {
            // In a moved directory it is enough not to write what it hides.
            return match below {
                Some(_) if !moved && matches!(self.form, Form::Upper(_)) => {
                    self.write_marker(&Name::whiteout(name))
                }
                _ => Ok(()),
            };
        }
        if !matches!(Name::classify(name), Name::Plain(_)) {
            return Err(invalid(
                &self.path,
                "names that begin with .wh. are reserved and cannot be in a layer",
            ));
        }
        let kind = match kind(&info) {
            FileType::Directory => return self.directory(dir, name, &info, attributes, &overlay, below),
            FileType::Socket => {
                self.stats.skipped += 1;
                return Ok(());
            }
            FileType::RegularFile => Kind::File,
            FileType::Symlink => {
                Kind::Symlink { target: readlink(dir.as_fd(), name).map_err(|e| self.fail("readlink", e))? }
            }
            FileType::CharacterDevice => Kind::Char { major: device.0, minor: device.1 },
            FileType::BlockDevice => Kind::Block { major: device.0, minor: device.1 },
            _ => Kind::Fifo,
        };
        let mut entry = self.describe(&info, attributes, below, kind);
        if entry.kind == Kind::File {
            entry.size = info.st_size as u64;
        }
        if let Some(below) = below
            && self.is_unchanged(&entry, &info, below, dir.as_fd(), name)?
        {
            return Ok(());
        }
        if info.st_nlink > 1 {
            let inode = (info.st_dev, info.st_ino);
            if let Some(first) = self.links.get(&inode) {
                entry.kind = Kind::HardLink { target: first.clone() };
                entry.size = 0;
                entry.xattrs.clear();
            } else {
                self.links.insert(inode, self.path.clone());
            }
        }
        self.write_parents()?;
        self.write(&entry)?;
        if entry.kind != Kind::File {
            return Ok(());
        }
        if overlay.metacopy {
            // Only the metadata was changed; the content is still below.
            let source = match &overlay.redirect {
                Some(redirect) => self.redirected(redirect, in_view),
                None => below,
            };
            let source =
                source.ok_or_else(|| invalid(&self.path, "a metacopy whose content is not below"))?;
            let mut content = (self.content)(source)?;
            return self.copy(&mut content);
        }
        let file = open(dir.as_fd(), name, &info).map_err(|e| self.fail("open", e))?;
        self.copy(&mut std::fs::File::from(file))
    }

    fn directory(
        &mut self,
        parent: Rc<OwnedFd>,
        name: &[u8],
        info: &Stat,
        attributes: Xattrs,
        overlay: &OverlayState,
        below: Option<NodeId>,
    ) -> Result<()> {
        let frame = self.frame()?;
        let (in_view, in_moved) = (frame.below, frame.moved);
        let entry = self.describe(info, attributes, below, Kind::Directory);
        let below_dir = below.filter(|&id| self.merged.tree.node(id).kind == NodeKind::Directory);
        let (mut shows, mut moved) = (below_dir, in_moved);
        let mut hides = overlay.opaque;
        if let Some(redirect) = &overlay.redirect {
            shows = self.redirected(redirect, in_view);
            if shows.is_none() {
                return Err(invalid(&self.path, "a redirect to what is not below"));
            }
            (moved, hides) = (true, true);
        }
        if overlay.opaque {
            shows = None;
        }
        let unchanged = match self.form {
            Form::Upper(_) => false,
            Form::Copy(_) => below_dir.is_some_and(|below| self.same_metadata(&entry, below)),
        };
        let mut pending = None;
        if unchanged {
            pending = Some(entry);
        } else {
            self.write_parents()?;
            self.write(&entry)?;
            // In a moved directory nothing goes by this path below.
            if hides && below_dir.is_some() && !in_moved {
                let length = self.path.len();
                self.path.push(b'/');
                self.write_marker_at(Name::opaque())?;
                self.path.truncate(length);
            }
        }
        let opened = open(parent.as_fd(), name, info).map_err(|e| self.fail("open", e))?;
        let mode = Mode::from_raw_mode(info.st_mode);
        let locked =
            !self.owners.is_root() && self.owners.is_caller(info.st_uid) && !mode.contains(Mode::RWXU);
        let restore = locked.then(|| (name.to_vec(), mode));
        self.enter(opened, |frame| {
            (frame.below, frame.moved, frame.pending, frame.restore) = (shows, moved, pending, restore);
        })
    }

    /// Writes an entry of the layers below, with all in it, at the current path.
    fn write_below(&mut self, id: NodeId) -> Result<()> {
        let tree = &self.merged.tree;
        let base = self.frame()?.path;
        let prefix = tree.path(id).len() - tree.name(id).len();
        let mut walk = Walk::new(id);
        while let Some(visit) = walk.next(tree) {
            let Visit::Enter(at) = visit else { continue };
            let node = tree.node(at);
            self.path.truncate(base);
            let relative = tree.path(at);
            self.path.extend_from_slice(&relative[prefix..]);
            let device = node.device();
            let kind = match node.kind {
                NodeKind::File => Kind::File,
                NodeKind::Directory => Kind::Directory,
                NodeKind::Symlink => Kind::Symlink { target: tree.target(at).to_vec() },
                NodeKind::Char => Kind::Char { major: device.0, minor: device.1 },
                NodeKind::Block => Kind::Block { major: device.0, minor: device.1 },
                NodeKind::Fifo => Kind::Fifo,
                NodeKind::Whiteout | NodeKind::Link => continue,
            };
            let mut entry = Entry {
                name: self.path.clone(),
                size: if kind == Kind::File { node.size } else { 0 },
                kind,
                mode: node.mode,
                uid: node.uid,
                gid: node.gid,
                mtime: node.mtime(),
                xattrs: tree.xattrs(at).to_vec(),
                sparse: None,
            };
            if node.has(flags::LINKED) {
                // Real inodes cannot have such a device number.
                let inode = (u64::MAX - u64::from(node.layer), u64::from(node.inode));
                if let Some(first) = self.links.get(&inode) {
                    entry.kind = Kind::HardLink { target: first.clone() };
                    entry.size = 0;
                } else {
                    self.links.insert(inode, self.path.clone());
                }
            }
            self.write_parents()?;
            self.write(&entry)?;
            if entry.kind == Kind::File {
                let mut content = (self.content)(at)?;
                self.copy(&mut content)?;
            }
        }
        self.path.truncate(base);
        Ok(())
    }

    /// What a redirect leads to: a path from the root, or a name beside the directory as it was below.
    fn redirected(&self, redirect: &[u8], in_view: Option<NodeId>) -> Option<NodeId> {
        let parts: Vec<&[u8]> = redirect.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
        match redirect.starts_with(b"/") {
            true => find(&self.merged.tree, &parts),
            false => self.merged.tree.child(in_view?, redirect),
        }
    }

    fn overlay_state(&self, attributes: &Xattrs) -> OverlayState {
        let prefix: &[u8] = match self.form {
            Form::Upper(Markers::Trusted) => b"trusted.overlay.",
            Form::Upper(_) => b"user.overlay.",
            Form::Copy(_) => return OverlayState::default(),
        };
        let mut state = OverlayState::default();
        for (key, value) in attributes {
            match key.strip_prefix(prefix) {
                // `x` only says that whiteouts in it may be attributes.
                Some(b"opaque") => state.opaque = value == b"y",
                Some(b"whiteout") => state.whiteout = true,
                Some(b"metacopy") => state.metacopy = true,
                Some(b"redirect") => state.redirect = Some(value.clone()),
                _ => {}
            }
        }
        state
    }

    fn describe(&self, info: &Stat, attributes: Xattrs, below: Option<NodeId>, kind: Kind) -> Entry {
        let truth = below.map(|below| self.merged.tree.node(below)).map(|node| (node.uid, node.gid));
        let (uid, gid) = self.owners.of_file(info.st_uid, info.st_gid, truth);
        Entry {
            name: self.path.clone(),
            kind,
            mode: (info.st_mode & 0o7777) as u16,
            uid,
            gid,
            mtime: mtime(info),
            size: 0,
            xattrs: without_overlay(attributes)
                .into_iter()
                .map(|(name, value)| {
                    let value = self.owners.of_attribute(&name, value);
                    (name, value)
                })
                .collect(),
            sparse: None,
        }
    }

    /// Whether a file of a copy is still what it was.
    fn is_unchanged(
        &mut self,
        entry: &Entry,
        info: &Stat,
        below: NodeId,
        dir: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<bool> {
        let Form::Copy(since) = self.form else { return Ok(false) };
        let tree = &self.merged.tree;
        let node = tree.node(below);
        let same_kind = match (&entry.kind, node.kind) {
            (Kind::File, NodeKind::File) => entry.size == node.size,
            (Kind::Symlink { target }, NodeKind::Symlink) => target == tree.target(below),
            (Kind::Char { major, minor }, NodeKind::Char)
            | (Kind::Block { major, minor }, NodeKind::Block) => (*major, *minor) == node.device(),
            (Kind::Fifo, NodeKind::Fifo) => true,
            // What stands for a device that could not be made.
            (Kind::File, NodeKind::Char | NodeKind::Block) => !self.owners.is_root() && entry.size == 0,
            _ => false,
        };
        if !same_kind || !self.same_metadata(entry, below) {
            return Ok(false);
        }
        if entry.kind != Kind::File || ctime(info) < since || node.kind != NodeKind::File {
            return Ok(true);
        }
        // Touched since; times can be set back, contents cannot.
        let mut theirs = (self.content)(below)?;
        let mut ours = std::fs::File::from(open(dir, name, info).map_err(|e| self.fail("open", e))?);
        let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        loop {
            let n = ours.read(&mut a).map_err(|e| Error::from_io("read", "file", e))?;
            if n == 0 {
                return Ok(true);
            }
            if theirs.read_exact(&mut b[..n]).is_err() || a[..n] != b[..n] {
                return Ok(false);
            }
        }
    }

    fn same_metadata(&self, entry: &Entry, below: NodeId) -> bool {
        let node = self.merged.tree.node(below);
        let same = entry.mode == node.mode && entry.mtime == node.mtime();
        let mut attributes = self.merged.tree.xattrs(below).to_vec();
        attributes.retain(|(key, _)| !is_of_host(key));
        attributes.sort_unstable();
        // Without privileges not all attributes could be set.
        let comparable = entry.xattrs.iter().all(|(key, _)| self.owners.stores(key));
        attributes.retain(|(key, _)| self.owners.stores(key));
        (same || entry.kind_is_symlink() && entry.mtime == node.mtime())
            && (entry.uid, entry.gid) == (node.uid, node.gid)
            && comparable
            && entry.xattrs == attributes
    }

    /// Entries of directories that turned out to be needed.
    fn write_parents(&mut self) -> Result<()> {
        let pending: Vec<_> = self.stack.frames().filter_map(|frame| frame.pending.take()).collect();
        pending.iter().try_for_each(|entry| self.write(entry))
    }

    /// A whiteout or opaque marker in the current directory.
    fn write_marker(&mut self, name: &[u8]) -> Result<()> {
        self.write_parents()?;
        let base = self.frame()?.path;
        self.path.truncate(base);
        self.write_marker_at(name)
    }

    fn write_marker_at(&mut self, name: &[u8]) -> Result<()> {
        let marker = Entry {
            name: [&self.path[..], name].concat(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Default::default(),
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
        };
        self.write(&marker)
    }

    fn write(&mut self, entry: &Entry) -> Result<()> {
        self.stats.entries += 1;
        self.out.entry(entry).map_err(output)
    }

    fn copy(&mut self, content: &mut dyn Read) -> Result<()> {
        loop {
            match content.read(&mut self.buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::from_io("read", String::from_utf8_lossy(&self.path).as_ref(), e));
                }
                Ok(0) => return Ok(()),
                Ok(n) => self.out.body(&self.buffer[..n]).map_err(output)?,
            }
        }
    }

    fn fail(&self, action: &'static str, errno: Errno) -> Error {
        failed(action, &self.path)(errno)
    }
}
