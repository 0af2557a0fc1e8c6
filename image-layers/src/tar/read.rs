//! The reader: blocks in, whole entries out.

use crate::{Error, Limits, Result};

use super::header::{Format, Header, invalid};
use super::pax::Records;
use super::source::{Pieces, Source, truncated};
use super::sparse::{self, Form, MapParser};
use super::{BLOCK, Entry, Extent, Kind, Timestamp};

/// Bytes of all global headers of an archive.
const GLOBAL_BYTES: u64 = 64 << 10;

/// Reads an archive entry by entry.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    source: S,
    limits: Limits,
    /// Bytes consumed so far.
    offset: u64,
    /// Bytes of the current body that were not taken yet, and the padding behind it.
    left: u64,
    padding: u64,
    entries: u64,
    global: Records,
    /// Bytes of global headers so far, and of those of the current entry.
    global_bytes: u64,
    extended_bytes: u64,
    /// Bytes of sparse files with their holes.
    sparse_bytes: u64,
    ended: bool,
}

impl<S: Source> Reader<S> {
    pub(crate) fn new(source: S, limits: &Limits) -> Reader<S> {
        let limits = *limits;
        Reader {
            source,
            limits,
            offset: 0,
            left: 0,
            padding: 0,
            entries: 0,
            global: Records::default(),
            global_bytes: 0,
            extended_bytes: 0,
            sparse_bytes: 0,
            ended: false,
        }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end of the archive, that is two zero
    /// blocks, or the end of the data at the border of an entry.
    ///
    /// # Errors
    ///
    /// Malformed headers, data that ends early, and what exceeds the limits.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut records = self.global.clone();
        self.extended_bytes = 0;
        let (mut long_name, mut long_link) = (None, None);
        let mut pending = false;
        let mut block = [0; BLOCK];
        loop {
            if self.ended || !self.block(&mut block)? {
                return if pending { Err(truncated()) } else { Ok(None) };
            }
            if block.iter().all(|&b| b == 0) {
                self.end_of_archive(&mut block)?;
                continue;
            }
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.exceeded("entries of the archive", "entries", self.limits.entries));
            }
            let header = Header::parse(&block, self.offset - BLOCK as u64)?;
            match header.type_flag() {
                b'x' | b'X' => {
                    let at = format!("PAX header at byte {}", self.offset - BLOCK as u64);
                    let data = self.extension(&header)?;
                    records.parse(&data, &at)?;
                }
                b'g' => {
                    let at = format!("global PAX header at byte {}", self.offset - BLOCK as u64);
                    let data = self.extension(&header)?;
                    // They are copied for every entry, and nobody needs more than a comment.
                    self.global_bytes += data.len() as u64;
                    if self.global_bytes > GLOBAL_BYTES.min(self.limits.header_bytes) {
                        return Err(self.exceeded("global PAX headers", "header_bytes", GLOBAL_BYTES));
                    }
                    self.global.parse(&data, &at)?;
                    records = self.global.clone();
                    continue;
                }
                b'L' => long_name = Some(self.long(&header)?),
                b'K' => long_link = Some(self.long(&header)?),
                // A volume label is no file, and Solaris' ACLs have no meaning here.
                b'V' | b'A' => {
                    let size = header.size(|| "volume label".to_owned())?;
                    self.skip(padded(size)?)?;
                    continue;
                }
                _ => return self.entry(&header, records, long_name, long_link).map(Some),
            }
            pending = true;
        }
    }

    /// Bytes of the current body as stored; less than the file's size if it is sparse.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Where what is left of the current body stands in the archive, and how many bytes of it there are. The body of a
    /// sparse file is only what is stored of it.
    pub(crate) fn body_at(&self) -> (u64, u64) {
        (self.offset, self.left)
    }

    /// More of the current body; empty when all of it was taken.
    pub(crate) fn body(&mut self) -> Result<&[u8]> {
        let left = self.left;
        if left == 0 {
            return Ok(&[]);
        }
        let bytes = self.source.fill()?;
        if bytes.is_empty() {
            return Err(truncated());
        }
        Ok(&bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    /// Takes away bytes that [`body`](Reader::body) returned.
    pub(crate) fn consume(&mut self, n: usize) {
        self.source.consume(n);
        self.left -= n as u64;
        self.offset += n as u64;
    }

    /// Takes `len` bytes of the current body and gives them to `each` as they come.
    pub(crate) fn take(&mut self, mut len: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while len > 0 {
            let bytes = self.body()?;
            let n = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            if n == 0 {
                return Err(truncated());
            }
            each(&bytes[..n])?;
            self.consume(n);
            len -= n as u64;
        }
        Ok(())
    }

    /// Reads on to the end of the data. Whatever stands behind the archive counts for the digests only.
    pub(crate) fn drain(&mut self) -> Result<()> {
        loop {
            let n = self.source.fill()?.len();
            if n == 0 {
                return Ok(());
            }
            self.source.consume(n);
            self.offset += n as u64;
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        records: Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let Records { path, link, size, uid, gid, mtime, xattrs, sparse } = records;
        let name = sparse.name.clone().or(path).or(long_name).unwrap_or_else(|| header.name());
        let at = || String::from_utf8_lossy(&name).into_owned();
        let target = link.or(long_link).unwrap_or_else(|| header.link().to_vec());
        for text in [&name, &target] {
            if text.len() as u64 > self.limits.name_bytes {
                return Err(self.exceeded("a path in the archive", "name_bytes", self.limits.name_bytes));
            }
        }
        if name.is_empty() {
            return Err(invalid(format!("entry at byte {}", self.offset - BLOCK as u64), "empty name"));
        }
        let xattr_bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if xattr_bytes as u64 > self.limits.xattr_bytes {
            return Err(self.exceeded(
                "the extended attributes of an entry",
                "xattr_bytes",
                self.limits.xattr_bytes,
            ));
        }
        let stored = match size {
            Some(size) => size,
            None => header.size(at)?,
        };
        let mut entry = Entry {
            kind: Kind::File,
            mode: header.mode(at)?,
            uid: uid.map_or_else(|| header.uid(at), Ok)?,
            gid: gid.map_or_else(|| header.gid(at), Ok)?,
            mtime: match mtime {
                Some(mtime) => mtime,
                None => Timestamp { secs: header.mtime(at)?, nanos: 0 },
            },
            size: 0,
            xattrs,
            sparse: None,
            name: Vec::new(),
        };
        let device = || header.device(at);
        let mut body = 0;
        match header.type_flag() {
            // Old writers have no type for directories: the name ends in a slash.
            0 | b'0' if name.ends_with(b"/") => entry.kind = Kind::Directory,
            0 | b'0' | b'7' | b'S' => body = stored,
            b'1' => entry.kind = Kind::HardLink { target },
            b'2' => entry.kind = Kind::Symlink { target },
            b'3' => entry.kind = device().map(|(major, minor)| Kind::Char { major, minor })?,
            b'4' => entry.kind = device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => entry.kind = Kind::Directory,
            // GNU's incremental dumps list the directory's names in the body.
            b'D' => (entry.kind, body) = (Kind::Directory, stored),
            b'6' => entry.kind = Kind::Fifo,
            flag => {
                let what = format!("tar entry {:?} of type {:?}", at(), char::from(flag));
                return Err(Error::UnsupportedLayer { what });
            }
        }
        if let Kind::Symlink { target } | Kind::HardLink { target } = &entry.kind
            && target.is_empty()
        {
            return Err(invalid(at(), "link without a target"));
        }
        self.left = body;
        self.padding = padded(body)? - body;
        if entry.kind == Kind::File {
            entry.size = body;
            let old = header.type_flag() == b'S' && header.format() == Format::Gnu;
            if let Some((extents, real_size)) = self.sparse_map(header, old, &sparse, &at)? {
                sparse::check(&extents, real_size, self.left).map_err(|reason| invalid(at(), reason))?;
                // Holes take no place in the archive, but may on disk.
                self.sparse_bytes = self.sparse_bytes.saturating_add(real_size);
                if self.sparse_bytes > self.limits.layer_bytes {
                    return Err(self.exceeded("sparse files", "layer_bytes", self.limits.layer_bytes));
                }
                entry.size = real_size;
                entry.sparse = Some(extents);
            }
        }
        entry.name = name;
        Ok(entry)
    }

    /// The map of a sparse file in whichever of the four encodings, and the file's real size.
    fn sparse_map(
        &mut self,
        header: &Header<'_>,
        old: bool,
        pax: &sparse::PaxSparse,
        at: &impl Fn() -> String,
    ) -> Result<Option<(Vec<Extent>, u64)>> {
        if old {
            let real_size = header.number(483, 12, at)?;
            let real_size = u64::try_from(real_size).map_err(|_| invalid(at(), "negative size"))?;
            let mut extents = Vec::new();
            old_extents(header, 386, 4, &mut extents, at)?;
            let mut more = header.byte(482) != 0;
            let mut block = [0; BLOCK];
            while more {
                if !self.block(&mut block)? {
                    return Err(truncated());
                }
                if (extents.len() * 24) as u64 > self.limits.header_bytes {
                    return Err(self.exceeded(
                        "the map of a sparse file",
                        "header_bytes",
                        self.limits.header_bytes,
                    ));
                }
                let map = Header::unchecked(&block);
                old_extents(&map, 0, 21, &mut extents, at)?;
                more = map.byte(504) != 0;
            }
            return Ok(Some((extents, real_size)));
        }
        let extents = match pax.form() {
            None => return Ok(None),
            Some(Form::InRecords) => pax.extents().ok_or_else(|| invalid(at(), "odd sparse map"))?,
            Some(Form::InBody) => self.map_in_body(at)?,
            Some(Form::Unknown) => {
                let what = format!("sparse format of {:?}", at());
                return Err(Error::UnsupportedLayer { what });
            }
        };
        let real_size = pax.real_size.ok_or_else(|| invalid(at(), "sparse file without its size"))?;
        Ok(Some((extents, real_size)))
    }

    fn map_in_body(&mut self, at: &impl Fn() -> String) -> Result<Vec<Extent>> {
        let mut map = MapParser::default();
        let mut read = 0u64;
        let mut complete = false;
        while !complete {
            let bytes = self.body()?;
            if bytes.is_empty() {
                return Err(invalid(at(), "sparse map ends early"));
            }
            let mut n = 0;
            for &byte in bytes {
                n += 1;
                complete = map.push(byte).ok_or_else(|| invalid(at(), "malformed sparse map"))?;
                if complete {
                    break;
                }
            }
            self.consume(n);
            read += n as u64;
            if read > self.limits.header_bytes {
                return Err(self.exceeded(
                    "the map of a sparse file",
                    "header_bytes",
                    self.limits.header_bytes,
                ));
            }
        }
        // The data starts at the next block.
        let mut rest = padded(read)? - read;
        if rest > self.left {
            return Err(invalid(at(), "sparse map ends early"));
        }
        while rest > 0 {
            let n = self.body()?.len().min(rest as usize);
            self.consume(n);
            rest -= n as u64;
        }
        Ok(map.extents())
    }

    /// After the first zero block: the second one, or the end of the data, ends the archive.
    fn end_of_archive(&mut self, block: &mut [u8; BLOCK]) -> Result<()> {
        let at = self.offset;
        if self.block(block)? && block.iter().any(|&b| b != 0) {
            return Err(invalid(
                format!("byte {at}"),
                "a lone zero block between entries, the archive is damaged",
            ));
        }
        self.ended = true;
        Ok(())
    }

    /// The body of an extended header.
    fn extension(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let at = self.offset - BLOCK as u64;
        let size = header.size(|| format!("extended header at byte {at}"))?;
        self.extended_bytes = self.extended_bytes.saturating_add(size);
        if self.extended_bytes > self.limits.header_bytes {
            return Err(self.exceeded(
                "the extended tar headers of an entry",
                "header_bytes",
                self.limits.header_bytes,
            ));
        }
        let mut data = Vec::with_capacity(size as usize);
        (self.left, self.padding) = (size, padded(size)? - size);
        while self.left > 0 {
            let bytes = self.body()?;
            let n = bytes.len();
            data.extend_from_slice(bytes);
            self.consume(n);
        }
        self.skip(self.padding)?;
        self.padding = 0;
        Ok(data)
    }

    /// A GNU long name or link target.
    fn long(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let at = self.offset - BLOCK as u64;
        let mut data = self.extension(header)?;
        data.truncate(data.iter().position(|&b| b == 0).unwrap_or(data.len()));
        if data.is_empty() {
            return Err(invalid(format!("long name at byte {at}"), "empty name"));
        }
        Ok(data)
    }

    /// Fills `block`; `false` at the end of the data.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut have = 0;
        while have < BLOCK {
            let bytes = self.source.fill()?;
            if bytes.is_empty() {
                return if have == 0 { Ok(false) } else { Err(truncated()) };
            }
            let n = bytes.len().min(BLOCK - have);
            block[have..have + n].copy_from_slice(&bytes[..n]);
            self.source.consume(n);
            have += n;
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn skip(&mut self, n: u64) -> Result<()> {
        self.offset += n;
        self.source.skip(n)
    }

    fn exceeded(&self, what: &str, name: &'static str, limit: u64) -> Error {
        Error::LimitExceeded { what: what.to_owned(), name, limit }
    }
}

impl<S: Pieces> Reader<S> {
    /// More of the current body without copying it; `None` when all of it was taken.
    pub(crate) fn piece(&mut self) -> Result<Option<S::Piece>> {
        if self.left == 0 {
            return Ok(None);
        }
        let max = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = self.source.piece(max)?.ok_or_else(truncated)?;
        let n = piece.as_ref().len();
        self.left -= n as u64;
        self.offset += n as u64;
        Ok(Some(piece))
    }
}

fn old_extents(
    header: &Header<'_>,
    start: usize,
    count: usize,
    extents: &mut Vec<Extent>,
    at: &impl Fn() -> String,
) -> Result<()> {
    for i in 0..count {
        let field = start + i * 24;
        if header.byte(field) == 0 && header.byte(field + 12) == 0 {
            break;
        }
        let part = |start| {
            u64::try_from(header.number(start, 12, at)?)
                .map_err(|_| invalid(at(), "negative offset in a sparse map"))
        };
        extents.push(Extent { offset: part(field)?, len: part(field + 12)? });
    }
    Ok(())
}

/// `size` rounded up to whole blocks.
fn padded(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
        .filter(|&size| size <= i64::MAX as u64)
        .ok_or_else(|| invalid(format!("entry of {size} bytes"), "size out of range"))
}

#[cfg(test)]
mod tests;
