//! PAX extended headers: records of the form `LENGTH KEY=VALUE\n`.

use crate::Result;

use super::header::{id, invalid};
use super::sparse::PaxSparse;
use super::{Timestamp, Xattrs};

/// The records that matter here. A value that is present but empty takes a setting back, as POSIX has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: PaxSparse,
}

impl Records {
    /// Adds the records of one header. Later ones win; keys of others are ignored.
    pub(super) fn parse(&mut self, mut data: &[u8], at: &str) -> Result<()> {
        while !data.is_empty() {
            // Some writers pad the records with NULs up to the block.
            if data.iter().all(|&b| b == 0) {
                break;
            }
            let (record, rest) = split(data).ok_or_else(|| invalid(at, "malformed PAX record"))?;
            data = rest;
            let equals = record
                .iter()
                .position(|&b| b == b'=')
                .ok_or_else(|| invalid(at, "PAX record without '='"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.set(key, value, at)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8], at: &str) -> Result<()> {
        let bad =
            |what: &str| invalid(at, format!("malformed PAX {what}: {}", String::from_utf8_lossy(value)));
        match key {
            b"path" => self.path = text(value).ok_or_else(|| bad("path"))?,
            b"linkpath" => self.link = text(value).ok_or_else(|| bad("linkpath"))?,
            b"size" => self.size = optional(value, decimal).ok_or_else(|| bad("size"))?,
            b"uid" => self.uid = optional(value, owner).ok_or_else(|| bad("uid"))?,
            b"gid" => self.gid = optional(value, owner).ok_or_else(|| bad("gid"))?,
            b"mtime" => self.mtime = optional(value, timestamp).ok_or_else(|| bad("mtime"))?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) || name.len() > 255 {
                        return Err(invalid(at, "malformed name of an extended attribute"));
                    }
                    // Every name is compared with all others.
                    if self.xattrs.len() >= MAX_XATTRS {
                        return Err(invalid(at, "more than 4096 extended attributes"));
                    }
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value).ok_or_else(|| bad("sparse record"))?;
                }
            }
        }
        Ok(())
    }
}

const MAX_XATTRS: usize = 4096;

/// One record (without its newline) and what follows it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = data.iter().take(20).position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(&data[..blank])?).ok()?;
    if len <= blank + 1 || len > data.len() || data[len - 1] != b'\n' {
        return None;
    }
    Some((&data[blank + 1..len - 1], &data[len..]))
}

/// `None` for malformed, `Some(None)` for a value that is taken back.
fn optional<T>(value: &[u8], parse: impl FnOnce(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() { Some(None) } else { parse(value).map(Some) }
}

fn text(value: &[u8]) -> Option<Option<Vec<u8>>> {
    if value.contains(&0) { None } else { Some((!value.is_empty()).then(|| value.to_vec())) }
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for &byte in text {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    Some(value)
}

fn owner(text: &[u8]) -> Option<u32> {
    let number = i64::try_from(decimal(text)?).ok()?;
    id(number, || invalid("", "")).ok()
}

/// Decimal seconds with an optional sign and fraction; digits beyond nanoseconds are cut.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix(b"+").unwrap_or(text)),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if whole.is_empty() && fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let secs = if whole.is_empty() { 0 } else { i64::try_from(decimal(whole)?).ok()? };
    let nanos = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Some(match (negative, nanos) {
        (false, _) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos },
        (true, _) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(data: &[u8]) -> Result<Records> {
        let mut records = Records::default();
        records.parse(data, "test").map(|()| records)
    }

    #[test]
    fn values_are_bytes_up_to_the_stated_length() {
        let r = records(b"30 SCHILY.xattr.user.a=x\n=\0\nyz\n").unwrap_err();
        assert!(matches!(r, crate::Error::InvalidLayer { .. }));
        let r = records(b"31 SCHILY.xattr.user.a=x\n=\0\nyz\n9 path=a\n").unwrap();
        assert_eq!(r.xattrs, [(b"user.a".to_vec(), b"x\n=\0\nyz".to_vec())]);
        assert_eq!(r.path.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn broken_records_are_errors() {
        for bad in [
            &b"40 path=intended\n"[..],
            b"x path=a\n",
            b"8 path=a\n",
            b"9 path:a\n",
            b"5 a\n",
            b"3 \n",
            b"10 path=\0a\n",
            b"12 mtime=x.y\n",
            b"10 uid=-1\n\n",
            b"18 uid=4294967295\n",
        ] {
            assert!(records(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times() {
        let at = |text: &str| timestamp(text.as_bytes()).map(|t| (t.secs, t.nanos));
        assert_eq!(at("1644317623.2803335"), Some((1_644_317_623, 280_333_500)));
        assert_eq!(at("1644317623.123456789987"), Some((1_644_317_623, 123_456_789)));
        assert_eq!(at("-86400"), Some((-86_400, 0)));
        assert_eq!(at("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(at(".5"), Some((0, 500_000_000)));
        assert_eq!(at("."), None);
        assert_eq!(at("1.2.3"), None);
        assert_eq!(at("--1"), None);
    }
}
