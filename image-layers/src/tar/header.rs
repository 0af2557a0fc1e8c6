//! The 512-byte header block: fields, number forms, checksum.

use crate::{Error, Result};

use super::BLOCK;

/// A header block whose checksum holds.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

/// Which family a header belongs to; it decides what stands behind the link name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Before POSIX: nothing.
    V7,
    /// POSIX: device numbers and a name prefix of 155 bytes.
    Ustar,
    /// star: the prefix is shorter, times follow.
    Star,
    /// GNU: no prefix; times and a sparse map.
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the checksum, signed or unsigned (both are found in the wild).
    pub(super) fn parse(block: &'a [u8; BLOCK], offset: u64) -> Result<Header<'a>> {
        let header = Header(block);
        let at = || format!("header at byte {offset}");
        let stored = header.number(148, 8, at)?;
        // The field itself counts as spaces. In a form that the compiler makes vector instructions of.
        let sum = |value: fn(u8) -> i32, bytes: &[u8]| bytes.iter().map(|&byte| value(byte)).sum::<i32>();
        let total = |value| sum(value, block) - sum(value, &block[148..156]) + 8 * i32::from(b' ');
        if stored != i64::from(total(i32::from)) && stored != i64::from(total(|byte| i32::from(byte as i8))) {
            return Err(invalid(at(), "wrong header checksum, this is no tar archive or a damaged one"));
        }
        Ok(header)
    }

    /// A block that follows a header and has no checksum of its own.
    pub(super) fn unchecked(block: &'a [u8; BLOCK]) -> Header<'a> {
        Header(block)
    }

    pub(super) fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar\x0000" if &self.0[508..512] == b"tar\0" => Format::Star,
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar") => Format::Ustar,
            _ => Format::V7,
        }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix where the format has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let prefix = match self.format() {
            Format::Ustar => self.text(345, 155),
            Format::Star => self.text(345, 131),
            Format::V7 | Format::Gnu => &[],
        };
        let name = self.text(0, 100);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> &'a [u8] {
        self.text(157, 100)
    }

    pub(super) fn mode(&self, at: impl Fn() -> String) -> Result<u16> {
        Ok((self.number(100, 8, at)? & 0o7777) as u16)
    }

    pub(super) fn uid(&self, at: impl Fn() -> String) -> Result<u32> {
        let number = self.number(108, 8, &at)?;
        id(number, || invalid(at(), "user id out of range"))
    }

    pub(super) fn gid(&self, at: impl Fn() -> String) -> Result<u32> {
        let number = self.number(116, 8, &at)?;
        id(number, || invalid(at(), "group id out of range"))
    }

    pub(super) fn size(&self, at: impl Fn() -> String) -> Result<u64> {
        let number = self.number(124, 12, &at)?;
        u64::try_from(number).map_err(|_| invalid(at(), "negative size"))
    }

    pub(super) fn mtime(&self, at: impl Fn() -> String) -> Result<i64> {
        self.number(136, 12, at)
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self, at: impl Fn() -> String) -> Result<(u32, u32)> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        let part = |start| {
            let number = self.number(start, 8, &at)?;
            u32::try_from(number).map_err(|_| invalid(at(), "device number out of range"))
        };
        Ok((part(329)?, part(337)?))
    }

    /// A number field anywhere in the block; sparse maps use it too.
    pub(super) fn number(&self, start: usize, len: usize, at: impl Fn() -> String) -> Result<i64> {
        number(&self.0[start..start + len]).ok_or_else(|| invalid(at(), "malformed number in the header"))
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// A text field: up to the first NUL or the whole field.
    fn text(&self, start: usize, len: usize) -> &'a [u8] {
        let field = &self.0[start..start + len];
        &field[..field.iter().position(|&b| b == 0).unwrap_or(len)]
    }
}

/// All forms of numbers: octal with leading blanks, ended by NUL, blank or the field; empty; GNU base-256.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement over the whole field; the top bit only marks the form, the next one is the sign.
        let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        value = value << 7 | i128::from(first & 0x7f);
        for &byte in rest {
            value = value.checked_mul(256)? | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = field.iter().position(|&b| b != b' ' && b != 0).map_or(&[][..], |start| &field[start..]);
    let end = digits.iter().position(|&b| b == b' ' || b == 0).unwrap_or(digits.len());
    // Nothing but blanks and NULs may follow, or the number is something else.
    if digits[end..].iter().any(|&b| b != b' ' && b != 0) {
        return None;
    }
    let mut value = 0i64;
    for &byte in &digits[..end] {
        if !(b'0'..=b'7').contains(&byte) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?;
    }
    Some(value)
}

/// Ids are 32 bits wide, and the largest one means "no change" to the kernel.
pub(super) fn id(number: i64, error: impl FnOnce() -> Error) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(error()),
    }
}

pub(super) fn invalid(entry: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::InvalidLayer { entry: entry.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn number_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 100640 "), Some(0o100640));
        assert_eq!(number(b"     5 \0"), Some(5));
        assert_eq!(number(b"00000001750 "), Some(1000));
        assert_eq!(number(b"77777777"), Some(0o77777777));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"\0   644\0"), Some(0o644));
        assert_eq!(number(b"12x\0\0\0\0\0"), None);
        assert_eq!(number(b"8\0\0\0\0\0\0\0"), None);
        assert_eq!(number(b"12\x0034\0\0\0"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
    }

    #[test]
    fn base_256() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0xb6, 0x59, 0x9b, 0xa8]), Some(0xb659_9ba8));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let mut negative = [0xff; 12];
        negative[4..].copy_from_slice(&(-1_000_000i64).to_be_bytes());
        assert_eq!(number(&negative), Some(-1_000_000));
        let mut huge = [0; 12];
        huge[0] = 0x80;
        huge[3] = 1;
        assert_eq!(number(&huge), None);
    }
}
