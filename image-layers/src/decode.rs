//! One bounded decoder for everything that is compressed.
//!
//! It goes by the first bytes, never by a media type: digest and DiffID make that safe, and registries are full of
//! layers whose type is wrong. gzip members and zstd frames are joined, skippable frames and zero padding behind the
//! data count for nothing, every checksum is verified, and anything else behind the data is an error. Memory is a
//! buffer of input, the window of the format (32 KiB for gzip, what the frame asks for up to
//! [`Limits::window_bytes`] for zstd), and the caller's output.

mod ahead;
mod encode;
mod gzip;

use std::io::{self, Read};

use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use crate::{Error, Limits, Result};

pub(crate) use ahead::{Ahead, Piece, run_ahead};
pub(crate) use encode::Encoder;
use gzip::{Checksum, Checksums};

/// How content is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)); every engine reads it.
    #[default]
    Gzip,
    /// Zstandard ([RFC 8878](https://www.rfc-editor.org/rfc/rfc8878)); smaller and several times faster to unpack.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes how content is compressed: 262 of them, or all there are. An archive is not taken for
    /// something else because of the name of its first member.
    ///
    /// # Errors
    ///
    /// [`Error::UnsupportedLayer`] for xz, bzip2, lz4 and lzma.
    pub fn detect(start: &[u8]) -> Result<Compression> {
        let unsupported = |name: &str| Err(Error::UnsupportedLayer { what: format!("{name} compression") });
        if start.get(257..262) == Some(b"ustar") {
            return Ok(Compression::None);
        }
        match start {
            [0x1f, 0x8b, 8, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', ..] => unsupported("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
            [0x5d, 0, 0, _, ..] => unsupported("lzma"),
            _ => Ok(Compression::None),
        }
    }
}

/// Decodes what `R` yields.
pub(crate) struct Decoder<R> {
    input: Input<R>,
    format: Option<Format>,
    limits: Limits,
    /// Bytes given out.
    decoded: u64,
    /// Whether checksums of gzip are left to somebody else.
    deferring: bool,
    /// What went wrong behind the bytes that were given out last.
    failure: Option<Error>,
}

enum Format {
    Plain,
    Gzip(Box<gzip::Gzip>),
    Zstd(Zstd),
}

/// The ratio is judged only beyond this many decoded bytes: small files of zeros are harmless and common.
const RATIO_FROM: u64 = 64 << 20;

impl<R: Read> Decoder<R> {
    pub(crate) fn new(reader: R, limits: &Limits) -> Decoder<R> {
        let input = Input::new(reader);
        Decoder { input, format: None, limits: *limits, decoded: 0, deferring: false, failure: None }
    }

    /// One that leaves [checksums](Decoder::take_checksums) of gzip to be checked by the caller. Decoding gzip mostly takes
    /// longest, and another thread has the time.
    pub(crate) fn deferring(reader: R, limits: &Limits) -> Decoder<R> {
        Decoder { deferring: true, ..Decoder::new(reader, limits) }
    }

    /// The members that ended since the last call, if their checksums are for the caller to check.
    pub(crate) fn take_checksums(&mut self) -> Option<Vec<Checksum>> {
        match &mut self.format {
            Some(Format::Gzip(gzip)) => gzip.take_checksums(),
            _ => None,
        }
    }

    /// Fills as much of `output` as there is; 0 only at the end, when everything was read and checked. An error comes when
    /// all bytes before it were given out.
    pub(crate) fn decode(&mut self, output: &mut [u8]) -> Result<usize> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let format = match &mut self.format {
            Some(format) => format,
            none => none.insert(match Compression::detect(self.input.at_least(512)?)? {
                Compression::None => Format::Plain,
                Compression::Gzip => Format::Gzip(Box::new(gzip::Gzip::new(self.deferring))),
                Compression::Zstd => Format::Zstd(Zstd::new(&self.limits)?),
            }),
        };
        let mut filled = 0;
        while filled < output.len() {
            let output = &mut output[filled..];
            let result = match format {
                Format::Plain => self.input.read(output),
                Format::Gzip(gzip) => gzip.decode(&mut self.input, output),
                Format::Zstd(zstd) => zstd.decode(&mut self.input, output),
            };
            match result {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(failure) if filled > 0 => {
                    self.failure = Some(failure);
                    break;
                }
                Err(failure) => return Err(failure),
            }
            if matches!(format, Format::Gzip(gzip) if gzip.is_full()) {
                break;
            }
        }
        self.decoded += filled as u64;
        let exceeded =
            |name, limit| Err(Error::LimitExceeded { what: "decoded layer".to_owned(), name, limit });
        if self.decoded > self.limits.layer_bytes {
            return exceeded("layer_bytes", self.limits.layer_bytes);
        }
        if self.decoded > RATIO_FROM && self.decoded / self.limits.ratio.max(1) > self.input.taken {
            return exceeded("ratio", self.limits.ratio);
        }
        Ok(filled)
    }

    /// Bytes of compressed input that were read so far.
    pub(crate) fn taken(&self) -> u64 {
        self.input.taken
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        self.decode(output).map_err(io::Error::other)
    }
}

impl<R> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("decoded", &self.decoded).finish_non_exhaustive()
    }
}

/// Compressed bytes, buffered.
pub(crate) struct Input<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    taken: u64,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Input<R> {
        Input { inner, buffer: vec![0; 64 << 10].into(), start: 0, end: 0, taken: 0 }
    }

    /// What is buffered, after reading once if nothing is; empty only at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        self.at_least(1)
    }

    /// What is buffered, after reading until there are `n` bytes or the end is reached.
    fn at_least(&mut self, n: usize) -> Result<&[u8]> {
        if self.end - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < n {
                let read = match self.inner.read(&mut self.buffer[self.end..]) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    other => other.map_err(|e| Error::from_io("read", "layer", e))?,
                };
                if read == 0 {
                    break;
                }
                self.end += read;
                self.taken += read as u64;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
    }

    fn read(&mut self, output: &mut [u8]) -> Result<usize> {
        let bytes = self.fill()?;
        let n = bytes.len().min(output.len());
        output[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }

    /// Accepts zeros up to the end of the input: padding of tape blocks, seen in the wild.
    fn only_zeros(&mut self, format: &'static str) -> Result<()> {
        loop {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.iter().any(|&b| b != 0) {
                return Err(invalid(format, "garbage behind the compressed data"));
            }
            let n = bytes.len();
            self.consume(n);
        }
    }
}

struct Zstd {
    context: zstd::stream::raw::Decoder<'static>,
    /// Within a frame: it has to be completed.
    open: bool,
}

impl Zstd {
    fn new(limits: &Limits) -> Result<Zstd> {
        let fail = |e: io::Error| invalid("zstd", e.to_string());
        let mut context = zstd::stream::raw::Decoder::new().map_err(fail)?;
        let log = limits.window_bytes.clamp(1 << 10, 1 << 31).ilog2();
        context
            .set_parameter(DParameter::WindowLogMax(log.min(if cfg!(target_pointer_width = "64") {
                31
            } else {
                30
            })))
            .map_err(fail)?;
        Ok(Zstd { context, open: false })
    }

    fn decode<R: Read>(&mut self, input: &mut Input<R>, output: &mut [u8]) -> Result<usize> {
        loop {
            if !self.open {
                let start = input.at_least(4)?;
                if start.is_empty() {
                    return Ok(0);
                }
                if !matches!(Compression::detect(start), Ok(Compression::Zstd)) {
                    input.only_zeros("zstd")?;
                    return Ok(0);
                }
            }
            let bytes = input.fill()?;
            let at_end = bytes.is_empty();
            let mut from = InBuffer::around(bytes);
            let mut to = OutBuffer::around(&mut *output);
            let hint = self.context.run(&mut from, &mut to).map_err(|e| invalid("zstd", e.to_string()))?;
            let (taken, n) = (from.pos(), to.pos());
            input.consume(taken);
            self.open = hint != 0;
            if n > 0 {
                return Ok(n);
            }
            if at_end && self.open {
                return Err(Error::Truncated { what: "zstd data".to_owned() });
            }
        }
    }
}

fn invalid(format: &'static str, reason: impl Into<String>) -> Error {
    Error::InvalidCompression { format, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn encode(data: &[u8], compression: Compression) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), compression, None).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(data: &[u8]) -> Result<Vec<u8>> {
        decode_within(data, &Limits::default())
    }

    fn decode_within(data: &[u8], limits: &Limits) -> Result<Vec<u8>> {
        let mut decoder = Decoder::new(data, limits);
        let (mut all, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match decoder.decode(&mut buffer)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn sample() -> Vec<u8> {
        (0..200_000u32).flat_map(|i| (i / 3).to_le_bytes()).collect()
    }

    fn skippable(payload: &[u8]) -> Vec<u8> {
        [&[0x53, 0x2a, 0x4d, 0x18][..], &(payload.len() as u32).to_le_bytes(), payload].concat()
    }

    #[test]
    fn all_formats_come_back() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let data = sample();
            let packed = encode(&data, compression);
            assert_eq!(Compression::detect(&packed).unwrap(), compression);
            assert_eq!(decode(&packed).unwrap(), data);
            assert_eq!(packed, encode(&data, compression), "the same bytes every time");
            assert_eq!(decode(&encode(b"", compression)).unwrap(), b"");
        }
        assert_eq!(decode(b"ab").unwrap(), b"ab");
    }

    #[test]
    fn members_and_frames_are_joined_and_zeros_behind_them_ignored() {
        let gz = |data: &[u8]| encode(data, Compression::Gzip);
        let joined = [gz(b"one"), gz(b""), gz(b"two"), vec![0; 600]].concat();
        assert_eq!(decode(&joined).unwrap(), b"onetwo");
        let zst = |data: &[u8]| encode(data, Compression::Zstd);
        let joined = [skippable(b"toc"), zst(b"one"), skippable(b""), zst(b"two"), vec![0; 600]].concat();
        assert_eq!(decode(&joined).unwrap(), b"onetwo");
        assert_eq!(decode(&skippable(b"only")).unwrap(), b"");
    }

    #[test]
    fn damage_is_found() {
        let data = sample();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = encode(&data, compression);
            for cut in [1, 5, packed.len() / 2, packed.len() - 5, packed.len() - 3] {
                let end = &packed[..packed.len() - cut];
                assert!(
                    matches!(decode(end), Err(Error::Truncated { .. })) || end.len() < 4,
                    "{compression:?} - {cut}"
                );
            }
            assert!(matches!(
                decode(&[&packed[..], b"text"].concat()),
                Err(Error::InvalidCompression { .. })
            ));
            for at in [packed.len() - 2, packed.len() / 2] {
                let mut bad = packed.clone();
                bad[at] ^= 4;
                assert!(decode(&bad).is_err(), "{compression:?} at {at}");
            }
        }
        let mut bad = encode(&data, Compression::Gzip);
        let crc = bad.len() - 8;
        bad[crc] ^= 1;
        assert!(matches!(decode(&bad), Err(Error::Checksum { .. })));
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 4 << 20];
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
            let packed = encode(&zeros, compression);
            assert!(matches!(
                decode_within(&packed, &limits),
                Err(Error::LimitExceeded { name: "layer_bytes", .. })
            ));
            limits.layer_bytes = 4 << 20;
            assert_eq!(decode_within(&packed, &limits).unwrap().len(), 4 << 20);
        }
        let limits = Limits { ratio: 100, ..Limits::default() };
        let packed = encode(&vec![0; 70 << 20], Compression::Zstd);
        assert!(matches!(decode_within(&packed, &limits), Err(Error::LimitExceeded { name: "ratio", .. })));
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&sample()).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(decode(&packed).is_ok());
        let limits = Limits { window_bytes: 1 << 20, ..Limits::default() };
        assert!(matches!(decode_within(&packed, &limits), Err(Error::InvalidCompression { .. })));
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        assert!(matches!(Compression::detect(b"\xfd7zXZ\0"), Err(Error::UnsupportedLayer { .. })));
        let mut archive = [0; 512];
        archive[0] = b']';
        assert!(matches!(Compression::detect(&archive), Err(Error::UnsupportedLayer { .. })));
        archive[257..262].copy_from_slice(b"ustar");
        assert_eq!(Compression::detect(&archive).unwrap(), Compression::None);
        assert!(matches!(Compression::detect(b"BZh91AY"), Err(Error::UnsupportedLayer { .. })));
    }
}
