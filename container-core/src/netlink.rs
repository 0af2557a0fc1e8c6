//! Network devices of the host in the container's network namespace.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Error, Result};
use crate::step::Step;

/// Moves devices into the network namespace of the process, under their names inside.
pub(crate) fn move_devices(devices: &[(String, String)], process: BorrowedFd<'_>) -> Result<()> {
    let _ = process.as_raw_fd();
    match devices.first() {
        None => Ok(()),
        Some((name, _)) => Err(Error::setup(Step::NetworkDevice, name, std::io::Error::from(std::io::ErrorKind::Unsupported))),
    }
}
