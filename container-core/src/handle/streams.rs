//! Both ends of a process's standard streams.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::launch;
use crate::stdio::{Stdio, Stream, WindowSize};

/// The host program's ends of a process's streams, not yet taken by anybody.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
}

/// Which streams a verb connects where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultStreams {
    Inherit,
    Collect,
}

/// Both ends of the three streams.
pub(crate) struct Ends {
    pub(crate) io: launch::Io,
    pub(crate) streams: Streams,
}

pub(crate) fn connect(
    choices: [Option<&Stdio>; 3],
    default: DefaultStreams,
    input: bool,
    terminal: bool,
) -> Result<Ends> {
    let mut ends = Ends { io: launch::Io::default(), streams: Streams::default() };
    if terminal {
        return Ok(ends);
    }
    let pipe = || std::io::pipe().map_err(|e| Error::io("make", "pipe", e));
    let null = || {
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        file.map(OwnedFd::from).map_err(|e| Error::io("open", "/dev/null", e))
    };
    let [stdin, stdout, stderr] = choices.map(|choice| choice.map(|stdio| &stdio.0));
    let collect = default == DefaultStreams::Collect;

    ends.io.stdin = match stdin {
        Some(Stream::Piped) => {
            let (reader, writer): (PipeReader, PipeWriter) = pipe()?;
            ends.streams.stdin = Some(writer);
            Some(reader.into())
        }
        None if input => {
            let (reader, writer) = pipe()?;
            ends.streams.stdin = Some(writer);
            Some(reader.into())
        }
        Some(Stream::Null) => Some(null()?),
        None if collect => Some(null()?),
        Some(Stream::Inherit) | None => None,
        Some(Stream::Descriptor(fd)) => Some(duplicate(fd)?),
    };
    let output = |choice: Option<&Stream>| -> Result<(Option<OwnedFd>, Option<PipeReader>)> {
        Ok(match choice {
            Some(Stream::Piped) => {
                let (reader, writer) = pipe()?;
                (Some(writer.into()), Some(reader))
            }
            None if collect => {
                let (reader, writer) = pipe()?;
                (Some(writer.into()), Some(reader))
            }
            Some(Stream::Null) => (Some(null()?), None),
            Some(Stream::Inherit) | None => (None, None),
            Some(Stream::Descriptor(fd)) => (Some(duplicate(fd)?), None),
        })
    };
    (ends.io.stdout, ends.streams.stdout) = output(stdout)?;
    (ends.io.stderr, ends.streams.stderr) = output(stderr)?;
    Ok(ends)
}

fn duplicate(fd: &Arc<OwnedFd>) -> Result<OwnedFd> {
    fd.try_clone().map_err(|e| Error::io("duplicate", "descriptor for a stream", e))
}

pub(crate) fn resize(terminal: Option<&OwnedFd>, size: WindowSize) -> Result<()> {
    let Some(terminal) = terminal else {
        return Err(Error::invalid(
            "terminal",
            "the process was not given one, or it was taken from the handle",
        ));
    };
    let size =
        rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(|e| Error::io("resize", "terminal", e))
}
