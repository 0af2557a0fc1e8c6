//! The ids an ordinary user may map beside the own one, and why there may be none.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::id_map;
use crate::plan::Maps;

/// Why a user has no ids but one.
#[derive(Clone, Debug)]
pub(crate) enum Lack {
    /// None are granted, or a program to map them with is missing.
    Nothing(String),
    /// Somebody has granted them, in a way that nothing can be made of: they are never silently done without.
    Broken(String),
}

/// The maps of an ordinary user's containers: the own ids are root's inside, the granted ranges follow from 1 on.
pub(crate) fn maps(uid: u32, gid: u32) -> Result<Maps, Lack> {
    for program in ["newuidmap", "newgidmap"] {
        usable(program).map_err(Lack::Nothing)?;
    }
    let name = user_name(uid);
    let read = |file: &str, own: u32| {
        let nothing = |e: std::io::Error| Lack::Nothing(format!("{file}: {e}"));
        let source = fs::File::open(file).map_err(nothing)?;
        let ranges = id_map::subordinate(source, uid, name.as_deref()).map_err(nothing)?;
        if ranges.is_empty() {
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            return Err(Lack::Nothing(format!("{file} grants nothing to {who}")));
        }
        id_map::with_subordinate(file, own, &ranges).map_err(|error| match error {
            Error::Invalid { subject, reason } => Lack::Broken(format!("{subject}: {reason}")),
            other => Lack::Broken(other.to_string()),
        })
    };
    Ok(Maps { uids: read("/etc/subuid", uid)?, gids: read("/etc/subgid", gid)? })
}

/// Whether a program is there and has the right to map ids that are not its caller's.
fn usable(program: &str) -> Result<(), String> {
    let path = find_program(program).ok_or(format!("{program} is not installed (package uidmap)"))?;
    let meta = fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let setuid = meta.mode() & 0o4000 != 0 && meta.uid() == 0;
    match setuid || has_file_capability(&path) {
        true => Ok(()),
        false => Err(format!("{} has neither the setuid bit nor a file capability", path.display())),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin:/sbin".into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn has_file_capability(path: &Path) -> bool {
    rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64][..]).is_ok()
}

/// The name of a user of the host, as newuidmap looks it up.
fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    })
}
