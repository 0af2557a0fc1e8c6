//! Which namespaces are new, which are joined, and how the process gets into them.

use std::ffi::CString;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::operation::Slot;
use super::phrases::namespace_names;
use super::{Facts, c_string};
use crate::error::{Error, Result};
use crate::id_map::{self, IdMapping};

pub(crate) const USER: u64 = libc::CLONE_NEWUSER as u64;
pub(crate) const MOUNT: u64 = libc::CLONE_NEWNS as u64;
pub(crate) const PID: u64 = libc::CLONE_NEWPID as u64;
pub(crate) const NET: u64 = libc::CLONE_NEWNET as u64;
pub(crate) const UTS: u64 = libc::CLONE_NEWUTS as u64;
pub(crate) const IPC: u64 = libc::CLONE_NEWIPC as u64;
pub(crate) const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
pub(crate) const TIME: u64 = 0x80;

/// Id maps of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) uids: Vec<IdMapping>,
    pub(crate) gids: Vec<IdMapping>,
}

impl Maps {
    /// Those of the spec, with nothing in them where it has none.
    pub(crate) fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let list = |list: Option<&Vec<_>>| list.into_iter().flatten().map(IdMapping::from).collect();
        Self {
            uids: list(linux.and_then(|l| l.uid_mappings().as_ref())),
            gids: list(linux.and_then(|l| l.gid_mappings().as_ref())),
        }
    }

    pub(crate) fn has_root(&self) -> bool {
        id_map::to_host(&self.uids, 0).is_some() && id_map::to_host(&self.gids, 0).is_some()
    }
}

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) kind: u64,
    pub(crate) path: CString,
    pub(crate) slot: Slot,
}

/// The namespaces of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Flags of the new ones.
    pub(crate) new: u64,
    pub(crate) joined: Vec<Joined>,
    pub(crate) maps: Option<Maps>,
}

pub(crate) fn flag(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => MOUNT,
        LinuxNamespaceType::Cgroup => CGROUP,
        LinuxNamespaceType::Uts => UTS,
        LinuxNamespaceType::Ipc => IPC,
        LinuxNamespaceType::User => USER,
        LinuxNamespaceType::Pid => PID,
        LinuxNamespaceType::Network => NET,
        LinuxNamespaceType::Time => TIME,
    }
}

impl Namespaces {
    /// The ids that there are inside: those of a new user namespace, or where there is none of its own, the caller's. `None`:
    /// all, or it is not known.
    pub(super) fn ids<'a>(&'a self, facts: &'a Facts) -> Option<&'a Maps> {
        self.maps.as_ref().or(facts.ids.as_ref().filter(|_| !self.has_user()))
    }

    /// Reads them from the spec; joined ones get slots from `next`.
    pub(crate) fn from_spec(spec: &Spec, next: &mut Slot) -> Result<Self> {
        let mut out = Self::default();
        let linux = spec.linux().as_ref();
        for namespace in linux.and_then(|l| l.namespaces().as_ref()).into_iter().flatten() {
            let kind = flag(namespace.typ());
            if out.contains(kind) {
                return Err(Error::invalid(
                    format!("linux.namespaces: {}", namespace_names(kind)),
                    "the type is listed twice",
                ));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => out.new |= kind,
                Some(path) if path.is_absolute() => {
                    let path = c_string("linux.namespaces.path", path.as_os_str())?;
                    out.joined.push(Joined { kind, path, slot: *next });
                    *next += 1;
                }
                Some(path) => {
                    return Err(Error::invalid(
                        format!("linux.namespaces.path {}", path.display()),
                        "it has to be absolute",
                    ));
                }
            }
        }
        let Maps { uids, gids } = Maps::of(spec);
        if out.new & USER != 0 {
            id_map::validate("linux.uidMappings", &uids)?;
            id_map::validate("linux.gidMappings", &gids)?;
            if uids.is_empty() || gids.is_empty() {
                return Err(Error::invalid(
                    "linux.uidMappings and linux.gidMappings",
                    "a new user namespace needs both; without them every id inside is `nobody`",
                ));
            }
            out.maps = Some(Maps { uids, gids });
        } else if !out.joins(USER) && !(uids.is_empty() && gids.is_empty()) {
            return Err(Error::invalid(
                "linux.uidMappings and linux.gidMappings",
                "there are mappings but no user namespace in linux.namespaces",
            ));
        }
        Ok(out)
    }

    /// New and joined ones.
    pub(crate) fn kinds(&self) -> u64 {
        self.joined.iter().fold(self.new, |kinds, joined| kinds | joined.kind)
    }

    pub(crate) fn joins(&self, kind: u64) -> bool {
        self.joined.iter().any(|joined| joined.kind == kind)
    }

    pub(crate) fn makes(&self, kind: u64) -> bool {
        self.new & kind != 0
    }

    /// New or joined.
    pub(crate) fn contains(&self, kind: u64) -> bool {
        self.makes(kind) || self.joins(kind)
    }

    /// Ids inside differ from those outside.
    pub(crate) fn has_user(&self) -> bool {
        self.contains(USER)
    }

    /// One clone cannot do it: a process goes first, joins, and makes the container's own beside itself. So for a joined pid
    /// or user namespace (only children enter the first, and the second comes before everything it is to own), for clocks (their
    /// offsets are set before the first process enters), and for namespaces of the host joined beside a new user namespace.
    pub(crate) fn needs_two_stages(&self) -> bool {
        self.joins(USER)
            || self.joins(PID)
            || self.makes(TIME)
            || self.makes(USER) && self.joined.iter().any(|joined| joined.kind != USER)
    }
}
