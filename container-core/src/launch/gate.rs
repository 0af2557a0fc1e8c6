//! The order to start.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::serve::Server;
use super::{Target, protocol};
use crate::error::{Error, Result};
use crate::plan::operation::{FIRST_FREE, Request};
use crate::plan::{self, Extras, Facts, Namespaces, Services};
use crate::step::Step;
use crate::sys::clone::Born;
use crate::sys::socket;

fn failed(subject: &Path) -> impl Fn(rustix::io::Errno) -> Error + '_ {
    |errno| Error::setup(Step::Gate, subject.display().to_string(), errno)
}

fn socket_at(path: &Path) -> Result<(OwnedFd, OwnedFd, SocketAddrUnix)> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::invalid(format!("gate {}", path.display()), "it has no name"))?;
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
    // The socket file gets the mode of the socket: whoever may connect starts the container.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed(path))?;
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
/// command runs. `spec` and `extras` are those it was created with; its startContainer hooks run now, in the control group of
/// `target`.
///
/// # Errors
/// [`Error::Setup`] when nobody waits there any more (connection refused) or a last step fails, [`Error::Exec`] when the command
/// cannot be executed, [`Error::Hook`] for a hook that failed. The container ends then.
pub fn release(path: &Path, target: &Target<'_>, spec: &Spec, extras: &Extras) -> Result<()> {
    let mut slots = FIRST_FREE;
    let namespaces = Namespaces::from_spec(spec, &mut slots)?;
    let mut services = Services::of(spec, extras, &namespaces)?;
    if spec.hooks().as_ref().is_some_and(|hooks| hooks.start_container().is_some()) {
        services.hooks.start_container = plan::exec::start_hooks(spec, extras, &Facts::gather()?)?;
    }
    let (socket, _directory, address) = socket_at(path)?;
    rustix::net::connect(&socket, &address).map_err(failed(path))?;
    order(&socket)?;
    let born = Born::of(target.pid, target.pidfd.as_raw_fd());
    let mut server = Server::new(&services, socket, &born, None, target.cgroup);
    // That it has announced exec is no news: it had everything set up, and dies by nobody's hand but the caller's.
    server.serve(&[]).map(drop)
}
