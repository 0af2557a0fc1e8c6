//! The four encodings of sparse files: GNU's old one in the header block, and PAX 0.0, 0.1 and 1.0.

use super::Extent;
use super::pax::decimal;

/// What the PAX records say about a sparse file.
#[derive(Clone, Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    version: (u64, u64),
    /// Formats 0.0 (pairs of records) and 0.1 (one list) end up here.
    numbers: Vec<u64>,
    in_records: bool,
}

impl PaxSparse {
    /// Takes the record `GNU.sparse.KEY`; unknown keys are ignored. `None` when it is malformed.
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.version.0 = decimal(value)?,
            b"minor" => self.version.1 = decimal(value)?,
            b"name" if value.contains(&0) || value.is_empty() => return None,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => self.in_records = true,
            b"offset" | b"numbytes" => {
                // They come in pairs, offset first.
                if self.numbers.len().is_multiple_of(2) != (key == b"offset") {
                    return None;
                }
                self.in_records = true;
                self.numbers.push(decimal(value)?);
            }
            b"map" => {
                self.in_records = true;
                self.numbers = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>()?;
            }
            _ => {}
        }
        Some(())
    }

    /// Where the map is to be found, if this describes a sparse file at all.
    pub(super) fn form(&self) -> Option<Form> {
        match self.version {
            (1, 0) => Some(Form::InBody),
            (0, _) if self.in_records => Some(Form::InRecords),
            (0, _) => None,
            _ => Some(Form::Unknown),
        }
    }

    /// The map of formats 0.0 and 0.1.
    pub(super) fn extents(&self) -> Option<Vec<Extent>> {
        if !self.numbers.len().is_multiple_of(2) {
            return None;
        }
        Some(self.numbers.chunks(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect())
    }
}

pub(super) enum Form {
    InRecords,
    /// Format 1.0: decimal lines before the data, padded to a block.
    InBody,
    Unknown,
}

/// Checks that a map is in order, lies within the file and accounts for all of its `stored` bytes.
pub(super) fn check(extents: &[Extent], real_size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in extents {
        if extent.offset < end {
            return Err("parts of a sparse file overlap or are out of order");
        }
        end = extent.offset.checked_add(extent.len).ok_or("a part of a sparse file is out of range")?;
        sum += extent.len;
    }
    if end > real_size {
        return Err("a part of a sparse file lies beyond its end");
    }
    if sum != stored {
        return Err("the parts of a sparse file do not add up to its data");
    }
    Ok(())
}

/// The decimal lines at the head of a 1.0 body, read as they come.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    count: Option<u64>,
    numbers: Vec<u64>,
    digits: Option<u64>,
}

impl MapParser {
    /// Takes one byte. `Some(true)` when the map is complete, `None` when it is malformed.
    pub(super) fn push(&mut self, byte: u8) -> Option<bool> {
        match byte {
            b'0'..=b'9' => {
                let value = self.digits.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                self.digits = Some(value);
                return Some(false);
            }
            b'\n' => {}
            _ => return None,
        }
        let value = self.digits.take()?;
        match self.count {
            None => self.count = Some(value.checked_mul(2)?),
            Some(_) => self.numbers.push(value),
        }
        Some(self.count == Some(self.numbers.len() as u64))
    }

    pub(super) fn extents(self) -> Vec<Extent> {
        self.numbers.chunks(2).map(|pair| Extent { offset: pair[0], len: pair[1] }).collect()
    }
}
