//! How much space images, snapshots and containers take.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType};
use rustix::io::Errno;

use crate::apply::metadata::open_directory;
use crate::diff::names;
use crate::owners::reach::{self, Reach};
use crate::{Digest, Error, Reference, Result};

use super::snapshots::{all_snapshots, backend_of};
use super::{Store, names_in};

/// The space a store takes, in bytes on the disk.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Usage {
    /// All blobs.
    pub blobs: u64,
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// Each unpacked layer, whichever images share it.
    pub snapshots: Vec<SnapshotUsage>,
    /// Each writable layer.
    pub layers: Vec<LayerUsage>,
}

impl Usage {
    /// All of it together.
    pub fn total(&self) -> u64 {
        let snapshots: u64 = self.snapshots.iter().map(|s| s.bytes).sum();
        let layers: u64 = self.layers.iter().map(|l| l.bytes).sum();
        self.blobs + snapshots + layers
    }
}

/// The space of one image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its names.
    pub references: Vec<Reference>,
    /// All it needs: blobs, and snapshots as far as they are unpacked.
    pub bytes: u64,
    /// The part of it that no other image needs, which removing the image would free.
    pub unique_bytes: u64,
}

/// The space of one unpacked layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotUsage {
    /// The backend's name.
    pub backend: String,
    /// The ChainID of the layer, as hex.
    pub chain_id: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The space of the writable layer of a container.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerUsage {
    /// Its key.
    pub key: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Store {
    /// Adds up what everything in the store takes, by looking at every file of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn usage(&self) -> Result<Usage> {
        let _reach = Reach::keep();
        let mut usage = Usage::default();
        for algorithm in ["sha256", "sha512"] {
            let directory = self.path().join("blobs").join(algorithm);
            for name in names_in(&directory)? {
                usage.blobs += fs::metadata(directory.join(name)).map_or(0, |m| m.len());
            }
        }
        for path in all_snapshots(self)? {
            let Some((bytes, inodes)) = disk_usage(&path)? else { continue };
            let name = |p: Option<&std::ffi::OsStr>| p.unwrap_or_default().to_string_lossy().into_owned();
            usage.snapshots.push(SnapshotUsage {
                backend: backend_of(&path).to_owned(),
                chain_id: name(path.file_name()),
                bytes,
                inodes,
            });
        }
        for key in self.layers()? {
            let path = self.path().join("layers").join(&key);
            let Some((bytes, inodes)) = disk_usage(&path)? else { continue };
            usage.layers.push(LayerUsage { key, bytes, inodes });
        }
        // What each image needs, and how many images need it.
        let images = self.images()?;
        let mut needed_by: HashMap<String, u32> = HashMap::new();
        let parts: Vec<HashMap<String, u64>> = images
            .iter()
            .map(|image| {
                let mut parts: HashMap<String, u64> =
                    image.blobs().map(|(d, size)| (d.to_string(), size)).collect();
                for chain_id in image.config().chain_ids() {
                    let unpacked = usage.snapshots.iter().filter(|s| s.chain_id == chain_id.hex());
                    parts.insert(format!("snapshot {chain_id}"), unpacked.map(|s| s.bytes).sum());
                }
                parts
            })
            .collect();
        parts.iter().flat_map(HashMap::keys).for_each(|key| *needed_by.entry(key.clone()).or_default() += 1);
        for (image, parts) in images.iter().zip(&parts) {
            usage.images.push(ImageUsage {
                digest: image.digest().clone(),
                references: image.references().to_vec(),
                bytes: parts.values().sum(),
                unique_bytes: parts
                    .iter()
                    .filter(|(key, _)| needed_by[*key] == 1)
                    .map(|(_, bytes)| bytes)
                    .sum(),
            });
        }
        Ok(usage)
    }
}

/// Bytes and inodes of a tree; hard links count once. `None` when it has gone. What goes during the walk, as the files of a
/// running container may, does not count.
fn disk_usage(tree: &Path) -> Result<Option<(u64, u64)>> {
    let (mut bytes, mut inodes) = (0, HashSet::new());
    let mut pending = vec![tree.to_owned()];
    while let Some(path) = pending.pop() {
        let info = match reach::statat(CWD, path.as_os_str().as_bytes()) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(Error::io("stat", &path))?,
        };
        if inodes.insert(info.st_ino) {
            bytes += info.st_blocks as u64 * 512;
        }
        if FileType::from_raw_mode(info.st_mode) == FileType::Directory {
            match open_directory(CWD, path.as_os_str().as_bytes()).and_then(|dir| names(&dir)) {
                Ok(names) => pending.extend(names.iter().map(|name| path.join(OsStr::from_bytes(name)))),
                Err(Errno::NOENT) => {}
                Err(e) => return Err(Error::io("read", &path)(e)),
            }
        }
    }
    Ok((!inodes.is_empty()).then_some((bytes, inodes.len() as u64)))
}
