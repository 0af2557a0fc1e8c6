//! The channel between a starting process and its parent: whole messages, descriptors alongside.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::raw::{Errno, Sys, syscall};

/// A control message with room for one descriptor, aligned as the kernel wants it.
#[repr(C, align(8))]
struct OneDescriptor {
    header: libc::cmsghdr,
    fd: i32,
    padding: i32,
}

fn message(part: &mut libc::iovec, control: Option<&mut OneDescriptor>) -> libc::msghdr {
    let mut message = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: an all-zero message is valid: no name, no parts, no control data.
    let message_ref = unsafe { message.assume_init_mut() };
    message_ref.msg_iov = part;
    message_ref.msg_iovlen = 1;
    if let Some(control) = control {
        message_ref.msg_control = std::ptr::from_mut(control).cast();
        message_ref.msg_controllen = size_of::<OneDescriptor>() as _;
    }
    *message_ref
}

/// Sends one message, with a descriptor when given.
pub(crate) fn send(socket: i32, bytes: &[u8], fd: Option<i32>) -> Sys<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = OneDescriptor {
        header: libc::cmsghdr {
            cmsg_len: (size_of::<libc::cmsghdr>() + size_of::<i32>()) as _,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fd: fd.unwrap_or(-1),
        padding: 0,
    };
    let message = message(&mut part, fd.is_some().then_some(&mut control));
    loop {
        // SAFETY: the message describes `bytes` and `control`, which live across the call; sending only reads them.
        let sent = unsafe { syscall!(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL) };
        match sent {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message and the descriptor that came with it. A length of 0 is the end.
pub(crate) fn receive(socket: i32, buffer: &mut [u8]) -> Sys<(usize, Option<i32>)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = OneDescriptor {
        header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 },
        fd: -1,
        padding: 0,
    };
    let mut message = message(&mut part, Some(&mut control));
    let length = loop {
        // SAFETY: the message describes `buffer` and `control`, both writable and alive across the call.
        let got = unsafe { syscall!(libc::SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match got {
            Err(Errno(libc::EINTR)) => {}
            other => break other?,
        }
    };
    let has_fd = message.msg_controllen as usize >= size_of::<libc::cmsghdr>() + size_of::<i32>()
        && control.header.cmsg_type == libc::SCM_RIGHTS;
    Ok((length, has_fd.then_some(control.fd)))
}

/// Takes the next connection of a listening socket.
pub(crate) fn accept(socket: i32) -> Sys<i32> {
    loop {
        // SAFETY: no address is asked for.
        match unsafe { syscall!(libc::SYS_accept4, socket, 0, 0, libc::SOCK_CLOEXEC) } {
            Err(Errno(libc::EINTR)) => {}
            other => return other.map(|fd| fd as i32),
        }
    }
}
