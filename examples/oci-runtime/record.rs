//! What is kept about a container, and its control group found again.

use std::time::SystemTime;

use cgroup::{Cgroup, Hierarchy};
use container_core::oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use container_core::state::{CgroupDirectory, Record, rfc3339, start_time};

use crate::bundle::Bundle;
use crate::context::sorted;
use crate::failure::Failure;

/// In the record: the container has a pid namespace of its own, so that everything in it ends with the first process.
const PID_NAMESPACE: &str = "ownPidNamespace";

/// Whether everything in the container ends with its first process.
pub fn has_pid_namespace(record: &Record) -> bool {
    record.extra.get(PID_NAMESPACE).and_then(serde_json::Value::as_bool).unwrap_or(false)
}

fn own_pid_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own =
        |namespace: &LinuxNamespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none();
    namespaces.is_some_and(|namespaces| namespaces.iter().any(own))
}

/// In the record: the container was set up in somebody else's mount namespace, where its mounts lie on its root directory.
const FOREIGN_MOUNTS: &str = "foreignMounts";

fn own_mount_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Mount && namespace.path().is_none()
    };
    namespaces.is_some_and(|namespaces| namespaces.iter().any(own))
}

/// Takes away what a container without a mount namespace of its own has mounted in ours.
pub fn unmount(record: &Record) {
    if !record.extra.contains_key(FOREIGN_MOUNTS) {
        return;
    }
    // All mounts below go along. Where the container joined another mount namespace nothing is mounted here.
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    let _ = rustix::mount::unmount(&record.rootfs, flags);
}

/// The record of a container that has no process yet.
pub fn creating(id: &str, bundle: &Bundle) -> Record {
    let mut extra = serde_json::Map::new();
    extra.insert(PID_NAMESPACE.to_owned(), own_pid_namespace(&bundle.spec).into());
    if !own_mount_namespace(&bundle.spec) {
        extra.insert(FOREIGN_MOUNTS.to_owned(), true.into());
    }
    Record {
        oci_version: bundle.spec.version().clone(),
        id: id.to_owned(),
        pid: 0,
        start_time: 0,
        // The state directory does not outlive a boot, and `pid` is found by the programs that share it.
        boot_id: None,
        pid_namespace: None,
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs(),
        created: rfc3339(SystemTime::now()),
        annotations: sorted(bundle.spec.annotations().as_ref()),
        cgroups: Vec::new(),
        extra,
    }
}

/// `record`, now with the first process and its control group.
pub fn with_process(record: Record, pid: i32, cgroup: Option<&Cgroup>) -> Result<Record, Failure> {
    Ok(Record {
        pid,
        start_time: start_time(pid)?,
        cgroups: cgroup.map(directories).unwrap_or_default(),
        ..record
    })
}

fn directories(cgroup: &Cgroup) -> Vec<CgroupDirectory> {
    let directory = |(mount, path): (&cgroup::Mount, &std::path::Path)| CgroupDirectory {
        controllers: mount.options().to_owned(),
        path: path.to_owned(),
    };
    cgroup.directories().map(directory).collect()
}

/// The container's control group; `None` when it has none, or when it is gone already.
pub fn cgroup(record: &Record) -> Result<Option<Cgroup>, Failure> {
    if record.cgroups.is_empty() {
        return Ok(None);
    }
    let because = |error| Failure::because(format!("open the control group of {}", record.id), error);
    let hierarchy = Hierarchy::discover().map_err(because)?;
    match Cgroup::adopt_directories(&hierarchy, record.cgroups.iter().map(|directory| &directory.path)) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(cgroup::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(because(error)),
    }
}
