//! What is kept about a container, and its control group found again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use cgroup::{Cgroup, CgroupPath, Hierarchy};
use container_core::Plan;
use container_core::launch::RootMount;
use container_core::oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use container_core::state::{CgroupDirectory, Record, rfc3339, start_time};

use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::context::sorted;
use crate::create::Process;
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

/// In the record: the mount that the root is in, for a container without a mount namespace of its own.
const ROOT_MOUNT: &str = "rootMount";

/// In the record of a container that is being created: the control group it is going to get. Only where what is in there then
/// can be nobody else's.
const INTENDED_CGROUP: &str = "intendedCgroup";

/// In the record of a container that is being created and leaves its root mounted: what was at the root directory before.
const ROOT_BEFORE: &str = "rootBefore";

/// A directory, and the mount it is in.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    device: u64,
    inode: u64,
    mount: RootMount,
}

impl Place {
    fn at(path: &Path) -> Option<Self> {
        let directory = std::fs::metadata(path).ok()?;
        Some(Self { device: directory.dev(), inode: directory.ino(), mount: RootMount::at(path)? })
    }
}

/// In the record of a container that is being created: hooks run, which may ask for it.
const HAS_HOOKS: &str = "hasHooks";

/// Whether others are told of the container. One that is being created without hooks is not there yet: clients that wait for it
/// take the first state that they see for `created`.
pub fn is_known(record: &Record) -> bool {
    record.pid != 0 || record.extra.contains_key(HAS_HOOKS)
}

fn read<T: serde::de::DeserializeOwned>(record: &Record, key: &str) -> Option<T> {
    serde_json::from_value(record.extra.get(key)?.clone()).ok()
}

fn note(record: &mut Record, key: &str, value: impl Serialize) {
    // Texts, numbers and paths that are UTF-8: the bundle's configuration had them.
    if let Ok(value) = serde_json::to_value(value) {
        record.extra.insert(key.to_owned(), value);
    }
}

/// Takes away what a container without a mount namespace of its own has mounted in ours, and nothing else.
pub fn unmount(record: &Record) -> Result<(), Failure> {
    match read::<RootMount>(record, ROOT_MOUNT) {
        Some(mount) => mount.unmount().map_err(Failure::from),
        None => Ok(()),
    }
}

/// The record of a container that has no process yet, with what there may be to remove if its creator is killed.
pub fn creating(id: &str, bundle: &Bundle, plan: &Plan, hierarchy: Option<&Hierarchy>) -> Record {
    let mut extra = serde_json::Map::new();
    extra.insert(PID_NAMESPACE.to_owned(), own_pid_namespace(&bundle.spec).into());
    let mut record = Record {
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
    };
    if bundle.spec.hooks().is_some() {
        note(&mut record, HAS_HOOKS, true);
    }
    if let Some(path) = plan.cgroup_path()
        && let Some(hierarchy) = hierarchy
        && intended(hierarchy, path).is_ok_and(|group| group.is_none_or(|group| is_empty(&group)))
    {
        note(&mut record, INTENDED_CGROUP, path);
    }
    if plan.leaves_root()
        && let Some(place) = Place::at(&record.rootfs)
    {
        note(&mut record, ROOT_BEFORE, place);
    }
    record
}

/// The control group `path` of the specification, if it is there, as one to be removed.
fn intended(hierarchy: &Hierarchy, path: &str) -> Result<Option<Cgroup>, cgroup::Error> {
    let found = Cgroup::open(hierarchy, &CgroupPath::new(path)?).and_then(|group| {
        Cgroup::adopt_directories(hierarchy, group.directories().map(|(_, directory)| directory))
    });
    match found {
        Ok(group) => Ok(Some(group)),
        Err(cgroup::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_empty(group: &Cgroup) -> bool {
    group.processes().is_ok_and(|processes| processes.is_empty())
}

/// Takes down what the creator of a container made before it was killed. Nobody is at it any more: the caller has the lock.
pub fn clear_away(record: &Record) -> Result<(), Failure> {
    let because = |error| Failure::because(format!("remove what is left of {}", record.id), error);
    if let Some(path) = read::<String>(record, INTENDED_CGROUP)
        && let Some(group) =
            Hierarchy::discover().and_then(|hierarchy| intended(&hierarchy, &path)).map_err(because)?
    {
        group.kill().and_then(|()| group.remove()).map_err(because)?;
    }
    // The same directory in another mount is the container's root, mounted on itself. Another directory is somebody else's mount.
    if let Some(before) = read::<Place>(record, ROOT_BEFORE)
        && let Some(now) = Place::at(&record.rootfs)
        && (now.device, now.inode) == (before.device, before.inode)
        && now.mount != before.mount
    {
        now.mount.unmount()?;
    }
    Ok(())
}

/// `record`, now with the first process and its control group.
pub fn with_process(mut record: Record, process: &Process<'_>) -> Result<Record, Failure> {
    record.extra.remove(HAS_HOOKS);
    record.extra.remove(INTENDED_CGROUP);
    record.extra.remove(ROOT_BEFORE);
    if let Some(mount) = process.root_mount {
        note(&mut record, ROOT_MOUNT, mount);
    }
    record.pid = process.pid;
    record.start_time = start_time(process.pid)?;
    record.cgroups = process.cgroup.map(directories).unwrap_or_default();
    Ok(record)
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
