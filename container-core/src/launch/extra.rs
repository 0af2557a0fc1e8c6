//! What a starting process rarely asks for: hooks, network devices, somewhere to send the seccomp listener.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::operation::Request;

pub(super) fn answer(_plan: &Plan, request: u32, _fd: Option<OwnedFd>, _process: (i32, BorrowedFd<'_>)) -> Result<()> {
    let word = if request == Request::Listener as u32 { "a seccomp listener" } else { "this" };
    Err(Error::unsupported(word, "not yet"))
}
