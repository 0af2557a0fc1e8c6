//! The root file system that a container holds: a directory, a view of an image, or a writable layer of a store.

use super::Resources;
use crate::builder::{ContainerBuilder, Root};
use crate::error::{Error, Result};
#[cfg(feature = "images")]
use crate::id_map::IdMapping;
use crate::plan::{Facts, Rootfs};

/// The root file system of a container, held for as long as it is in use.
#[derive(Debug, Default)]
pub(crate) enum Held {
    #[default]
    Nothing,
    #[cfg(feature = "images")]
    View(image_layers::View),
    #[cfg(feature = "images")]
    Layer(image_layers::WritableLayer),
    /// Store and key of a layer that another program made.
    #[cfg(feature = "images")]
    Recorded(std::path::PathBuf, String),
}

impl Held {
    pub(crate) fn remove(self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            #[cfg(feature = "images")]
            Self::View(_) => Ok(()),
            #[cfg(feature = "images")]
            Self::Layer(layer) => layer.remove().map_err(|e| Error::Image(Box::new(e))),
            #[cfg(feature = "images")]
            Self::Recorded(store, key) => {
                let store =
                    image_layers::Store::open_or_create(store).map_err(|e| Error::Image(Box::new(e)))?;
                match store.layer(&key) {
                    Ok(layer) => layer.remove().map_err(|e| Error::Image(Box::new(e))),
                    Err(image_layers::Error::KeyNotFound { .. }) => Ok(()),
                    Err(e) => Err(Error::Image(Box::new(e))),
                }
            }
        }
    }

    /// Leaves it to whoever opens the container next.
    pub(crate) fn leave(self) {
        match self {
            // What it needs of the store stays in use for as long as this program lives; a view has no other owner.
            #[cfg(feature = "images")]
            Self::View(view) => std::mem::forget(view),
            _ => {}
        }
    }
}

impl ContainerBuilder {
    /// The writable layer this container will have in a store.
    pub(super) fn layer_key(&self, id: &str) -> Option<(std::path::PathBuf, String)> {
        match &self.root {
            #[cfg(feature = "images")]
            Root::Image(store, _) if !self.read_only && !self.has_own_layer() => {
                Some((store.path().to_owned(), id.to_owned()))
            }
            _ => {
                let _ = id;
                None
            }
        }
    }

    /// The root file system of an image: a writable layer of the store, or a view of it for containers that do not write there.
    pub(super) fn hold_rootfs(
        &self,
        id: &str,
        facts: &Facts,
        resources: &mut Resources,
    ) -> Result<(Option<Rootfs>, i32)> {
        match &self.root {
            #[cfg(feature = "images")]
            Root::Image(store, image) => {
                let failed = |e: image_layers::Error| Error::Image(Box::new(e));
                let store = self.store_for(store, image, facts)?;
                let stop =
                    image.config().stop_signal.as_deref().and_then(signal_number).unwrap_or(libc::SIGTERM);
                let mount = if self.read_only || self.has_own_layer() {
                    let view = store.view(image).map_err(failed)?;
                    let mount = view.mount().clone();
                    resources.layer = Held::View(view);
                    mount
                } else {
                    let layer = store.prepare(image, id).map_err(failed)?;
                    let mount = layer.mount().clone();
                    resources.layer = Held::Layer(layer);
                    mount
                };
                let mut rootfs = Rootfs::try_from(mount)?;
                if let Rootfs::Overlay { volatile, .. } = &mut rootfs {
                    // What this container writes is gone with it, unless it is recorded and may outlive us.
                    *volatile = self.state_directory.is_none();
                }
                Ok((Some(rootfs), stop))
            }
            other => {
                let _ = (id, facts, resources);
                if let Root::Directory(path) = other {
                    let kind = std::fs::metadata(path).map_err(|e| Error::io("use as root", path, e))?;
                    if !kind.is_dir() {
                        return Err(Error::io("use as root", path, rustix::io::Errno::NOTDIR));
                    }
                }
                Ok((None, libc::SIGTERM))
            }
        }
    }

    /// The store as it has to unpack an image for this container.
    #[cfg(feature = "images")]
    pub(super) fn store_for(
        &self,
        store: &image_layers::Store,
        image: &image_layers::Image,
        facts: &Facts,
    ) -> Result<image_layers::Store> {
        let owners = self.owners(store, &image.config().user, facts)?;
        Ok(owners.map_or_else(|| store.clone(), |owners| store.with_owners(owners)))
    }

    /// Whom the files of an image belong to on the disk, so that its owners are seen inside. `None`: whom the store thinks best,
    /// for callers who can give files to anybody and start containers without a user namespace.
    #[cfg(feature = "images")]
    fn owners(
        &self,
        store: &image_layers::Store,
        image_user: &str,
        facts: &Facts,
    ) -> Result<Option<image_layers::Owners>> {
        use image_layers::{IdMaps, IdRange, Owners, SnapshotKind};
        // In EROFS images every file has its true owner.
        if facts.uid == 0 && (self.uid_mappings.is_empty() || store.backend() == SnapshotKind::Erofs) {
            return Ok(None);
        }
        let wanted = self.user.as_deref().unwrap_or(image_user);
        let (uids, gids) = match self.granted(wanted, facts)? {
            Some(granted) => (&granted.uids, &granted.gids),
            None => (&self.uid_mappings, &self.gid_mappings),
        };
        crate::id_map::validate("linux.uidMappings", uids)?;
        crate::id_map::validate("linux.gidMappings", gids)?;
        let own = |maps: &[IdMapping], id| {
            matches!(maps, [] | [IdMapping { size: 1, .. }]) && {
                maps.first().is_none_or(|map| map.host_id == id)
            }
        };
        if own(uids, facts.uid) && own(gids, facts.gid) {
            return Ok(Some(Owners::Plain));
        }
        let ranges = |maps: &[IdMapping]| {
            let range = |map: &IdMapping| IdRange::new(map.container_id, map.host_id, map.size);
            maps.iter().map(range).collect::<Vec<_>>()
        };
        Ok(Some(Owners::Mapped(IdMaps::new(ranges(uids), ranges(gids)))))
    }
}

/// `SIGQUIT`, `QUIT` or `3`.
#[cfg(feature = "images")]
fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    name.parse().ok().or(match name {
        "HUP" => Some(libc::SIGHUP),
        "INT" => Some(libc::SIGINT),
        "QUIT" => Some(libc::SIGQUIT),
        "KILL" => Some(libc::SIGKILL),
        "USR1" => Some(libc::SIGUSR1),
        "USR2" => Some(libc::SIGUSR2),
        "TERM" => Some(libc::SIGTERM),
        "WINCH" => Some(libc::SIGWINCH),
        "PWR" => Some(libc::SIGPWR),
        other => {
            let (base, offset) = match (other.strip_prefix("RTMIN"), other.strip_prefix("RTMAX")) {
                (Some(offset), _) => (34, offset),
                (_, Some(offset)) => (64, offset),
                _ => return None,
            };
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
            Some(base + offset)
        }
    })
}
