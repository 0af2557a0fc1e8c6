//! Files into and out of a container, and what it changed.
//!
//! Every path is resolved inside the container's root by the kernel (`openat2` with `RESOLVE_IN_ROOT` and without magic links):
//! links the container made lead nowhere else, however they are exchanged meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::reach::{self, Reach};
use super::{Container, Process};
use crate::error::{Error, Result};
use crate::id_map;
use crate::plan::Maps;

/// A descriptor of a process's root directory, which keeps it mounted; `None` when the process has ended or may not be looked
/// into.
pub(super) fn root_of(process: &Process) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{}/root", process.pid), flags, Mode::empty()).ok()?;
    // The number could be somebody else's only after the process was collected, and then it has ended.
    (!process.has_ended()).then_some(root)
}

impl Container {
    /// Takes hold of the root directory, so that it stays when the processes are gone.
    pub(super) fn keep_root(&self) {
        if self.resources.root.get().is_none()
            && let Some(root) = root_of(&self.core.process)
        {
            let _ = self.resources.root.set(root);
        }
    }

    pub(super) fn root(&self) -> Result<BorrowedFd<'_>> {
        self.keep_root();
        self.resources.root.get().map(AsFd::as_fd).ok_or_else(|| {
            Error::unsupported(
                "reaching the container's files",
                "it had ended already, or /proc hides it from this user",
            )
        })
    }

    /// Opens a file in the container for reading. Works while it runs, is paused, or has ended and is not yet removed.
    ///
    /// # Errors
    /// [`Error::Io`] with the path inside the container.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        // Not blocking: the container may have put a fifo there.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = open_in(self.root()?, path, flags, 0).map_err(|e| Error::io("open", path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => Ok(File::from(fd)),
            _ => Err(Error::io("read", path, io::Error::from(io::ErrorKind::InvalidInput))),
        }
    }

    /// The content of a file in the container.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let path = path.as_ref();
        self.open_file(path)?.read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
        Ok(bytes)
    }

    /// Writes a file in the container, owned by the user of its command, in place of what is there. Directories on the way are
    /// made.
    ///
    /// # Errors
    /// [`Error::Io`] with the path inside the container, as for a read-only root (EROFS).
    pub fn write_file(&self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> Result<()> {
        self.write_from(path.as_ref(), mode, &mut &*content, self.owner())
    }

    /// The owner of files that are put in: the user the command runs as, seen from outside.
    fn owner(&self) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt;
        // Who a process is on the host is who owns its directory in /proc, with every mapping taken into account.
        std::fs::metadata(format!("/proc/{}", self.core.process.pid))
            .map_or((0, 0), |meta| (meta.uid(), meta.gid()))
    }

    fn write_from(&self, path: &Path, mode: u32, content: &mut dyn Read, owner: (u32, u32)) -> Result<()> {
        let (directory, name) = self.parent(path)?;
        let failed = |action| move |e: Errno| Error::io(action, path, e);
        // A new file beside, then a rename: what is there, link or device or busy program, is replaced and never opened.
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(crate::spec::random_id()?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, temporary) = (name.as_bytes(), temporary.as_bytes());
        let fd = reach::openat(&directory, temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(failed("create"))?;
        let mut file = File::from(fd);
        let written = (|| {
            io::copy(content, &mut file).map_err(|e| Error::io("write", path, e))?;
            chown(file.as_fd(), None, owner).map_err(failed("set owner of"))?;
            reach::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(failed("set mode of"))?;
            reach::renameat(&directory, temporary, &directory, name).map_err(failed("replace"))
        })();
        if written.is_err() {
            let _ = reach::unlinkat(&directory, temporary, AtFlags::empty());
        }
        written
    }

    /// The directory of a path, made if need be, and the last component.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, std::ffi::OsString)> {
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => name.to_owned(),
            _ => return Err(Error::invalid(format!("path {}", path.display()), "it does not end in a name")),
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        self.make_directories(parent).map(|fd| (fd, name))
    }

    fn make_directories(&self, path: &Path) -> Result<OwnedFd> {
        let root = self.root()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut so_far = PathBuf::new();
        let mut here = open_in(root, Path::new("/"), flags, 0).map_err(|e| Error::io("open", "/", e))?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                // Up from wherever that is, as the kernel has it: the last component may have been a link.
                Component::ParentDir => component.as_os_str(),
                _ => continue,
            };
            so_far.push(name);
            here = match open_in(root, &so_far, flags, 0) {
                Err(Errno::NOENT) => {
                    match reach::mkdirat(&here, name.as_bytes(), Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(Error::io("make directory", &so_far, e)),
                    }
                    open_in(root, &so_far, flags, 0)
                }
                other => other,
            }
            .map_err(|e| Error::io("open", &so_far, e))?;
        }
        Ok(here)
    }

    /// Writes the file or directory at `path`, with everything in it, to `out` as a tar archive. Names in the archive are
    /// relative to `path`'s own directory, owners are those inside of the container. Sockets are left out, devices and fifos are entries without content.
    ///
    /// # Errors
    /// [`Error::Io`] with the path inside the container, or when `out` fails.
    pub fn copy_out(&self, path: impl AsRef<Path>, out: impl Write) -> Result<()> {
        let path = path.as_ref();
        let root = self.root()?;
        let _reach = Reach::keep();
        let maps = Maps::of(&self.core.spec);
        let mut archive = tar::Builder::new(out);
        archive.follow_symlinks(false);
        let name = match path.components().next_back() {
            Some(Component::Normal(name)) => PathBuf::from(name),
            _ => PathBuf::from("."),
        };
        archive_tree(root, path, &name, &maps, &mut archive)?;
        archive.finish().map_err(|e| Error::io("write", "archive", e))
    }

    /// Unpacks a tar archive into the directory `path` of the container, which is made if need be. Files, directories, links
    /// and modes are taken over; everything is owned by the user of the container's command.
    ///
    /// # Errors
    /// [`Error::Io`] with the path inside the container; [`Error::Invalid`] for an entry that is neither file, directory nor
    /// link, or whose name would lead out of `path`.
    pub fn copy_in(&self, path: impl AsRef<Path>, archive: impl Read) -> Result<()> {
        let path = path.as_ref();
        let _reach = Reach::keep();
        let owner = self.owner();
        self.make_directories(path)?;
        let broken = |e: io::Error| Error::io("read", "archive", e);
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path().map_err(broken)?.into_owned();
            if name.components().any(|c| matches!(c, Component::ParentDir)) {
                return Err(Error::invalid(
                    format!("archive entry {}", name.display()),
                    "its name leads out of the target",
                ));
            }
            let target = path.join(name.strip_prefix("/").unwrap_or(&name));
            let mode = entry.header().mode().map_err(broken)?;
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    let fd = self.make_directories(&target)?;
                    let fd = reach::openat(
                        &fd,
                        b".",
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .map_err(|e| Error::io("open", &target, e))?;
                    chown(fd.as_fd(), None, owner).map_err(|e| Error::io("set owner of", &target, e))?;
                    reach::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))
                        .map_err(|e| Error::io("set mode of", &target, e))?;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    self.write_from(&target, mode, &mut entry, owner)?
                }
                tar::EntryType::Symlink => {
                    let to = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                    let (directory, name) = self.parent(&target)?;
                    replace(&directory, &name).map_err(|e| Error::io("replace", &target, e))?;
                    reach::symlinkat(to.as_os_str().as_bytes(), &directory, name.as_bytes())
                        .map_err(|e| Error::io("link", &target, e))?;
                    chown(directory.as_fd(), Some(name.as_bytes()), owner)
                        .map_err(|e| Error::io("set owner of", &target, e))?;
                }
                tar::EntryType::Link => {
                    let to = path.join(entry.link_name().map_err(broken)?.unwrap_or_default());
                    let (from_directory, from) = self.parent(&to)?;
                    let (directory, name) = self.parent(&target)?;
                    replace(&directory, &name).map_err(|e| Error::io("replace", &target, e))?;
                    reach::linkat(&from_directory, from.as_bytes(), &directory, name.as_bytes())
                        .map_err(|e| Error::io("link", &target, e))?;
                }
                tar::EntryType::XGlobalHeader => {}
                other => {
                    return Err(Error::invalid(
                        format!("archive entry {}", name.display()),
                        format!("type {:?} is neither file, directory nor link", other),
                    ));
                }
            }
        }
        Ok(())
    }
}

fn replace(directory: &OwnedFd, name: &std::ffi::OsStr) -> rustix::io::Result<()> {
    match reach::unlinkat(directory, name.as_bytes(), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn chown(dir: BorrowedFd<'_>, name: Option<&[u8]>, owner: (u32, u32)) -> rustix::io::Result<()> {
    match reach::chown(dir, name, owner.0, owner.1) {
        // An ordinary user owns what he makes, and can give it away to ids that were granted to him only.
        Err(Errno::PERM | Errno::INVAL) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mode = Mode::from_raw_mode(mode);
    let attempt =
        || reach::openat2(root, path.as_os_str().as_bytes(), flags | OFlags::CLOEXEC, mode, resolve);
    crate::sys::fd::look_up(Errno::AGAIN, attempt)
}

fn archive_tree<W: Write>(
    root: BorrowedFd<'_>,
    path: &Path,
    name: &Path,
    maps: &Maps,
    archive: &mut tar::Builder<W>,
) -> Result<()> {
    // The object itself, not what a link in its last place points to.
    let object =
        open_in(root, path, OFlags::PATH | OFlags::NOFOLLOW, 0).map_err(|e| Error::io("open", path, e))?;
    let stat = rustix::fs::fstat(&object).map_err(|e| Error::io("stat", path, e))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    // As they are seen inside of the container.
    header.set_uid(id_map::to_container(&maps.uids, stat.st_uid).unwrap_or(stat.st_uid).into());
    header.set_gid(id_map::to_container(&maps.gids, stat.st_gid).unwrap_or(stat.st_gid).into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    let written = |e: io::Error| Error::io("archive", path, e);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = File::from(open_in(root, path, flags, 0).map_err(|e| Error::io("open", path, e))?);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(stat.st_size as u64);
            // It may shrink or grow meanwhile; the archive keeps to what its header says.
            let body = file.take(stat.st_size as u64).chain(io::repeat(0)).take(stat.st_size as u64);
            archive.append_data(&mut header, name, body).map_err(written)
        }
        FileType::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, name, io::empty()).map_err(written)?;
            let list = open_in(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, 0)
                .map_err(|e| Error::io("open", path, e))?;
            let mut names = super::changes::names(&list).map_err(|e| Error::io("read", path, e))?;
            names.sort();
            for child in names {
                match archive_tree(root, &path.join(&child), &name.join(&child), maps, archive) {
                    // Gone since it was listed.
                    Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                    other => other?,
                }
            }
            Ok(())
        }
        FileType::Symlink => {
            let to = rustix::fs::readlinkat(&object, "", Vec::new())
                .map_err(|e| Error::io("read link", path, e))?;
            header.set_entry_type(tar::EntryType::Symlink);
            archive
                .append_link(&mut header, name, std::ffi::OsStr::from_bytes(to.as_bytes()))
                .map_err(written)
        }
        kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
            header.set_entry_type(match kind {
                FileType::Fifo => tar::EntryType::Fifo,
                FileType::CharacterDevice => tar::EntryType::Char,
                _ => tar::EntryType::Block,
            });
            let device = stat.st_rdev;
            header.set_device_major(rustix::fs::major(device)).map_err(written)?;
            header.set_device_minor(rustix::fs::minor(device)).map_err(written)?;
            archive.append_data(&mut header, name, io::empty()).map_err(written)
        }
        _ => Ok(()),
    }
}
