//! Compressing, reproducibly: no names, no times, pinned levels.

use std::io::{self, Write};

use super::Compression;

/// Compresses what is written to it. The same input gives the same bytes.
pub(crate) struct Encoder<W: Write>(Format<W>);

enum Format<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// The default level is 6 for gzip and 3 for zstd.
    pub(crate) fn new(writer: W, compression: Compression, level: Option<i32>) -> io::Result<Encoder<W>> {
        Ok(Encoder(match compression {
            Compression::None => Format::Plain(writer),
            Compression::Gzip => {
                let level = level.map_or(6, |level| level.clamp(0, 9) as u32);
                let builder = flate2::GzBuilder::new().mtime(0).operating_system(255);
                Format::Gzip(builder.write(writer, flate2::Compression::new(level)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(writer, level.unwrap_or(3))?;
                encoder.include_checksum(true)?;
                Format::Zstd(encoder)
            }
        }))
    }

    /// Writes what is left and hands the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.0 {
            Format::Plain(writer) => Ok(writer),
            Format::Gzip(encoder) => encoder.finish(),
            Format::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Format::Plain(writer) => writer.write(bytes),
            Format::Gzip(encoder) => encoder.write(bytes),
            Format::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Format::Plain(writer) => writer.flush(),
            Format::Gzip(encoder) => encoder.flush(),
            Format::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}
