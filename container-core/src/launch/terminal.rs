//! A terminal out of the container's own devpts.

use std::ffi::CStr;

use crate::plan::operation::Request;
use crate::sys::raw::{Errno, Sys};
use crate::sys::{fd, mount, thread};

use super::child::{Context, Done, Failure, ask_with};
use super::path;
use super::rootfs::OTHER_DEVICE;

const PTMX: &CStr = c"/dev/pts/ptmx";
const CONSOLE: &CStr = c"/dev/console";
const PTMX_DEVICE: u64 = libc::makedev(5, 2);

/// Opens a terminal, makes it the controlling one and the standard streams, and hands the other side to the parent.
pub(super) fn open(
    context: &mut Context,
    size: (u16, u16),
    uid: Option<u32>,
    console: bool,
    onlcr: bool,
) -> Done {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = fd::openat2(fd::CWD, PTMX, flags, 0, fd::RESOLVE_NO_MAGICLINKS | fd::RESOLVE_NO_SYMLINKS)?;
    let stat = fd::stat(master)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != PTMX_DEVICE {
        return Err(Failure { errno: libc::ENOTTY, detail: OTHER_DEVICE });
    }
    let terminal = thread::open_terminal_peer(master)?;
    let (rows, columns) = size;
    if rows != 0 || columns != 0 {
        thread::set_window_size(terminal, rows, columns)?;
    }
    if !onlcr {
        thread::pass_line_feeds(terminal)?;
    }
    match fd::chown(terminal, uid.unwrap_or(context.identity.uid), u32::MAX) {
        // The id is not mapped here, or the devpts is not ours to change.
        Err(Errno(libc::EPERM | libc::EINVAL | libc::EROFS)) => {}
        other => other?,
    }
    if console {
        cover_console(context.scratch.root, terminal)?;
    }
    thread::set_controlling_terminal(terminal)?;
    ask_with(context, Request::Terminal, Some(master))?;
    fd::close(master);
    context.stdio = [terminal; 3];
    Ok(())
}

/// The terminal on `/dev/console`, by descriptors on both sides.
fn cover_console(root: i32, terminal: i32) -> Sys<()> {
    let place = match path::open_place(root, CONSOLE, false) {
        // It cannot be made in a read-only /dev that has none: the terminal goes without this name.
        Err(Errno(libc::EROFS)) => return Ok(()),
        other => other?,
    };
    let stat = fd::stat(place);
    let result = stat.and_then(|stat| match stat.st_mode & libc::S_IFMT {
        libc::S_IFLNK => Err(Errno(libc::ELOOP)),
        _ => {
            let copy = mount::clone_tree(terminal, c"", false, true)?;
            let result = mount::attach(copy, place);
            fd::close(copy);
            result
        }
    });
    fd::close(place);
    result
}
