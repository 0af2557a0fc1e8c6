//! Containers that outlive their handle: recorded in a state directory, found again by name, and swept when nobody is left.
//!
//! The handle of a running container holds the lock of its record, and the kernel drops the lock with the program. So a record
//! whose lock is free and whose first process (pid, start time, boot, pid namespace) is gone is stale beyond doubt, and what it
//! names can be removed. Records of other makers (an OCI runtime's) are left alone: only those with our mark are swept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rootfs::Held;
use super::shared::cgroup_error;
use super::{Bounds, Container, Core, Process, Resources};
use crate::error::{Error, Result};
use crate::plan::LowerLayer;
#[cfg(feature = "images")]
use crate::plan::Rootfs;
use crate::state::{self, CgroupDirectory, Entry, Record, StateDirectory, Status};

/// The key of a record's `extra` that marks it as written here.
const MARK: &str = "handle";

/// What a record holds for us beside the fields that everybody reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mark {
    /// Killing the first process kills them all.
    own_pids: bool,
    stop_signal: i32,
    /// Ends with the program that started it, which therefore cannot leave it.
    die_with_host: bool,
    /// Store and key of the writable layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<(PathBuf, String)>,
}

/// One line of [`Container::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerSummary {
    /// Its name.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process, 0 when there is none.
    pub pid: u32,
    /// When it was created: RFC 3339, UTC.
    pub created: String,
}

/// Containers that were left while this program goes on: they are still its children, and somebody has to collect them.
static LEFT: Mutex<Vec<Arc<Core>>> = Mutex::new(Vec::new());

/// Takes a name. What a dead program left under it is removed first.
pub(super) fn reserve(
    directory: &Path,
    id: &str,
    layer: Option<(PathBuf, String)>,
    die: bool,
) -> Result<Entry> {
    collect_left();
    let states = StateDirectory::new(absolute(directory)?);
    let entry = match states.reserve(id) {
        Err(Error::InUse { .. }) if sweep_one(&states, id)? => states.reserve(id)?,
        other => other?,
    };
    // From now on a crash leaves a record that says what else to remove.
    let mark = Mark { layer, die_with_host: die, ..Mark::default() };
    let saved = blank_record(id).and_then(|record| entry.save(&marked(record, &mark)?));
    match saved {
        Ok(()) => Ok(entry),
        Err(error) => {
            let _ = entry.remove();
            Err(error)
        }
    }
}

fn absolute(directory: &Path) -> Result<PathBuf> {
    std::path::absolute(directory).map_err(|e| Error::io("find", directory, e))
}

fn blank_record(id: &str) -> Result<Record> {
    Ok(Record {
        oci_version: "1.2.0".to_owned(),
        id: id.to_owned(),
        pid: 0,
        start_time: 0,
        boot_id: Some(state::boot_id()?),
        pid_namespace: Some(state::pid_namespace()?),
        bundle: PathBuf::from("/"),
        rootfs: PathBuf::new(),
        created: state::rfc3339(SystemTime::now()),
        annotations: BTreeMap::new(),
        cgroups: Vec::new(),
        extra: Map::new(),
    })
}

fn marked(mut record: Record, mark: &Mark) -> Result<Record> {
    let value = serde_json::to_value(mark).map_err(|e| Error::invalid("record", e.to_string()))?;
    record.extra.insert(MARK.to_owned(), value);
    Ok(record)
}

fn mark_of(record: &Record) -> Option<Mark> {
    record.extra.get(MARK).cloned().and_then(|value: Value| serde_json::from_value(value).ok())
}

/// Removes what a dead program left under this name; `false` when somebody is alive, or it is none of ours.
fn sweep_one(states: &StateDirectory, id: &str) -> Result<bool> {
    let entry = match states.open(id) {
        Ok(entry) => entry,
        Err(Error::NotFound { .. }) => return Ok(true),
        Err(e) => return Err(e),
    };
    if rustix::fs::flock(entry.directory(), FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    let Ok(record) = entry.record() else {
        // Its maker died between taking the name and the first record; or is just there, which takes no seconds.
        let age = std::fs::metadata(entry.path())
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|at| at.elapsed().ok());
        if age.is_none_or(|age| age < Duration::from_secs(10)) {
            return Ok(false);
        }
        entry.remove()?;
        return Ok(true);
    };
    let Some(mark) = mark_of(&record) else { return Ok(false) };
    if record.is_alive() {
        return Ok(false);
    }
    let same_boot = record.boot_id.as_ref().is_none_or(|kept| state::boot_id().is_ok_and(|now| now == *kept));
    if same_boot && let Some(group) = adopt(&record) {
        group.kill().map_err(cgroup_error)?;
        group.remove().map_err(cgroup_error)?;
    }
    held(&mark).remove()?;
    entry.remove()?;
    Ok(true)
}

fn adopt(record: &Record) -> Option<cgroup::Cgroup> {
    let hierarchy = cgroup::Hierarchy::discover().ok()?;
    cgroup::Cgroup::adopt_directories(&hierarchy, record.cgroups.iter().map(|group| &group.path)).ok()
}

fn held(mark: &Mark) -> Held {
    match &mark.layer {
        #[cfg(feature = "images")]
        Some((store, key)) => Held::Recorded(store.clone(), key.clone()),
        _ => Held::Nothing,
    }
}

/// The layers below a recorded writable layer.
fn lower(mark: &Mark) -> Option<Vec<LowerLayer>> {
    match &mark.layer {
        #[cfg(feature = "images")]
        Some((store, key)) => {
            let layer = image_layers::Store::open_or_create(store).ok()?.layer(key).ok()?;
            match Rootfs::try_from(layer.mount().clone()).ok()? {
                Rootfs::Overlay { lower, .. } => Some(lower),
                Rootfs::Directory { .. } => None,
            }
        }
        _ => None,
    }
}

/// Collects containers that were left and have ended since.
fn collect_left() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|core| !matches!(core.process.try_wait(), Ok(Some(_)) | Err(_)));
}

impl Container {
    /// Writes down what another program needs to take over.
    pub(super) fn record(&self) -> Result<()> {
        let Some(entry) = &self.resources.entry else { return Ok(()) };
        let core = &self.core;
        let before = entry.record()?;
        let mut mark = mark_of(&before).unwrap_or_default();
        mark.own_pids = core.own_pids;
        mark.stop_signal = core.stop_signal;
        let directories = core.cgroup.iter().flat_map(|group| group.directories());
        let record = Record {
            oci_version: core.spec.version().clone(),
            pid: core.process.pid,
            start_time: state::start_time(core.process.pid)?,
            rootfs: core.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default(),
            annotations: core
                .spec
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            cgroups: directories
                .map(|(mount, path)| CgroupDirectory {
                    controllers: mount.controllers().to_string().replace(' ', ","),
                    path: path.to_owned(),
                })
                .collect(),
            ..before
        };
        let config =
            serde_json::to_vec(&core.spec).map_err(|e| Error::invalid("specification", e.to_string()))?;
        entry.save_spec(&config)?;
        entry.save(&marked(record, &mark)?)
    }

    /// Leaves the container running when the handle is dropped and when this program ends. It is found again with
    /// [`open`](Self::open). Its pipes and terminal are closed on this side.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has no [state directory](crate::ContainerBuilder::state_directory) or is to die with the
    /// host program; the container is ended then, as for any dropped handle.
    pub fn detach(mut self) -> Result<()> {
        let Some(entry) = &self.resources.entry else {
            return Err(Error::invalid(
                "detach",
                "the builder was given no state_directory to find the container again",
            ));
        };
        if mark_of(&entry.record()?).is_some_and(|mark| mark.die_with_host) {
            return Err(Error::invalid("detach", "the container was started with die_with_host"));
        }
        self.resources.released = true;
        self.resources.entry = None;
        std::mem::take(&mut self.resources.layer).leave();
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.core));
        collect_left();
        Ok(())
    }

    /// Takes up a container by name, whoever started it. Dropping this handle leaves it as it is; [`remove`](Self::remove) ends
    /// it and removes everything.
    ///
    /// Its exit status is known to handles of other programs than the one that started it from Linux 6.15.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotRunning`] when its first process has ended, [`Error::Io`], [`Error::State`].
    pub fn open(state_directory: impl AsRef<Path>, id: &str) -> Result<Self> {
        let states = StateDirectory::new(absolute(state_directory.as_ref())?);
        let entry = states.open(id)?;
        let record = entry.record()?;
        let Some(pidfd) = record.pidfd()? else {
            return Err(Error::NotRunning { id: id.to_owned() });
        };
        let mark = mark_of(&record).unwrap_or_else(|| Mark { stop_signal: libc::SIGTERM, ..Mark::default() });
        let process = Process::new(record.pid, pidfd);
        let resources =
            Resources { layer: held(&mark), entry: Some(entry), released: true, ..Resources::default() };
        let core = Core {
            id: record.id.clone(),
            process,
            cgroup: adopt(&record),
            spec: resources.entry.as_ref().map(Entry::spec).transpose()?.unwrap_or_default(),
            stop_signal: mark.stop_signal,
            own_pids: mark.own_pids,
            sized_layer: false,
            skipped_limits: Vec::new(),
            lower: lower(&mark),
        };
        let container = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            core: Arc::new(core),
            terminal: None,
            bounds: Bounds::default(),
            resources,
        };
        container.keep_root();
        Ok(container)
    }

    /// The containers recorded in a state directory, by name. What dead programs left there is removed on the way: records,
    /// control groups and writable layers of containers whose processes are gone.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub fn list(state_directory: impl AsRef<Path>) -> Result<Vec<ContainerSummary>> {
        collect_left();
        let states = StateDirectory::new(absolute(state_directory.as_ref())?);
        let mut summaries = Vec::new();
        for id in states.list()? {
            // One that cannot be removed now is shown, and tried again the next time.
            if sweep_one(&states, &id).unwrap_or(false) {
                continue;
            }
            let Ok(entry) = states.open(&id) else { continue };
            let Ok(record) = entry.record() else { continue };
            let status = match entry.status(&record) {
                Status::Running if adopt(&record).is_some_and(|g| g.is_frozen().unwrap_or(false)) => {
                    Status::Paused
                }
                other => other,
            };
            summaries.push(ContainerSummary { id, status, pid: record.pid as u32, created: record.created });
        }
        Ok(summaries)
    }
}
