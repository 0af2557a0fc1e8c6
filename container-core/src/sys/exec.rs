//! The argument vectors of execve, prepared before the clone, and the call itself.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr::null;

use super::raw::{Errno, Sys, syscall};

/// How many strings a chain of script interpreters can put in front: two for each of the kernel's four levels.
const SPARE: usize = 10;
/// Room for what those strings are.
const TEXT: usize = 10 * 1024;
const HOME: &[u8] = b"HOME=";

/// argv and envp as execve takes them, with room in front of the one and at the end of the other.
#[derive(Debug)]
pub(crate) struct Vectors {
    /// Owns what the pointers point to.
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    /// Where argv begins: `SPARE` minus what was put in front.
    first: usize,
    envp: Vec<*const c_char>,
    home: [u8; 1024 + HOME.len() + 1],
    has_home: bool,
    text: [u8; TEXT],
    text_used: usize,
}

// SAFETY: the pointers point into strings and buffers that this value owns (a CString's bytes do not move with it).
unsafe impl Send for Vectors {}

impl Vectors {
    /// Prepares both vectors. `has_home`: the environment names HOME already.
    pub(crate) fn new(args: &[CString], env: &[CString]) -> Self {
        let strings: Vec<CString> = args.iter().chain(env).cloned().collect();
        let (args, env) = strings.split_at(args.len());
        let mut argv = vec![null(); SPARE];
        argv.extend(args.iter().map(|arg| arg.as_ptr()));
        argv.push(null());
        let mut envp: Vec<_> = env.iter().map(|entry| entry.as_ptr()).collect();
        // The last place but one is HOME's.
        envp.extend([null(), null()]);
        let has_home = env.iter().any(|entry| entry.to_bytes().starts_with(HOME));
        Self {
            argv,
            first: SPARE,
            envp,
            home: [0; 1024 + HOME.len() + 1],
            has_home,
            text: [0; TEXT],
            text_used: 0,
            _strings: strings,
        }
    }

    pub(crate) fn has_home(&self) -> bool {
        self.has_home
    }

    /// Adds HOME to the environment. What is longer than the buffer is left out.
    pub(crate) fn set_home(&mut self, home: &[u8]) {
        if self.has_home || home.len() > 1024 {
            return;
        }
        for (to, from) in self.home.iter_mut().zip(HOME.iter().chain(home).chain(&[0])) {
            *to = *from;
        }
        self.has_home = true;
    }

    /// Keeps a string for as long as these vectors live.
    fn keep(&mut self, bytes: &[u8]) -> Sys<*const c_char> {
        let end = self.text_used + bytes.len() + 1;
        let Some(room) = self.text.get_mut(self.text_used..end) else { return Err(Errno(libc::E2BIG)) };
        for (to, from) in room.iter_mut().zip(bytes.iter().chain(&[0])) {
            *to = *from;
        }
        self.text_used = end;
        Ok(room.as_ptr().cast())
    }

    /// Makes `interpreter` the command and the script its argument, as the kernel does: `interpreter [argument] script ...`.
    pub(crate) fn interpret(
        &mut self,
        script: &[u8],
        interpreter: &[u8],
        argument: Option<&[u8]>,
    ) -> Sys<()> {
        let script = self.keep(script)?;
        if let Some(first) = self.argv.get_mut(self.first) {
            *first = script;
        }
        if let Some(argument) = argument {
            let argument = self.keep(argument)?;
            self.push_front(argument)?;
        }
        let interpreter = self.keep(interpreter)?;
        self.push_front(interpreter)
    }

    fn push_front(&mut self, pointer: *const c_char) -> Sys<()> {
        let before = self.first.checked_sub(1).ok_or(Errno(libc::ELOOP))?;
        if let Some(place) = self.argv.get_mut(before) {
            *place = pointer;
        }
        self.first = before;
        Ok(())
    }

    fn finish(&mut self) -> (*const *const c_char, *const *const c_char) {
        let home = self.home.as_ptr().cast();
        let last = self.envp.len() - 2;
        if self.home[0] != 0
            && let Some(place) = self.envp.get_mut(last)
        {
            *place = home;
        }
        (self.argv.as_ptr().wrapping_add(self.first), self.envp.as_ptr())
    }

    /// Executes the file behind `fd`. Returns only on failure.
    pub(crate) fn exec_descriptor(&mut self, fd: i32) -> Errno {
        let (argv, envp) = self.finish();
        // SAFETY: both vectors end in null and point to NUL-terminated strings that live as long as `self`.
        let failed =
            unsafe { syscall!(libc::SYS_execveat, fd, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH) };
        failed.err().unwrap_or(Errno(libc::EINVAL))
    }

    /// Executes the file behind `fd` with `name` in front of the arguments. Returns only on failure.
    pub(crate) fn exec_behind(&mut self, name: &'static CStr, fd: i32) -> Errno {
        match self.push_front(name.as_ptr()) {
            Ok(()) => self.exec_descriptor(fd),
            Err(errno) => errno,
        }
    }

    /// Executes the file at `path`. Returns only on failure.
    pub(crate) fn exec_path(&mut self, path: &CStr) -> Errno {
        let (argv, envp) = self.finish();
        // SAFETY: as above.
        let failed = unsafe { syscall!(libc::SYS_execve, path.as_ptr(), argv, envp) };
        failed.err().unwrap_or(Errno(libc::EINVAL))
    }
}

/// May the calling process execute the file behind `fd`?
pub(crate) fn may_execute(fd: i32) -> Sys<()> {
    // SAFETY: the path is a literal.
    unsafe {
        syscall!(libc::SYS_faccessat2, fd, c"".as_ptr(), libc::X_OK, libc::AT_EMPTY_PATH | libc::AT_EACCESS)
    }
    .map(drop)
}
