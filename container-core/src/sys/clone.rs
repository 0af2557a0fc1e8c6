//! clone3 onto a stack of its own.
//!
//! The same entry serves both ways of cloning: sharing the caller's memory (CLONE_VM), or as a copy of it. The child starts in
//! `entry` on the given stack and never returns into the caller's frames, so nothing of the caller runs twice.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::raw::{Sys, check};

/// The kernel's `struct clone_args` up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
pub(crate) const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where a child starts. Must not return or unwind.
type Entry = extern "C" fn(*mut c_void) -> !;

/// What a child does on its own stack.
pub(crate) trait Main {
    /// The child's whole life. Follows the rules of [`crate::launch`]'s interpreter.
    fn main(&mut self) -> !;
}

extern "C" fn enter<T: Main>(argument: *mut c_void) -> ! {
    // SAFETY: `argument` is the boxed `T` of a `Cradle`, which stays where it is until the child is known to have left it.
    unsafe { &mut *argument.cast::<T>() }.main()
}

/// Number and descriptor of a process. The kernel fills them in while it clones.
#[derive(Debug)]
pub(crate) struct Born {
    pid: AtomicI32,
    pidfd: AtomicI32,
}

impl Born {
    /// Of a process that is known already.
    pub(crate) fn of(pid: i32, pidfd: i32) -> Self {
        Self { pid: AtomicI32::new(pid), pidfd: AtomicI32::new(pidfd) }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Acquire)
    }

    /// The descriptor's number; -1 when there is no process.
    pub(crate) fn pidfd(&self) -> i32 {
        self.pidfd.load(Ordering::Acquire)
    }

    /// The descriptor, for as long as its owner lends it.
    pub(crate) fn lend(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.pidfd();
        // SAFETY: an open pidfd: its owner outlives this value, being the launch or the handle that made it.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }
}

/// A child's stack and state, kept until the child has left them: by exec, by its end, or because it works on a copy.
#[derive(Debug)]
pub(crate) struct Cradle<T: Main> {
    state: *mut T,
    stack: Option<Stack>,
    born: Box<Born>,
    /// A child that shares this memory may still be in it.
    occupied: bool,
}

// SAFETY: the state is owned by the cradle alone; `T` itself may be sent.
unsafe impl<T: Main + Send> Send for Cradle<T> {}

/// A clone that is ready to be made, by whichever thread. The cradle it was made by outlives it.
#[derive(Debug)]
pub(crate) struct Ready {
    args: CloneArgs,
    entry: Entry,
    state: *mut c_void,
}

// SAFETY: carries pointers into a cradle, which are not used before the clone.
unsafe impl Send for Ready {}

impl Ready {
    /// The same without these flags.
    pub(crate) fn without(mut self, flags: u64) -> Self {
        self.args.flags &= !flags;
        self
    }

    /// Clones, on the calling thread.
    pub(crate) fn clone_now(self) -> Sys<i32> {
        // SAFETY: stack and state belong to the cradle, which keeps both while a child may be in them.
        let result = unsafe { clone3_raw(&self.args, self.entry, self.state) };
        check(result).map(|pid| pid as i32)
    }
}

impl<T: Main> Cradle<T> {
    pub(crate) fn new(state: T) -> io::Result<Self> {
        let stack = Stack::take()?;
        let state = Box::into_raw(Box::new(state));
        Ok(Self { state, stack: Some(stack), born: Box::new(Born::of(0, -1)), occupied: false })
    }

    /// Prepares the clone. With CLONE_VM the cradle counts as occupied until [`Self::vacate`].
    pub(crate) fn ready(&mut self, mut args: CloneArgs) -> Ready {
        if let Some(stack) = &self.stack {
            args.stack = stack.base as u64;
            args.stack_size = Stack::SIZE as u64;
        }
        args.flags |= (libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID) as u64;
        args.pidfd = self.born.pidfd.as_ptr() as u64;
        args.parent_tid = self.born.pid.as_ptr() as u64;
        self.occupied = args.flags & libc::CLONE_VM as u64 != 0;
        Ready { args, entry: enter::<T>, state: self.state.cast() }
    }

    /// What the kernel tells about the child, before that runs.
    pub(crate) fn born(&self) -> &Born {
        &self.born
    }

    /// The state, readable once the child has left it; before that only what the child no longer changes.
    pub(crate) fn state(&self) -> &T {
        // SAFETY: allocated by `new`, freed by `drop` only. A child that shares it has ended or is about to end its writes:
        // callers read it after the channel's end, which orders those before.
        unsafe { &*self.state }
    }

    /// The child has executed another program, or has ended, or never was.
    pub(crate) fn vacate(&mut self) {
        self.occupied = false;
    }
}

impl<T: Main> Drop for Cradle<T> {
    fn drop(&mut self) {
        if self.occupied {
            // A child may still be running on it: leaking is the only sound thing to do.
            std::mem::forget(self.stack.take());
            std::mem::forget(std::mem::replace(&mut self.born, Box::new(Born::of(0, -1))));
            return;
        }
        if let Some(stack) = self.stack.take() {
            stack.give_back();
        }
        // SAFETY: allocated by `new` and given up here, once.
        drop(unsafe { Box::from_raw(self.state) });
    }
}

static KEPT: Mutex<Vec<Stack>> = Mutex::new(Vec::new());

/// A stack for one child at a time, with a guard page below.
#[derive(Debug)]
struct Stack {
    base: *mut c_void,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Stack {}

impl Stack {
    const SIZE: usize = 512 * 1024;
    const GUARD: usize = 64 * 1024;

    /// A stack that another child has left, warm in the caches, or a new one.
    fn take() -> io::Result<Self> {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(Self::new, Ok)
    }

    fn give_back(self) {
        const MOST: usize = 16;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push(self);
        }
    }

    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel likes.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), Self::SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        // SAFETY: the first pages of our own new mapping.
        if unsafe { libc::mprotect(base, Self::GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; whoever drops it knows that its child is gone (exec, exit, or a copy of the memory).
        unsafe { libc::munmap(self.base, Self::SIZE) };
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn clone3_raw(args: &CloneArgs, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: in the parent this is an ordinary system call. The child wakes with rax = 0 and a fresh stack pointer, ends the
    // chain of frames, and calls `entry`, which never returns; it reads nothing from the parent's frame but registers.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") entry,
            in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone3_raw(args: &CloneArgs, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as on x86_64, with x0 = 0 in the child.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3 as usize,
            inlateout("x0") std::ptr::from_ref(args) as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x20") entry,
            in("x21") argument,
            lateout("x30") _,
        );
    }
    result
}

/// The plan's part of a child, which its parent keeps alive: it waits for the child to leave before it returns.
pub(crate) fn borrow<T: ?Sized>(pointer: &*const T) -> &T {
    // SAFETY: made from a reference by the launch, which outlives every child that shares its memory; other children have a
    // copy of everything.
    unsafe { &**pointer }
}

/// Clones a sibling (CLONE_PARENT) as a copy of this process, in new namespaces. `None` in the new one; in this one a pidfd of it.
///
/// For a process that is itself a copy and runs on a stack of its own: both go on with the same memory contents.
pub(crate) fn fork_beside(flags: u64) -> Sys<Option<i32>> {
    let mut pidfd = -1i32;
    let args = CloneArgs {
        flags: flags | (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and without a new stack this is fork: the child returns here on its copy of the stack.
    let pid =
        unsafe { super::raw::syscall!(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>()) }?;
    Ok((pid != 0).then_some(pidfd))
}

/// A pidfd of the calling process.
pub(crate) fn pidfd_of_self() -> Sys<i32> {
    // SAFETY: neither call takes a pointer.
    unsafe {
        let pid = super::raw::syscall!(libc::SYS_getpid)?;
        super::raw::syscall!(libc::SYS_pidfd_open, pid, 0)
    }
    .map(|fd| fd as i32)
}
