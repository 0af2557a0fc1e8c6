//! Finding and running the command.
//!
//! The file is opened once, inside, by a walk that follows no magic link, and executed by its descriptor. So neither the command
//! nor the interpreter of a script can be `/proc/self/exe`: at that moment it would be the host program's own binary, which a
//! container must not get to run (and later open for writing). A script's first line is read here for the same reason: the kernel
//! would resolve it by its own rules. That a file changes its nature between being looked at and being run is harmless: the kernel
//! refuses to run a script from a close-on-exec descriptor.

use std::ffi::{CStr, CString};

use crate::plan::Program;
use crate::sys::exec::{Vectors, may_execute};
use crate::sys::fd;
use crate::sys::raw::{Errno, Sys};

use super::child::{Context, Done, Failure, announce};
use super::init;

/// In [`Failure::detail`]: no candidate is there, or none may be run. The text names the last one tried.
pub(crate) const LOOKUP: u32 = 1;
/// In [`Failure::detail`]: the interpreter a script asks for; the text names it.
pub(crate) const INTERPRETER: u32 = 2;
/// In [`Failure::detail`]: the kernel refused to run the file; the text names it.
pub(crate) const EXEC: u32 = 3;

/// Scripts run by scripts: as deep as the kernel goes.
const MOST_SCRIPTS: usize = 4;
/// What the kernel reads of a file to see what it is.
const HEADER: usize = 256;

#[cfg(target_arch = "x86_64")]
const MACHINES: [u16; 2] = [62, 3];
#[cfg(target_arch = "aarch64")]
const MACHINES: [u16; 2] = [183, 40];

/// The command of a launch, with what is found out about it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) vectors: Vectors,
    candidates: Vec<CString>,
    pub(super) by_descriptor: bool,
    keeps_name: bool,
    found: Option<usize>,
    pub(super) file: i32,
    foreign: bool,
}

impl Command {
    pub(crate) fn new(program: &Program) -> Self {
        Self {
            vectors: Vectors::new(&program.argv, &program.env),
            candidates: program.candidates.clone(),
            by_descriptor: program.by_descriptor,
            keeps_name: program.keeps_name,
            found: None,
            file: -1,
            foreign: false,
        }
    }

    pub(super) fn has_home(&self) -> bool {
        self.vectors.has_home()
    }

    pub(super) fn set_home(&mut self, home: &[u8]) {
        self.vectors.set_home(home);
    }

    /// The path that it was found at.
    pub(super) fn path(&self) -> &CStr {
        self.candidates.get(self.found.unwrap_or(0)).map(CString::as_c_str).unwrap_or_default()
    }

    /// An emulator gets the program by its path /dev/fd/N, so the descriptor has to stay open. Only while nobody is inside: a
    /// file that turns into a script now would be run by whatever interpreter it names.
    pub(super) fn may_need_its_file(&self) -> bool {
        self.by_descriptor && self.foreign && self.keeps_name
    }
}

/// Finds the file to run: the first candidate that is a regular file and may be executed.
pub(super) fn locate(context: &mut Context) -> Done {
    let mut refused = Errno(libc::ENOENT);
    for index in 0..context.command.candidates.len() {
        let Some(path) = context.command.candidates.get(index) else { break };
        match open_program(path) {
            Ok(file) => {
                context.command.found = Some(index);
                return open_interpreter(context, index, file);
            }
            Err(errno) => {
                // As execvp: a file that may not be run counts only when no other is found.
                if errno.0 != libc::ENOENT && errno.0 != libc::ENOTDIR {
                    refused = errno;
                }
                let words = path.to_bytes();
                for (to, from) in context.scratch.text.iter_mut().zip(words.iter().chain(&[0])) {
                    *to = *from;
                }
            }
        }
    }
    Err(Failure { errno: refused.0, detail: LOOKUP })
}

fn open_program(path: &CStr) -> Sys<i32> {
    let file = fd::openat2(fd::CWD, path, libc::O_PATH, 0, fd::RESOLVE_NO_MAGICLINKS)?;
    let checked = fd::stat(file).and_then(|stat| match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => may_execute(file),
        _ => Err(Errno(libc::EACCES)),
    });
    match checked {
        Ok(()) => Ok(file),
        Err(errno) => {
            fd::close(file);
            Err(errno)
        }
    }
}

/// Follows a script's first line to the program that runs it.
fn open_interpreter(context: &mut Context, index: usize, mut file: i32) -> Done {
    let mut header = [0u8; HEADER];
    let mut path = [0u8; HEADER];
    for level in 0..=MOST_SCRIPTS {
        let candidate = context.command.candidates.get(index).map(CString::as_c_str).unwrap_or_default();
        let name = if level == 0 { candidate } else { CStr::from_bytes_until_nul(&path).unwrap_or_default() };
        let length = read_header(name, &mut header);
        let head = header.get(..length).unwrap_or_default();
        let Some((interpreter, argument)) = shebang(head) else {
            context.command.foreign = is_foreign(head);
            // A program behind a link goes by the link's name (busybox and its applets): the kernel takes the name from the
            // path it is given, and from the file when it is given a descriptor.
            let link = level == 0 && fd::stat_at(fd::CWD, candidate).is_ok_and(is_link);
            context.command.by_descriptor &= !(link && context.command.keeps_name);
            break;
        };
        // A filter that refuses execveat: the kernel resolves path and interpreter, by its own rules.
        if !context.command.by_descriptor {
            break;
        }
        fd::close(file);
        if level == MOST_SCRIPTS {
            return Err(Failure { errno: libc::ELOOP, detail: INTERPRETER });
        }
        context.command.vectors.interpret(name.to_bytes(), interpreter, argument)?;
        path = [0; HEADER];
        for (to, from) in path.iter_mut().zip(interpreter) {
            *to = *from;
        }
        let opened = open_program(CStr::from_bytes_until_nul(&path).unwrap_or_default());
        match opened {
            Ok(opened) => file = opened,
            Err(errno) => {
                context.note(&path);
                return Err(Failure { errno: errno.0, detail: INTERPRETER });
            }
        }
    }
    // Descriptors that are passed on get low numbers: out of their way.
    if file < context.above {
        let moved = fd::duplicate_above(file, context.above)?;
        fd::close(file);
        file = moved;
    }
    context.command.file = file;
    Ok(())
}

fn is_link(stat: libc::stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFLNK
}

/// The first bytes of a file; none when it cannot be read, which no script may.
fn read_header(path: &CStr, header: &mut [u8]) -> usize {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let Ok(file) = fd::openat2(fd::CWD, path, flags, 0, fd::RESOLVE_NO_MAGICLINKS) else { return 0 };
    let length = fd::read(file, header).unwrap_or(0);
    fd::close(file);
    length
}

/// Interpreter and argument of a script's first line, cut as the kernel does: one argument, blanks at its ends dropped.
fn shebang(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n' || *byte == 0).next()?.trim_ascii();
    let end = line.iter().position(|byte| *byte == b' ' || *byte == b'\t').unwrap_or(line.len());
    let (interpreter, argument) = line.split_at_checked(end)?;
    let argument = argument.trim_ascii();
    (!interpreter.is_empty()).then_some((interpreter, (!argument.is_empty()).then_some(argument)))
}

/// A program of another machine, which binfmt_misc may know how to run.
fn is_foreign(head: &[u8]) -> bool {
    let machine = head.get(18..20).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    head.starts_with(b"\x7fELF") && machine.is_some_and(|machine| !MACHINES.contains(&machine))
}

/// Becomes the command. Returns only on failure.
pub(super) fn exec(context: &mut Context) -> Failure {
    if let Err(errno) = announce(context) {
        return errno.into();
    }
    if let Some(init) = &context.init {
        let file = init.file;
        return init::exec(context, file);
    }
    let command = &mut context.command;
    let errno = if command.by_descriptor {
        let mut errno = command.vectors.exec_descriptor(command.file);
        if errno.0 == libc::ENOENT
            && command.may_need_its_file()
            && fd::install(command.file, command.file).is_ok()
        {
            errno = command.vectors.exec_descriptor(command.file);
        }
        errno
    } else {
        let index = command.found.unwrap_or(0);
        let vectors = &mut command.vectors;
        match command.candidates.get(index) {
            Some(path) => vectors.exec_path(path),
            None => Errno(libc::ENOENT),
        }
    };
    let mut header = [0u8; LOADER_HEADER];
    if errno.0 == libc::ENOENT
        // The file is there: what is missing is the loader it names.
        && let Some(loader) = loader_of(context.command.path(), &mut header)
    {
        context.note(loader);
        return Failure { errno: errno.0, detail: INTERPRETER };
    }
    let path = context.command.path();
    for (to, from) in context.scratch.text.iter_mut().zip(path.to_bytes_with_nul()) {
        *to = *from;
    }
    Failure { errno: errno.0, detail: EXEC }
}

/// As much of a program as usually holds its program headers and the name of its loader.
pub(super) const LOADER_HEADER: usize = 4096;

/// The dynamic loader that the program at `path` asks for.
pub(super) fn loader_of<'a>(path: &CStr, header: &'a mut [u8; LOADER_HEADER]) -> Option<&'a [u8]> {
    let length = read_header(path, header);
    loader(header.get(..length)?)
}

/// The dynamic loader that a 64-bit program asks for (PT_INTERP).
fn loader(head: &[u8]) -> Option<&[u8]> {
    const INTERP: u32 = 3;
    let word = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let half = |at: usize| head.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (word(32)? as usize, usize::from(half(54)?), usize::from(half(56)?));
    (0..count).find_map(|index| {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let kind = head.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)?;
        let start = word(at.checked_add(8)?)? as usize;
        let length = word(at.checked_add(32)?)? as usize;
        let name = head.get(start..start.checked_add(length)?).filter(|_| kind == INTERP)?;
        name.split(|byte| *byte == 0).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_of_programs() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let named = loader(&own[..own.len().min(LOADER_HEADER)]).map(String::from_utf8_lossy);
        assert!(named.is_none_or(|name| name.starts_with('/') && name.contains("ld")));
        assert_eq!(loader(b"#!/bin/sh"), None);
        assert_eq!(loader(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn first_lines_of_scripts() {
        assert_eq!(shebang(b"#!/bin/sh\nexit"), Some((&b"/bin/sh"[..], None)));
        assert_eq!(
            shebang(b"#! /usr/bin/env -S a b \nx"),
            Some((&b"/usr/bin/env"[..], Some(&b"-S a b"[..])))
        );
        assert_eq!(shebang(b"#!\n"), None);
        assert_eq!(shebang(b"\x7fELF"), None);
        assert_eq!(shebang(b"#!/bin/sh"), Some((&b"/bin/sh"[..], None)));
    }
}
