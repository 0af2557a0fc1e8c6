//! One directory of a cgroup file system: every access of this crate to the kernel's files goes through here, by
//! descriptor, so nothing is looked up twice and a fake directory serves in tests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a directory by path; `path` must come from mountinfo.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::open(&path, flags, Mode::empty())?, path })
    }

    /// Opens the directory at the relative path `below`; itself when that is empty.
    pub(crate) fn open_below(&self, below: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if below.is_empty() { "." } else { below };
        Ok(Self { fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?, path: self.path_of(below) })
    }

    pub(crate) fn make(&self, below: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.fd, below, Mode::from_raw_mode(0o755))
    }

    pub(crate) fn remove(&self, below: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.fd, below, AtFlags::REMOVEDIR)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, file: &str) -> PathBuf {
        if file.is_empty() { self.path.clone() } else { self.path.join(file) }
    }

    pub(crate) fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    }

    /// Reads a whole file into `buffer` and returns it as text; `None` when there is no such file.
    ///
    /// A file that a kernel offers but that its device or state makes unreadable (EOPNOTSUPP) counts as absent too.
    pub(crate) fn read<'b>(&self, file: &str, buffer: &'b mut Vec<u8>) -> Result<Option<&'b str>> {
        let fd = match self.open_file(file, OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.read_error(file, errno)),
        };
        match read_all(fd.as_fd(), buffer) {
            Ok(()) => {}
            // ENODEV: the group went away between open and read.
            Err(Errno::OPNOTSUPP | Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(self.read_error(file, errno)),
        }
        match std::str::from_utf8(buffer) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.malformed(file, "text", &String::from_utf8_lossy(buffer))),
        }
    }

    /// Writes one value in one system call, as the kernel's files want it.
    pub(crate) fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes()))?;
        Ok(())
    }

    /// The names of the directories in this one.
    pub(crate) fn children(&self) -> io::Result<Vec<String>> {
        let listing = rustix::fs::openat(
            &self.fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut children = Vec::new();
        for entry in rustix::fs::Dir::new(listing)? {
            let entry = entry?;
            let name = entry.file_name().to_str().unwrap_or(".");
            if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
                children.push(name.to_owned());
            }
        }
        Ok(children)
    }

    /// Whether the caller may make groups here.
    pub(crate) fn is_writable(&self) -> bool {
        use rustix::fs::Access;
        rustix::fs::accessat(&self.fd, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    }

    pub(crate) fn may_write(&self, file: &str) -> bool {
        rustix::fs::accessat(&self.fd, file, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    }

    pub(crate) fn has(&self, file: &str) -> bool {
        rustix::fs::accessat(&self.fd, file, rustix::fs::Access::EXISTS, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(crate) fn read_error(&self, file: &str, errno: Errno) -> Error {
        Error::Read { path: self.path_of(file), source: errno.into() }
    }

    pub(crate) fn malformed(&self, file: &str, expected: &'static str, text: &str) -> Error {
        Error::Malformed { path: self.path_of(file), expected, text: text.chars().take(80).collect() }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads from the start of an open file. One system call for a file that fits: the kernel renders these files in one
/// piece, so a read that leaves room in the buffer was the last. Lists of processes are the exception, see
/// [`read_list`].
pub(crate) fn read_all(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    read_from_start(fd, buffer, true)
}

/// Reads a file whose records the kernel hands out piece by piece (`cgroup.procs`), until it says that it is at its end.
pub(crate) fn read_list(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    read_from_start(fd, buffer, false)
}

fn read_from_start(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, in_one_piece: bool) -> Result<(), Errno> {
    const ROOM: usize = 4096;
    buffer.clear();
    loop {
        let filled = buffer.len();
        buffer.reserve(ROOM);
        let room = buffer.capacity() - filled;
        let count = rustix::io::retry_on_intr(|| {
            rustix::io::pread(fd, rustix::buffer::spare_capacity(buffer), filled as u64)
        })?;
        if count == 0 || (in_one_piece && count < room) {
            return Ok(());
        }
    }
}

/// Reads a file of procfs.
pub(crate) fn read_proc(path: &str) -> Result<String> {
    let read = || {
        let mut buffer = Vec::new();
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        read_list(fd.as_fd(), &mut buffer)?;
        String::from_utf8(buffer).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    };
    read().map_err(|source| Error::Read { path: path.into(), source })
}
