//! Descriptors handed to a client over a unix socket.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::failure::Failure;

/// Sends `descriptor` to whoever listens at `socket`, with `name` as the message.
pub fn send(socket: &Path, descriptor: impl AsFd, name: &str) -> Result<(), Failure> {
    let because =
        |error: std::io::Error| Failure::because(format!("send {name} to {}", socket.display()), error);
    let stream = UnixStream::connect(socket).map_err(because)?;
    let descriptors = [descriptor.as_fd().as_raw_fd()];
    let message = [IoSlice::new(name.as_bytes())];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(stream.as_raw_fd(), &message, &control, MsgFlags::empty(), None)
        .map(drop)
        .map_err(|errno| because(errno.into()))
}

/// Writes `pid` to `file`: whole or not at all, because clients wait for the file to appear.
pub fn write_pid(file: &Path, pid: i32) -> Result<(), Failure> {
    let because = |error| Failure::because(format!("write pid file {}", file.display()), error);
    let name =
        file.file_name().ok_or_else(|| Failure::new(format!("pid file {} is no file", file.display())))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    let temporary = file.with_file_name(temporary);
    std::fs::write(&temporary, pid.to_string()).map_err(because)?;
    std::fs::rename(&temporary, file).map_err(because)
}
