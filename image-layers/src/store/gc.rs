//! Garbage collection: what cannot be reached from images, containers and leases goes.

use std::collections::HashSet;
use std::fs;

use crate::document::{ImageConfig, Manifest};
use crate::{Digest, Error, Result};

use super::layers::LayerDocument;
use super::lease::{self, Root, Trash};
use super::snapshots::all_snapshots;
use super::{Store, lock, names_in};

/// What a garbage collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Snapshots removed.
    pub snapshots: u64,
}

impl Store {
    /// Removes blobs and snapshots that no image, writable layer or living lease needs, whoever holds them.
    ///
    /// Other processes can go on meanwhile: what an import or an unpacking that is under way has made so far stays.
    ///
    /// # Errors
    /// [`Error::Io`]. What was removed before the failure is gone, the rest is whole.
    pub fn collect_garbage(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        // Declared before the lock, so that it is emptied after the lock is gone.
        let trash = Trash::new(self);
        let guard = self.lock_exclusive()?;
        lease::discard_dead(self, &trash)?;
        let mut roots = lease::living_roots(self)?;
        roots.extend(self.index()?.records().into_iter().map(|r| Root::Image(r.digest)));
        let layers = self.path().join("layers");
        for key in names_in(&layers)? {
            let path = layers.join(key);
            match LayerDocument::read(&path) {
                Ok(document) => roots.extend(document.roots()),
                // Removed meanwhile.
                Err(_) if !path.exists() => {}
                // Collecting without knowing what it needs could take it away.
                Err(e) => return Err(e),
            }
        }
        let (blobs, snapshots) = self.reachable(roots);
        for algorithm in ["sha256", "sha512"] {
            let directory = self.path().join("blobs").join(algorithm);
            for name in names_in(&directory)? {
                if format!("{algorithm}:{name}").parse().is_ok_and(|digest: Digest| blobs.contains(&digest)) {
                    continue;
                }
                let path = directory.join(name);
                let bytes = fs::metadata(&path).map_err(Error::io("stat", &path))?.len();
                trash.discard(&path)?;
                collected.blobs += 1;
                collected.blob_bytes += bytes;
            }
        }
        let snapshots: HashSet<&str> = snapshots.iter().map(Digest::hex).collect();
        for path in all_snapshots(self)? {
            if !path.file_name().and_then(|n| n.to_str()).is_some_and(|name| snapshots.contains(name)) {
                trash.discard(&path)?;
                collected.snapshots += 1;
            }
        }
        let locks = self.path().join("locks");
        for name in names_in(&locks)? {
            let path = locks.join(name);
            let Ok(file) = fs::File::open(&path) else { continue };
            let unused = lock::try_exclusive(file).map_err(Error::io("lock", &path))?;
            if unused.is_some() {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        drop(guard);
        trash.empty()?;
        Ok(collected)
    }

    /// The blobs and ChainIDs that these roots need. A document that is missing or damaged leads no further.
    fn reachable(&self, roots: HashSet<Root>) -> (HashSet<Digest>, HashSet<Digest>) {
        let (mut blobs, mut snapshots) = (HashSet::new(), HashSet::new());
        for root in roots {
            match root {
                Root::Blob(digest) => {
                    blobs.insert(digest);
                }
                Root::Snapshot(chain_id) => {
                    snapshots.insert(chain_id);
                }
                Root::Image(digest) => {
                    let manifest = self
                        .read_document(&digest, "manifest")
                        .and_then(|bytes| Manifest::parse("manifest", &bytes));
                    blobs.insert(digest);
                    let Ok(manifest) = manifest else { continue };
                    blobs.extend(manifest.layers.iter().filter_map(|layer| layer.digest().ok()));
                    let Ok(digest) = manifest.config.digest() else { continue };
                    let config = self
                        .read_document(&digest, "configuration")
                        .and_then(|bytes| ImageConfig::parse("configuration", &bytes));
                    blobs.insert(digest);
                    snapshots.extend(config.map(|c| c.chain_ids()).unwrap_or_default());
                }
            }
        }
        (blobs, snapshots)
    }
}
