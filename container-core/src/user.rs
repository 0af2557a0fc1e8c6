//! Users and groups by name, looked up in the container's own `/etc/passwd` and `/etc/group`.
//!
//! The files are read from inside the container's root, symbolic links resolved there (`openat2(RESOLVE_IN_ROOT)`), so a link
//! to `/etc/passwd` of the host finds the container's, and the host's names never count. They are read as a stream: what an
//! image puts there may be of any size.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A user as the kernel knows one, and where it is at home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedUser {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// Supplementary groups, those of `/etc/group` that list the user.
    pub additional_gids: Vec<u32>,
    /// The home directory of `/etc/passwd`.
    pub home: Option<PathBuf>,
}

/// A longer line is no entry of these files: it is skipped, whatever is in it.
const LONGEST_LINE: usize = 64 * 1024;
/// No more is read of a file, which an image may have made of holes and exabytes.
const LONGEST_FILE: u64 = 128 << 20;

/// Resolves `user`, `uid`, `user:group`, `uid:gid` or a mixture, inside the root directory `root`.
///
/// Numbers need no files. A number that stands in `/etc/passwd` takes group, supplementary groups and home from there as a name
/// does; one that does not is itself with group 0. `root` is 0:0 even without a file. With a group given, there are no
/// supplementary groups. These are the rules of `docker run --user`.
///
/// # Errors
/// [`Error::UnknownUser`] for a name that is not in the container's files; [`Error::Io`] when a file is there but cannot be read.
pub(crate) fn resolve(root: BorrowedFd<'_>, spec: &str) -> Result<ResolvedUser> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "root" } else { user };

    let number = user.parse::<u32>().ok().filter(|n| *n != u32::MAX);
    let entry = match open(root, "etc/passwd")? {
        Some(file) => find_user(file, |name, uid| name == user.as_bytes() || Some(uid) == number, user)?,
        None => None,
    };
    let mut resolved = match (&entry, number) {
        (Some(entry), _) => ResolvedUser {
            uid: entry.uid,
            gid: entry.gid,
            home: entry.home.clone(),
            ..ResolvedUser::default()
        },
        (None, Some(uid)) => ResolvedUser { uid, ..ResolvedUser::default() },
        (None, None) if user == "root" => ResolvedUser::default(),
        (None, None) => return Err(Error::UnknownUser { kind: "user", name: user.to_owned() }),
    };

    match group {
        Some(group) => resolved.gid = group_id(root, group)?,
        None => {
            if let Some(entry) = &entry {
                resolved.additional_gids = memberships(root, &entry.name)?;
            }
        }
    }
    Ok(resolved)
}

struct PasswdEntry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Option<PathBuf>,
}

/// The first entry that matches; a match by exact name wins over an earlier one by number, so that a user named `1000` is found.
fn find_user(file: File, matches: impl Fn(&[u8], u32) -> bool, wanted: &str) -> Result<Option<PasswdEntry>> {
    let mut found: Option<PasswdEntry> = None;
    for_each_line(file, |line| {
        // name:password:uid:gid:gecos:home:shell. What is not of this form is no entry.
        let mut fields = line.split(|b| *b == b':');
        let (Some(name), Some(_), Some(uid), Some(gid)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return ControlFlow::Continue(());
        };
        let (Some(uid), Some(gid)) = (id(uid), id(gid)) else { return ControlFlow::Continue(()) };
        if !matches(name, uid) {
            return ControlFlow::Continue(());
        }
        let exact = name == wanted.as_bytes();
        if found.is_none() || exact {
            let home = fields.nth(1).filter(|h| !h.is_empty()).map(|h| PathBuf::from(OsStr::from_bytes(h)));
            found = Some(PasswdEntry { name: name.to_owned(), uid, gid, home });
        }
        if exact { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|e| Error::io("read", "/etc/passwd", e))?;
    Ok(found)
}

fn group_id(root: BorrowedFd<'_>, group: &str) -> Result<u32> {
    let number = group.parse::<u32>().ok().filter(|n| *n != u32::MAX);
    let mut found = None;
    if let Some(file) = open(root, "etc/group")? {
        for_each_line(file, |line| {
            let mut fields = line.split(|b| *b == b':');
            match (fields.next(), fields.nth(1).and_then(id)) {
                (Some(name), Some(gid)) if name == group.as_bytes() => {
                    found = Some(gid);
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        })
        .map_err(|e| Error::io("read", "/etc/group", e))?;
    }
    match (found, number) {
        (Some(gid), _) | (None, Some(gid)) => Ok(gid),
        (None, None) if group == "root" => Ok(0),
        (None, None) => Err(Error::UnknownUser { kind: "group", name: group.to_owned() }),
    }
}

fn memberships(root: BorrowedFd<'_>, user: &[u8]) -> Result<Vec<u32>> {
    let mut groups = Vec::new();
    let Some(file) = open(root, "etc/group")? else { return Ok(groups) };
    for_each_line(file, |line| {
        // name:password:gid:member,member
        let mut fields = line.split(|b| *b == b':').skip(2);
        if let (Some(gid), Some(members)) = (fields.next().and_then(id), fields.next())
            && members.split(|b| *b == b',').any(|member| member == user)
            && !groups.contains(&gid)
        {
            groups.push(gid);
        }
        ControlFlow::Continue(())
    })
    .map_err(|e| Error::io("read", "/etc/group", e))?;
    Ok(groups)
}

fn id(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

/// Opens a file below `root`; `None` when it is not there, or is nothing with lines in it.
fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<File>> {
    // Not blocking: an image may have put a fifo there.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let attempt = || rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
    match crate::sys::fd::look_up(Errno::AGAIN, attempt) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", format!("/{path}"), e))?;
            Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| File::from(fd)))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(e) => Err(Error::io("open", format!("/{path}"), e)),
    }
}

/// Calls `each` for every line, without the newline, in constant memory.
fn for_each_line(mut source: impl Read, mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_LINE];
    let (mut filled, mut too_long, mut total) = (0, false, 0u64);
    loop {
        if total > LONGEST_FILE {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let count = match source.read(&mut buffer[filled..]) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if count == 0 {
            if filled > 0 && !too_long {
                let _ = each(&buffer[..filled]);
            }
            return Ok(());
        }
        filled += count;
        total += count as u64;
        let mut start = 0;
        while let Some(end) = buffer[start..filled].iter().position(|b| *b == b'\n').map(|n| start + n) {
            if !std::mem::take(&mut too_long) && each(&buffer[start..end]).is_break() {
                return Ok(());
            }
            start = end + 1;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if filled == buffer.len() {
            (filled, too_long) = (0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    fn root(passwd: Option<&[u8]>, group: Option<&[u8]>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        for (name, text) in [("passwd", passwd), ("group", group)] {
            if let Some(text) = text {
                fs::write(dir.path().join("etc").join(name), text).unwrap();
            }
        }
        dir
    }

    fn in_root(dir: &tempfile::TempDir, spec: &str) -> Result<ResolvedUser> {
        resolve(File::open(dir.path()).unwrap().as_fd(), spec)
    }

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nbroken\nbad:x:one:2\n\xff\xfe:x:7:7::/:\napp:x:1000:1001:App:/home/app:/bin/sh\n1000:x:77:78::/odd:\n";
    const GROUP: &[u8] = b"root:x:0:\nno\ngrp:x:50:\na:x:60:app\nb:x:61:other,app\nc:x:62:apple\nd:x:63:app,zed\ne:x:64:zed,app\n";

    #[test]
    fn numbers_and_root_need_no_files() {
        let dir = tempfile::tempdir().unwrap();
        for (spec, uid, gid) in
            [("1000", 1000, 0), ("1000:5", 1000, 5), ("root", 0, 0), ("", 0, 0), ("root:root", 0, 0)]
        {
            let user = in_root(&dir, spec).unwrap();
            assert_eq!((user.uid, user.gid), (uid, gid), "{spec}");
        }
        assert!(
            matches!(in_root(&dir, "app"), Err(Error::UnknownUser { kind: "user", name }) if name == "app")
        );
        assert!(
            matches!(in_root(&dir, "0:grp"), Err(Error::UnknownUser { kind: "group", name }) if name == "grp")
        );
    }

    #[test]
    fn names_come_with_group_groups_and_home() {
        let dir = root(Some(PASSWD), Some(GROUP));
        let app = in_root(&dir, "app").unwrap();
        assert_eq!((app.uid, app.gid), (1000, 1001));
        assert_eq!(app.additional_gids, [60, 61, 63, 64]);
        assert_eq!(app.home.as_deref(), Some("/home/app".as_ref()));
        let other = in_root(&dir, "app:grp").unwrap();
        assert_eq!((other.uid, other.gid, other.additional_gids.len()), (1000, 50, 0));
        // A name made of digits wins over the number.
        assert_eq!(in_root(&dir, "1000").unwrap().uid, 77);
        assert!(matches!(in_root(&dir, "nobody-here"), Err(Error::UnknownUser { .. })));
        assert!(matches!(in_root(&dir, "4294967295"), Err(Error::UnknownUser { .. })));
    }

    #[test]
    fn a_link_to_a_host_file_stays_inside() {
        let dir = root(None, None);
        let host = tempfile::NamedTempFile::new().unwrap();
        fs::write(host.path(), "evil:x:0:0::/:\n").unwrap();
        std::os::unix::fs::symlink(host.path(), dir.path().join("etc/passwd")).unwrap();
        assert!(matches!(in_root(&dir, "evil"), Err(Error::UnknownUser { .. })));
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        fs::write(dir.path().join("real"), "good:x:5:6::/:\n").unwrap();
        std::os::unix::fs::symlink("/../../real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(in_root(&dir, "good").unwrap().uid, 5);
    }

    #[test]
    fn lines_of_any_length_in_constant_memory() {
        let mut text = vec![b'x'; LONGEST_LINE * 3];
        text.extend_from_slice(b"\na:x:1:1\n");
        text.extend(std::iter::repeat_n(b"filler:x:9:9:::\n", 100_000).flatten());
        text.extend_from_slice(b"last:x:3:4");
        let mut seen = Vec::new();
        for_each_line(&text[..], |line| {
            if !line.starts_with(b"filler") {
                seen.push(line.to_owned());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, [b"a:x:1:1".to_vec(), b"last:x:3:4".to_vec()]);
    }

    #[test]
    fn a_file_without_end_is_an_error() {
        let endless = io::repeat(0);
        let error = for_each_line(endless, |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
    }

    #[test]
    fn a_fifo_or_directory_is_no_file() {
        let dir = root(None, None);
        rustix::fs::mkfifoat(File::open(dir.path()).unwrap(), "etc/passwd", Mode::from_raw_mode(0o600))
            .unwrap();
        fs::create_dir(dir.path().join("etc/group")).unwrap();
        assert_eq!(in_root(&dir, "12").unwrap().uid, 12);
    }
}
