//! User namespaces: writing their id maps, and making one for the owners of an idmapped mount.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};

use super::launcher::{self, Surroundings};
use super::shield::Shield;
use super::{serve, wiring};
use crate::error::{Error, Result};
use crate::id_map::{self, IdMapping};
use crate::plan::{Maps, Plan};
use crate::step::Step;
use crate::sys::clone::{CLONE_CLEAR_SIGHAND, CloneArgs, Cradle, Main};
use crate::sys::cred;

/// Writes the maps of process `pid`, which is alone in its new user namespace.
pub(super) fn write(pid: i32, maps: &Maps) -> Result<()> {
    let privileged = may_map_all();
    let own = |list: &[IdMapping], id: u32| matches!(list, [only] if only.size == 1 && only.host_id == id);
    let single = own(&maps.uids, rustix::process::geteuid().as_raw())
        && own(&maps.gids, rustix::process::getegid().as_raw());
    if privileged || single {
        // Root writes whoever the files belong to; and it must not lift the shield of another launch.
        if !rustix::process::geteuid().is_root() {
            Shield::restore_for_now();
        }
        // Without rights a map of groups is taken only once nobody inside can drop groups any more.
        if !privileged {
            write_file(pid, "setgroups", "deny")?;
        }
        write_file(pid, "uid_map", &id_map::lines(&maps.uids)).map_err(|error| explain_root(error, maps))?;
        return write_file(pid, "gid_map", &id_map::lines(&maps.gids));
    }
    by_helpers(pid, maps)
}

/// The rights to map ids other than the own ones.
fn may_map_all() -> bool {
    const SETGID: u64 = 1 << 6;
    const SETUID: u64 = 1 << 7;
    holds(SETGID | SETUID)
}

/// Are all of these capabilities, one bit each, effective?
fn holds(capabilities: u64) -> bool {
    cred::capabilities().is_ok_and(|(effective, _)| effective & capabilities == capabilities)
}

/// The kernel lets nobody map the root of his own namespace without CAP_SETFCAP (Linux 5.12): root inside could make programs that
/// have file capabilities outside.
fn explain_root(error: Error, maps: &Maps) -> Error {
    const SETFCAP: u64 = 1 << 31;
    if error.errno() == Some(libc::EPERM) && !holds(SETFCAP) && maps.uids.iter().any(|map| map.host_id == 0) {
        return Error::unsupported(
            "a user namespace that maps user 0 of the one this program is in",
            "it takes CAP_SETFCAP, which this program lacks: run it with that capability or as another user id",
        );
    }
    error
}

fn write_file(pid: i32, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{name}");
    let attempt = || File::options().write(true).open(&path)?.write_all(value.as_bytes());
    let mut tries = 0;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            // Another launch of this program may just have made its files in /proc root's for a moment.
            Err(e)
                if e.raw_os_error() == Some(libc::EACCES)
                    && tries < 100
                    && !rustix::process::geteuid().is_root() =>
            {
                tries += 1;
                Shield::restore_for_now();
                std::thread::yield_now();
            }
            Err(e) => {
                return Err(Error::setup(
                    Step::MapIds,
                    format!("{name}: {}", value.trim().replace('\n', ", ")),
                    e,
                ));
            }
        }
    }
}

/// Ranges that were granted to an ordinary user are mapped by helpers that may, side by side: neither needs the other.
fn by_helpers(pid: i32, maps: &Maps) -> Result<()> {
    const MOST_TRIES: usize = 50;
    let mut left = vec![("newuidmap", "uid_map", &maps.uids), ("newgidmap", "gid_map", &maps.gids)];
    let mut tries = 0;
    loop {
        Shield::restore_for_now();
        let running: Vec<_> =
            left.iter().map(|&(program, _, maps)| (program, spawn(program, pid, maps))).collect();
        let results: Vec<_> = running.into_iter().map(|(program, child)| finish(program, child?)).collect();
        left.retain(|(_, file, _)| {
            std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default().trim().is_empty()
        });
        if left.is_empty() {
            return Ok(());
        }
        tries += 1;
        // Another launch of this program may just have made our files in /proc root's, and the helpers ask whose they are.
        if tries == MOST_TRIES || !Shield::is_shared() {
            let refused = results.into_iter().find_map(Result::err);
            return Err(refused.unwrap_or_else(|| {
                let words = format!("{}: the map is still empty", left[0].0);
                Error::setup(Step::MapIds, words, std::io::Error::from(std::io::ErrorKind::PermissionDenied))
            }));
        }
    }
}

fn spawn(program: &str, pid: i32, maps: &[IdMapping]) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.container_id.to_string(), map.host_id.to_string(), map.size.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::unsupported(
            "a map of several ids",
            format!("{program} is not installed (package uidmap); an ordinary user may map only the own id"),
        ),
        _ => Error::setup(Step::MapIds, program, e),
    })
}

fn finish(program: &str, helper: Child) -> Result<()> {
    match helper.wait_with_output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            Err(Error::setup(Step::MapIds, format!("{program}: {words}"), source))
        }
        // A program that ignores its children cannot wait for this one; what it did can be seen.
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => Ok(()),
        Err(e) => Err(Error::setup(Step::MapIds, program, e)),
    }
}

/// A process that only holds a namespace open until it is killed.
#[derive(Debug)]
struct Holder;

impl Main for Holder {
    fn main(&mut self) -> ! {
        loop {
            let _ = crate::sys::fd::wait_for_ever();
        }
    }
}

/// A user namespace with these maps, for an idmapped mount. Gives its descriptor.
pub(super) fn user_namespace(maps: &Maps) -> Result<i32> {
    let failed = |e: std::io::Error| Error::setup(Step::Idmap, "a mount: its user namespace", e);
    let mut cradle = Cradle::new(Holder).map_err(failed)?;
    let flags = libc::CLONE_NEWUSER as u64 | CLONE_CLEAR_SIGHAND;
    let args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let pid = launcher::reserve(Surroundings::Host, false)?.begin(cradle.ready(args), None).wait()?;
    let pidfd = wiring::adopt(cradle.born().pidfd());
    let opened = write(pid, maps).and_then(|()| {
        let file = File::open(format!("/proc/{pid}/ns/user")).map_err(failed)?;
        crate::sys::fd::duplicate_above(file.as_raw_fd(), 3).map_err(|errno| failed(errno.into()))
    });
    serve::put_down(pidfd.as_fd());
    opened
}

/// Why a clone failed, where a setting of the host is the reason.
pub(super) fn explain_clone(error: Error, plan: &Plan) -> Error {
    if plan.clone_flags & libc::CLONE_NEWUSER as u64 == 0 {
        return error;
    }
    let refused = matches!(error.errno(), Some(libc::EPERM | libc::ENOSPC | libc::EACCES));
    if refused && let Some((setting, file)) = crate::host::forbidding_setting() {
        return Error::UserNamespacesForbidden { setting, file };
    }
    error
}
