//! Single system calls as data, for a [`Hand`](super::hand::Hand) to make.

use std::ffi::{CStr, c_long};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, Mode, OFlags, Timestamps};
use rustix::io::Errno;

/// Makes a system call; the kernel's answer, error numbers being negative.
///
/// # Safety
/// The arguments must be what the call expects; memory they point to must be valid for as long as the kernel uses it.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn invoke(number: c_long, args: [usize; 6]) -> isize {
    let answer: isize;
    // SAFETY: the x86_64 kernel convention: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; rcx and r11 are lost.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}

/// Makes a system call; the kernel's answer, error numbers being negative.
///
/// # Safety
/// The arguments must be what the call expects; memory they point to must be valid for as long as the kernel uses it.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) unsafe fn invoke(number: c_long, args: [usize; 6]) -> isize {
    let answer: isize;
    // SAFETY: the aarch64 kernel convention: number in x8, arguments in x0 to x5, answer in x0.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") args[0] as isize => answer,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack)
        );
    }
    answer
}

/// Elsewhere there are no hands.
///
/// # Safety
/// None needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) unsafe fn invoke(_: c_long, _: [usize; 6]) -> isize {
    -(libc::ENOSYS as isize)
}

/// One system call for a hand, and what came of it. What it points to is borrowed until then.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(super) number: c_long,
    pub(super) args: [usize; 6],
    pub(super) answer: isize,
    borrowed: PhantomData<&'a mut ()>,
}

/// The kernel's `struct open_how`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenHow {
    pub(crate) flags: u64,
    pub(crate) mode: u64,
    pub(crate) resolve: u64,
}

fn raw(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as usize
}

fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

impl<'a> Call<'a> {
    fn new(number: c_long, args: [usize; 6]) -> Call<'a> {
        Call { number, args, answer: 0, borrowed: PhantomData }
    }

    pub(crate) fn openat(dir: BorrowedFd<'a>, name: &'a CStr, flags: OFlags, mode: Mode) -> Call<'a> {
        let (flags, mode) = (flags.bits() as usize, mode.bits() as usize);
        Call::new(libc::SYS_openat, [raw(dir), text(name), flags, mode, 0, 0])
    }

    pub(crate) fn openat2(dir: BorrowedFd<'a>, name: &'a CStr, how: &'a OpenHow) -> Call<'a> {
        let how = std::ptr::from_ref(how) as usize;
        Call::new(libc::SYS_openat2, [raw(dir), text(name), how, size_of::<OpenHow>(), 0, 0])
    }

    pub(crate) fn mkdirat(dir: BorrowedFd<'a>, name: &'a CStr, mode: Mode) -> Call<'a> {
        Call::new(libc::SYS_mkdirat, [raw(dir), text(name), mode.bits() as usize, 0, 0, 0])
    }

    pub(crate) fn unlinkat(dir: BorrowedFd<'a>, name: &'a CStr, flags: AtFlags) -> Call<'a> {
        Call::new(libc::SYS_unlinkat, [raw(dir), text(name), flags.bits() as usize, 0, 0, 0])
    }

    pub(crate) fn renameat(
        from: BorrowedFd<'a>,
        name: &'a CStr,
        to: BorrowedFd<'a>,
        new: &'a CStr,
    ) -> Call<'a> {
        Call::new(libc::SYS_renameat2, [raw(from), text(name), raw(to), text(new), 0, 0])
    }

    pub(crate) fn linkat(
        from: BorrowedFd<'a>,
        name: &'a CStr,
        to: BorrowedFd<'a>,
        new: &'a CStr,
    ) -> Call<'a> {
        Call::new(libc::SYS_linkat, [raw(from), text(name), raw(to), text(new), 0, 0])
    }

    pub(crate) fn symlinkat(target: &'a CStr, dir: BorrowedFd<'a>, name: &'a CStr) -> Call<'a> {
        Call::new(libc::SYS_symlinkat, [text(target), raw(dir), text(name), 0, 0, 0])
    }

    pub(crate) fn mknodat(dir: BorrowedFd<'a>, name: &'a CStr, mode: u32, device: u64) -> Call<'a> {
        Call::new(libc::SYS_mknodat, [raw(dir), text(name), mode as usize, device as usize, 0, 0])
    }

    /// Of an open file, or of a name below an open directory that is not followed.
    pub(crate) fn chown(dir: BorrowedFd<'a>, name: Option<&'a CStr>, uid: u32, gid: u32) -> Call<'a> {
        let (uid, gid) = (uid as usize, gid as usize);
        match name {
            None => Call::new(libc::SYS_fchown, [raw(dir), uid, gid, 0, 0, 0]),
            Some(name) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW.bits() as usize;
                Call::new(libc::SYS_fchownat, [raw(dir), text(name), uid, gid, flags, 0])
            }
        }
    }

    pub(crate) fn fchmod(file: BorrowedFd<'a>, mode: Mode) -> Call<'a> {
        Call::new(libc::SYS_fchmod, [raw(file), mode.bits() as usize, 0, 0, 0, 0])
    }

    /// By a path that is followed, as those below `/proc/self/fd` have to be.
    pub(crate) fn chmod(path: &'a CStr, mode: Mode) -> Call<'a> {
        let here = libc::AT_FDCWD as isize as usize;
        Call::new(libc::SYS_fchmodat, [here, text(path), mode.bits() as usize, 0, 0, 0])
    }

    /// Of an open file, or of a name below an open directory that is not followed.
    pub(crate) fn utimens(
        dir: BorrowedFd<'a>,
        name: Option<&'a CStr>,
        times: &'a [libc::timespec; 2],
    ) -> Call<'a> {
        let times = times.as_ptr() as usize;
        match name {
            None => Call::new(libc::SYS_utimensat, [raw(dir), 0, times, 0, 0, 0]),
            Some(name) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW.bits() as usize;
                Call::new(libc::SYS_utimensat, [raw(dir), text(name), times, flags, 0, 0])
            }
        }
    }

    pub(crate) fn fsetxattr(file: BorrowedFd<'a>, key: &'a CStr, value: &'a [u8]) -> Call<'a> {
        let (value, len) = (value.as_ptr() as usize, value.len());
        Call::new(libc::SYS_fsetxattr, [raw(file), text(key), value, len, 0, 0])
    }

    pub(crate) fn lsetxattr(path: &'a CStr, key: &'a CStr, value: &'a [u8]) -> Call<'a> {
        let (value, len) = (value.as_ptr() as usize, value.len());
        Call::new(libc::SYS_lsetxattr, [text(path), text(key), value, len, 0, 0])
    }

    pub(crate) fn lgetxattr(path: &'a CStr, key: &'a CStr, buffer: &'a mut [u8]) -> Call<'a> {
        let (buffer, len) = (buffer.as_mut_ptr() as usize, buffer.len());
        Call::new(libc::SYS_lgetxattr, [text(path), text(key), buffer, len, 0, 0])
    }

    pub(crate) fn llistxattr(path: &'a CStr, buffer: &'a mut [u8]) -> Call<'a> {
        let (buffer, len) = (buffer.as_mut_ptr() as usize, buffer.len());
        Call::new(libc::SYS_llistxattr, [text(path), buffer, len, 0, 0, 0])
    }

    /// What the kernel said.
    pub(crate) fn answer(&self) -> rustix::io::Result<usize> {
        match self.answer {
            errno @ -4095..0 => Err(Errno::from_raw_os_error(-errno as i32)),
            answer => Ok(answer as usize),
        }
    }

    /// The descriptor that an `openat` or `openat2` gave.
    pub(crate) fn opened(&self) -> rustix::io::Result<OwnedFd> {
        let fd = self.answer()?;
        debug_assert!(matches!(self.number, libc::SYS_openat | libc::SYS_openat2));
        // SAFETY: the call opened something and succeeded, in a table of descriptors that is this program's; the answer of one
        // call is taken once, by the one function that makes such calls.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

/// Times as the kernel takes them.
pub(crate) fn timespecs(times: &Timestamps) -> [libc::timespec; 2] {
    [times.last_access, times.last_modification].map(|time| {
        // SAFETY: a timespec is plain numbers, and padding on some targets, for which zero is a value.
        let mut spec: libc::timespec = unsafe { std::mem::zeroed() };
        (spec.tv_sec, spec.tv_nsec) = (time.tv_sec as _, time.tv_nsec as _);
        spec
    })
}
