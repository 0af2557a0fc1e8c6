//! gzip framing around a raw inflate.

use std::io::Read;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use crate::{Error, Result};

use super::{Input, invalid};

pub(super) struct Gzip {
    inflate: Decompress,
    /// Bytes given out, and where the current member began.
    decoded: u64,
    start: u64,
    open: bool,
    checksums: Checksums,
    /// Of members that ended, where somebody else checks them: none is empty, so that they are bounded by the output.
    deferred: Option<Vec<Checksum>>,
}

/// What the trailer of a member says of the bytes before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checksum {
    /// Where the member ends in the decoded bytes.
    end: u64,
    crc: u32,
    /// Bytes of the member, modulo 2^32.
    len: u32,
}

/// Compares the decoded bytes with what the trailers say.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    crc: Crc,
    seen: u64,
}

impl Checksums {
    /// Takes more decoded bytes, and the members that end among them or right in front of them.
    pub(super) fn update(&mut self, mut bytes: &[u8], ended: &[Checksum]) -> Result<()> {
        for &Checksum { end, crc, len } in ended {
            // Otherwise decoding failed before its bytes were given out.
            let Some((member, rest)) = bytes.split_at_checked((end - self.seen) as usize) else {
                return Ok(());
            };
            self.crc.update(member);
            if (crc, len) != (self.crc.sum(), self.crc.amount()) {
                return Err(Error::Checksum { what: "gzip data".to_owned() });
            }
            self.crc.reset();
            self.seen = end;
            bytes = rest;
        }
        self.crc.update(bytes);
        self.seen += bytes.len() as u64;
        Ok(())
    }
}

/// Members that may end in one buffer.
const DEFERRED: usize = 1024;

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

impl Gzip {
    pub(super) fn new(deferring: bool) -> Gzip {
        Gzip {
            inflate: Decompress::new(false),
            decoded: 0,
            start: 0,
            open: false,
            checksums: Checksums::default(),
            deferred: deferring.then(Vec::new),
        }
    }

    /// Whether checksums should be taken before more is decoded.
    pub(super) fn is_full(&self) -> bool {
        self.deferred.as_ref().is_some_and(|deferred| deferred.len() >= DEFERRED)
    }

    pub(super) fn take_checksums(&mut self) -> Option<Vec<Checksum>> {
        self.deferred.as_mut().map(std::mem::take)
    }

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
                self.start = self.decoded;
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
            self.decoded += n as u64;
            let mut ended = None;
            if status == Status::StreamEnd {
                self.open = false;
                let [a, b, c, d, e, f, g, h] = take(input)?;
                let (crc, len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                ended = Some(Checksum { end: self.decoded, crc, len });
            } else if n == 0 && taken == 0 && at_end {
                return Err(truncated());
            }
            match &mut self.deferred {
                Some(deferred) if self.decoded > self.start => deferred.extend(ended),
                Some(_) => {
                    Checksums { seen: self.decoded, ..Default::default() }.update(&[], ended.as_slice())?
                }
                None => self.checksums.update(&output[..n], ended.as_slice())?,
            }
            if n > 0 {
                return Ok(n);
            }
        }
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
