//! What a container changed of its root file system: the merged tree beside the layers below, name by name.
//!
//! An overlay shows a file that nobody touched with the status of the lower one, and the time of its last change of status is
//! nobody's to set: the same there means the same file. No content is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::Container;
use super::reach::{self, Reach};
use crate::error::{Error, Result};
use crate::plan::LowerLayer;

/// One line of [`Container::changes`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Change {
    /// The path inside the container.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What a container did to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It is new. Of a new directory everything in it is listed too.
    Added,
    /// Content, owner, mode or attributes are others, or something of another kind is in its place. A directory in which only
    /// entries came and went is not listed itself.
    Modified,
    /// It is gone, with everything below, which is not listed.
    Deleted,
}

impl Container {
    /// What it changed of its root file system so far, in order of the paths. What is in its mounts (volumes, `/dev`, `/proc`)
    /// does not belong to that. Works while it runs, is paused, or has ended and is not yet removed; for an exact answer
    /// nothing may write meanwhile.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when changes are not kept apart: for a root directory that is written itself, without
    /// [`writable_memory`](crate::ContainerBuilder::writable_memory) or [`disk_limit`](crate::ContainerBuilder::disk_limit).
    /// [`Error::Io`] with the path inside the container.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let Some(lower) = &self.core.lower else {
            return Err(Error::unsupported(
                "the list of changes",
                "the root directory itself is written: take an image, writable_memory or disk_limit",
            ));
        };
        let _reach = Reach::keep();
        let mounts = self.core.spec.mounts().iter().flatten();
        let mut comparison = Comparison {
            root: self.root()?,
            layers: lower.iter().map(open_layer).collect::<Result<_>>()?,
            mounts: mounts.map(|mount| mount.destination().clone()).collect(),
            changes: Vec::new(),
        };
        let mut todo: Todo = vec![(PathBuf::from("/"), (0..lower.len()).collect())];
        while let Some((path, below)) = todo.pop() {
            todo.extend(comparison.directory(&path, &below)?);
        }
        comparison.changes.sort();
        Ok(comparison.changes)
    }
}

fn open_layer(layer: &LowerLayer) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match layer {
        LowerLayer::Directory(path) => {
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))
        }
        LowerLayer::Erofs(path) => super::disk::erofs(path).map_err(|e| Error::io("mount", path, e)),
    }
}

struct Comparison<'a> {
    root: BorrowedFd<'a>,
    /// The topmost first.
    layers: Vec<OwnedFd>,
    /// Where something is mounted in the container, or was.
    mounts: BTreeSet<PathBuf>,
    changes: Vec<Change>,
}

/// What the layers have under a name: the status of the topmost, and the layers whose directories are merged there.
struct Lower {
    stat: Stat,
    merged: Vec<usize>,
}

/// Directories to look into, each with the layers that have it.
type Todo = Vec<(PathBuf, Vec<usize>)>;

impl Comparison<'_> {
    /// Compares the entries of one directory, and gives the directories that are to be looked into.
    fn directory(&mut self, path: &Path, below: &[usize]) -> Result<Todo> {
        let failed = |e: Errno| Error::io("read", path, e);
        let mut todo = Vec::new();
        let directory = match open_directory(self.root, path) {
            Ok(directory) => directory,
            // A mount, or it went away meanwhile.
            Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR) => return Ok(todo),
            Err(e) => return Err(failed(e)),
        };
        let mut before = self.entries_below(path, below).map_err(failed)?;
        for name in names(&directory).map_err(failed)? {
            let at = path.join(&name);
            let lower = before.remove(&name);
            if self.mounts.contains(&at) {
                continue;
            }
            let Some(stat) = stat(&directory, &name).map_err(failed)? else { continue };
            let is_directory = kind(&stat) == FileType::Directory;
            let merged = match lower {
                None => {
                    self.note(&at, ChangeKind::Added);
                    Vec::new()
                }
                Some(lower) => {
                    if differs(&stat, &lower.stat) {
                        self.note(&at, ChangeKind::Modified);
                    }
                    lower.merged
                }
            };
            if is_directory {
                todo.push((at, merged));
            }
        }
        for name in before.into_keys() {
            let at = path.join(name);
            if !self.mounts.contains(&at) {
                self.note(&at, ChangeKind::Deleted);
            }
        }
        Ok(todo)
    }

    /// Merges a directory of the layers as overlayfs does: whiteouts hide, opaque directories hide all below.
    fn entries_below(&self, path: &Path, below: &[usize]) -> rustix::io::Result<BTreeMap<OsString, Lower>> {
        let mut entries: BTreeMap<OsString, Lower> = BTreeMap::new();
        let mut closed: BTreeSet<OsString> = BTreeSet::new();
        for &index in below {
            let layer = open_directory(self.layers[index].as_fd(), path)?;
            for name in names(&layer)? {
                if closed.contains(&name) {
                    continue;
                }
                let Some(stat) = stat(&layer, &name)? else { continue };
                if is_whiteout(&layer, &name, &stat) {
                    closed.insert(name);
                } else if kind(&stat) == FileType::Directory {
                    if is_opaque(&layer, &name) {
                        closed.insert(name.clone());
                    }
                    entries.entry(name).or_insert(Lower { stat, merged: Vec::new() }).merged.push(index);
                } else {
                    closed.insert(name.clone());
                    // Below a directory of a higher layer it cannot be seen.
                    entries.entry(name).or_insert(Lower { stat, merged: Vec::new() });
                }
            }
        }
        Ok(entries)
    }

    fn note(&mut self, path: &Path, kind: ChangeKind) {
        self.changes.push(Change { path: path.to_owned(), kind });
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn differs(now: &Stat, before: &Stat) -> bool {
    let owners = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    if kind(now) == FileType::Directory && kind(before) == FileType::Directory {
        return owners(now) != owners(before);
    }
    let file = |stat: &Stat| (owners(stat), stat.st_size, stat.st_rdev, stat.st_ctime, stat.st_ctime_nsec);
    file(now) != file(before)
}

fn stat(directory: &OwnedFd, name: &OsString) -> rustix::io::Result<Option<Stat>> {
    match reach::statat(directory, name.as_bytes()) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The names in a directory.
pub(super) fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in reach::entries(directory.as_fd())? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    crate::sys::fd::look_up(Errno::AGAIN, || {
        reach::openat2(root, path.as_os_str().as_bytes(), flags, Mode::empty(), resolve)
    })
}

fn is_whiteout(layer: &OwnedFd, name: &OsString, stat: &Stat) -> bool {
    match kind(stat) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        // Where devices cannot be made: an empty file with a mark.
        FileType::RegularFile => stat.st_size == 0 && is_marked(layer, name, "whiteout"),
        _ => false,
    }
}

fn is_opaque(layer: &OwnedFd, name: &OsString) -> bool {
    is_marked(layer, name, "opaque")
}

fn is_marked(layer: &OwnedFd, name: &OsString, mark: &str) -> bool {
    // The name itself, through a descriptor of the directory: no link is followed.
    let path = [format!("/proc/self/fd/{}/", layer.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    ["trusted", "user"].iter().any(|space| {
        let key = format!("{space}.overlay.{mark}");
        reach::lgetxattr(&path, key.as_bytes(), &mut [0u8; 8][..]).is_ok()
    })
}
