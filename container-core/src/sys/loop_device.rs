//! Loop devices: a file as a block device.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    numbers: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
}

/// `struct loop_config` of Linux 5.8.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// A device over `file`, with its path. It goes when the last who uses it does.
///
/// # Errors
/// The kernel's answer; ENOENT without the loop module.
pub(crate) fn attach(file: &File) -> io::Result<(File, String)> {
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    loop {
        // SAFETY: the request takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = format!("/dev/loop{number}");
        let device = File::options().read(true).write(true).open(&path)?;
        let info = Info {
            numbers: [0; 5],
            number: 0,
            encryption: [0; 2],
            flags: LO_FLAGS_AUTOCLEAR,
            names: [0; 160],
            init: [0; 2],
        };
        let config = Config { fd: file.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
        // SAFETY: the request reads a `loop_config`, whose size was checked above, and copies what it needs.
        if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) } == 0 {
            return Ok((device, path));
        }
        let error = io::Error::last_os_error();
        // Somebody else took it first: the next one.
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
}
