//! The order to start.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::protocol::{self, Message};
use crate::error::{Error, Result};
use crate::plan::operation::Request;
use crate::step::Step;
use crate::sys::socket;

fn failed(subject: &Path) -> impl Fn(rustix::io::Errno) -> Error + '_ {
    |errno| Error::setup(Step::Gate, subject.display().to_string(), errno)
}

fn socket_at(path: &Path) -> Result<(OwnedFd, OwnedFd, SocketAddrUnix)> {
    let name = path.file_name().ok_or_else(|| Error::invalid(format!("gate {}", path.display()), "it has no name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed(path))?;
    // A socket's path has 107 bytes at most; by the directory's descriptor it is short.
    let mut short = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    short.extend_from_slice(name.as_bytes());
    let address = SocketAddrUnix::new(short).map_err(failed(path))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed(path))?;
    Ok((socket, directory, address))
}

/// Makes the socket that the container waits at.
pub(super) fn listen(path: &Path) -> Result<OwnedFd> {
    let (socket, _directory, address) = socket_at(path)?;
    rustix::net::bind(&socket, &address).map_err(failed(path))?;
    rustix::net::listen(&socket, 1).map_err(failed(path))?;
    Ok(socket)
}

/// Sends the order.
pub(super) fn order(channel: &OwnedFd) -> Result<()> {
    socket::send(channel.as_raw_fd(), &protocol::request(Request::Ready), None)
        .map_err(|errno| Error::setup(Step::Gate, "", errno))
}

/// Starts a container that was created with [`Gate::Socket`](super::Gate::Socket), from any process, and returns when its
/// command runs. `hooks` runs when the container asks for its startContainer hooks.
///
/// # Errors
/// [`Error::Setup`] when nobody waits there any more (connection refused) or a last step fails, [`Error::Exec`] when the command
/// cannot be executed, and what `hooks` returns. The container ends then.
pub fn release(path: &Path, hooks: impl FnOnce() -> Result<()>) -> Result<()> {
    let (socket, _directory, address) = socket_at(path)?;
    rustix::net::connect(&socket, &address).map_err(failed(path))?;
    order(&socket)?;
    let mut hooks = Some(hooks);
    loop {
        let mut message = [0; protocol::SIZE];
        let (length, fd) = socket::receive(socket.as_raw_fd(), &mut message)
            .map_err(|errno| Error::setup(Step::Gate, "", errno))?;
        drop(fd.map(crate::sys::fd::adopt));
        if length == 0 {
            return Ok(());
        }
        match protocol::decode(&message) {
            Message::Request(request) if request == Request::Executing as u32 => {}
            Message::Request(request) => {
                if request == Request::StartHooks as u32 {
                    if let Some(hooks) = hooks.take() {
                        hooks()?;
                    }
                }
                socket::send(socket.as_raw_fd(), &message, None)
                    .map_err(|errno| Error::setup(Step::Gate, "", errno))?;
            }
            Message::Failure { errno, text, detail, .. } => {
                let source = std::io::Error::from_raw_os_error(errno);
                let text = String::from_utf8_lossy(text).into_owned();
                // The last steps are few; but for exec their phrase comes along.
                if detail == super::program::EXEC || detail == super::program::INTERPRETER {
                    return Err(Error::Exec { path: text.into(), interpreter: None, source });
                }
                return Err(Error::setup(Step::Gate, text, source));
            }
        }
    }
}
