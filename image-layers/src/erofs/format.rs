//! The records of an image, as bytes.

use crate::tar::Timestamp;
use crate::{Error, Result};

use super::{Kind, Metadata, Nid, Xattrs};

/// The unit of all space.
pub(super) const BLOCK: u64 = 4096;
/// The unit of places of inodes.
pub(super) const SLOT: u64 = 32;
/// Where the superblock starts; what is before it belongs to boot loaders.
pub(super) const SUPERBLOCK: usize = 1024;
pub(super) const SUPERBLOCK_LEN: usize = 128;
/// The root's inode stands behind the superblock, because its number has only 16 bits.
pub(super) const ROOT: u64 = (SUPERBLOCK + SUPERBLOCK_LEN) as u64;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;

/// Bytes in a directory entry without its name.
pub(super) const DIRENT: usize = 12;

/// What makes an image that image before it is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    /// The time of all short inodes; known with the first inode.
    pub(super) epoch: Option<Timestamp>,
}

/// Stands in place of the magic number as long as the image is incomplete but has its epoch.
const EPOCH_KNOWN: u32 = 1;

impl Identity {
    /// Puts it where the superblock will be.
    pub(super) fn write(&self, block: &mut [u8]) {
        let record = &mut block[SUPERBLOCK..][..SUPERBLOCK_LEN];
        put(record, 48, &self.uuid);
        if let Some(epoch) = self.epoch {
            put(record, 0, &EPOCH_KNOWN.to_le_bytes());
            put(record, 24, &epoch.secs.to_le_bytes());
            put(record, 32, &epoch.nanos.to_le_bytes());
        }
    }

    /// What [`write`](Identity::write) put there.
    pub(super) fn read(block: &[u8]) -> Identity {
        let record = &block[SUPERBLOCK..][..SUPERBLOCK_LEN];
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&record[48..64]);
        let epoch = Timestamp {
            secs: i64::from(field(record, 24)) | i64::from(field(record, 28)) << 32,
            nanos: field(record, 32),
        };
        Identity { uuid, epoch: (field(record, 0) == EPOCH_KNOWN).then_some(epoch) }
    }
}

/// What only the whole image knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    pub(super) identity: Identity,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
}

impl Superblock {
    /// Fills the first block, which holds the root's inode already.
    pub(super) fn write(&self, block: &mut [u8]) {
        self.identity.write(block);
        let record = &mut block[SUPERBLOCK..][..SUPERBLOCK_LEN];
        put(record, 0, &MAGIC.to_le_bytes());
        put(record, 8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        record[12] = BLOCK.ilog2() as u8;
        put(record, 14, &((ROOT / SLOT) as u16).to_le_bytes());
        put(record, 16, &self.inodes.to_le_bytes());
        put(record, 36, &self.blocks.to_le_bytes());
        let checksum = crc32c(&block[SUPERBLOCK..]);
        put(block, SUPERBLOCK + 4, &checksum.to_le_bytes());
    }

    /// Whether the first block of a file is that of an intact image.
    pub(super) fn check(block: &mut [u8]) -> std::result::Result<(), &'static str> {
        if field(block, SUPERBLOCK) != MAGIC {
            return Err("no EROFS superblock");
        }
        let checksum = field(block, SUPERBLOCK + 4);
        put(block, SUPERBLOCK + 4, &[0; 4]);
        if crc32c(&block[SUPERBLOCK..]) != checksum {
            return Err("checksum of the superblock");
        }
        Ok(())
    }
}

/// How the bytes of a file, directory or symlink are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) size: u64,
    /// Bytes behind inode and attributes: all of the last block, or nothing.
    pub(super) inline: u64,
}

impl Layout {
    /// The last block goes behind `head` bytes of inode and attributes if it fits into the `room` there.
    pub(super) fn new(size: u64, head: u64, room: u64) -> Layout {
        let tail = size % BLOCK;
        Layout { size, inline: if head + tail <= room { tail } else { 0 } }
    }

    /// Bytes in blocks of their own.
    pub(super) fn in_blocks(self) -> u64 {
        self.size - self.inline
    }

    /// How many blocks those are.
    pub(super) fn blocks(self) -> u64 {
        self.in_blocks().div_ceil(BLOCK)
    }
}

/// One inode, without what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) short: bool,
    /// File type and permissions.
    pub(super) mode: u16,
    pub(super) metadata: Metadata,
    /// Length of the encoded extended attributes.
    pub(super) xattrs: usize,
    pub(super) layout: Layout,
    /// The first block of the content, or the encoded number of a device.
    pub(super) data: u32,
    pub(super) links: u32,
}

impl Inode {
    /// Bytes of an inode in short or long form.
    pub(super) fn len(short: bool) -> u64 {
        if short { 32 } else { 64 }
    }

    pub(super) fn encode(&self, nid: Nid) -> ([u8; 64], usize) {
        let mut bytes = [0; 64];
        let layout = if self.layout.inline > 0 { 2u16 } else { 0 };
        let Metadata { uid, gid, mtime, .. } = self.metadata;
        // Blocks of four bytes, the header of twelve counted as one.
        let xattrs = if self.xattrs == 0 { 0 } else { (self.xattrs - 12) / 4 + 1 };
        put(&mut bytes, 0, &(layout << 1 | u16::from(!self.short)).to_le_bytes());
        put(&mut bytes, 2, &(xattrs as u16).to_le_bytes());
        put(&mut bytes, 4, &self.mode.to_le_bytes());
        put(&mut bytes, 16, &self.data.to_le_bytes());
        // For programs with inode numbers of 32 bits.
        put(&mut bytes, 20, &(nid as u32).to_le_bytes());
        if self.short {
            put(&mut bytes, 6, &(self.links as u16).to_le_bytes());
            put(&mut bytes, 8, &(self.layout.size as u32).to_le_bytes());
            put(&mut bytes, 24, &(uid as u16).to_le_bytes());
            put(&mut bytes, 26, &(gid as u16).to_le_bytes());
        } else {
            put(&mut bytes, 8, &self.layout.size.to_le_bytes());
            put(&mut bytes, 24, &uid.to_le_bytes());
            put(&mut bytes, 28, &gid.to_le_bytes());
            put(&mut bytes, 32, &mtime.secs.to_le_bytes());
            put(&mut bytes, 40, &mtime.nanos.to_le_bytes());
            put(&mut bytes, 44, &self.links.to_le_bytes());
        }
        (bytes, Inode::len(self.short) as usize)
    }
}

/// Where and how the number of links stands in an encoded inode. `None` if it cannot be expressed.
pub(super) fn links_field(start: [u8; 2], links: u32) -> Option<(u64, Vec<u8>)> {
    if start[0] & 1 == 1 {
        Some((44, links.to_le_bytes().to_vec()))
    } else {
        Some((6, u16::try_from(links).ok()?.to_le_bytes().to_vec()))
    }
}

/// The file type of a mode, the one of a directory entry, and the number of a device.
pub(super) fn kind_fields(kind: Kind<'_>) -> Result<(u16, u8, u32)> {
    Ok(match kind {
        Kind::File(_) => (0o100000, 1, 0),
        Kind::Directory => (0o040000, 2, 0),
        Kind::Char { major, minor } => (0o020000, 3, device(major, minor)?),
        Kind::Block { major, minor } => (0o060000, 4, device(major, minor)?),
        Kind::Fifo => (0o010000, 5, 0),
        Kind::Symlink(_) => (0o120000, 7, 0),
    })
}

/// The kernel has 12 bits for the major number and 20 for the minor one.
fn device(major: u32, minor: u32) -> Result<u32> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(Error::UnsupportedLayer { what: format!("device number {major}:{minor}") });
    }
    Ok(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Prefixes of names that have a number of their own. The kernel serves no others from EROFS.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
];

/// Whether the kernel serves an attribute of this name from EROFS.
pub(crate) fn has_attribute(name: &[u8]) -> bool {
    split_name(name).is_some()
}

/// The number of a name's prefix, and the rest.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        (rest.is_empty() != prefix.ends_with(b".")).then_some((*index, rest))
    })
}

/// The extended attributes of one inode; nothing if there are none.
pub(super) fn encode_xattrs(xattrs: &Xattrs) -> Result<Vec<u8>> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let unsupported = |name: &[u8], reason| {
        let what =
            format!("extended attribute {:?} in an EROFS image: {reason}", String::from_utf8_lossy(name));
        Error::UnsupportedLayer { what }
    };
    let mut bytes = vec![0; 12];
    for (name, value) in xattrs {
        let (index, rest) = split_name(name)
            .ok_or_else(|| unsupported(name, "neither user, trusted, security nor an ACL"))?;
        let name_len = u8::try_from(rest.len()).map_err(|_| unsupported(name, "the name is too long"))?;
        let value_len =
            u16::try_from(value.len()).map_err(|_| unsupported(name, "the value exceeds 65535 bytes"))?;
        bytes.extend_from_slice(&[name_len, index]);
        bytes.extend_from_slice(&value_len.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        if (bytes.len() - 12) / 4 >= usize::from(u16::MAX) {
            return Err(unsupported(name, "all of them exceed 256 KiB"));
        }
    }
    Ok(bytes)
}

pub(super) fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC-32C without the final inversion, as the kernel has it.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_castagnolis() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn devices() {
        assert_eq!(device(8, 1).unwrap(), 0x801);
        assert_eq!(device(0xfff, 0xfffff).unwrap(), u32::MAX);
        assert_eq!(device(259, 0x12345).unwrap(), 0x45 | 259 << 8 | 0x123 << 20);
        assert!(device(1 << 12, 0).is_err() && device(0, 1 << 20).is_err());
    }

    #[test]
    fn tails_go_inline_where_they_fit() {
        let inline = |size, head| Layout::new(size, head, BLOCK).inline;
        assert_eq!(inline(0, 64), 0);
        assert_eq!(inline(1, 64), 1);
        assert_eq!(inline(4032, 64), 4032);
        assert_eq!(inline(4033, 64), 0);
        assert_eq!(inline(4096, 64), 0);
        assert_eq!(inline(4097, 64), 1);
        assert_eq!(inline(1, 5000), 0);
        assert_eq!(Layout::new(4097, 64, BLOCK).blocks(), 1);
        assert_eq!(Layout::new(4095, 64, BLOCK).blocks(), 1);
        assert_eq!(Layout::new(8192, 64, BLOCK).blocks(), 2);
    }

    #[test]
    fn attributes() {
        let encode = |name: &[u8], len| encode_xattrs(&[(name.to_vec(), vec![7; len])]);
        assert_eq!(encode(b"user.a", 2).unwrap()[12..], [1, 1, 2, 0, b'a', 7, 7, 0]);
        assert_eq!(encode(b"system.posix_acl_access", 1).unwrap()[12..], [0, 2, 1, 0, 7, 0, 0, 0]);
        assert!(encode(b"security.capability", 65535).is_ok());
        for bad in [&b"user."[..], b"system.posix_acl_accessx", b"system.nfs4_acl", b"com.apple.x", b""] {
            assert!(matches!(encode(bad, 1), Err(Error::UnsupportedLayer { .. })), "{bad:?}");
        }
        assert!(encode(b"user.a", 65536).is_err());
        let many =
            |n| (0..n).map(|i: u32| (format!("user.{i}").into_bytes(), vec![0; 65000])).collect::<Vec<_>>();
        assert!(encode_xattrs(&many(4)).is_ok());
        assert!(encode_xattrs(&many(5)).is_err());
    }
}
