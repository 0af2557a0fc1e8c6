//! The `cgroup` mount type: a container sees its own control groups, and none above.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::c_string;
use super::mounts::{Mounts, split_option};
use super::operation::{NewMount, Operation, Target};
use crate::error::{Error, Result};
use crate::mount_options::{MountOptions, attr};
use crate::sys::mount::MountAttr;

pub(super) fn lower(
    mounts: &mut Mounts<'_>,
    mount: &Mount,
    options: &MountOptions,
    target: Target,
    kind: &str,
) -> Result<()> {
    let destination = mount.destination().clone();
    let Some(hierarchy) = mounts.facts.cgroups.clone() else {
        return Err(Error::unsupported(
            format!("the {kind} mount on {}", destination.display()),
            "no control group file system is mounted",
        ));
    };
    let unified_only = matches!(hierarchy.mode(), cgroup::Mode::V2);
    if unified_only || kind == "cgroup2" {
        let Some(unified) = hierarchy.unified() else {
            return Err(Error::unsupported("a cgroup2 mount", "this host has version 1 hierarchies only"));
        };
        return one(mounts, unified, &hierarchy, options, target);
    }

    // Version 1: a small tmpfs with a directory for every hierarchy, and links for controllers that share one.
    let read_only = options.attributes_set() & attr::RDONLY != 0;
    mounts.attach.push(Operation::Mount(Box::new(NewMount {
        kind: c"tmpfs".to_owned(),
        source: c"tmpfs".to_owned(),
        data: vec![split_option("mode=755")?],
        attributes: options.attributes_set() & !attr::RDONLY,
        after: Vec::new(),
        target: target.clone(),
        copy_up: false,
        inherit_mode: false,
        stand_in: None,
    })));
    let below = |name: &str| -> Result<(PathBuf, Target)> {
        let path = Path::new("/").join(destination.strip_prefix("/").unwrap_or(&destination)).join(name);
        let target =
            Target { path: c_string("mounts.destination", path.as_os_str())?, follow: target.follow };
        Ok((path, target))
    };
    for found in hierarchy.mounts() {
        let Some(name) = found.mountpoint().file_name().and_then(|name| name.to_str()) else { continue };
        // Named hierarchies carry no controller, and beside a unified one the freezer is not used: the container has no group
        // there to be shown.
        let wanted = mounts.extras.controllers;
        let used = found.version() == cgroup::Version::V2
            || found.controllers().iter().any(|c| {
                wanted.contains(c) && (c != cgroup::Controller::Freezer || hierarchy.unified().is_none())
            });
        if !used && !mounts.own_cgroup_view() {
            continue;
        }
        let (_, place) = below(name)?;
        one(mounts, found, &hierarchy, options, place)?;
        if found.version() == cgroup::Version::V1 && found.controllers().iter().count() > 1 {
            for controller in found.controllers().iter().filter(|controller| controller.name() != name) {
                let (path, _) = below(controller.name())?;
                mounts.attach.push(Operation::Link {
                    target: c_string("cgroup", name)?,
                    path: c_string("cgroup", path.as_os_str())?,
                });
            }
        }
    }
    if read_only {
        let change = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        mounts.attach.push(Operation::Remount { target, changes: vec![(change, false)] });
    }
    Ok(())
}

/// One hierarchy: mounted anew where a cgroup namespace makes the container's group its root, else that group bound in.
fn one(
    mounts: &mut Mounts<'_>,
    found: &cgroup::Mount,
    hierarchy: &cgroup::Hierarchy,
    options: &MountOptions,
    target: Target,
) -> Result<()> {
    if mounts.own_cgroup_view() {
        let (kind, data) = match found.version() {
            cgroup::Version::V2 => (c"cgroup2".to_owned(), Vec::new()),
            cgroup::Version::V1 => (
                c"cgroup".to_owned(),
                found
                    .options()
                    .split(',')
                    .filter(|o| !o.is_empty())
                    .map(split_option)
                    .collect::<Result<_>>()?,
            ),
        };
        mounts.attach.push(Operation::Mount(Box::new(NewMount {
            kind,
            source: c"cgroup".to_owned(),
            data,
            attributes: options.attributes_set(),
            after: Vec::new(),
            target,
            copy_up: false,
            inherit_mode: false,
            stand_in: None,
        })));
        return Ok(());
    }
    let attributes = MountAttr { set: options.attributes_set(), ..MountAttr::default() };
    let source = if mounts.is_rootless() {
        found.mountpoint().to_owned()
    } else {
        let request = super::lower::cgroup_path(mounts.spec, mounts.extras)?;
        let request = request.filter(|_| !mounts.extras.no_cgroup);
        match request {
            Some(path) => {
                let path = cgroup::CgroupPath::new(&path)
                    .map_err(|e| Error::invalid("linux.cgroupsPath", e.to_string()))?;
                let base = if path.is_absolute() { "" } else { hierarchy.base(found).unwrap_or("") };
                found.mountpoint().join(base).join(path.components())
            }
            None => found.mountpoint().to_owned(),
        }
    };
    mounts.bind_source(&source, target, attributes)
}
