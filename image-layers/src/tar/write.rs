//! The writer: POSIX (PAX) archives, the same bytes for the same entries.
//!
//! Plain ustar headers where they can hold an entry, PAX records where they cannot. No user names, no access times, no
//! device of origin, no process id in the names of extended headers: nothing of the machine gets in.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind};

/// Writes an archive entry by entry.
#[derive(Clone, Debug)]
pub(crate) struct Writer<W> {
    inner: W,
    /// Bytes of the current body that are still to come, and the padding behind it.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(inner: W) -> Writer<W> {
        Writer { inner, left: 0, padding: 0 }
    }

    /// Starts an entry. Exactly `entry.size` bytes of a file have to follow by [`body`](Writer::body).
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.finish_body()?;
        let mut records = Vec::new();
        let mut header = ::tar::Header::new_ustar();
        let name = match entry.kind {
            Kind::Directory if !entry.name.ends_with(b"/") => [&entry.name[..], b"/"].concat(),
            _ => entry.name.clone(),
        };
        let raw = header.as_ustar_mut().ok_or_else(|| io::Error::other("no ustar header"))?;
        match split_name(&name) {
            Some((prefix, rest)) => {
                raw.prefix[..prefix.len()].copy_from_slice(prefix);
                raw.name[..rest.len()].copy_from_slice(rest);
            }
            None => {
                record(&mut records, b"path", &name);
                let short = &name[..name.len().min(100)];
                raw.name[..short.len()].copy_from_slice(short);
            }
        }
        let (flag, target, device) = match &entry.kind {
            Kind::File => (b'0', &[][..], None),
            Kind::Directory => (b'5', &[][..], None),
            Kind::Symlink { target } => (b'2', &target[..], None),
            Kind::HardLink { target } => (b'1', &target[..], None),
            Kind::Char { major, minor } => (b'3', &[][..], Some((*major, *minor))),
            Kind::Block { major, minor } => (b'4', &[][..], Some((*major, *minor))),
            Kind::Fifo => (b'6', &[][..], None),
        };
        let short = &target[..target.len().min(100)];
        raw.linkname[..short.len()].copy_from_slice(short);
        if target.len() > 100 {
            record(&mut records, b"linkpath", target);
        }
        raw.typeflag = [flag];
        let (major, minor) = device.unwrap_or((0, 0));
        raw.dev_major = octal(u64::from(major));
        raw.dev_minor = octal(u64::from(minor));
        raw.mode = octal(u64::from(entry.mode));
        for (field, key, id) in [(&mut raw.uid, &b"uid"[..], entry.uid), (&mut raw.gid, b"gid", entry.gid)] {
            let fits = id < 1 << 21;
            *field = octal(if fits { u64::from(id) } else { 0 });
            if !fits {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        let fits = size < 1 << 33;
        raw.size = octal(if fits { size } else { 0 });
        if !fits {
            record(&mut records, b"size", size.to_string().as_bytes());
        }
        let secs = u64::try_from(entry.mtime.secs).ok().filter(|&secs| secs < 1 << 33);
        raw.mtime = octal(secs.unwrap_or(0));
        if secs.is_none() || entry.mtime.nanos != 0 {
            record(&mut records, b"mtime", time(entry.mtime.secs, entry.mtime.nanos).as_bytes());
        }
        let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
        xattrs.sort();
        for (name, value) in xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !records.is_empty() {
            let mut extended = ::tar::Header::new_ustar();
            let raw = extended.as_ustar_mut().ok_or_else(|| io::Error::other("no ustar header"))?;
            raw.name[..9].copy_from_slice(b"PaxHeader");
            raw.typeflag = *b"x";
            raw.mode = octal(0o644);
            raw.uid = octal(0);
            raw.gid = octal(0);
            raw.mtime = octal(0);
            raw.dev_major = octal(0);
            raw.dev_minor = octal(0);
            raw.size = octal(records.len() as u64);
            extended.set_cksum();
            self.inner.write_all(extended.as_bytes())?;
            self.inner.write_all(&records)?;
            self.inner.write_all(&[0; BLOCK][..padding(records.len() as u64)])?;
        }
        header.set_cksum();
        self.inner.write_all(header.as_bytes())?;
        self.left = size;
        self.padding = padding(size);
        Ok(())
    }

    /// More of the current body.
    pub(crate) fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("a file grew while it was archived"))?;
        self.inner.write_all(bytes)
    }

    /// Ends the archive with its two zero blocks.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.finish_body()?;
        self.inner.write_all(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn finish_body(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a file shrank while it was archived"));
        }
        self.inner.write_all(&[0; BLOCK][..self.padding])?;
        self.padding = 0;
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

/// NUL-terminated octal over the whole field; the caller has checked that it fits.
fn octal<const N: usize>(mut value: u64) -> [u8; N] {
    let mut field = [0; N];
    for digit in field[..N - 1].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field
}

/// Splits a name at a slash so that both parts fit a ustar header.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    // The first slash that leaves at most 100 bytes behind it; a trailing one does not count.
    let from = name.len().checked_sub(101)?;
    let slash = from + name[from..name.len() - 1].iter().position(|&b| b == b'/')?;
    (slash > 0 && slash <= 155).then(|| (&name[..slash], &name[slash + 1..]))
}

/// Appends one PAX record, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds as a decimal, without trailing zeros.
fn time(secs: i64, nanos: u32) -> String {
    // The fraction counts forward, so before 1970 the written number is one closer to zero.
    let (sign, whole, nanos) = match (secs, nanos) {
        (..0, 0) => ("-", secs.unsigned_abs(), 0),
        (..0, _) => ("-", secs.unsigned_abs() - 1, 1_000_000_000 - nanos),
        _ => ("", secs.unsigned_abs(), nanos),
    };
    if nanos == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{}", format!("{nanos:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::super::{Buffered, Reader, Timestamp};
    use super::*;
    use crate::Limits;

    fn round_trip(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, body) in entries {
            writer.entry(entry).unwrap();
            writer.body(body).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(Buffered::new(&bytes[..]), &Limits::default());
        for (entry, body) in entries {
            let mut read = reader.next().unwrap().unwrap();
            if read.kind == Kind::Directory {
                assert_eq!(read.name.pop(), Some(b'/'));
            }
            assert_eq!(&read, entry);
            let mut seen = Vec::new();
            while reader.left() > 0 {
                let part = reader.body().unwrap().to_vec();
                reader.consume(part.len());
                seen.extend(part);
            }
            assert_eq!(seen, *body);
        }
        assert!(reader.next().unwrap().is_none());
        bytes
    }

    fn entry(name: &[u8], kind: Kind) -> Entry {
        Entry {
            name: name.to_vec(),
            kind,
            mode: 0o4755,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1_600_000_000, nanos: 0 },
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    #[test]
    fn everything_comes_back() {
        let long = [&[b'x'; 90][..], b"/", &[b'y'; 99]].concat();
        let longer = [b'z'; 300];
        let mut big = entry(b"ids", Kind::File);
        (big.uid, big.gid, big.size) = (3_059_377_464, 2_097_152, 3);
        let mut old = entry(b"old", Kind::Fifo);
        old.mtime = Timestamp { secs: -86_401, nanos: 500_000_000 };
        let mut attributes = entry(b"caf\xe9", Kind::Directory);
        attributes.xattrs =
            vec![(b"user.bin".to_vec(), b"\0\n=\xff".to_vec()), (b"user.empty".to_vec(), Vec::new())];
        let bytes = round_trip(&[
            (big, b"abc"),
            (old, b""),
            (attributes, b""),
            (entry(&long, Kind::Directory), b""),
            (entry(&longer, Kind::Symlink { target: longer.to_vec() }), b""),
            (entry(b"hard", Kind::HardLink { target: b"ids".to_vec() }), b""),
            (entry(b"null", Kind::Char { major: 1, minor: 3 }), b""),
            (entry(b"loop", Kind::Block { major: 7, minor: 300 }), b""),
        ]);
        assert_eq!(bytes.len() % BLOCK, 0);
    }

    #[test]
    fn a_file_that_changes_is_an_error() {
        let mut file = entry(b"f", Kind::File);
        file.size = 3;
        let mut writer = Writer::new(Vec::new());
        writer.entry(&file).unwrap();
        assert!(writer.body(b"four").is_err());
        let mut writer = Writer::new(Vec::new());
        writer.entry(&file).unwrap();
        assert!(writer.finish().is_err());
    }

    #[test]
    fn times_as_decimals() {
        assert_eq!(time(12, 500_000_000), "12.5");
        assert_eq!(time(-86_400, 0), "-86400");
        assert_eq!(time(-1, 500_000_000), "-0.5");
        assert_eq!(time(-86_401, 250_000_000), "-86400.75");
    }
}
