//! Feeding a process and collecting what it writes, at the same time, without a thread.
//!
//! The pipes never block: [`Capture::pump`] moves what can be moved and says what to wait for, so the blocking calls wait in
//! `poll(2)` and the async ones in a reactor, over the same code.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

/// One of the output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What was collected from one stream.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) bytes: Vec<u8>,
    /// There was more than the limit.
    pub(crate) cut: bool,
    /// Everything that came, the part beyond the limit too.
    pub(crate) total: u64,
}

/// Bytes that one stream is read of before others get their turn.
const TURN: u64 = 1 << 20;

#[derive(Debug)]
struct Source {
    pipe: Option<File>,
    collected: Collected,
}

/// The host program's ends of a process's streams.
#[derive(Debug)]
pub(crate) struct Capture {
    input: Option<(File, Arc<[u8]>, usize)>,
    stdout: Source,
    stderr: Source,
    limit: usize,
}

impl Source {
    fn new(pipe: Option<PipeReader>) -> io::Result<Self> {
        let pipe = pipe.map(OwnedFd::from).map(unblocked).transpose()?;
        Ok(Self { pipe, collected: Collected::default() })
    }

    /// Reads until nothing is there, or a turn's worth. At end of file the pipe is closed.
    fn drain(&mut self, limit: usize, scratch: &mut [u8]) -> io::Result<()> {
        // A writer as fast as this reader must not keep it from its other duties.
        let turn = self.collected.total + TURN;
        while self.collected.total < turn
            && let Some(pipe) = &mut self.pipe
        {
            match pipe.read(scratch) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.collected.total += count as u64;
                    let room = limit - self.collected.bytes.len();
                    self.collected.bytes.extend_from_slice(&scratch[..count.min(room)]);
                    self.collected.cut |= count > room;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Capture {
    /// `limit` is for each stream.
    pub(crate) fn new(
        stdin: Option<PipeWriter>,
        stdout: Option<PipeReader>,
        stderr: Option<PipeReader>,
        input: Option<Arc<[u8]>>,
        limit: Option<usize>,
    ) -> io::Result<Self> {
        let input = match (stdin, input) {
            (Some(pipe), Some(bytes)) => Some((unblocked(pipe.into())?, bytes, 0)),
            // A pipe that nothing will be written to is closed, so that the reader sees its end.
            _ => None,
        };
        Ok(Self {
            input,
            stdout: Source::new(stdout)?,
            stderr: Source::new(stderr)?,
            limit: limit.unwrap_or(usize::MAX),
        })
    }

    /// Moves what can be moved without waiting.
    pub(crate) fn pump(&mut self) -> io::Result<()> {
        if let Some((pipe, bytes, done)) = &mut self.input {
            let finished = loop {
                if *done == bytes.len() {
                    break true;
                }
                match crate::sys::pipe::write(pipe.as_fd(), &bytes[*done..]) {
                    Ok(count) => *done += count,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break false,
                    // It wants no more input. That is its own business and no error of ours.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => break true,
                    Err(e) => return Err(e),
                }
            };
            if finished {
                self.input = None;
            }
        }
        let mut scratch = [0; 64 * 1024];
        self.stdout.drain(self.limit, &mut scratch)?;
        self.stderr.drain(self.limit, &mut scratch)
    }

    /// Takes what is still in the pipes after the process has ended; who else may hold them is not waited for.
    pub(crate) fn finish(mut self) -> io::Result<(Collected, Collected)> {
        self.input = None;
        let mut scratch = [0; 64 * 1024];
        for source in [&mut self.stdout, &mut self.stderr] {
            // A pipe holds 1 MiB at most unless somebody with privilege made it larger, and who still writes to it must not
            // keep this going.
            let most = source.collected.total.saturating_add(64 << 20);
            while source.pipe.is_some() && source.collected.total < most {
                let before = source.collected.total;
                source.drain(self.limit, &mut scratch)?;
                if source.collected.total == before {
                    break;
                }
            }
        }
        Ok((self.stdout.collected, self.stderr.collected))
    }

    /// The first stream with more output than the limit.
    pub(crate) fn over_limit(&self) -> Option<OutputStream> {
        if self.stdout.collected.cut {
            Some(OutputStream::Stdout)
        } else {
            self.stderr.collected.cut.then_some(OutputStream::Stderr)
        }
    }

    /// The pipe that waits for room, and those that wait for output.
    pub(crate) fn waiting(&self) -> (Option<BorrowedFd<'_>>, [Option<BorrowedFd<'_>>; 2]) {
        (
            self.input.as_ref().map(|(pipe, ..)| pipe.as_fd()),
            [self.stdout.pipe.as_ref().map(AsFd::as_fd), self.stderr.pipe.as_ref().map(AsFd::as_fd)],
        )
    }
}

/// Our end alone: the two ends of a pipe have flags of their own.
fn unblocked(pipe: OwnedFd) -> io::Result<File> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
    Ok(File::from(pipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_limit_holds_while_reading() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut capture = Capture::new(None, Some(reader), None, None, Some(1000)).unwrap();
        for _ in 0..200 {
            writer.write_all(&[b'y'; 4096]).unwrap();
            capture.pump().unwrap();
        }
        assert_eq!(capture.over_limit(), Some(OutputStream::Stdout));
        drop(writer);
        let (out, err) = capture.finish().unwrap();
        assert_eq!((out.bytes.len(), out.cut, out.total), (1000, true, 200 * 4096));
        assert!(err.bytes.is_empty());
    }

    #[test]
    fn a_writer_that_never_stops_has_its_turn_and_no_more() {
        let zero = File::open("/dev/zero").unwrap();
        let mut source = Source { pipe: Some(zero), collected: Collected::default() };
        source.drain(usize::MAX, &mut [0; 4096]).unwrap();
        assert_eq!(source.collected.total, TURN);
        assert!(source.pipe.is_some());
    }

    #[test]
    fn input_that_nobody_reads_is_dropped() {
        let (reader, writer) = io::pipe().unwrap();
        let input: Arc<[u8]> = vec![1; 1 << 20].into();
        let mut capture = Capture::new(Some(writer), None, None, Some(input), None).unwrap();
        capture.pump().unwrap();
        assert!(capture.waiting().0.is_some());
        drop(reader);
        capture.pump().unwrap();
        assert!(capture.waiting().0.is_none());
    }

    #[test]
    fn what_is_in_the_pipe_is_never_lost() {
        let (reader, mut writer) = io::pipe().unwrap();
        let capture = Capture::new(None, Some(reader), None, None, None).unwrap();
        writer.write_all(b"late").unwrap();
        // The writing end stays open, as with a descendant that outlives its parent.
        assert_eq!(capture.finish().unwrap().0.bytes, b"late");
    }
}
