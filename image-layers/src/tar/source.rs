//! Where archives are read from.

use crate::{Error, Result};

/// Where the bytes of an archive come from.
pub(crate) trait Source {
    /// Bytes that are there; empty only at the end.
    fn fill(&mut self) -> Result<&[u8]>;

    /// Takes `n` of them away.
    fn consume(&mut self, n: usize);

    /// Takes away the next `n` bytes, whether they are there yet or not.
    fn skip(&mut self, mut n: u64) -> Result<()> {
        while n > 0 {
            let have = self.fill()?.len();
            if have == 0 {
                return Err(truncated());
            }
            let now = have.min(usize::try_from(n).unwrap_or(usize::MAX));
            self.consume(now);
            n -= now as u64;
        }
        Ok(())
    }
}

/// A source that can hand out what it holds without copying.
pub(crate) trait Pieces: Source {
    type Piece: AsRef<[u8]>;

    /// Takes away and returns at most `max` bytes; `None` only at the end.
    fn piece(&mut self, max: usize) -> Result<Option<Self::Piece>>;
}

/// A [`Source`] over any reader.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Buffered<R> {
    inner: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

#[cfg(any(test, fuzzing))]
impl<R: std::io::Read> Buffered<R> {
    pub(crate) fn new(inner: R) -> Buffered<R> {
        Buffered { inner, buffer: vec![0; 64 << 10].into(), start: 0, end: 0 }
    }
}

#[cfg(any(test, fuzzing))]
impl<R: std::io::Read> Source for Buffered<R> {
    fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.end = loop {
                match self.inner.read(&mut self.buffer) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other.map_err(|e| Error::from_io("read", "archive", e))?,
                }
            };
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
    }
}

pub(super) fn truncated() -> Error {
    Error::Truncated { what: "tar archive".to_owned() }
}
