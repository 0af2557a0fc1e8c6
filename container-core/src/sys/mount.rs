//! Mounts as descriptors: open_tree, fsopen, mount_setattr, move_mount (Linux 5.2 to 5.12).
#![allow(unsafe_code)]

use std::ffi::CStr;

use super::raw::{Sys, syscall};

const OPEN_TREE_CLONE: i32 = 1;
const AT_RECURSIVE: i32 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: i32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: i32 = 0x40;

/// The kernel's `struct mount_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 to leave it.
    pub(crate) propagation: u64,
    pub(crate) userns: u64,
}

/// A detached copy of the mount at `path`, with those below it when `recursive`.
pub(crate) fn clone_tree(dir: i32, path: &CStr, recursive: bool, follow: bool) -> Sys<i32> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW;
    }
    // SAFETY: `path` ends in NUL.
    Ok(unsafe { syscall!(libc::SYS_open_tree, dir, path.as_ptr(), flags) }? as i32)
}

/// Puts the detached mount `mount` on what `target` refers to.
pub(crate) fn attach(mount: i32, target: i32) -> Sys<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are the empty literal.
    unsafe { syscall!(libc::SYS_move_mount, mount, empty, target, empty, flags) }.map(drop)
}

/// Puts the detached mount `mount` on the path `target`.
pub(crate) fn attach_at(mount: i32, target: &CStr) -> Sys<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: both paths end in NUL.
    unsafe { syscall!(libc::SYS_move_mount, mount, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags) }
        .map(drop)
}

/// Changes the attributes of the mount `mount` is the root of, and of those below it when `recursive`.
pub(crate) fn set_attributes(mount: i32, attr: &MountAttr, recursive: bool) -> Sys<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a literal and `attr` lives across the call; its size is passed along.
    unsafe {
        syscall!(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>()
        )
    }
    .map(drop)
}

/// Opens a file system context.
pub(crate) fn fs_open(kind: &CStr) -> Sys<i32> {
    const FSOPEN_CLOEXEC: usize = 1;
    // SAFETY: `kind` ends in NUL.
    Ok(unsafe { syscall!(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }? as i32)
}

/// Sets an option of a file system context: with a value, or as a flag.
pub(crate) fn fs_set(context: i32, key: &CStr, value: Option<&CStr>) -> Sys<()> {
    const FSCONFIG_SET_FLAG: usize = 0;
    const FSCONFIG_SET_STRING: usize = 1;
    let (command, value) = match value {
        Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
        None => (FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // SAFETY: `key` and `value` end in NUL, or `value` is null as the flag command wants.
    unsafe { syscall!(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0) }.map(drop)
}

/// Sets an option of a file system context to a descriptor.
pub(crate) fn fs_set_fd(context: i32, key: &CStr, fd: i32) -> Sys<()> {
    const FSCONFIG_SET_FD: usize = 5;
    // SAFETY: `key` ends in NUL.
    unsafe { syscall!(libc::SYS_fsconfig, context, FSCONFIG_SET_FD, key.as_ptr(), 0, fd) }.map(drop)
}

/// Makes the file system and gives its detached mount with the attributes.
pub(crate) fn fs_create(context: i32, attributes: u64) -> Sys<i32> {
    const FSCONFIG_CMD_CREATE: usize = 6;
    const FSMOUNT_CLOEXEC: usize = 1;
    // SAFETY: no memory involved.
    unsafe {
        syscall!(libc::SYS_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0)?;
        Ok(syscall!(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes)? as i32)
    }
}

/// Mounts a file system on a path in the old way: its options may be as long as a page.
pub(crate) fn mount_at(kind: &CStr, target: &CStr, options: &CStr) -> Sys<()> {
    let (kind, target, options) = (kind.as_ptr(), target.as_ptr(), options.as_ptr());
    // SAFETY: every string ends in NUL.
    unsafe { syscall!(libc::SYS_mount, kind, target, kind, 0, options) }.map(drop)
}

/// Moves the mount that is the working directory over `/`.
pub(crate) fn move_here_to_root() -> Sys<()> {
    let (here, root, none) = (c".".as_ptr(), c"/".as_ptr(), std::ptr::null::<u8>());
    // SAFETY: the paths are literals.
    unsafe { syscall!(libc::SYS_mount, here, root, none, libc::MS_MOVE, none) }.map(drop)
}

/// Changes the propagation of `/` and everything below it.
pub(crate) fn root_propagation(flags: u64) -> Sys<()> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the path is a literal.
    unsafe { syscall!(libc::SYS_mount, none, c"/".as_ptr(), none, flags, none) }.map(drop)
}

/// Makes the working directory the root and leaves the old root mounted on top of it.
pub(crate) fn pivot_root_here() -> Sys<()> {
    // SAFETY: the paths are literals.
    unsafe { syscall!(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }.map(drop)
}

/// Takes the topmost mount on `target` away.
pub(crate) fn detach_at(target: &CStr) -> Sys<()> {
    // SAFETY: `target` ends in NUL.
    unsafe { syscall!(libc::SYS_umount2, target.as_ptr(), libc::MNT_DETACH) }.map(drop)
}

/// Takes the mount on top of the working directory away, with everything below it.
pub(crate) fn detach_here() -> Sys<()> {
    // SAFETY: the path is a literal.
    unsafe { syscall!(libc::SYS_umount2, c".".as_ptr(), libc::MNT_DETACH) }.map(drop)
}
