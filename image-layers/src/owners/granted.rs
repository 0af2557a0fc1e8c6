//! The ids that an ordinary user may use beside the own one, and a user namespace in which all of them are mapped.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::hand::Hand;

use super::maps::{IdMaps, IdRange};

/// Why there are no ids beside the own one.
#[derive(Clone, Debug)]
pub(super) enum Lack {
    /// None are granted, or what makes use of them is not installed.
    Nothing(String),
    /// They are granted in a way that nothing can be made of.
    Broken(String),
}

/// The maps of the calling user's containers: the own id is root inside, the granted ones follow from 1 on.
pub(super) fn maps() -> Result<IdMaps, Lack> {
    let [uids, gids] = granted()?;
    let follow = |own: u32, ranges: Vec<(u32, u32)>| {
        let mut next = 1u32;
        let mut all = vec![IdRange::new(0, own, 1)];
        for (start, count) in ranges {
            let count = count.min(u32::MAX - 1 - next);
            all.push(IdRange::new(next, start, count));
            next += count;
        }
        all
    };
    let (uid, gid) = own();
    Ok(IdMaps::new(follow(uid, uids), follow(gid, gids)))
}

/// Whether files can be given to all ids of these maps.
pub(super) fn require(maps: &IdMaps) -> Result<(), String> {
    let [uids, gids] = granted().map_err(|lack| match lack {
        Lack::Nothing(reason) | Lack::Broken(reason) => reason,
    })?;
    let (uid, gid) = own();
    for (file, own, granted, wanted) in
        [("/etc/subuid", uid, uids, maps.uids()), ("/etc/subgid", gid, gids, maps.gids())]
    {
        let is_granted = |range: &IdRange| {
            (range.outside, range.count) == (own, 1)
                || granted.iter().any(|&(start, count)| {
                    range.outside >= start
                        && u64::from(range.outside) + u64::from(range.count)
                            <= u64::from(start) + u64::from(count)
                })
        };
        if let Some(IdRange { outside, count, .. }) = wanted.iter().find(|range| !is_granted(range)) {
            return Err(format!("{file} does not grant the {count} ids from {outside} on"));
        }
    }
    namespace().map(drop)
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The granted ranges of user and group ids, as start and count.
fn granted() -> Result<[Vec<(u32, u32)>; 2], Lack> {
    for program in ["newuidmap", "newgidmap"] {
        usable(program).map_err(Lack::Nothing)?;
    }
    let (uid, gid) = own();
    let name = user_name(uid);
    let read = |file: &str, own: u32| {
        let text = fs::read(file).map_err(|e| Lack::Nothing(format!("{file}: {e}")))?;
        let ranges = ranges(&text, uid, name.as_deref());
        let mut sorted = ranges.clone();
        sorted.push((own, 1));
        sorted.sort_unstable();
        if ranges.is_empty() {
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            return Err(Lack::Nothing(format!("{file} grants nothing to {who}")));
        }
        match sorted.windows(2).find(|pair| pair[1].0 - pair[0].0 < pair[0].1) {
            Some(pair) => Err(Lack::Broken(format!(
                "{file}: the ids from {} and those from {} on overlap",
                pair[0].0, pair[1].0
            ))),
            None => Ok(ranges),
        }
    };
    Ok([read("/etc/subuid", uid)?, read("/etc/subgid", gid)?])
}

/// Whether a program is there and has the right to map ids that are not its caller's.
fn usable(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    let found: Option<(PathBuf, fs::Metadata)> = std::env::split_paths(&path).find_map(|dir| {
        let path = dir.join(program);
        let info = fs::metadata(&path).ok()?;
        (info.is_file() && info.permissions().mode() & 0o111 != 0).then_some((path, info))
    });
    let (path, info) = found.ok_or_else(|| format!("{program} is not installed (package uidmap)"))?;
    let may = (info.mode() & 0o4000 != 0 && info.uid() == 0)
        || rustix::fs::getxattr(&path, "security.capability", &mut [0u8; 64][..]).is_ok();
    match may {
        true => Ok(()),
        false => Err(format!("{} has neither the setuid bit nor a file capability", path.display())),
    }
}

/// The name of a user, as newuidmap looks it up.
fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Lines of the form `user:start:count`, the user by name or number (`subuid(5)`).
fn ranges(text: &[u8], uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let line = |line: &[u8]| {
        let mut fields = std::str::from_utf8(line).ok()?.trim().split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count) = (start.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        let ours = (owner == number || Some(owner) == name) && fields.next().is_none();
        (ours && count > 0 && start.checked_add(count).is_some()).then_some((start, count))
    };
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

/// A namespace, and who made it.
type Known = Option<((u32, u32), Arc<OwnedFd>)>;

/// A user namespace in which the own id and all granted ones are mapped to themselves; the own one alone where none are granted,
/// which lets a hand into directories of the caller that lock their owner out. Making one takes two programs and some
/// milliseconds, so it is made once. It is held by a descriptor alone: nobody is in it.
pub(super) fn namespace() -> Result<Arc<OwnedFd>, String> {
    static KNOWN: Mutex<Known> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = own();
    if let Some((owner, namespace)) = known.as_ref()
        && *owner == own
    {
        return Ok(namespace.clone());
    }
    let member = Hand::start(None).map_err(|e| format!("a user namespace cannot be made: {e}"))?;
    // Whatever makes this program untraceable for a moment, as a container that is being started by another thread may, makes its
    // files in /proc root's, and the helpers ask whose they are.
    let is_ours = || fs::metadata(format!("/proc/{}", member.pid())).is_ok_and(|info| info.uid() == own.0);
    for _ in 0..100 {
        if is_ours() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    match granted() {
        Ok(ranges) => map_all(member.pid(), own, ranges)?,
        Err(_) => map_own(member.pid(), own).map_err(|e| format!("the own id cannot be mapped: {e}"))?,
    }
    let opened: io::Result<OwnedFd> =
        File::open(format!("/proc/{}/ns/user", member.pid())).map(OwnedFd::from);
    let namespace = Arc::new(opened.map_err(|e| format!("a user namespace cannot be opened: {e}"))?);
    *known = Some((own, namespace.clone()));
    Ok(namespace)
}

fn map_own(pid: i32, own: (u32, u32)) -> io::Result<()> {
    let files = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{0} {0} 1", own.0)),
        ("gid_map", format!("{0} {0} 1", own.1)),
    ];
    files.into_iter().try_for_each(|(name, text)| fs::write(format!("/proc/{pid}/{name}"), text))
}

/// By the helpers, side by side.
fn map_all(pid: i32, own: (u32, u32), [uids, gids]: [Vec<(u32, u32)>; 2]) -> Result<(), String> {
    let helpers = [("newuidmap", own.0, uids), ("newgidmap", own.1, gids)].map(|(program, own, ranges)| {
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for (start, count) in [(own, 1)].into_iter().chain(ranges) {
            command.args([start, start, count].map(|number| number.to_string()));
        }
        (program, command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn())
    });
    for (program, helper) in helpers {
        let words = match helper.and_then(|helper| helper.wait_with_output()) {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            // A program that ignores its children cannot wait for this one. What it did can be seen.
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => String::new(),
            Err(e) => return Err(format!("{program}: {e}")),
        };
        let map = if program == "newuidmap" { "uid_map" } else { "gid_map" };
        let text = fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap_or_default();
        if text.trim().is_empty() {
            return Err(format!("{program} did not map the granted ids: {words}"));
        }
    }
    Ok(())
}

/// A hand in that namespace.
pub(super) fn hand() -> Result<Hand, String> {
    let namespace = namespace()?;
    Hand::start(Some(namespace.as_fd())).map_err(|e| format!("a user namespace cannot be entered: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_by_name_and_number() {
        let text = b"root:1:2\ntester:100000:65536\n\n# no\ntester:1:\n1500:300000:1000\ntester:5:0\ntester:4294967295:5\n\xff:1:1\ntester:1:2:3\n";
        assert_eq!(ranges(text, 1500, Some("tester")), [(100_000, 65536), (300_000, 1000)]);
        assert_eq!(ranges(text, 7, None), []);
    }
}
