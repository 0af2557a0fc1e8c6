//! The one place of this crate with `unsafe`: system calls that no safe wrapper has.
#![allow(unsafe_code)]

pub(crate) mod call;
pub(crate) mod hand;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a umask of its own, set to 0, so that modes given at creation hold without a second system
/// call and without touching the umask of the process. Only for threads that this crate started. Returns whether that
/// worked; some sandboxes forbid it, and then modes have to be set afterwards.
pub(crate) fn private_umask() -> bool {
    // SAFETY: CLONE_FS only separates working directory, root and umask of this thread from those of the others; this
    // thread is ours and nothing in it relies on seeing later changes of the process's.
    let separated = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.is_ok();
    if separated {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
    separated
}
