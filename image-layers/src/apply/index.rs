//! The index file of a snapshot: the settled changes of its layer, compact and versioned.
//!
//! ```text
//! "ILINDEX1"                            magic and version
//! entry*                                the root, then depth first
//! crc32, 4 bytes little-endian          of all before it
//!
//! entry = kind, one byte                0 leaves the current directory
//!         name                          length and bytes; empty for the root
//!         flags, mode, uid, gid         numbers as LEB128
//!         seconds (zigzag), nanoseconds
//!         count of xattrs, then name and value of each
//!         file: size, data; symlink: target; device: number
//!         file and others but directories: 0, or 1 + the position of an earlier entry with the same inode
//! ```

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use flate2::Crc;

use crate::tar::Xattrs;
use crate::{Error, Result};

use super::tree::{Node, NodeId, NodeKind, Tree, Visit, Walk, flags};

/// Its name beside the content.
pub(crate) const FILE: &str = "index";

const MAGIC: &[u8; 8] = b"ILINDEX1";

const KINDS: [NodeKind; 7] = [
    NodeKind::Directory,
    NodeKind::File,
    NodeKind::Symlink,
    NodeKind::Char,
    NodeKind::Block,
    NodeKind::Fifo,
    NodeKind::Whiteout,
];

/// What of the flags holds beyond the unpacking.
const KEPT: u8 = flags::EXPLICIT | flags::OPAQUE | flags::FRESH | flags::LINKED | flags::HIDES;

const BUFFER: usize = 64 << 10;

/// Writes the index of a settled layer to a new file.
pub(crate) fn write(tree: &Tree, path: &Path) -> Result<()> {
    let write = || -> io::Result<()> {
        let file = std::fs::File::create_new(path)?;
        let mut out = Output { inner: file, buffer: Vec::with_capacity(BUFFER), crc: Crc::new() };
        write_tree(tree, &mut out)?;
        out.flush()?;
        let crc = out.crc.sum().to_le_bytes();
        out.inner.write_all(&crc)
    };
    write().map_err(Error::io("write", path))
}

/// Reads an index.
pub(crate) fn read(path: &Path) -> Result<Tree> {
    let damaged = |reason: &str| Error::InvalidIndex { path: path.to_path_buf(), reason: reason.to_owned() };
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut input = Input { inner: BufReader::with_capacity(64 << 10, file), crc: Crc::new() };
    let tree = read_tree(&mut input).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(&e.to_string()),
        _ => Error::Io { action: "read", path: path.to_path_buf(), source: e },
    })?;
    let sum = input.crc.sum();
    let mut stored = [0; 5];
    let mut have = 0;
    while have < stored.len() {
        match input.inner.read(&mut stored[have..]).map_err(Error::io("read", path))? {
            0 => break,
            n => have += n,
        }
    }
    if have != 4 || stored[..4] != sum.to_le_bytes() {
        return Err(damaged("wrong checksum"));
    }
    Ok(tree)
}

/// Reads only the root's entry of an index: its metadata and whether it is opaque.
pub(crate) fn read_root(path: &Path) -> Result<Tree> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut input = Input { inner: BufReader::with_capacity(1 << 10, file), crc: Crc::new() };
    let mut tree = Tree::new();
    let mut read = || {
        if input.bytes(8)? != MAGIC {
            return Err(invalid("not an index of this version"));
        }
        let entry = read_entry(&mut input)?.ok_or_else(|| invalid("no root"))?;
        set_root(&mut tree, entry)
    };
    read().map_err(|e| Error::InvalidIndex { path: path.to_path_buf(), reason: e.to_string() })?;
    Ok(tree)
}

struct Output<W> {
    inner: W,
    buffer: Vec<u8>,
    crc: Crc,
}

impl<W: Write> Output<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// A checksum of many pieces at once takes a fraction of the time.
    fn flush(&mut self) -> io::Result<()> {
        self.crc.update(&self.buffer);
        self.inner.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn number(&mut self, mut value: u64) -> io::Result<()> {
        let mut buffer = [0; 10];
        let mut n = 0;
        loop {
            let more = value > 0x7f;
            buffer[n] = (value & 0x7f) as u8 | u8::from(more) << 7;
            n += 1;
            value >>= 7;
            if !more {
                return self.bytes(&buffer[..n]);
            }
        }
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.number(text.len() as u64)?;
        self.bytes(text)
    }
}

fn write_tree(tree: &Tree, out: &mut Output<impl Write>) -> io::Result<()> {
    out.bytes(MAGIC)?;
    let mut first_of_inode = HashMap::new();
    let mut position = 0u64;
    let mut walk = Walk::new(NodeId::ROOT);
    while let Some(visit) = walk.next(tree) {
        let Visit::Enter(id) = visit else {
            out.bytes(&[0])?;
            continue;
        };
        let node = tree.node(id);
        let kind = KINDS.iter().position(|&kind| kind == node.kind);
        let kind = kind.ok_or_else(|| io::Error::other("a pending link in a settled layer"))?;
        out.bytes(&[kind as u8 + 1])?;
        out.text(tree.name(id))?;
        out.number(u64::from(node.flags & KEPT))?;
        out.number(u64::from(node.mode))?;
        out.number(u64::from(node.uid))?;
        out.number(u64::from(node.gid))?;
        out.number(((node.secs << 1) ^ (node.secs >> 63)) as u64)?;
        out.number(u64::from(node.nanos))?;
        let xattrs = tree.xattrs(id);
        out.number(xattrs.len() as u64)?;
        for (name, value) in xattrs {
            out.text(name)?;
            out.text(value)?;
        }
        match node.kind {
            NodeKind::File => {
                out.number(node.size)?;
                out.number(node.data)?;
            }
            NodeKind::Symlink => out.text(tree.target(id))?,
            NodeKind::Char | NodeKind::Block => out.number(node.data)?,
            _ => {}
        }
        if node.kind != NodeKind::Directory {
            let first = match node.has(flags::LINKED) {
                true => *first_of_inode.entry(node.inode).or_insert(position),
                false => position,
            };
            out.number(if first == position { 0 } else { 1 + first })?;
        }
        position += 1;
    }
    Ok(())
}

struct Input<R> {
    inner: R,
    crc: Crc,
}

impl<R: Read> Input<R> {
    fn bytes(&mut self, len: u64) -> io::Result<Vec<u8>> {
        // Lengths are not trusted: nothing is allocated that is not there.
        let mut bytes = Vec::with_capacity(len.min(4096) as usize);
        (&mut self.inner).take(len).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.crc.update(&bytes);
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.inner.read_exact(&mut byte)?;
        self.crc.update(&byte);
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(invalid("number too long"))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> io::Result<T> {
        T::try_from(self.number()?).map_err(|_| invalid("number out of range"))
    }

    fn text(&mut self) -> io::Result<Vec<u8>> {
        let len = self.number()?;
        self.bytes(len)
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

struct Entry {
    name: Vec<u8>,
    node: Node,
    xattrs: Xattrs,
    target: Option<Vec<u8>>,
    /// Position of the first entry with the same inode.
    first: Option<u64>,
}

/// `None` where a directory is left.
fn read_entry(input: &mut Input<impl Read>) -> io::Result<Option<Entry>> {
    let kind = input.byte()?;
    if kind == 0 {
        return Ok(None);
    }
    let kind = *KINDS.get(usize::from(kind) - 1).ok_or_else(|| invalid("unknown kind of entry"))?;
    let name = input.text()?;
    let mut node = Node::new(kind);
    node.flags = input.small()?;
    node.mode = input.small()?;
    node.uid = input.small()?;
    node.gid = input.small()?;
    let secs = input.number()?;
    node.secs = (secs >> 1) as i64 ^ -((secs & 1) as i64);
    node.nanos = input.small()?;
    let mut xattrs = Vec::new();
    for _ in 0..input.number()? {
        xattrs.push((input.text()?, input.text()?));
    }
    let mut target = None;
    match kind {
        NodeKind::File => (node.size, node.data) = (input.number()?, input.number()?),
        NodeKind::Symlink => target = Some(input.text()?),
        NodeKind::Char | NodeKind::Block => node.data = input.number()?,
        _ => {}
    }
    let first = if kind == NodeKind::Directory { None } else { input.number()?.checked_sub(1) };
    Ok(Some(Entry { name, node, xattrs, target, first }))
}

fn set_root(tree: &mut Tree, entry: Entry) -> io::Result<()> {
    let Node { kind, flags, mode, uid, gid, secs, nanos, .. } = entry.node;
    if kind != NodeKind::Directory || !entry.name.is_empty() {
        return Err(invalid("no root"));
    }
    let root = tree.node_mut(NodeId::ROOT);
    (root.flags, root.mode, root.uid, root.gid, root.secs, root.nanos) = (flags, mode, uid, gid, secs, nanos);
    tree.set_xattrs(NodeId::ROOT, entry.xattrs);
    Ok(())
}

fn read_tree(input: &mut Input<impl Read>) -> io::Result<Tree> {
    if input.bytes(8)? != MAGIC {
        return Err(invalid("not an index of this version"));
    }
    let mut tree = Tree::new();
    let root = read_entry(input)?.ok_or_else(|| invalid("no root"))?;
    set_root(&mut tree, root)?;
    let mut ids = vec![NodeId::ROOT];
    let mut open = vec![NodeId::ROOT];
    while let Some(&parent) = open.last() {
        let Some(Entry { name, mut node, xattrs, target, first }) = read_entry(input)? else {
            open.pop();
            continue;
        };
        if name.is_empty() || name.len() > 255 || tree.child(parent, &name).is_some() {
            return Err(invalid("misplaced entry"));
        }
        if let Some(first) = first {
            let first = ids.get(first as usize).ok_or_else(|| invalid("link to a later entry"))?;
            node.inode = first.number();
        }
        let directory = node.kind == NodeKind::Directory;
        let id = tree.insert(parent, &name, node);
        tree.set_xattrs(id, xattrs);
        if let Some(target) = target {
            tree.set_target(id, &target);
        }
        ids.push(id);
        if directory {
            open.push(id);
        }
    }
    tree.check(u64::MAX).map_err(|_| invalid("names that are none"))?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_and_damage_is_found() {
        let mut tree = Tree::new();
        tree.node_mut(NodeId::ROOT).mode = 0o555;
        let dir = tree.insert(NodeId::ROOT, b"d\xff", Node::new(NodeKind::Directory));
        tree.node_mut(dir).flags = flags::OPAQUE | flags::MADE;
        tree.set_xattrs(dir, vec![(b"user.a".to_vec(), vec![0, 255])]);
        let one = tree.insert(dir, b"one", Node::new(NodeKind::File));
        let node = tree.node_mut(one);
        (node.size, node.data, node.secs, node.nanos) = (1 << 40, 7, -86_400, 999_999_999);
        (node.uid, node.flags) = (u32::MAX - 1, flags::LINKED);
        let inode = node.inode;
        let two = tree.insert(NodeId::ROOT, b"two", Node::new(NodeKind::File));
        (tree.node_mut(two).inode, tree.node_mut(two).flags) = (inode, flags::LINKED);
        let link = tree.insert(dir, b"link", Node::new(NodeKind::Symlink));
        tree.set_target(link, b"../x");
        tree.insert(dir, b"gone", Node::new(NodeKind::Whiteout));

        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(FILE);
        write(&tree, &path).unwrap();
        let again = read(&path).unwrap();
        let find = |parts: &[&[u8]]| again.lookup(parts).unwrap();
        assert_eq!(again.node(NodeId::ROOT).mode, 0o555);
        let dir = find(&[b"d\xff"]);
        assert_eq!(again.node(dir).flags, flags::OPAQUE);
        assert_eq!(again.xattrs(dir), [(b"user.a".to_vec(), vec![0, 255])]);
        let (one, two) = (again.node(find(&[b"d\xff", b"one"])), again.node(find(&[b"two"])));
        assert_eq!((one.size, one.data, one.secs, one.nanos), (1 << 40, 7, -86_400, 999_999_999));
        assert_eq!((one.uid, one.inode), (u32::MAX - 1, two.inode));
        assert_eq!(again.target(find(&[b"d\xff", b"link"])), b"../x");
        assert_eq!(again.node(find(&[b"d\xff", b"gone"])).kind, NodeKind::Whiteout);

        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path), Err(Error::InvalidIndex { .. })), "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(matches!(read(&path), Err(Error::InvalidIndex { .. })), "cut at {at}");
        }
    }
}
