//! What every container has in `/dev`, and what the spec adds.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::LinuxDeviceType;

use super::c_string;
use super::mounts::Mounts;
use super::namespaces::USER;
use super::operation::{Device, Operation, Slot};
use crate::error::{Error, Result};
use crate::mount_options::attr;
use crate::sys::mount::MountAttr;

/// Name, major and minor number of the devices the runtime specification promises, all with mode 0666.
const STANDARD: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&std::ffi::CStr, &std::ffi::CStr); 5] = [
    (c"/dev/fd", c"/proc/self/fd"),
    (c"/dev/stdin", c"/proc/self/fd/0"),
    (c"/dev/stdout", c"/proc/self/fd/1"),
    (c"/dev/stderr", c"/proc/self/fd/2"),
    (c"/dev/ptmx", c"pts/ptmx"),
];

impl Mounts<'_> {
    /// Nodes and links, unless the host's own `/dev` is bound in: that one is left alone.
    pub(super) fn devices(&mut self) -> Result<()> {
        let bound = self.spec.mounts().iter().flatten().any(|mount| {
            let options = mount.options().iter().flatten();
            let bind = mount.typ().as_deref() == Some("bind")
                || options.clone().any(|o| o == "bind" || o == "rbind");
            bind && mount.destination().components().eq(Path::new("/dev").components())
        });
        if bound {
            return Ok(());
        }
        let listed = self.spec.linux().as_ref().and_then(|l| l.devices().as_ref());
        for (path, major, minor) in STANDARD {
            if listed.into_iter().flatten().any(|device| device.path().as_os_str() == path) {
                continue;
            }
            let mode = libc::S_IFCHR | 0o666;
            self.device(Device {
                path: c_string("device", path)?,
                mode,
                number: libc::makedev(major, minor),
                uid: 0,
                gid: 0,
                bind: None,
            });
        }
        for device in listed.into_iter().flatten() {
            let subject = || format!("linux.devices {}", device.path().display());
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => {
                    return Err(Error::invalid(subject(), "its type is none of c, b, u, p"));
                }
            };
            let number = |n: i64| {
                u32::try_from(n).map_err(|_| Error::invalid(subject(), format!("no device number: {n}")))
            };
            let number = match kind {
                libc::S_IFIFO => 0,
                _ => libc::makedev(number(device.major())?, number(device.minor())?),
            };
            if !device.path().is_absolute() {
                return Err(Error::invalid(subject(), "the path has to be absolute"));
            }
            self.device(Device {
                // By its components: a slash at the end means nothing here.
                path: c_string("linux.devices", device.path().components().as_path())?,
                mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
                number,
                uid: device.uid().unwrap_or(0),
                gid: device.gid().unwrap_or(0),
                bind: None,
            });
        }
        for (path, target) in LINKS {
            self.attach.push(Operation::Link { target: target.to_owned(), path: path.to_owned() });
        }
        Ok(())
    }

    /// A device node, or the host's own one bound in: where the kernel lets nobody make nodes, or where one in the root is dead
    /// and no file system of the container's own lies there.
    fn device(&mut self, mut device: Device) {
        let path = Path::new(OsStr::from_bytes(device.path.to_bytes()));
        let mounts = self.spec.mounts().iter().flatten();
        let dead = self.no_devices && !mounts.clone().any(|mount| path.starts_with(mount.destination()));
        const MKNOD: u32 = 27;
        let cannot = self.namespaces.contains(USER)
            || !self.facts.privileged
            || self.facts.permitted & 1 << MKNOD == 0;
        if (cannot || dead) && device.mode & libc::S_IFMT != libc::S_IFIFO {
            device.bind = Some(self.open_host_file(&device.path.clone()));
        }
        self.attach.push(Operation::Device(Box::new(device)));
    }

    fn open_host_file(&mut self, path: &CString) -> Slot {
        let slot = self.slots;
        self.slots += 1;
        self.prepare.push(Operation::OpenTree { slot, path: path.clone(), recursive: false, follow: true });
        let attr = MountAttr { set: attr::NOSUID | attr::NOEXEC, ..MountAttr::default() };
        let name = path.to_string_lossy().into_owned();
        self.prepare.push(Operation::SetAttributes { slot, attr, recursive: false, name });
        slot
    }
}
