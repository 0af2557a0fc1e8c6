//! A layer made of files.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::progress::Control;
use crate::tar::{Entry, Kind, Timestamp, Writer};
use crate::{Error, Result};

/// Puts a layer together out of files of the host and content in memory.
///
/// Paths are those inside of the image; a leading `/` makes no difference. Directories above that are not named belong to
/// root and have the mode 0755. A path that is named twice is what was said last. Everything belongs to root and has the
/// time 0, unless [`owner`](LayerBuilder::owner) and [`modified`](LayerBuilder::modified) say otherwise.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct LayerBuilder {
    /// By components, so that a directory comes before what is in it.
    nodes: BTreeMap<Vec<Vec<u8>>, Node>,
    trees: Vec<(Vec<Vec<u8>>, PathBuf)>,
    uid: u32,
    gid: u32,
    seconds: i64,
    /// The first path that cannot be: setters do not fail.
    invalid: Option<String>,
}

#[derive(Clone, Debug)]
struct Node {
    mode: u16,
    uid: u32,
    gid: u32,
    kind: NodeKind,
}

#[derive(Clone, Debug)]
enum NodeKind {
    File(PathBuf),
    Content(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Other(Kind),
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> LayerBuilder {
        LayerBuilder::default()
    }

    /// Whom everything that is added from here on belongs to.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// When everything in the layer was modified, in seconds since 1970.
    pub fn modified(mut self, seconds: i64) -> Self {
        self.seconds = seconds;
        self
    }

    /// Adds a copy of a file of the host, which is read when the image is built. Symbolic links to it are followed.
    pub fn file(self, path: impl AsRef<Path>, source: impl Into<PathBuf>, mode: u16) -> Self {
        self.node(path.as_ref(), mode, NodeKind::File(source.into()))
    }

    /// Adds a file with this content.
    pub fn content(self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>, mode: u16) -> Self {
        self.node(path.as_ref(), mode, NodeKind::Content(content.into()))
    }

    /// Adds a directory.
    pub fn directory(self, path: impl AsRef<Path>, mode: u16) -> Self {
        self.node(path.as_ref(), mode, NodeKind::Directory)
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        let target = target.as_ref().as_os_str().as_bytes().to_vec();
        self.node(path.as_ref(), 0o777, NodeKind::Symlink(target))
    }

    /// Adds a copy of a directory of the host with everything in it, when the image is built. Modes, symbolic links, hard
    /// links and (as root) devices are kept; sockets and extended attributes are not.
    pub fn tree(mut self, path: impl AsRef<Path>, source: impl Into<PathBuf>) -> Self {
        match components(path.as_ref()) {
            Some(path) => self.trees.push((path, source.into())),
            None => self.refuse(path.as_ref()),
        }
        self
    }

    fn node(mut self, path: &Path, mode: u16, kind: NodeKind) -> Self {
        let node = Node { mode: mode & 0o7777, uid: self.uid, gid: self.gid, kind };
        match components(path) {
            Some(path) if !path.is_empty() || matches!(node.kind, NodeKind::Directory) => {
                self.nodes.insert(path, node);
            }
            _ => self.refuse(path),
        }
        self
    }

    fn refuse(&mut self, path: &Path) {
        self.invalid.get_or_insert_with(|| path.to_string_lossy().into_owned());
    }

    /// Writes the layer as a tar archive.
    pub(super) fn write(&self, out: &mut dyn Write, control: &Control) -> Result<()> {
        if let Some(entry) = &self.invalid {
            let reason = "a path in a layer has no '..', names nothing that begins with '.wh.', and only a directory can be the root";
            return Err(Error::InvalidLayer { entry: entry.clone(), reason: reason.to_owned() });
        }
        let mut nodes = BTreeMap::new();
        for (path, source) in &self.trees {
            self.walk(path, source, &mut HashMap::new(), &mut nodes, control)?;
        }
        nodes.extend(self.nodes.clone());
        let parents: Vec<_> =
            nodes.keys().flat_map(|path| (1..path.len()).map(|n| path[..n].to_vec())).collect();
        for parent in parents {
            nodes.entry(parent).or_insert(Node { mode: 0o755, uid: 0, gid: 0, kind: NodeKind::Directory });
        }
        let mut writer = Writer::new(out);
        for (path, node) in &nodes {
            control.check()?;
            self.write_node(&mut writer, path, node, control)?;
        }
        writer.finish().map_err(Error::io("write", "layer")).map(|_| ())
    }

    fn write_node(
        &self,
        writer: &mut Writer<&mut dyn Write>,
        path: &[Vec<u8>],
        node: &Node,
        control: &Control,
    ) -> Result<()> {
        let mut content: Box<dyn Read + '_> = Box::new(std::io::empty());
        let (kind, size) = match &node.kind {
            NodeKind::File(source) => {
                let file = File::open(source).map_err(Error::io("open", source))?;
                let metadata = file.metadata().map_err(Error::io("stat", source))?;
                if !metadata.is_file() {
                    let reason = format!("{} is not a regular file", source.display());
                    return Err(Error::InvalidLayer { entry: show(path), reason });
                }
                content = Box::new(file);
                (Kind::File, metadata.len())
            }
            NodeKind::Content(bytes) => {
                content = Box::new(bytes.as_slice());
                (Kind::File, bytes.len() as u64)
            }
            NodeKind::Directory => (Kind::Directory, 0),
            NodeKind::Symlink(target) => (Kind::Symlink { target: target.clone() }, 0),
            NodeKind::HardLink(target) => (Kind::HardLink { target: target.clone() }, 0),
            NodeKind::Other(kind) => (kind.clone(), 0),
        };
        let failed = |source| Error::from_io("write", Path::new("layer"), source);
        let name = if path.is_empty() { b"./".to_vec() } else { path.join(&b'/') };
        let mtime = Timestamp { secs: self.seconds, nanos: 0 };
        let (mode, uid, gid) = (node.mode, node.uid, node.gid);
        let entry = Entry { name, kind, mode, uid, gid, mtime, size, xattrs: Vec::new(), sparse: None };
        writer.entry(&entry).map_err(failed)?;
        let mut buffer = vec![0; (128 << 10).min(size as usize)];
        let mut left = size;
        while left > 0 {
            control.check()?;
            let most = buffer.len().min(left as usize);
            let n = content.read(&mut buffer[..most]).map_err(Error::io("read", show(path)))?;
            if n == 0 {
                break;
            }
            writer.body(&buffer[..n]).map_err(failed)?;
            left -= n as u64;
        }
        Ok(())
    }

    fn walk(
        &self,
        path: &[Vec<u8>],
        source: &Path,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
        nodes: &mut BTreeMap<Vec<Vec<u8>>, Node>,
        control: &Control,
    ) -> Result<()> {
        control.check()?;
        let metadata = fs::symlink_metadata(source).map_err(Error::io("stat", source))?;
        let Some(kind) = self.kind_of(path, source, &metadata, links)? else { return Ok(()) };
        let mode = (metadata.mode() & 0o7777) as u16;
        nodes.insert(path.to_vec(), Node { mode, uid: self.uid, gid: self.gid, kind });
        if metadata.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(source)
                .and_then(|entries| entries.collect::<Result<_, _>>())
                .map_err(Error::io("read", source))?;
            entries.sort_by_key(|entry| entry.file_name());
            for entry in entries {
                let mut inner = path.to_vec();
                inner.push(entry.file_name().into_vec());
                if inner.last().is_some_and(|name| name.starts_with(b".wh.")) {
                    let reason = "names that begin with '.wh.' mean deletion in a layer".to_owned();
                    return Err(Error::InvalidLayer { entry: show(&inner), reason });
                }
                self.walk(&inner, &entry.path(), links, nodes, control)?;
            }
        }
        Ok(())
    }

    fn kind_of(
        &self,
        path: &[Vec<u8>],
        source: &Path,
        metadata: &Metadata,
        links: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> Result<Option<NodeKind>> {
        let file_type = metadata.file_type();
        let device = || {
            let device = metadata.rdev();
            (libc::major(device), libc::minor(device))
        };
        Ok(Some(if file_type.is_dir() {
            NodeKind::Directory
        } else if file_type.is_symlink() {
            let target = fs::read_link(source).map_err(Error::io("read the link", source))?;
            NodeKind::Symlink(target.into_os_string().into_vec())
        } else if file_type.is_file() {
            if metadata.nlink() > 1 {
                let inode = (metadata.dev(), metadata.ino());
                if let Some(first) = links.get(&inode) {
                    return Ok(Some(NodeKind::HardLink(first.clone())));
                }
                links.insert(inode, path.join(&b'/'));
            }
            NodeKind::File(source.to_owned())
        } else if file_type.is_fifo() {
            NodeKind::Other(Kind::Fifo)
        } else if file_type.is_char_device() {
            let (major, minor) = device();
            NodeKind::Other(Kind::Char { major, minor })
        } else if file_type.is_block_device() {
            let (major, minor) = device();
            NodeKind::Other(Kind::Block { major, minor })
        } else {
            return Ok(None);
        }))
    }
}

/// The components of a path in an image; `None` for a path that cannot be in a layer.
fn components(path: &Path) -> Option<Vec<Vec<u8>>> {
    let bytes = path.as_os_str().as_bytes();
    let plain = bytes.split(|&b| b == b'/').filter(|c| !c.is_empty() && *c != b".");
    let components: Vec<Vec<u8>> = plain.map(<[u8]>::to_vec).collect();
    let valid = |c: &Vec<u8>| c != b".." && !c.starts_with(b".wh.") && !c.contains(&0);
    components.iter().all(valid).then_some(components)
}

fn show(path: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&path.join(&b'/')).into_owned()
}
