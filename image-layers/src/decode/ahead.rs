//! Decoding ahead of the reader: a thread decodes into a ring of fixed buffers, and the tar reader takes them in order.
//!
//! What is decoded is hashed as well, by whichever of the two would have to wait otherwise: the reader for more bytes, or
//! the decoder for a buffer. So two processors share the work evenly, however much decoding and writing cost, and no third
//! thread takes either away from the two. Only where there are more processors, one hashes all the time.
//!
//! Buffers are reference counted and go back to the ring when the last holder drops them, so that a file's body can
//! wait for its writer without being copied. The ring is all the memory there is, whatever the layer's size.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use crate::progress::LayerControl;
use crate::tar::{Pieces, Source};
use crate::{Algorithm, Digest, Digester, Error, Result};

use super::{Checksum, Checksums, Decoder};

/// Size and number of the buffers: 3 MiB together. Measured on two processors: a ring of 1 MiB costs up to a tenth of the
/// time, because the decoder waits whenever the reader was put off, and a longer one gains nothing. Each buffer may have to
/// wake its reader up, therefore smaller ones cost some time, too.
const BUFFER: usize = 256 << 10;
const BUFFERS: usize = 12;

/// A decoded buffer on its way through the ring.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    /// What is to be checked when it is hashed.
    checksums: Option<Vec<Checksum>>,
    home: Weak<Ring>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(ring) = self.home.upgrade() {
            let bytes = std::mem::take(&mut self.bytes);
            ring.change(|state| state.free.push(bytes));
        }
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

/// What the threads share.
#[derive(Debug)]
struct Ring {
    state: Mutex<State>,
    changed: Condvar,
}

/// Buffers must not be dropped while this is locked: they lock it, too.
struct State {
    free: Vec<Vec<u8>>,
    /// For the reader.
    decoded: VecDeque<Arc<Buffer>>,
    /// For the hasher, which is away while somebody hashes.
    unhashed: VecDeque<Arc<Buffer>>,
    hasher: Option<Hasher>,
    /// How decoding has ended.
    end: Option<Result<()>>,
    /// Nobody reads any more.
    closed: bool,
    /// Threads that wait for a change. Telling nobody would be a system call as well.
    waiting: usize,
}

/// What is done with all decoded bytes, in order.
struct Hasher {
    digester: Digester,
    checksums: Checksums,
    fault: Option<Error>,
}

impl Hasher {
    fn update(&mut self, buffer: &Buffer) {
        let bytes = &buffer.bytes[..buffer.len];
        self.digester.update(bytes);
        if let Some(ended) = &buffer.checksums
            && self.fault.is_none()
        {
            self.fault = self.checksums.update(bytes, ended).err();
        }
    }
}

impl Ring {
    fn new(algorithm: Algorithm) -> Ring {
        let state = State {
            free: vec![Vec::new(); BUFFERS],
            decoded: VecDeque::new(),
            unhashed: VecDeque::new(),
            hasher: Some(Hasher {
                digester: Digester::new(algorithm),
                checksums: Checksums::default(),
                fault: None,
            }),
            end: None,
            closed: false,
            waiting: 0,
        };
        Ring { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.changed.notify_all();
        }
        result
    }

    /// Waits until `ready` has something, and hashes meanwhile.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return result;
            }
            if let Some((mut hasher, buffer)) = state.take_unhashed() {
                drop(state);
                hasher.update(&buffer);
                drop(buffer);
                self.change(|state| state.hasher = Some(hasher));
                state = self.lock();
            } else {
                state.waiting += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
            }
        }
    }

    /// Decodes all of `blob`, or until nobody reads any more.
    fn fill<R: Read>(self: &Arc<Ring>, blob: R, control: &LayerControl) {
        let _ended = Ended(self);
        let mut decoder = Decoder::deferring(blob, control.limits());
        let end = loop {
            let free = self.wait(|state| match state.closed {
                true => Some(None),
                false => state.free.pop().map(Some),
            });
            let Some(mut bytes) = free else { return };
            // Buffers are made when they are first needed: a small layer needs one.
            bytes.resize(BUFFER, 0);
            let before = decoder.taken();
            let result = control.check().and_then(|()| decoder.decode(&mut bytes));
            control.read(decoder.taken() - before);
            let len = *result.as_ref().unwrap_or(&0);
            let checksums = decoder.take_checksums();
            let buffer = Arc::new(Buffer { bytes, len, checksums, home: Arc::downgrade(self) });
            self.change(|state| {
                if len > 0 {
                    state.decoded.push_back(buffer.clone());
                }
                // At the end, there still may be checksums.
                state.unhashed.push_back(buffer);
            });
            if len == 0 {
                break result.map(drop);
            }
        };
        self.change(|state| state.end = Some(end));
        self.hash();
    }

    /// Hashes until nothing more comes.
    fn hash(&self) {
        self.wait(|state| (state.closed || state.end.is_some() && state.unhashed.is_empty()).then_some(()));
    }
}

impl State {
    fn take_unhashed(&mut self) -> Option<(Hasher, Arc<Buffer>)> {
        if self.unhashed.is_empty() {
            return None;
        }
        Some((self.hasher.take()?, self.unhashed.pop_front()?))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("end", &self.end).field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// A decoder that goes away without a word has not reached the end.
struct Ended<'a>(&'a Ring);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.end.get_or_insert(Err(Error::Cancelled));
        });
    }
}

/// The decoded bytes, in order.
#[derive(Debug)]
pub(crate) struct Ahead {
    ring: Arc<Ring>,
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
        self.current = None;
        let next = self.ring.wait(|state| match state.decoded.pop_front() {
            Some(buffer) => Some(Ok(Some(buffer))),
            None => state.end.as_mut().map(|end| {
                let end = std::mem::replace(end, Err(Error::Cancelled));
                end.map(|()| None)
            }),
        });
        match next? {
            Some(buffer) => self.current = Some(Piece { start: 0, end: buffer.len, buffer }),
            None => self.ended = true,
        }
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let unread = self.ring.change(|state| {
            state.closed = true;
            std::mem::take(&mut state.decoded)
        });
        drop(unread);
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
/// Those of `work`, which sees those of the decoder; [`Error::Checksum`].
pub(crate) fn run_ahead<R: Read + Send, T>(
    blob: R,
    control: &LayerControl,
    algorithm: Algorithm,
    work: impl FnOnce(Ahead) -> Result<T>,
) -> Result<(T, Digest)> {
    let beside = thread::available_parallelism().is_ok_and(|processors| processors.get() > 2);
    run(blob, control, algorithm, beside, work)
}

fn run<R: Read + Send, T>(
    blob: R,
    control: &LayerControl,
    algorithm: Algorithm,
    hash_beside: bool,
    work: impl FnOnce(Ahead) -> Result<T>,
) -> Result<(T, Digest)> {
    let ring = Arc::new(Ring::new(algorithm));
    thread::scope(|scope| {
        scope.spawn(|| ring.fill(blob, control));
        if hash_beside {
            scope.spawn(|| ring.hash());
        }
        let result = work(Ahead { ring: ring.clone(), current: None, ended: false });
        let Hasher { digester, fault, .. } =
            ring.wait(|state| if state.unhashed.is_empty() { state.hasher.take() } else { None });
        // Damage explains whatever `work` found to be wrong.
        match fault {
            Some(fault) => Err(fault),
            None => Ok((result?, digester.finish())),
        }
    })
}

#[cfg(test)]
mod tests;
