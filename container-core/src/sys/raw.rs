//! System calls without the C library: no `errno`, no cancellation points, nothing thread-local.
#![allow(unsafe_code)]

use std::ffi::c_long;

/// An error number as the kernel returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// What a system call gives: a non-negative number or an error number.
pub(crate) type Sys<T = usize> = Result<T, Errno>;

/// Makes a system call.
///
/// # Safety
/// The arguments must be what the call expects; memory they point to must be valid for as long as the kernel uses it.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn invoke(number: c_long, args: [usize; 6]) -> Sys {
    let result: isize;
    // SAFETY: the x86_64 kernel convention: number in rax, arguments in rdi, rsi, rdx, r10, r8, r9; rcx and r11 are lost.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    check(result)
}

/// Makes a system call.
///
/// # Safety
/// The arguments must be what the call expects; memory they point to must be valid for as long as the kernel uses it.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(crate) unsafe fn invoke(number: c_long, args: [usize; 6]) -> Sys {
    let result: isize;
    // SAFETY: the aarch64 kernel convention: number in x8, arguments in x0 to x5, result in x0.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number as usize,
            inlateout("x0") args[0] => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack)
        );
    }
    check(result)
}

/// Splits the kernel's answer: the last page of numbers are error numbers.
pub(crate) fn check(result: isize) -> Sys {
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// `syscall!(SYS_x, a, b)`: fills up with zeros and converts each argument with `as usize`.
macro_rules! syscall {
    ($number:expr $(,)?) => { $crate::sys::raw::invoke($number, [0; 6]) };
    ($number:expr, $a:expr $(,)?) => { $crate::sys::raw::invoke($number, [$a as usize, 0, 0, 0, 0, 0]) };
    ($number:expr, $a:expr, $b:expr $(,)?) => {
        $crate::sys::raw::invoke($number, [$a as usize, $b as usize, 0, 0, 0, 0])
    };
    ($number:expr, $a:expr, $b:expr, $c:expr $(,)?) => {
        $crate::sys::raw::invoke($number, [$a as usize, $b as usize, $c as usize, 0, 0, 0])
    };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr $(,)?) => {
        $crate::sys::raw::invoke($number, [$a as usize, $b as usize, $c as usize, $d as usize, 0, 0])
    };
    ($number:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr $(,)?) => {
        $crate::sys::raw::invoke($number, [$a as usize, $b as usize, $c as usize, $d as usize, $e as usize, 0])
    };
}
pub(crate) use syscall;
