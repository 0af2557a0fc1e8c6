//! Making a group's directory in one hierarchy, and what it needs before a process may enter.

use rustix::io::Errno;

use crate::controller::{Controller, Controllers};
use crate::dir::Dir;
use crate::error::{Error, Result};

/// Makes the last component of `path`, and those before it that do not exist. Returns how many were made.
pub(crate) fn make_path(root: &Dir, path: &str) -> Result<usize> {
    let create_error = |path: &str, errno: Errno| match errno {
        Errno::EXIST => Error::Exists { path: root.path_of(path) },
        errno => Error::Create { path: root.path_of(path), source: errno.into() },
    };
    if path.is_empty() {
        return Err(create_error(path, Errno::EXIST));
    }
    // Parents made by one group may be removed by another one that goes away: then start again.
    for _ in 0..16 {
        match root.make(path) {
            Ok(()) => return Ok(1),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(create_error(path, errno)),
        }
        let mut made = 0;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let step = |end: usize| match root.make(&path[..end]) {
            Ok(()) => {
                made += 1;
                Ok(())
            }
            Err(Errno::EXIST) if end < path.len() => Ok(()),
            Err(errno) => Err((end, errno)),
        };
        match { ends }.try_for_each(step) {
            Ok(()) => return Ok(made),
            Err((end, errno)) => {
                undo(root, path, end, made);
                if errno != Errno::NOENT {
                    return Err(create_error(&path[..end], errno));
                }
            }
        }
    }
    Err(create_error(path, Errno::NOENT))
}

/// Removes the `made` parents before the component that ends at `end`.
fn undo(root: &Dir, path: &str, end: usize, made: usize) {
    let mut parent = &path[..end];
    for _ in 0..made {
        let Some((shorter, _)) = parent.rsplit_once('/') else { break };
        let _ = root.remove(shorter);
        parent = shorter;
    }
}

/// Hands `wanted` down from the top of `path` to its last component, level by level. Returns what could not be handed
/// down: whether that matters is for the limit to say that needs it.
pub(crate) fn enable(root: &Dir, path: &str, wanted: Controllers) -> Result<Vec<(Controller, Errno)>> {
    let mut buffer = Vec::new();
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let file = |level: &str| {
        if level.is_empty() {
            "cgroup.subtree_control".to_owned()
        } else {
            format!("{level}/cgroup.subtree_control")
        }
    };
    let enabled = |level: &str, buffer: &mut Vec<u8>| -> Result<Controllers> {
        let words = root.read(&file(level), buffer)?.unwrap_or("");
        Ok(words.split_whitespace().filter_map(Controller::from_name).collect())
    };
    // Nearly always a sibling came before.
    let missing = wanted.difference(enabled(parent, &mut buffer)?);
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let mut refused = Vec::new();
    let levels = std::iter::once("")
        .chain(parent.match_indices('/').map(|(at, _)| &parent[..at]))
        .chain((!parent.is_empty()).then_some(parent));
    for level in levels {
        let file = file(level);
        // In a level with processes the kernel refuses most, but takes these and makes of it a threaded group, whose children let no
        // process in (cgroups(7)): they come last, and not at all after such a refusal.
        let threaded = |c: &Controller| matches!(c, Controller::Cpu | Controller::Cpuset | Controller::Pids);
        let mut new: Vec<Controller> = missing.difference(enabled(level, &mut buffer)?).iter().collect();
        new.sort_by_key(threaded);
        let mut busy = false;
        for controller in new {
            let Some(name) = controller.v2_name() else { continue };
            let written = if busy { Err(Errno::BUSY) } else { root.write(&file, &format!("+{name}")) };
            if let Err(errno) = written {
                busy |= errno == Errno::BUSY;
                // An upper level that refuses may be another's business, as long as the level above the group agrees.
                if level == parent {
                    refused.push((controller, errno));
                }
            }
        }
    }
    Ok(refused)
}

/// Gives each new level of a v1 cpuset what its parent has: without CPUs and nodes no process may enter.
pub(crate) fn fill_cpuset(root: &Dir, path: &str, made: usize) -> Result<()> {
    let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).collect();
    let mut buffer = Vec::new();
    // Parents that somebody else made and did not fill would let no process in.
    let mut first = ends.len() - made;
    while first > 0 {
        let own = format!("{}/cpuset.cpus", &path[..ends[first - 1]]);
        if root.read(&own, &mut buffer)?.is_none_or(|text| !text.trim().is_empty()) {
            break;
        }
        first -= 1;
    }
    for &end in &ends[first..] {
        let level = &path[..end];
        let parent = level.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // With cgroup.clone_children the kernel has done it.
            let own = format!("{level}/{file}");
            if root.read(&own, &mut buffer)?.is_some_and(|text| !text.trim().is_empty()) {
                continue;
            }
            let Some(text) = root.read(&format!("{parent}{file}"), &mut buffer)? else { continue };
            let value = text.trim().to_owned();
            root.write(&own, &value).map_err(|errno| Error::Limit {
                controller: Controller::Cpuset,
                file: root.path_of(&own),
                value,
                source: errno.into(),
            })?;
        }
    }
    Ok(())
}
