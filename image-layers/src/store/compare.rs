//! Whether two trees are the same in everything that an image can say.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::apply::metadata::open_directory;
use crate::diff::{self, kind};
use crate::owners::reach;
use crate::{Error, Result};

/// The first difference between `tree` and what it should be, in words; `None` when there is none.
pub(super) fn difference(expected: &Path, tree: &Path) -> Result<Option<String>> {
    let mut pending = vec![PathBuf::new()];
    let mut inodes = HashMap::new();
    while let Some(relative) = pending.pop() {
        let (a, b) = (expected.join(&relative), tree.join(&relative));
        let differs = |what: &str| Ok(Some(format!("{:?}: {what}", relative.display())));
        let want = reach::statat(CWD, bytes(&a)).map_err(Error::io("stat", &a))?;
        let have = match reach::statat(CWD, bytes(&b)) {
            Err(Errno::NOENT) => return differs("missing"),
            other => other.map_err(Error::io("stat", &b))?,
        };
        // What stands at the top are files of the backend, made when the layer was unpacked.
        let own = relative.components().count() < 2;
        if facts(&want, own) != facts(&have, own) {
            return differs("its metadata is not what the layer says");
        }
        // Not the number of links: snapshots may share files.
        let kind = kind(&want);
        if kind != FileType::Directory && *inodes.entry(want.st_ino).or_insert(have.st_ino) != have.st_ino {
            return differs("its hard links are not those of the layer");
        }
        if xattrs(&a)? != xattrs(&b)? {
            return differs("its extended attributes are not what the layer says");
        }
        if kind == FileType::Directory {
            let (want, have) = (names(&a)?, names(&b)?);
            if let Some(name) = have.iter().find(|name| !want.contains(name)) {
                return differs(&format!("holds {name:?}, which is not in the layer"));
            }
            pending.extend(want.into_iter().map(|name| relative.join(name)));
        } else if kind == FileType::Symlink {
            let read =
                |path: &Path| reach::readlinkat(CWD, bytes(path)).map_err(Error::io("read the link", path));
            if read(&a)? != read(&b)? {
                return differs("leads elsewhere");
            }
        } else if kind == FileType::RegularFile && !same_content(&a, &b)? {
            return differs("its content is not what the layer says");
        }
    }
    Ok(None)
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn facts(info: &Stat, own: bool) -> (u32, u32, u32, u64, u64, Option<(i64, i64)>) {
    let is_directory = kind(info) == FileType::Directory;
    // The size of a directory is the file system's business.
    let size = if is_directory { 0 } else { info.st_size as u64 };
    // So are the times of what no entry of the layer speaks of: overlay's whiteouts, and some directories.
    let made = own || is_directory || (kind(info) == FileType::CharacterDevice && info.st_rdev == 0);
    let time = (!made).then_some((info.st_mtime as i64, info.st_mtime_nsec as i64));
    (info.st_mode, info.st_uid, info.st_gid, size, info.st_rdev as u64, time)
}

fn names(directory: &Path) -> Result<Vec<OsString>> {
    let names = open_directory(CWD, bytes(directory)).and_then(|opened| diff::names(&opened));
    let names = names.map_err(Error::io::<Errno>("read", directory))?;
    Ok(names.into_iter().map(OsString::from_vec).collect())
}

/// All attributes but the label that the host's policy puts on every file.
fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let failed = |e| Error::io("read the extended attributes of", path)(e);
    let mut list = vec![0; 64 << 10];
    let len = match reach::llistxattr(bytes(path), &mut list) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(BTreeMap::new()),
        other => other.map_err(failed)?,
    };
    let mut found = BTreeMap::new();
    let mut value = vec![0; 64 << 10];
    for name in list[..len].split(|&b| b == 0).filter(|n| !n.is_empty() && *n != b"security.selinux") {
        let len = reach::lgetxattr(bytes(path), name, &mut value).map_err(failed)?;
        found.insert(name.to_vec(), value[..len].to_vec());
    }
    Ok(found)
}

fn same_content(a: &Path, b: &Path) -> Result<bool> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = reach::openat(CWD, bytes(path), flags, Mode::empty());
        opened.map(File::from).map_err(Error::io("open", path))
    };
    let (mut first, mut second) = (open(a)?, open(b)?);
    let (mut x, mut y) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        let n = first.read(&mut x).map_err(Error::io("read", a))?;
        if n == 0 {
            return Ok(second.read(&mut y[..1]).map_err(Error::io("read", b))? == 0);
        }
        match second.read_exact(&mut y[..n]) {
            Ok(()) if x[..n] == y[..n] => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(Error::io("read", b)(e)),
        }
    }
}
