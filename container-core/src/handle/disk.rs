//! A writable layer of a fixed size on disk: a file system of its own in a file without a name, over a loop device.
//!
//! The file is unlinked as soon as it is open and the device clears itself, so nothing is left however the container or the
//! host program ends. Making the file system is left to `mke2fs`, which every distribution has.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Mode;

use crate::error::{Error, Result};
use crate::plan::UpperLayer;
use crate::step::Step;
use crate::sys;

/// The smallest size that leaves room beside the file system's own data.
const LEAST: u64 = 1 << 20;

/// A mounted file system that is attached nowhere, with the directories of an overlay's upper layer in it.
#[derive(Debug)]
pub(crate) struct DiskLayer {
    mount: OwnedFd,
}

impl DiskLayer {
    /// Makes one of `size` bytes; the file takes space in `directory` only as it fills.
    pub(crate) fn make(size: u64, directory: &Path) -> Result<Self> {
        if size < LEAST {
            return Err(Error::invalid(format!("disk_limit {size}"), format!("the least is {LEAST} bytes")));
        }
        let (file, path) = create(directory)?;
        let formatted =
            file.set_len(size).map_err(|e| Error::io("size", &path, e)).and_then(|()| format(&path));
        let removed = std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e));
        formatted.and(removed)?;

        let (device, device_path) = sys::loop_device::attach(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Error::unsupported(
                "a size limit on disk",
                format!("loop devices: {e} (/dev/loop-control; modprobe loop)"),
            ),
            _ => Error::io("attach", "/dev/loop-control", e),
        })?;
        let mount = mount(&device_path)
            .map_err(|e| Error::setup(Step::Mount, format!("ext4 on {device_path}"), e))?;
        drop(device);
        for name in ["upper", "work"] {
            rustix::fs::mkdirat(&mount, name, Mode::from_raw_mode(0o755))
                .map_err(|e| Error::io("make directory", name, e))?;
        }
        Ok(Self { mount })
    }

    /// For an overlay that the calling thread mounts while this lives.
    pub(crate) fn upper(&self) -> UpperLayer {
        UpperLayer::Mount { mount: self.mount.as_raw_fd() }
    }
}

fn create(directory: &Path) -> Result<(File, PathBuf)> {
    let path = directory.join(format!(".layer-{}", crate::spec::random_id()?));
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    file.map(|file| (file, path.clone())).map_err(|e| Error::io("create", path, e))
}

fn format(path: &Path) -> Result<()> {
    let mut command = Command::new("mke2fs");
    // No journal: what is in there is thrown away after a crash. No blocks kept for root.
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-O",
        "^has_journal",
        "-E",
        "nodiscard,root_owner=0:0",
    ]);
    let output = command.arg(path).stdin(Stdio::null()).output().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::unsupported("a size limit on disk", "mke2fs is not installed (package e2fsprogs)")
        }
        _ => Error::io("run", "mke2fs", e),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io("format", path, std::io::Error::other(format!("mke2fs: {words}"))))
}

fn mount(device: &str) -> std::io::Result<OwnedFd> {
    mount_detached(c"ext4", device, crate::mount_options::attr::NODEV)
}

/// A layer that is an EROFS file, to be read.
pub(super) fn erofs(file: &Path) -> std::io::Result<OwnedFd> {
    // By a descriptor: the path may be longer than an option's value.
    let image = File::open(file)?;
    let attributes = crate::mount_options::attr::RDONLY | crate::mount_options::attr::NODEV;
    mount_detached(c"erofs", &format!("/proc/self/fd/{}", image.as_raw_fd()), attributes)
}

fn mount_detached(kind: &CStr, source: &str, attributes: u64) -> std::io::Result<OwnedFd> {
    let source = CString::new(source)?;
    let context = sys::mount::fs_open(kind).map(sys::fd::adopt)?;
    let raw = context.as_raw_fd();
    sys::mount::fs_set(raw, c"source", Some(&source))?;
    let made = sys::mount::fs_create(raw, attributes)?;
    Ok(sys::fd::adopt(made))
}
