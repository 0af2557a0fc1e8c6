//! Who owns the files of unpacked layers on the disk.
//!
//! - [`maps`]: ids inside of a container and the ids outside that stand for them
//! - [`granted`]: which ids an ordinary user may use, and the user namespace that maps them
//! - [`reach`]: system calls on files that belong to those ids
//! - [`attributes`]: the ids inside of extended attributes

mod attributes;
mod granted;
mod maps;
pub mod reach;

pub(crate) use attributes::{from_disk, to_disk};
pub use maps::{IdMaps, IdRange};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Whom the files of unpacked layers and of containers belong to on the disk.
///
/// An image says who owns each of its files, by number. Only root can make that so. An ordinary user who was granted
/// subordinate ids (`subuid(5)`) can give files to those, which containers in a user namespace with the same [`IdMaps`] then see
/// as the owners the image names. Anybody else can make files of his own only.
///
/// Snapshots of different owners are kept apart: what was unpacked for one is never used for the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Owners {
    /// As the image says when the caller is root, else the caller: for containers without a user namespace, and for those
    /// whose only id is that of an ordinary user.
    ///
    /// Who the owners are in truth stays in the snapshot's index, from where a commit takes them.
    #[default]
    Plain,
    /// As the image says, seen from inside of a user namespace with these maps: for containers of an ordinary user with
    /// subordinate ids, and for those that root starts in a user namespace. Files of ids that the maps do not hold belong to root
    /// inside.
    Mapped(IdMaps),
}

impl Owners {
    /// The owners that suit the calling user best: [`Mapped`](Owners::Mapped) for an ordinary user with subordinate ids and
    /// the programs newuidmap and newgidmap (package `uidmap`), else [`Plain`](Owners::Plain).
    ///
    /// # Errors
    /// [`Error::Owners`] for ids that are granted but cannot be used: ranges that overlap. Who wants to do without them says
    /// [`Plain`](Owners::Plain).
    pub fn of_caller() -> Result<Owners> {
        if rustix::process::geteuid().is_root() {
            return Ok(Owners::Plain);
        }
        match granted::maps() {
            Ok(maps) => Ok(Owners::Mapped(maps)),
            Err(granted::Lack::Nothing(_)) => Ok(Owners::Plain),
            // Never silently something else than what somebody has configured.
            Err(granted::Lack::Broken(reason)) => Err(Error::Owners { reason }),
        }
    }

    /// What tells apart the names of snapshots: nothing for plain ones.
    pub(crate) fn suffix(&self) -> String {
        match self {
            Owners::Plain => String::new(),
            Owners::Mapped(maps) => format!("-{}", maps.fingerprint()),
        }
    }

    /// Makes sure that files can be given to these owners.
    pub(crate) fn require(&self) -> Result<()> {
        match self {
            Owners::Plain => Ok(()),
            Owners::Mapped(_) if rustix::process::geteuid().is_root() => Ok(()),
            Owners::Mapped(maps) => granted::require(maps).map_err(|reason| Error::Owners { reason }),
        }
    }
}
