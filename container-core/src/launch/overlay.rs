//! The root as an overlay of layers, or a single EROFS: a detached mount.

use std::ffi::CStr;

use super::child::{Done, Failure};
use super::rootfs::OPTION;
use crate::plan::operation::{Layer, Overlay, Upper};
use crate::sys::raw::{Errno, Sys};
use crate::sys::{fd, mount};

/// Layers by descriptor: no option string with paths in it, so no limit on their number and nothing to quote.
pub(super) fn mount(overlay: &Overlay, own_mounts: bool) -> Result<i32, Failure> {
    if let ([Layer::Erofs(file)], None) = (&overlay.lower[..], &overlay.upper) {
        return Ok(erofs(file)?);
    }
    let mut opened = Opened { fds: [-1; MOST_LAYERS + 2], count: 0, writable: -1 };
    let made = open_layers(overlay, &mut opened).and_then(|()| {
        let made = create(overlay, &opened, own_mounts);
        match made {
            // Before Linux 6.15 overlay takes no layers from mounts that are attached nowhere.
            Err(Failure { errno: libc::EINVAL, .. }) if own_mounts && has_detached(overlay) => {
                attached_for_now(overlay, &opened, || create(overlay, &opened, own_mounts))
            }
            made => made,
        }
    });
    for fd in opened.all() {
        fd::close(*fd);
    }
    if matches!(overlay.upper, Some(Upper::Memory { .. })) && opened.writable >= 0 {
        fd::close(opened.writable);
    }
    made
}

/// Overlay takes no more lower layers than this.
const MOST_LAYERS: usize = 500;

/// Descriptors of what an overlay is made of, the lower layers first, then upper and work directory: a detached mount is there
/// only as long as something refers to it, and overlay does so only once it is created.
struct Opened {
    fds: [i32; MOST_LAYERS + 2],
    count: usize,
    /// The detached mount that upper and work directory are on.
    writable: i32,
}

impl Opened {
    fn keep(&mut self, fd: i32) -> Sys<()> {
        match self.fds.get_mut(self.count) {
            Some(place) => {
                *place = fd;
                self.count += 1;
                Ok(())
            }
            None => {
                fd::close(fd);
                Err(Errno(libc::EINVAL))
            }
        }
    }

    fn all(&self) -> &[i32] {
        self.fds.get(..self.count).unwrap_or_default()
    }
}

fn open_layers(overlay: &Overlay, opened: &mut Opened) -> Done {
    let directory = |at: i32, path: &CStr| fd::openat(at, path, libc::O_PATH | libc::O_DIRECTORY, 0);
    for (index, layer) in overlay.lower.iter().enumerate() {
        let layer = match layer {
            Layer::Directory(path) => directory(fd::CWD, path),
            Layer::Erofs(file) => erofs(file),
        };
        layer.and_then(|layer| opened.keep(layer)).map_err(|errno| at_layer(errno, index))?;
    }
    match &overlay.upper {
        None => {}
        Some(Upper::Directories { upper, work }) => {
            for path in [upper, work] {
                opened.keep(directory(fd::CWD, path)?)?;
            }
        }
        Some(Upper::Memory { size }) => opened.writable = memory(size)?,
        Some(Upper::Mount { mount }) => opened.writable = *mount,
    }
    if opened.writable >= 0 {
        for name in [c"upper", c"work"] {
            opened.keep(directory(opened.writable, name)?)?;
        }
    }
    Ok(())
}

fn at_layer(errno: Errno, index: usize) -> Failure {
    Failure { errno: errno.0, detail: OPTION + index as u32 }
}

/// Is there a layer from a mount that is attached nowhere?
fn has_detached(overlay: &Overlay) -> bool {
    overlay.lower.iter().any(|layer| matches!(layer, Layer::Erofs(_)))
        || matches!(overlay.upper, Some(Upper::Memory { .. } | Upper::Mount { .. }))
}

/// Would it be made in a mount namespace of the making task's own?
pub(super) fn needs_own_mounts(overlay: &Overlay, errno: i32) -> bool {
    errno == libc::E2BIG || errno == libc::EINVAL && has_detached(overlay)
}

/// Where something is attached for a moment.
const PLACE: &CStr = c"/sys";

/// Does something while the detached mounts are attached, one on top of the other.
fn attached_for_now<T>(
    overlay: &Overlay,
    opened: &Opened,
    act: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let lower = overlay.lower.iter().zip(opened.all());
    let lower = lower.filter_map(|(layer, fd)| matches!(layer, Layer::Erofs(_)).then_some(*fd));
    let writable = Some(opened.writable).filter(|fd| *fd >= 0);
    let mut attached = 0;
    let mut refused = None;
    for fd in lower.chain(writable) {
        match mount::attach_at(fd, PLACE) {
            Ok(()) => attached += 1,
            Err(errno) => refused = Some(errno),
        }
    }
    let done = match refused {
        Some(errno) => Err(errno.into()),
        None => act(),
    };
    for _ in 0..attached {
        let _ = mount::detach_at(PLACE);
    }
    done
}

fn create(overlay: &Overlay, opened: &Opened, own_mounts: bool) -> Result<i32, Failure> {
    let made = create_with(overlay, opened, set_layers);
    if !matches!(made, Err(Failure { errno: libc::EINVAL, .. })) {
        return made;
    }
    // Before Linux 6.5 overlay knows no `lowerdir+`, and says so only now.
    match create_with(overlay, opened, set_joined_layers) {
        Err(Failure { errno: libc::E2BIG, .. }) if own_mounts => create_by_mount(overlay, opened),
        Err(too_many @ Failure { errno: libc::E2BIG, .. }) => Err(too_many),
        joined => joined.or(made),
    }
}

/// Many layers before Linux 6.5: mount(2) takes a page of options, and descriptors are short names where the working directory is
/// the directory of descriptors. What it attaches is taken off again, and a detached copy of it stays.
fn create_by_mount(overlay: &Overlay, opened: &Opened) -> Result<i32, Failure> {
    let mut options = Options { text: [0; 4096], length: 0 };
    for (index, fd) in opened.all().iter().enumerate() {
        let key: &[u8] = match index.checked_sub(overlay.lower.len()) {
            None if index == 0 => b"lowerdir=",
            None => b":",
            Some(0) => b",upperdir=",
            Some(_) => b",workdir=",
        };
        let mut name = [0u8; 10];
        let digits = decimal(*fd, &mut name);
        options.push(key).and_then(|()| options.push(digits)).map_err(|errno| at_layer(errno, index))?;
    }
    if overlay.userxattr {
        options.push(b",userxattr")?;
    }
    if overlay.volatile {
        options.push(b",volatile")?;
    }
    let text = CStr::from_bytes_until_nul(&options.text).unwrap_or(c"");
    let directory = fd::openat(fd::CWD, DESCRIPTORS, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let entered = fd::fchdir(directory);
    fd::close(directory);
    entered?;
    mount::mount_at(c"overlay", PLACE, text)?;
    let made = mount::clone_tree(fd::CWD, PLACE, false, true);
    let _ = mount::detach_at(PLACE);
    let made = made?;
    let attr = mount::MountAttr { set: overlay.attributes, ..mount::MountAttr::default() };
    mount::set_attributes(made, &attr, false).inspect_err(|_| fd::close(made))?;
    Ok(made)
}

const DESCRIPTORS: &CStr = c"/proc/self/fd";

/// Mount options as one string.
struct Options {
    text: [u8; 4096],
    length: usize,
}

impl Options {
    fn push(&mut self, word: &[u8]) -> Sys<()> {
        let end = self.length + word.len();
        // Never to the end: the last byte stays NUL.
        match self.text.get_mut(self.length..end).filter(|_| end < 4096) {
            Some(place) => {
                for (to, from) in place.iter_mut().zip(word) {
                    *to = *from;
                }
                self.length = end;
                Ok(())
            }
            None => Err(Errno(libc::E2BIG)),
        }
    }
}

fn create_with(
    overlay: &Overlay,
    opened: &Opened,
    set_layers: fn(i32, usize, &Opened) -> Done,
) -> Result<i32, Failure> {
    let filesystem = mount::fs_open(c"overlay")?;
    let made = set_layers(filesystem, overlay.lower.len(), opened).and_then(|()| {
        if overlay.userxattr {
            mount::fs_set(filesystem, c"userxattr", None)?;
        }
        if overlay.volatile {
            mount::fs_set(filesystem, c"volatile", None)?;
        }
        Ok(mount::fs_create(filesystem, overlay.attributes)?)
    });
    fd::close(filesystem);
    made
}

const WRITABLE: [&CStr; 2] = [c"upperdir", c"workdir"];

fn set_layers(filesystem: i32, lower: usize, opened: &Opened) -> Done {
    for (index, fd) in opened.all().iter().enumerate() {
        match index.checked_sub(lower).and_then(|index| WRITABLE.get(index)) {
            None => set_layer(filesystem, c"lowerdir+", *fd).map_err(|errno| at_layer(errno, index))?,
            Some(key) => set_layer(filesystem, key, *fd)?,
        }
    }
    Ok(())
}

/// By descriptor since Linux 6.13, by its path before: EBADF is said to one that has no file open, only a place, EOPNOTSUPP before
/// Linux 6.5.
fn set_layer(filesystem: i32, key: &CStr, layer: i32) -> Sys<()> {
    match mount::fs_set_fd(filesystem, key, layer) {
        Err(Errno(libc::EINVAL | libc::EBADF | libc::EOPNOTSUPP)) => {
            set_layer_by_path(filesystem, key, layer)
        }
        result => result,
    }
}

fn set_layer_by_path(filesystem: i32, key: &CStr, layer: i32) -> Sys<()> {
    let mut name = [0u8; 32];
    mount::fs_set(filesystem, key, Some(descriptor_path(layer, &mut name)))
}

/// All lower layers in one option, whose value has 255 bytes at most: some fourteen of them.
fn set_joined_layers(filesystem: i32, lower: usize, opened: &Opened) -> Done {
    let mut value = [0u8; 256];
    let mut free = value.iter_mut();
    for (index, fd) in opened.all().iter().take(lower).enumerate() {
        let mut name = [0u8; 32];
        let name = descriptor_path(*fd, &mut name).to_bytes();
        let colon: &[u8] = if index > 0 { b":" } else { b"" };
        if free.len() <= colon.len() + name.len() {
            return Err(at_layer(Errno(libc::E2BIG), index));
        }
        for (from, to) in colon.iter().chain(name).zip(free.by_ref()) {
            *to = *from;
        }
    }
    let value = CStr::from_bytes_until_nul(&value).unwrap_or(c"");
    mount::fs_set(filesystem, c"lowerdir", Some(value))?;
    for (key, fd) in WRITABLE.iter().zip(opened.all().iter().skip(lower)) {
        set_layer_by_path(filesystem, key, *fd)?;
    }
    Ok(())
}

/// A file system in memory of a limited size, not attached anywhere, with an overlay's two directories.
fn memory(size: &CStr) -> Sys<i32> {
    let filesystem = mount::fs_open(c"tmpfs")?;
    let made = mount::fs_set(filesystem, c"size", Some(size))
        .and_then(|()| mount::fs_set(filesystem, c"mode", Some(c"755")))
        .and_then(|()| mount::fs_create(filesystem, 0));
    fd::close(filesystem);
    let made = made?;
    let filled = [c"upper", c"work"].iter().try_for_each(|name| fd::mkdirat(made, name, 0o755));
    filled.inspect_err(|_| fd::close(made))?;
    Ok(made)
}

/// A file system in a file, by a descriptor: an option's value has 255 bytes at most, a path may have more.
fn erofs(file: &CStr) -> Sys<i32> {
    let image = fd::openat(fd::CWD, file, libc::O_RDONLY, 0)?;
    let mut name = [0u8; 32];
    let made = mount::fs_open(c"erofs").and_then(|filesystem| {
        let made = mount::fs_set(filesystem, c"source", Some(descriptor_path(image, &mut name)))
            .and_then(|()| mount::fs_set(filesystem, c"ro", None))
            .and_then(|()| mount::fs_create(filesystem, crate::mount_options::attr::RDONLY));
        fd::close(filesystem);
        made
    });
    fd::close(image);
    made
}

/// `/proc/self/fd/N`, written without an allocation.
fn descriptor_path(fd: i32, buffer: &mut [u8; 32]) -> &CStr {
    let mut digits = [0u8; 10];
    let path = DESCRIPTORS.to_bytes().iter().chain(b"/").chain(decimal(fd, &mut digits)).chain(&[0]);
    for (to, from) in buffer.iter_mut().zip(path) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"")
}

fn decimal(fd: i32, digits: &mut [u8; 10]) -> &[u8] {
    let mut rest = fd.unsigned_abs();
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start = at;
        if rest == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::descriptor_path;

    #[test]
    fn descriptors_as_paths() {
        for fd in [0, 7, 10, 123, i32::MAX] {
            let mut buffer = [0; 32];
            assert_eq!(descriptor_path(fd, &mut buffer).to_str().unwrap(), format!("/proc/self/fd/{fd}"));
        }
    }
}
