//! What every command needs: where containers are kept, where messages go.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use container_core::state::{Entry, Record, StateDirectory, Status};

use crate::args::Global;
use crate::failure::Failure;
use crate::log::Log;

pub struct Context {
    pub log: Log,
    pub state: StateDirectory,
    /// The state directory was named on the command line.
    pub root_given: bool,
    pub no_cgroups: bool,
}

impl Context {
    pub fn new(global: Global, log: Log) -> Self {
        let given = global.root.filter(|root| !root.as_os_str().is_empty());
        let root_given = given.is_some();
        Self {
            log,
            state: StateDirectory::new(given.unwrap_or_else(default_root)),
            root_given,
            no_cgroups: global.no_cgroups,
        }
    }

    /// The container `id` and what is known of it, for reading.
    pub fn find(&self, id: &str) -> Result<Found, Failure> {
        let found = self.found(self.state.open(id)?)?;
        if crate::record::is_known(&found.record) {
            Ok(found)
        } else {
            Err(container_core::Error::NotFound { id: id.to_owned() }.into())
        }
    }

    /// The container `id`, for changing: nobody else changes it meanwhile.
    pub fn lock(&self, id: &str) -> Result<Found, Failure> {
        self.found(self.state.lock(id)?)
    }

    fn found(&self, entry: Entry) -> Result<Found, Failure> {
        let record = entry.record()?;
        Ok(Found { entry, record })
    }
}

/// A container that exists.
pub struct Found {
    pub entry: Entry,
    pub record: Record,
}

impl Found {
    /// Its control group, when it has one.
    pub fn cgroup(&self) -> Result<Option<cgroup::Cgroup>, Failure> {
        crate::record::cgroup(&self.record)
    }

    /// Its status; `Paused` is what the control group says.
    pub fn status(&self) -> Status {
        let status = self.entry.status(&self.record);
        if matches!(status, Status::Running | Status::Created) && self.is_frozen() {
            Status::Paused
        } else {
            status
        }
    }

    fn is_frozen(&self) -> bool {
        self.cgroup().ok().flatten().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }
}

/// `/run/oci-runtime` for the host's root, else a directory of the user's own. Root of a user namespace that an ordinary user made
/// (rootless Podman) is that user still: what `XDG_RUNTIME_DIR` names comes first there.
fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty());
    match own {
        Some(directory) if !is_host_root() => PathBuf::from(directory).join("oci-runtime"),
        _ if nix::unistd::geteuid().is_root() => PathBuf::from("/run/oci-runtime"),
        _ => std::env::temp_dir().join(format!("oci-runtime-{}", nix::unistd::geteuid())),
    }
}

/// Root, and not only of a user namespace.
pub fn is_host_root() -> bool {
    // The first user namespace of a system has a number of its own (include/linux/proc_ns.h, PROC_USER_INIT_INO).
    const FIRST: u64 = 0xEFFF_FFFD;
    nix::unistd::geteuid().is_root()
        && std::fs::metadata("/proc/self/ns/user").map_or(true, |namespace| namespace.ino() == FIRST)
}

/// Annotations in a fixed order, so that the same container is always printed the same.
pub fn sorted(annotations: Option<&std::collections::HashMap<String, String>>) -> BTreeMap<String, String> {
    annotations.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}
