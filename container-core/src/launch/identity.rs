//! Who the process is: ids found by name, the home directory, the working directory.

use std::ffi::CStr;

use crate::sys::raw::{Errno, Sys};
use crate::sys::{cred, fd, socket, thread};

use super::child::{Context, Done, Failure};

/// Most supplementary groups a user found by name may have.
pub(crate) const MOST_GROUPS: usize = 256;
/// Longest home directory.
pub(crate) const LONGEST_HOME: usize = 1024;
/// Bytes of an answer to [`Request::Identify`].
pub(crate) const ANSWER: usize = 16 + 4 * MOST_GROUPS + LONGEST_HOME;

/// Ids as the parent found them in the container's files.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: [u32; MOST_GROUPS],
    count: usize,
}

impl Identity {
    pub(crate) const fn new() -> Self {
        Self { uid: 0, gid: 0, groups: [0; MOST_GROUPS], count: 0 }
    }
}

/// Encodes the parent's answer: uid, gid, number of groups (at most [`MOST_GROUPS`]), length of home; then both.
pub(crate) fn encode(uid: u32, gid: u32, groups: &[u32], home: &[u8]) -> Vec<u8> {
    let home = if home.len() <= LONGEST_HOME { home } else { b"" };
    let mut answer = Vec::with_capacity(ANSWER);
    for word in [uid, gid, groups.len() as u32, home.len() as u32].iter().chain(groups) {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    answer.extend_from_slice(home);
    answer
}

/// Takes the answer in.
pub(super) fn receive(context: &mut Context) -> Sys<()> {
    let mut answer = [0u8; ANSWER];
    let (length, _) = socket::receive(context.channel, &mut answer)?;
    if length == 0 {
        thread::exit(127);
    }
    let word = |index: usize| {
        let bytes = answer.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    };
    let identity = &mut context.identity;
    (identity.uid, identity.gid) = (word(0), word(1));
    identity.count = (word(2) as usize).min(MOST_GROUPS);
    for (index, group) in identity.groups.iter_mut().take(identity.count).enumerate() {
        *group = word(4 + index);
    }
    let start = 16 + 4 * identity.count;
    let home = answer.get(start..start + word(3) as usize).unwrap_or_default();
    if !home.is_empty() {
        context.command.set_home(home);
    }
    Ok(())
}

/// Becomes whom the parent found.
pub(super) fn assume(context: &Context) -> Done {
    let identity = &context.identity;
    match cred::set_groups(identity.groups.get(..identity.count).unwrap_or_default()) {
        // A single-id map forbids it; then there are none to set.
        Err(Errno(libc::EPERM)) if identity.count == 0 => {}
        other => other?,
    }
    cred::set_group(identity.gid)?;
    cred::set_user(identity.uid)?;
    Ok(())
}

/// Looks the home directory up in the container's own `/etc/passwd`. `/` when it does not say: as all runtimes have it.
pub(super) fn find_home(context: &mut Context, uid: u32) {
    if context.command.has_home() {
        return;
    }
    let resolve = fd::RESOLVE_IN_ROOT | fd::RESOLVE_NO_MAGICLINKS;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let mut found = false;
    if let Ok(file) = fd::openat2(context.scratch.root, c"/etc/passwd", flags, 0, resolve) {
        let regular = fd::stat(file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        if regular {
            found = search(file, uid, context);
        }
        fd::close(file);
    }
    if !found {
        context.command.set_home(b"/");
    }
}

/// Reads line by line; lines longer than the buffer are passed over, as are files that never end.
fn search(file: i32, uid: u32, context: &mut Context) -> bool {
    let mut buffer = [0u8; 4096];
    let mut kept = 0;
    for _ in 0..4096 {
        let Some(room) = buffer.get_mut(kept..) else { return false };
        let Ok(length) = fd::read(file, room) else { return false };
        let end = kept + length;
        let mut start = 0;
        while let Some(line) = buffer.get(start..end) {
            let stop = line.iter().position(|byte| *byte == b'\n');
            let Some(stop) = stop.or((length == 0 && !line.is_empty()).then_some(line.len())) else { break };
            if let Some(home) = home_of(line.get(..stop).unwrap_or_default(), uid) {
                if home.is_empty() || home.len() > LONGEST_HOME {
                    return false;
                }
                context.command.set_home(home);
                return true;
            }
            start += stop + 1;
        }
        if length == 0 {
            return false;
        }
        // A line that fills the buffer has no end in sight: drop it.
        kept = if start == 0 && end == buffer.len() { 0 } else { end - start.min(end) };
        buffer.copy_within(start.min(end)..start.min(end) + kept, 0);
    }
    false
}

/// The home field of a passwd line about `uid`.
fn home_of(line: &[u8], uid: u32) -> Option<&[u8]> {
    let mut fields = line.split(|byte| *byte == b':');
    let number = fields.nth(2)?;
    let mut value: u32 = 0;
    for digit in number {
        value =
            value.checked_mul(10)?.checked_add(u32::from(digit.checked_sub(b'0').filter(|d| *d < 10)?))?;
    }
    if number.is_empty() || value != uid {
        return None;
    }
    fields.nth(2)
}

/// Makes a working directory that the image lacks. That it cannot be made shows when it is entered.
pub(super) fn make_working_directory(context: &Context, path: &CStr) {
    let target = super::path::make_directories(context.scratch.root, path);
    let _ = target.map(fd::close);
}

/// Makes a missing working directory, which is then the user's: `ids`, or who was found by name.
pub(super) fn make_own_working_directory(context: &Context, path: &CStr, ids: Option<(u32, u32)>) -> Done {
    match super::path::open(context.scratch.root, path) {
        Ok(there) => fd::close(there),
        Err(Errno(libc::ENOENT)) => {
            let made = super::path::make_directories(context.scratch.root, path)?;
            let (uid, gid) = ids.unwrap_or((context.identity.uid, context.identity.gid));
            // Where the id is not mapped, or the file system knows no owners, it stays root's.
            let _ = fd::chown(made, uid, gid);
            fd::close(made);
        }
        // Perhaps the user may enter what root of this namespace may not even look at.
        Err(Errno(libc::EACCES)) => {}
        Err(errno) => return Err(Failure::from(errno)),
    }
    Ok(())
}

/// Enters the working directory: either of root and the container's user may be the one who can. A directory reached by a magic
/// link would be one of the host's.
pub(super) fn enter_working_directory(context: &mut Context, path: &CStr, last: bool) -> Done {
    if context.scratch.in_working_directory {
        return Ok(());
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let entered = fd::openat2(fd::CWD, path, flags, 0, fd::RESOLVE_NO_MAGICLINKS).and_then(|directory| {
        let result = fd::fchdir(directory);
        fd::close(directory);
        result
    });
    match entered {
        Ok(()) => context.scratch.in_working_directory = true,
        Err(Errno(libc::EACCES)) if !last => {}
        Err(errno) => return Err(Failure::from(errno)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::home_of;

    #[test]
    fn passwd_lines() {
        assert_eq!(home_of(b"app:x:1000:1000:App:/home/app:/bin/sh", 1000), Some(&b"/home/app"[..]));
        assert_eq!(home_of(b"app:x:1000:1000:App:/home/app:/bin/sh", 1), None);
        assert_eq!(home_of(b"app:x:-1:1000:App:/home/app:/bin/sh", 1), None);
        assert_eq!(home_of(b"app:x:99999999999:1:::", 1), None);
        assert_eq!(home_of(b"broken", 0), None);
        assert_eq!(home_of(b"root:x:0:0:root", 0), None);
    }
}
