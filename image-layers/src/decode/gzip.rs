//! gzip framing around a raw inflate.

use std::io::Read;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use crate::{Error, Result};

use super::{Input, invalid};

pub(super) struct Gzip {
    inflate: Decompress,
    crc: Crc,
    open: bool,
}

impl Default for Gzip {
    fn default() -> Gzip {
        Gzip { inflate: Decompress::new(false), crc: Crc::new(), open: false }
    }
}

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

impl Gzip {
    /// Some more bytes; 0 only at the end.
    pub(super) fn decode<R: Read>(&mut self, input: &mut Input<R>, output: &mut [u8]) -> Result<usize> {
        loop {
            if !self.open {
                let start = input.at_least(2)?;
                if start.is_empty() {
                    return Ok(0);
                }
                if !start.starts_with(&[0x1f, 0x8b]) {
                    input.only_zeros("gzip")?;
                    return Ok(0);
                }
                header(input)?;
                self.inflate.reset(false);
                self.crc.reset();
                self.open = true;
            }
            let bytes = input.fill()?;
            let at_end = bytes.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(bytes, output, FlushDecompress::None)
                .map_err(|e| invalid("gzip", e.to_string()))?;
            let taken = (self.inflate.total_in() - before_in) as usize;
            let n = (self.inflate.total_out() - before_out) as usize;
            input.consume(taken);
            self.crc.update(&output[..n]);
            if status == Status::StreamEnd {
                self.open = false;
                self.trailer(input)?;
            } else if n == 0 && taken == 0 && at_end {
                return Err(truncated());
            }
            if n > 0 {
                return Ok(n);
            }
        }
    }

    fn trailer<R: Read>(&self, input: &mut Input<R>) -> Result<()> {
        let bytes: [u8; 8] = take(input)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum()
            || u32::from_le_bytes([e, f, g, h]) != self.crc.amount()
        {
            return Err(Error::Checksum { what: "gzip data".to_owned() });
        }
        Ok(())
    }
}

fn header<R: Read>(input: &mut Input<R>) -> Result<()> {
    let mut crc = Crc::new();
    let fixed: [u8; 10] = take(input)?;
    crc.update(&fixed);
    let [_, _, method, flags, ..] = fixed;
    if method != 8 || flags & RESERVED != 0 {
        return Err(invalid("gzip", "unknown method or flags"));
    }
    if flags & EXTRA != 0 {
        let len: [u8; 2] = take(input)?;
        crc.update(&len);
        for _ in 0..u16::from_le_bytes(len) {
            crc.update(&take::<_, 1>(input)?);
        }
    }
    for flag in [NAME, COMMENT] {
        if flags & flag == 0 {
            continue;
        }
        loop {
            let byte: [u8; 1] = take(input)?;
            crc.update(&byte);
            if byte == [0] {
                break;
            }
        }
    }
    if flags & HEADER_CRC != 0 {
        let stored: [u8; 2] = take(input)?;
        if u32::from(u16::from_le_bytes(stored)) != crc.sum() & 0xffff {
            return Err(Error::Checksum { what: "gzip header".to_owned() });
        }
    }
    Ok(())
}

fn take<R: Read, const N: usize>(input: &mut Input<R>) -> Result<[u8; N]> {
    let bytes = input.at_least(N)?;
    let taken = bytes.first_chunk::<N>().copied().ok_or_else(truncated)?;
    input.consume(N);
    Ok(taken)
}

fn truncated() -> Error {
    Error::Truncated { what: "gzip data".to_owned() }
}
