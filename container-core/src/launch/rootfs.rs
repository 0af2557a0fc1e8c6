//! The operations on mounts: the root and what is in it.

use std::ffi::CStr;

use crate::plan::operation::{Device, EMPTY, NULL, NewMount, Operation, ROOT, Target};
use crate::sys::mount::MountAttr;
use crate::sys::raw::{Errno, Sys};
use crate::sys::{fd, mount};

use super::child::{Context, Done, Failure, change, set_slot, slot_of};
use super::{copy_up, overlay, path};

/// In [`Failure::detail`] of a mount: this plus the index of the option that was refused.
pub(crate) const OPTION: u32 = 1000;
/// In [`Failure::detail`] of a mount: its place could not be opened or made.
pub(crate) const PLACE: u32 = 1;
/// In [`Failure::detail`] of a device: what is there is another.
pub(crate) const OTHER_DEVICE: u32 = 2;

const NULL_DEVICE: u64 = libc::makedev(1, 3);

pub(super) fn perform(operation: &Operation, context: &mut Context) -> Done {
    if !matches!(operation, Operation::Device(_) | Operation::Link { .. }) {
        context.scratch.parent.forget();
    }
    match operation {
        Operation::OpenTree { slot, path, recursive, follow } => {
            let tree = mount::clone_tree(fd::CWD, path, *recursive, *follow)?;
            set_slot(context, *slot, tree);
        }
        Operation::OpenNull => {
            let tree = mount::clone_tree(fd::CWD, c"/dev/null", false, false)?;
            set_slot(context, NULL, tree);
            verify_device(tree, libc::S_IFCHR, NULL_DEVICE)?;
        }
        Operation::OpenEmpty => {
            let filesystem = mount::fs_open(c"tmpfs")?;
            let made = mount::fs_set(filesystem, c"size", Some(c"0"))
                .and_then(|()| mount::fs_set(filesystem, c"mode", Some(c"555")))
                .and_then(|()| {
                    use crate::mount_options::attr::{NODEV, NOEXEC, NOSUID, RDONLY};
                    mount::fs_create(filesystem, RDONLY | NODEV | NOEXEC | NOSUID)
                });
            fd::close(filesystem);
            set_slot(context, EMPTY, made?);
        }
        Operation::Overlay { slot, overlay: layers } => {
            let made = overlay::mount(layers, context.own_mounts)?;
            set_slot(context, *slot, made);
        }
        Operation::SetAttributes { slot, attr, recursive, .. } => {
            mount::set_attributes(slot_of(context, *slot), attr, *recursive)?;
        }
        Operation::Idmap { slot, userns, recursive, .. } => {
            let attr = MountAttr {
                set: crate::mount_options::attr::IDMAP,
                userns: slot_of(context, *userns) as u64,
                ..MountAttr::default()
            };
            mount::set_attributes(slot_of(context, *slot), &attr, *recursive)?;
        }
        Operation::Isolate { flags } => mount::root_propagation(*flags)?,
        Operation::AttachRoot { path } => {
            let root = slot_of(context, ROOT);
            mount::attach_at(root, path)?;
            context.scratch.root = root;
        }
        Operation::OpenRoot { path } => {
            context.scratch.root = fd::openat(fd::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        }
        Operation::Mount(new) => new_mount(context.scratch.root, new)?,
        Operation::MakeMount { slot, new } => {
            let filesystem = mount::fs_open(&new.kind)?;
            let made = configure(filesystem, new);
            fd::close(filesystem);
            let made = made?;
            set_slot(context, *slot, made);
            change(made, &new.after)?;
        }
        Operation::Attach { slot, target, .. } => {
            let mount = slot_of(context, *slot);
            attach(context.scratch.root, mount, target)?;
        }
        Operation::Remount { target, changes } => {
            let place = path::open(context.scratch.root, &target.path).map_err(at_place)?;
            let result = change(place, changes);
            fd::close(place);
            result?;
        }
        Operation::Device(device) => make_device(context, device)?,
        Operation::Link { target, path } => make_link(context, target, path)?,
        Operation::Mask { path } => mask(context, path)?,
        Operation::ReadOnly { path } => read_only(context.scratch.root, path)?,
        Operation::RootPropagation { propagation, recursive } => {
            let attr = MountAttr { propagation: *propagation, ..MountAttr::default() };
            mount::set_attributes(context.scratch.root, &attr, *recursive)?;
        }
        Operation::RootReadOnly => {
            let attr = MountAttr { set: crate::mount_options::attr::RDONLY, ..MountAttr::default() };
            mount::set_attributes(context.scratch.root, &attr, false)?;
        }
        Operation::MoveRoot => {
            fd::fchdir(context.scratch.root)?;
            mount::move_here_to_root()?;
            fd::chroot_here()?;
        }
        Operation::PivotRoot => {
            fd::fchdir(context.scratch.root)?;
            mount::pivot_root_here()?;
            mount::detach_here()?;
            fd::fchdir(context.scratch.root)?;
        }
        Operation::ChangeRoot => {
            fd::fchdir(context.scratch.root)?;
            fd::chroot_here()?;
        }
        _ => {}
    }
    Ok(())
}

fn at_place(errno: Errno) -> Failure {
    Failure { errno: errno.0, detail: PLACE }
}

fn is_directory(fd: i32) -> Sys<bool> {
    Ok(fd::stat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn verify_device(fd: i32, kind: u32, number: u64) -> Done {
    let stat = fd::stat(fd)?;
    if stat.st_mode & libc::S_IFMT == kind && stat.st_rdev == number {
        Ok(())
    } else {
        Err(Failure { errno: libc::ENODEV, detail: OTHER_DEVICE })
    }
}

/// Puts a detached mount on its target, which becomes a directory or a file like the mount's own root.
fn attach(root: i32, mount: i32, target: &Target) -> Done {
    let place = path::open_target(root, target, is_directory(mount)?).map_err(at_place)?;
    let result = mount::attach(mount, place);
    fd::close(place);
    Ok(result?)
}

fn new_mount(root: i32, new: &NewMount) -> Done {
    let mode = if new.inherit_mode { path::mode_of(root, &new.target.path) } else { None };
    let place = path::open_target(root, &new.target, true).map_err(at_place)?;
    let result = new_mount_at(place, new, mode);
    fd::close(place);
    result
}

fn new_mount_at(place: i32, new: &NewMount, mode: Option<u32>) -> Done {
    let made = mount::fs_open(&new.kind).map_err(Failure::from).and_then(|filesystem| {
        let made = set_mode(filesystem, mode).and_then(|()| configure(filesystem, new));
        fd::close(filesystem);
        made
    });
    let made = match (made, &new.stand_in) {
        (Err(Failure { errno: libc::EPERM, .. }), Some(path)) => stand_in(path, new)?,
        (made, _) => made?,
    };
    let result = fill(made, place, new).and_then(|()| Ok(mount::attach(made, place)?));
    fd::close(made);
    result
}

/// What the caller has mounted there, with what is mounted below it, since that may hide something.
fn stand_in(path: &CStr, new: &NewMount) -> Result<i32, Failure> {
    use crate::mount_options::attr::{NODEV, NOEXEC, NOSUID, RDONLY};
    let attr = MountAttr {
        set: new.attributes & (RDONLY | NOSUID | NODEV | NOEXEC),
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    let refused = |_| Failure { errno: libc::EPERM, detail: 0 };
    let tree = mount::clone_tree(fd::CWD, path, true, true).map_err(refused)?;
    mount::set_attributes(tree, &attr, true).inspect_err(|_| fd::close(tree))?;
    Ok(tree)
}

/// The option `mode=` in octal.
fn set_mode(filesystem: i32, mode: Option<u32>) -> Done {
    let Some(mode) = mode else { return Ok(()) };
    let mut digits = [b'0', b'0', b'0', b'0', 0];
    for (place, digit) in digits.iter_mut().take(4).rev().enumerate() {
        *digit = b'0' + (mode >> (3 * place) & 7) as u8;
    }
    match CStr::from_bytes_until_nul(&digits) {
        Ok(text) => Ok(mount::fs_set(filesystem, c"mode", Some(text))?),
        Err(_) => Ok(()),
    }
}

fn configure(filesystem: i32, new: &NewMount) -> Result<i32, Failure> {
    mount::fs_set(filesystem, c"source", Some(&new.source))?;
    for (index, (key, value)) in new.data.iter().enumerate() {
        mount::fs_set(filesystem, key, value.as_deref())
            .map_err(|errno| Failure { errno: errno.0, detail: OPTION + index as u32 })?;
    }
    let mut attributes = new.attributes;
    if new.copy_up {
        attributes &= !crate::mount_options::attr::RDONLY;
    }
    Ok(mount::fs_create(filesystem, attributes)?)
}

fn fill(made: i32, place: i32, new: &NewMount) -> Done {
    if new.copy_up {
        copy_up::copy(place, made)?;
        let read_only = new.attributes & crate::mount_options::attr::RDONLY;
        if read_only != 0 {
            mount::set_attributes(made, &MountAttr { set: read_only, ..MountAttr::default() }, false)?;
        }
    }
    Ok(change(made, &new.after)?)
}

fn make_device(context: &mut Context, device: &Device) -> Done {
    let root = context.scratch.root;
    if let Some(slot) = device.bind {
        context.scratch.parent.forget();
        let source = slot_of(context, slot);
        verify_device(source, device.mode & libc::S_IFMT, device.number)?;
        let place = path::open_place(root, &device.path, false).map_err(at_place)?;
        let result = mount::attach(source, place);
        fd::close(place);
        return Ok(result?);
    }
    let (parent, name) = context.scratch.parent.of(root, &device.path).map_err(at_place)?;
    make_node(parent, name, device)
}

fn make_node(parent: i32, name: &CStr, device: &Device) -> Done {
    match fd::mknodat(parent, name, device.mode, device.number) {
        Ok(()) => {}
        Err(Errno(libc::EEXIST)) => {
            // Listed twice, or part of the image: the same device is as good as a new one.
            let stat = fd::stat_at(parent, name)?;
            let same = stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT
                && (stat.st_rdev == device.number || device.mode & libc::S_IFMT == libc::S_IFIFO);
            if !same {
                return Err(Failure { errno: libc::EEXIST, detail: OTHER_DEVICE });
            }
            fd::chmod_at(parent, name, device.mode & 0o7777)?;
        }
        Err(errno) => return Err(errno.into()),
    }
    if device.uid != 0 || device.gid != 0 {
        fd::chown_at(parent, name, device.uid, device.gid)?;
    }
    Ok(())
}

fn make_link(context: &mut Context, target: &CStr, path: &CStr) -> Done {
    let (parent, name) = context.scratch.parent.of(context.scratch.root, path).map_err(at_place)?;
    match fd::symlinkat(target, parent, name) {
        // What the image has there stays.
        Err(Errno(libc::EEXIST)) => Ok(()),
        other => Ok(other?),
    }
}

/// Covers a directory with an empty one, anything else with the null device. What is not there needs no hiding.
fn mask(context: &mut Context, path: &CStr) -> Done {
    let place = match path::open(context.scratch.root, path) {
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
        other => other?,
    };
    let result = mask_at(context, place);
    fd::close(place);
    result
}

fn mask_at(context: &mut Context, place: i32) -> Done {
    let directory = is_directory(place)?;
    let slot = slot_of(context, if directory { EMPTY } else { NULL });
    let attached =
        if directory { &mut context.scratch.empty_attached } else { &mut context.scratch.null_attached };
    if !*attached {
        // The prepared mount itself; the next ones are copies of it, which can be had as soon as it is part of this namespace.
        mount::attach(slot, place)?;
        *attached = true;
        return Ok(());
    }
    let copy = mount::clone_tree(slot, c"", false, true)?;
    let result = mount::attach(copy, place);
    fd::close(copy);
    Ok(result?)
}

/// Binds a path over itself, read-only. The copy keeps all other flags of the mount it lies on.
fn read_only(root: i32, path: &CStr) -> Done {
    let place = match path::open(root, path) {
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
        other => other?,
    };
    let result = read_only_at(place);
    fd::close(place);
    result
}

fn read_only_at(place: i32) -> Done {
    let copy = mount::clone_tree(place, c"", true, true)?;
    let attr = MountAttr { set: crate::mount_options::attr::RDONLY, ..MountAttr::default() };
    let result = mount::set_attributes(copy, &attr, true).and_then(|()| mount::attach(copy, place));
    fd::close(copy);
    Ok(result?)
}
