//! Decoding ahead of the reader: a thread decodes into a ring of fixed buffers, the tar reader takes them in order, and
//! another thread hashes them behind it. So the decoder, which mostly takes longest, wakes nobody but the reader.
//!
//! Buffers are reference counted and go back to the ring when the last holder drops them, so that a file's body can
//! wait for its writer without being copied. The ring is all the memory there is, whatever the layer's size.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::progress::LayerControl;
use crate::tar::{Pieces, Source};
use crate::{Algorithm, Digest, Digester, Error, Result};

use super::Decoder;

/// Size and number of the buffers: 3 MiB together. Measured on two processors: a ring of 1 MiB costs up to a tenth of the
/// time, because the decoder waits whenever one of the other threads was put off; a longer one gains nothing, nor do
/// buffers of other sizes.
const BUFFER: usize = 128 << 10;
const BUFFERS: usize = 24;

/// A decoded buffer on its way through the ring.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Sender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody waits for it any more when this fails.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

/// Part of a decoded buffer. Holding many of them stops the decoder.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    buffer: Arc<Buffer>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }
}

/// The decoded bytes, in order.
#[derive(Debug)]
pub(crate) struct Ahead {
    decoded: Receiver<Result<Arc<Buffer>>>,
    to_hash: Sender<Arc<Buffer>>,
    current: Option<Piece>,
    ended: bool,
}

impl Ahead {
    /// Makes sure there is a current piece with bytes in it, unless the end is reached.
    fn refill(&mut self) -> Result<()> {
        if self.ended || self.current.as_ref().is_some_and(|piece| piece.start < piece.end) {
            return Ok(());
        }
        // Before waiting: the old buffer may be the one the decoder waits for.
        if let Some(Piece { buffer, .. }) = self.current.take() {
            // Nobody hashes any more when this fails.
            let _ = self.to_hash.send(buffer);
        }
        let buffer = self.decoded.recv().map_err(|_| Error::Cancelled)??;
        if buffer.len == 0 {
            self.ended = true;
        } else {
            self.current = Some(Piece { start: 0, end: buffer.len, buffer });
        }
        Ok(())
    }
}

impl Source for Ahead {
    fn fill(&mut self) -> Result<&[u8]> {
        self.refill()?;
        Ok(self.current.as_ref().map_or(&[], AsRef::as_ref))
    }

    fn consume(&mut self, n: usize) {
        if let Some(piece) = &mut self.current {
            piece.start += n;
        }
    }
}

impl Pieces for Ahead {
    type Piece = Piece;

    fn piece(&mut self, max: usize) -> Result<Option<Piece>> {
        self.refill()?;
        let Some(current) = &mut self.current else { return Ok(None) };
        let start = current.start;
        current.start = current.end.min(start.saturating_add(max));
        Ok(Some(Piece { end: current.start, start, buffer: current.buffer.clone() }))
    }
}

/// Runs `work` on the decoded bytes of `blob` while they are decoded and hashed beside it. Returns what `work`
/// returned and the digest of all decoded bytes; `work` has to read to the end for that.
///
/// # Errors
///
/// Those of `work`, which sees those of the decoder.
pub(crate) fn run_ahead<R: Read + Send, T>(
    blob: R,
    control: &LayerControl,
    algorithm: Algorithm,
    work: impl FnOnce(Ahead) -> Result<T>,
) -> Result<(T, Digest)> {
    let (home, free) = channel();
    for _ in 0..BUFFERS {
        // Cannot fail, the receiver is right here.
        let _ = home.send(Vec::new());
    }
    let (to_hash, hashed) = channel::<Arc<Buffer>>();
    let (to_reader, decoded) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut decoder = Decoder::new(blob, control.limits());
            loop {
                // No holder is left that could give a buffer back: nobody reads any more.
                let Ok(bytes) = free.recv() else { return };
                let result = decode(&mut decoder, bytes, &home, control);
                let end = !matches!(&result, Ok(buffer) if buffer.len > 0);
                if to_reader.send(result).is_err() || end {
                    return;
                }
            }
        });
        let hasher = scope.spawn(move || {
            let mut digester = Digester::new(algorithm);
            for buffer in hashed {
                digester.update(&buffer.bytes[..buffer.len]);
            }
            digester.finish()
        });
        let result = work(Ahead { decoded, to_hash, current: None, ended: false })?;
        let digest = hasher.join().map_err(|_| Error::Cancelled)?;
        Ok((result, digest))
    })
}

fn decode<R: Read>(
    decoder: &mut Decoder<R>,
    mut bytes: Vec<u8>,
    home: &Sender<Vec<u8>>,
    control: &LayerControl,
) -> Result<Arc<Buffer>> {
    control.check()?;
    // Buffers are made when they are first needed: a small layer needs one.
    bytes.resize(BUFFER, 0);
    let before = decoder.taken();
    let len = decoder.decode(&mut bytes)?;
    control.read(decoder.taken() - before);
    Ok(Arc::new(Buffer { bytes, len, home: home.clone() }))
}
