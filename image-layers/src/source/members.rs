//! The named files of an image input: those of a directory, or the members of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::decode::{Compression, Decoder};
use crate::progress::Control;
use crate::tar::{self, Kind, Reader};
use crate::{Error, Limits, Result};

/// A stretch of a file: one blob, wherever it lives. Cheap to clone, and every reader has its own position, so that many
/// threads can read one archive.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Body {
    pub(crate) fn of_file(file: File) -> io::Result<Body> {
        let len = file.metadata()?.len();
        Ok(Body { file: Arc::new(file), offset: 0, len })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn reader(&self) -> BodyReader {
        BodyReader { file: self.file.clone(), position: self.offset, end: self.offset + self.len }
    }

    /// How the content is compressed, by its first bytes.
    pub(crate) fn compression(&self) -> Result<Compression> {
        let mut head = [0; 16];
        let n = read_head(&mut self.reader(), &mut head).map_err(Error::io("read", "blob"))?;
        Compression::detect(&head[..n])
    }

    /// All of it, when it is no larger than a document may be.
    pub(crate) fn document(&self, what: &str, control: &Control) -> Result<Vec<u8>> {
        let limit = control.limits.json_bytes;
        if self.len > limit {
            return Err(Error::LimitExceeded { what: what.to_owned(), name: "json_bytes", limit });
        }
        let mut bytes = Vec::with_capacity(self.len as usize);
        self.reader().read_to_end(&mut bytes).map_err(Error::io("read", what))?;
        Ok(bytes)
    }
}

#[derive(Debug)]
pub(crate) struct BodyReader {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..len], self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

fn read_head(reader: &mut impl Read, head: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < head.len() {
        match reader.read(&mut head[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

#[derive(Debug)]
pub(crate) struct Members {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(OwnedFd),
    Archive { file: Arc<File>, members: HashMap<Vec<u8>, Member>, ended: bool },
}

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        len: u64,
    },
    /// Another member, by its name from the top of the archive; `None` leads out of it.
    Link(Option<Vec<u8>>),
}

impl Members {
    /// Opens a directory or an archive. A compressed archive, or one that comes through a pipe, is first written to an
    /// unnamed file in `spool`, since what describes it may come last.
    pub(crate) fn open(path: &Path, spool: &Path, control: &Control) -> Result<Members> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::SourceNotFound { path: path.to_owned() });
            }
            Err(e) => return Err(Error::io("open", path)(e)),
        };
        let path = path.to_owned();
        let metadata = file.metadata().map_err(Error::io("stat", &path))?;
        if metadata.is_dir() {
            return Ok(Members { path, place: Place::Directory(file.into()) });
        }
        let file = if metadata.is_file() {
            let mut head = [0; 16];
            let n = read_head(&mut &file, &mut head).map_err(Error::io("read", &path))?;
            (&file).rewind().map_err(Error::io("seek", &path))?;
            match Compression::detect(&head[..n])? {
                Compression::None => file,
                _ => spool_to(spool, file, &path, control)?,
            }
        } else {
            spool_to(spool, file, &path, control)?
        };
        let place = read_archive(file, &path, control)?;
        Ok(Members { path, place })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is an archive that stops without the blocks of zeros that end one.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.place, Place::Archive { ended: false, .. })
    }

    /// Opens a file whose name this crate made up: of a layout, or from a parsed digest. In a directory it may be a link
    /// to anywhere (build systems assemble layouts out of links), since it is the caller's directory and content is
    /// checked by digest.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Body>> {
        match &self.place {
            Place::Directory(root) => {
                let opened = fs::openat(
                    root,
                    name,
                    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                    Mode::empty(),
                );
                self.body(opened, name)
            }
            Place::Archive { .. } => self.find(name),
        }
    }

    /// Opens a file whose name comes from the input: never anything outside of it.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Body>> {
        let escapes = || Error::MemberEscapes { archive: self.path.clone(), member: name.to_owned() };
        match &self.place {
            Place::Directory(root) => {
                let relative = normalize(&[], name.as_bytes()).ok_or_else(escapes)?;
                let open = || {
                    fs::openat2(
                        root,
                        relative.as_slice(),
                        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                        Mode::empty(),
                        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
                    )
                };
                let mut opened = open();
                // A link with `..` in it is looked up again when anything on the host was renamed meanwhile: openat2(2).
                for _ in 0..1000 {
                    if !matches!(opened, Err(Errno::AGAIN)) {
                        break;
                    }
                    opened = open();
                }
                if matches!(opened, Err(Errno::XDEV)) {
                    return Err(escapes());
                }
                self.body(opened, name)
            }
            Place::Archive { file, members, .. } => {
                let mut name = normalize(&[], name.as_bytes()).ok_or_else(escapes)?;
                for _ in 0..40 {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::File { offset, len }) => {
                            return Ok(Some(Body { file: file.clone(), offset: *offset, len: *len }));
                        }
                        Some(Member::Link(target)) => name = target.clone().ok_or_else(escapes)?,
                    }
                }
                Err(Error::LinkLoop { path: String::from_utf8_lossy(&name).into_owned() })
            }
        }
    }

    fn body(&self, opened: rustix::io::Result<OwnedFd>, name: &str) -> Result<Option<Body>> {
        let path = || self.path.join(name);
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(Error::io("open", path())(e)),
        };
        if !file.metadata().map_err(Error::io("stat", path()))?.is_file() {
            return Err(Error::NotAnImage { path: path(), reason: "not a regular file".into() });
        }
        Body::of_file(file).map(Some).map_err(Error::io("stat", path()))
    }
}

/// A file without a name in `directory`: it goes with its last descriptor, however the process ends.
fn unnamed_file(directory: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    fs::open(directory, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(Error::io("create a temporary file in", directory))
}

fn spool_to(spool: &Path, input: File, path: &Path, control: &Control) -> Result<File> {
    let mut output = unnamed_file(spool)?;
    let limits = Limits { layer_bytes: control.limits.archive_bytes, ..control.limits };
    let mut decoder = Decoder::new(input, &limits);
    let mut buffer = vec![0; 256 << 10];
    loop {
        control.check()?;
        let n = decoder.read(&mut buffer).map_err(|e| Error::from_io("read", path, e))?;
        if n == 0 {
            break;
        }
        output.write_all(&buffer[..n]).map_err(Error::io("write a temporary file in", spool))?;
    }
    Ok(output)
}

fn read_archive(mut file: File, path: &Path, control: &Control) -> Result<Place> {
    let not_an_image = |reason: &str| Error::NotAnImage { path: path.to_owned(), reason: reason.to_owned() };
    let len = file.seek(SeekFrom::End(0)).map_err(Error::io("seek", path))?;
    file.rewind().map_err(Error::io("seek", path))?;
    if len == 0 {
        return Err(not_an_image("the file is empty"));
    }
    let mut members = HashMap::new();
    // All names are kept in memory; those of image archives are short.
    let name_bytes = control.limits.name_bytes.min(1024);
    let limits = Limits { entries: control.limits.members, name_bytes, ..control.limits };
    let mut reader = Reader::new(Seekable::new(&file, len), &limits);
    let mut first = true;
    loop {
        control.check()?;
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(Error::LimitExceeded { what, name: "entries", limit }) => {
                return Err(Error::LimitExceeded { what, name: "members", limit });
            }
            Err(Error::InvalidLayer { .. } | Error::Checksum { .. }) if first => {
                return Err(not_an_image("neither a tar archive nor a directory"));
            }
            Err(Error::InvalidLayer { entry, reason }) => {
                return Err(not_an_image(&format!("malformed tar archive: {entry}: {reason}")));
            }
            Err(error) => return Err(error),
        };
        first = false;
        let Some(name) = normalize(&[], &entry.name) else { continue };
        let member = match entry.kind {
            // A sparse file does not stand in the archive as it is. Nobody packs images like that.
            Kind::File if entry.sparse.is_some() => continue,
            Kind::File => {
                let (offset, size) = reader.body_at();
                if offset.checked_add(size).is_none_or(|end| end > len) {
                    return Err(Error::Truncated { what: path.display().to_string() });
                }
                Member::File { offset, len: size }
            }
            Kind::Symlink { target } => {
                let parent = name.iter().rposition(|&b| b == b'/').map_or(&[][..], |end| &name[..end]);
                Member::Link(normalize(parent, &target))
            }
            Kind::HardLink { target } => Member::Link(normalize(&[], &target)),
            _ => continue,
        };
        members.insert(name, member);
    }
    let mut tail = [1; 512];
    let ended = len >= 512 && file.read_exact_at(&mut tail, len - 512).is_ok() && tail == [0; 512];
    Ok(Place::Archive { file: Arc::new(file), members, ended })
}

/// A file as the tar reader sees it. Bodies are skipped by not reading them, so that an archive of gigabytes is listed by
/// reading some kilobytes.
struct Seekable<'a> {
    file: &'a File,
    /// Of the byte after the buffered ones.
    position: u64,
    len: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Seekable<'_> {
    fn new(file: &File, len: u64) -> Seekable<'_> {
        Seekable { file, position: 0, len, buffer: vec![0; 16 << 10].into(), start: 0, end: 0 }
    }
}

impl tar::Source for Seekable<'_> {
    fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end =
                self.file.read_at(&mut self.buffer, self.position).map_err(Error::io("read", "archive"))?;
            self.position += self.end as u64;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        let buffered = (self.end - self.start) as u64;
        if n <= buffered {
            self.start += n as usize;
            return Ok(());
        }
        let position = self.position.checked_add(n - buffered).filter(|position| *position <= self.len);
        self.position = position.ok_or_else(|| Error::Truncated { what: "tar archive".into() })?;
        (self.start, self.end) = (0, 0);
        Ok(())
    }
}

/// `name`, as seen from the directory `from`, as a plain path from the top; `None` when it climbs above the top.
fn normalize(from: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut components: Vec<&[u8]> = match name.first() {
        Some(b'/') => Vec::new(),
        _ => from.split(|&b| b == b'/').filter(|c| !c.is_empty()).collect(),
    };
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            plain => components.push(plain),
        }
    }
    Some(components.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let n = |from: &str, name: &str| normalize(from.as_bytes(), name.as_bytes());
        assert_eq!(n("", "./a//b/"), Some(b"a/b".to_vec()));
        assert_eq!(n("cc", "../aa/layer.tar"), Some(b"aa/layer.tar".to_vec()));
        assert_eq!(n("cc", "/aa"), Some(b"aa".to_vec()));
        assert_eq!(n("cc", "../../aa"), None);
    }
}
