//! Who the ids inside are: the maps of the granted ids, and the numbers of a user given by name.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use oci_spec::runtime::Root as SpecRoot;

use crate::builder::ContainerBuilder;
use crate::error::{Error, Result};
use crate::host::granted::Lack;
use crate::id_map::IdMapping;
use crate::namespace::NamespaceKind;
use crate::plan::{Facts, LowerLayer, Maps, Rootfs, UpperLayer};
use crate::user;

impl ContainerBuilder {
    /// The maps that the container of an ordinary user gets when it says nothing of its own: with all the ids that were granted
    /// to that user, unless the number of the wanted user is beyond them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for ids that are granted in a way that nothing can be made of.
    pub(crate) fn granted<'f>(&self, wanted: &str, facts: &'f Facts) -> Result<Option<&'f Maps>> {
        if !self.uid_mappings.is_empty() || !facts.has_one_id() || !self.makes(NamespaceKind::User) {
            return Ok(None);
        }
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
        let has = |maps: &[IdMapping], word: &str| {
            // Who goes by a name is found inside.
            word.parse().map_or(true, |id| crate::id_map::to_host(maps, id).is_some())
        };
        match &facts.granted {
            Ok(maps) => Ok(Some(maps).filter(|maps| has(&maps.uids, user) && has(&maps.gids, group))),
            Err(Lack::Nothing(_)) => Ok(None),
            Err(Lack::Broken(reason)) => Err(Error::invalid(
                "subordinate ids",
                format!("{reason}; id_mappings with the own id alone does without them"),
            )),
        }
    }
}

/// The numbers of a user who may be given by name, before the root file system is mounted.
pub(super) fn lookup(wanted: &str, rootfs: Option<&Rootfs>, root: &SpecRoot) -> Result<(u32, u32)> {
    let directories: Vec<PathBuf> = match rootfs {
        None => vec![root.path().clone()],
        Some(Rootfs::Directory { source, .. }) => vec![source.clone()],
        Some(Rootfs::Overlay { lower, upper, .. }) => {
            let lower = lower.iter().filter_map(|layer| match layer {
                LowerLayer::Directory(path) => Some(path.clone()),
                LowerLayer::Erofs(_) => None,
            });
            let upper = upper.iter().filter_map(|upper| match upper {
                UpperLayer::Directories { upper, .. } => Some(upper.clone()),
                UpperLayer::Mount { .. } | UpperLayer::Memory { .. } => None,
            });
            upper.chain(lower).collect()
        }
    };
    if wanted.is_empty() {
        return Ok((0, 0));
    }
    // Numbers and `root` need no files, and are known without any directory.
    let numbers = |wanted: &str| -> Option<(u32, u32)> {
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, "0"));
        let number = |word: &str| if word == "root" { Some(0) } else { word.parse().ok() };
        Some((number(user)?, number(group)?))
    };
    let mut answer =
        numbers(wanted).ok_or_else(|| Error::UnknownUser { kind: "user", name: wanted.to_owned() });
    for directory in directories {
        if let Ok(directory) = File::open(&directory) {
            match user::resolve(directory.as_fd(), wanted) {
                Ok(user) => return Ok((user.uid, user.gid)),
                Err(error) if answer.is_err() => answer = Err(error),
                Err(_) => {}
            }
        }
    }
    answer
}
