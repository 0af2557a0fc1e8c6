//! System calls on files of which some belong to subordinate ids of the caller, or lock their own owner out.
//!
//! Each is tried as ever; only what the caller is refused is tried again by a [`Hand`], a process with all rights on files of
//! the caller and of those ids. So trees without such files cost nothing, and where no user namespace may be made a refusal
//! stays one.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::sys::call::{Call, OpenHow};
use crate::sys::hand::Hand;

/// While one of these lives, a hand that was needed stays for the next call. Held by whatever makes many.
#[derive(Debug)]
pub struct Reach(());

#[derive(Debug)]
struct Shared {
    users: usize,
    hand: Option<Arc<Hand>>,
    /// Whose hand it is: a process that was forked off has none.
    owner: u32,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared { users: 0, hand: None, owner: 0 });

fn shared() -> std::sync::MutexGuard<'static, Shared> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if shared.owner != own {
        std::mem::forget(shared.hand.take());
        shared.owner = own;
    }
    shared
}

impl Reach {
    /// From here on.
    pub fn keep() -> Reach {
        shared().users += 1;
        Reach(())
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        let mut shared = shared();
        shared.users = shared.users.saturating_sub(1);
        let hand = if shared.users == 0 { shared.hand.take() } else { None };
        // Its end is waited for, which is nothing to hold others up with.
        drop(shared);
        drop(hand);
    }
}

fn hand() -> Option<Arc<Hand>> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let mut shared = shared();
    if let Some(hand) = &shared.hand {
        return Some(hand.clone());
    }
    let hand = Arc::new(super::granted::hand().ok()?);
    if shared.users > 0 {
        shared.hand = Some(hand.clone());
    }
    Some(hand)
}

/// Makes calls that only a hand can make, one after the other. `false` when there is none.
pub(crate) fn perform(calls: &mut [Call<'_>]) -> bool {
    let Some(hand) = hand() else { return false };
    let done = hand.perform(calls).is_ok();
    if !done {
        // It was killed. The next call gets another one.
        let dead = shared().hand.take_if(|known| Arc::ptr_eq(known, &hand));
        drop(dead);
    }
    done
}

fn text(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

/// Tries a call again that was refused.
fn retry<T>(refused: Errno, call: &mut Call<'_>, answer: impl FnOnce(&Call<'_>) -> Result<T>) -> Result<T> {
    match perform(std::slice::from_mut(call)) {
        true => answer(call),
        false => Err(refused),
    }
}

fn unit(call: &Call<'_>) -> Result<()> {
    call.answer().map(drop)
}

/// The second try of what was refused.
macro_rules! reaching {
    ($tried:expr, $call:expr, $answer:expr) => {
        match $tried {
            Err(refused @ (Errno::ACCESS | Errno::PERM)) => retry(refused, &mut $call, $answer),
            other => other,
        }
    };
}

/// Of a single name, or a path that is followed.
pub fn openat(dir: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let dir = dir.as_fd();
    reaching!(
        rustix::fs::openat(dir, name, flags, mode),
        Call::openat(dir, &text(name)?, flags, mode),
        |call| call.opened()
    )
}

/// With restrictions on how the path is resolved, which may have several components.
pub fn openat2(
    dir: impl AsFd,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let dir = dir.as_fd();
    let how = OpenHow { flags: flags.bits().into(), mode: mode.bits().into(), resolve: resolve.bits() };
    reaching!(
        rustix::fs::openat2(dir, path, flags, mode, resolve),
        Call::openat2(dir, &text(path)?, &how),
        |call| call.opened()
    )
}

/// Of a name.
pub fn unlinkat(dir: impl AsFd, name: &[u8], flags: AtFlags) -> Result<()> {
    let dir = dir.as_fd();
    reaching!(rustix::fs::unlinkat(dir, name, flags), Call::unlinkat(dir, &text(name)?, flags), unit)
}

/// Of a name.
pub fn mkdirat(dir: impl AsFd, name: &[u8], mode: Mode) -> Result<()> {
    let dir = dir.as_fd();
    reaching!(rustix::fs::mkdirat(dir, name, mode), Call::mkdirat(dir, &text(name)?, mode), unit)
}

/// From one directory to another.
pub fn renameat(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    reaching!(
        rustix::fs::renameat(from, name, to, new),
        Call::renameat(from, &text(name)?, to, &text(new)?),
        unit
    )
}

/// Of a name that is not followed.
pub fn linkat(from: impl AsFd, name: &[u8], to: impl AsFd, new: &[u8]) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    reaching!(
        rustix::fs::linkat(from, name, to, new, AtFlags::empty()),
        Call::linkat(from, &text(name)?, to, &text(new)?),
        unit
    )
}

/// Whatever the target.
pub fn symlinkat(target: &[u8], dir: impl AsFd, name: &[u8]) -> Result<()> {
    let dir = dir.as_fd();
    reaching!(
        rustix::fs::symlinkat(target, dir, name),
        Call::symlinkat(&text(target)?, dir, &text(name)?),
        unit
    )
}

/// Devices, which nobody in a user namespace can make, are refused for good; but for overlayfs' whiteouts.
pub(crate) fn mknodat(dir: impl AsFd, name: &[u8], kind: FileType, mode: Mode, device: u64) -> Result<()> {
    let dir = dir.as_fd();
    match rustix::fs::mknodat(dir, name, kind, mode, device) {
        Err(refused @ Errno::ACCESS) => {
            let mode = mode.as_raw_mode() | kind.as_raw_mode();
            retry(refused, &mut Call::mknodat(dir, &text(name)?, mode, device), unit)
        }
        other => other,
    }
}

/// Of an open file, or of a name below an open directory that is not followed.
pub fn chown(dir: impl AsFd, name: Option<&[u8]>, uid: u32, gid: u32) -> Result<()> {
    let dir = dir.as_fd();
    let (new_uid, new_gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let tried = match name {
        None => rustix::fs::fchown(dir, new_uid, new_gid),
        Some(name) => rustix::fs::chownat(dir, name, new_uid, new_gid, AtFlags::SYMLINK_NOFOLLOW),
    };
    reaching!(tried, Call::chown(dir, name.map(text).transpose()?.as_deref(), uid, gid), unit)
}

/// Of an open file.
pub fn fchmod(file: impl AsFd, mode: Mode) -> Result<()> {
    let file = file.as_fd();
    reaching!(rustix::fs::fchmod(file, mode), Call::fchmod(file, mode), unit)
}

/// By a path that is followed.
pub(crate) fn chmod(path: &[u8], mode: Mode) -> Result<()> {
    reaching!(rustix::fs::chmod(path, mode), Call::chmod(&text(path)?, mode), unit)
}

/// Of a name that is not followed.
pub fn statat(dir: impl AsFd, name: &[u8]) -> Result<Stat> {
    match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        // What is open needs no permission.
        Err(Errno::ACCESS) => rustix::fs::fstat(node(dir, name)?),
        other => other,
    }
}

/// A descriptor of a name that is not followed, as a place.
pub(crate) fn node(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

pub(crate) fn readlinkat(dir: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
    let target = match rustix::fs::readlinkat(dir.as_fd(), name, Vec::new()) {
        Err(Errno::ACCESS) => rustix::fs::readlinkat(node(dir, name)?, "", Vec::new()),
        other => other,
    };
    Ok(target?.into_bytes())
}

pub(crate) fn llistxattr(path: &[u8], buffer: &mut [u8]) -> Result<usize> {
    reaching!(rustix::fs::llistxattr(path, &mut *buffer), Call::llistxattr(&text(path)?, buffer), |call| call
        .answer())
}

/// Of a path whose last component is not followed.
pub fn lgetxattr(path: &[u8], key: &[u8], buffer: &mut [u8]) -> Result<usize> {
    reaching!(
        rustix::fs::lgetxattr(path, key, &mut *buffer),
        Call::lgetxattr(&text(path)?, &text(key)?, buffer),
        |call| call.answer()
    )
}

pub(crate) fn lsetxattr(path: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    reaching!(
        rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()),
        Call::lsetxattr(&text(path)?, &text(key)?, value),
        unit
    )
}

/// The entries of an open directory, from the beginning.
pub fn entries(dir: BorrowedFd<'_>) -> Result<Dir> {
    // Not by `Dir::read_from`, which opens the directory as the caller.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(openat(dir, b".", flags, Mode::empty())?)
}
