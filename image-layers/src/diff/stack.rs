//! The directories between the root and where the walk is, with few open descriptors however deep that is.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::Mode;
use rustix::io::{Errno, Result};

use crate::apply::metadata::{open_directory, through_proc};
use crate::apply::tree::NodeId;
use crate::owners::reach;
use crate::tar::Entry;

/// A directory that is being walked over.
pub(super) struct Frame {
    /// Closed while the walk is far below.
    dir: Option<Rc<OwnedFd>>,
    inode: (u64, u64),
    /// Length of the directory's part of the path.
    pub(super) path: usize,
    pub(super) names: std::vec::IntoIter<Vec<u8>>,
    /// What shows through from below.
    pub(super) below: Option<NodeId>,
    /// Nothing below goes by this path itself: what shows through has to be written in full.
    pub(super) moved: bool,
    /// In a copy, or where things were moved: names that were found, to tell what is missing.
    pub(super) seen: Option<HashSet<Vec<u8>>>,
    /// The directory's own entry, as long as nothing made it necessary.
    pub(super) pending: Option<Entry>,
    /// Its name and mode, to be put back when it is left.
    pub(super) restore: Option<(Vec<u8>, Mode)>,
}

impl Frame {
    pub(super) fn new(dir: OwnedFd, path: usize, names: Vec<Vec<u8>>) -> Result<Frame> {
        let inode = inode(&dir)?;
        Ok(Frame {
            dir: Some(Rc::new(dir)),
            inode,
            path,
            names: names.into_iter(),
            below: None,
            moved: false,
            seen: None,
            pending: None,
            restore: None,
        })
    }

    pub(super) fn dir(&self) -> Result<Rc<OwnedFd>> {
        self.dir.clone().ok_or(Errno::BADF)
    }
}

/// The frames from the root down.
#[derive(Default)]
pub(super) struct Stack(Vec<Frame>);

/// So many of the deepest directories stay open.
const OPEN: usize = 64;

impl Stack {
    pub(super) fn push(&mut self, frame: Frame) {
        if let Some(far) = self.0.len().checked_sub(OPEN) {
            self.0[far].dir = None;
        }
        self.0.push(frame);
    }

    pub(super) fn top(&mut self) -> Option<&mut Frame> {
        self.0.last_mut()
    }

    pub(super) fn frames(&mut self) -> impl Iterator<Item = &mut Frame> {
        self.0.iter_mut()
    }

    /// Leaves the deepest directory. The one above is opened again if need be, by the way up, and has to be the same.
    pub(super) fn pop(&mut self) -> Result<()> {
        let Some(frame) = self.0.pop() else { return Ok(()) };
        let Some(parent) = self.0.last_mut() else { return Ok(()) };
        if parent.dir.is_none() {
            let opened = open_directory(frame.dir()?.as_fd(), b"..")?;
            if inode(&opened)? != parent.inode {
                return Err(Errno::STALE);
            }
            parent.dir = Some(Rc::new(opened));
        }
        if let Some((name, mode)) = frame.restore {
            let node = reach::node(parent.dir()?, &name)?;
            let path = through_proc(node.as_fd(), b"");
            rustix::fs::chmod(&path[..path.len() - 1], mode)?;
        }
        Ok(())
    }
}

fn inode(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
