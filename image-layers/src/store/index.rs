//! `index.json`: the list of images and their names, as an OCI layout has it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::document::{Descriptor, Index, REF_NAME};
use crate::{Digest, Error, Reference, Result, media_type};

use super::{Store, sync_directory, write_file};

/// The images of a store. An image with several names has several entries, one without a name has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageIndex(Index);

/// One image of a store and its names.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) descriptor: Descriptor,
    pub(crate) digest: Digest,
    pub(crate) references: Vec<Reference>,
}

impl ImageIndex {
    /// Each image once.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for entry in &self.0.manifests {
            let Ok(digest) = entry.digest() else { continue };
            let reference = reference(entry);
            match records.iter_mut().find(|r| r.digest == digest) {
                Some(record) => record.references.extend(reference),
                None => records.push(Record {
                    descriptor: Descriptor { annotations: Default::default(), ..entry.clone() },
                    digest,
                    references: reference.into_iter().collect(),
                }),
            }
        }
        records
    }

    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<Record> {
        self.records().into_iter().find(|r| r.digest == *digest)
    }

    /// By name; where the name has a digest, that decides.
    pub(crate) fn by_reference(&self, name: &Reference) -> Option<Record> {
        match name.digest() {
            Some(digest) => self.by_digest(digest),
            None => self.records().into_iter().find(|r| r.references.contains(name)),
        }
    }

    /// All names; digests for images without one.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |e: &Descriptor| reference(e).map_or_else(|| e.digest.clone(), |r| r.to_string());
        self.0.manifests.iter().map(name).collect()
    }

    /// Adds an image with its names, to the names it has already. An image that loses its last name to this one stays,
    /// without a name.
    pub(crate) fn add(&mut self, record: Record) {
        let digest = record.digest.to_string();
        // A name with a digest in it says nothing that the entry does not say.
        let names: Vec<String> = record
            .references
            .iter()
            .map(|r| r.to_string())
            .map(|r| r.split('@').next().unwrap_or_default().into())
            .collect();
        for name in &names {
            for entry in &mut self.0.manifests {
                if entry.digest != digest && entry.annotations.get(REF_NAME) == Some(name) {
                    entry.annotations.clear();
                }
            }
        }
        let manifests = &mut self.0.manifests;
        let others = manifests.clone();
        // An entry without a name is needed only by an image without other entries.
        let mut nameless = HashSet::new();
        manifests.retain(|e| {
            e.annotations.contains_key(REF_NAME)
                || !others.iter().any(|o| o.digest == e.digest && o.annotations.contains_key(REF_NAME))
                    && nameless.insert(e.digest.clone())
        });
        for name in names {
            if !manifests.iter().any(|e| e.digest == digest && e.annotations.get(REF_NAME) == Some(&name)) {
                manifests.retain(|e| e.digest != digest || e.annotations.contains_key(REF_NAME));
                let annotations = [(REF_NAME.to_owned(), name)].into();
                manifests.push(Descriptor { annotations, ..record.descriptor.clone() });
            }
        }
        if !manifests.iter().any(|e| e.digest == digest) {
            manifests.push(Descriptor { annotations: Default::default(), ..record.descriptor });
        }
    }

    pub(super) fn remove_reference(&mut self, name: &Reference) -> bool {
        let before = self.0.manifests.len();
        self.0.manifests.retain(|e| reference(e).as_ref() != Some(name));
        self.0.manifests.len() < before
    }

    pub(super) fn remove_digest(&mut self, digest: &Digest) -> bool {
        let before = self.0.manifests.len();
        let digest = digest.to_string();
        self.0.manifests.retain(|e| e.digest != digest);
        self.0.manifests.len() < before
    }
}

fn reference(entry: &Descriptor) -> Option<Reference> {
    entry.annotations.get(REF_NAME)?.parse().ok()
}

impl Store {
    pub(crate) fn index(&self) -> Result<ImageIndex> {
        let path = self.path().join("index.json");
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        Index::parse("index.json of the store", &bytes).map(ImageIndex)
    }

    /// Changes the list of images: all of the change or nothing, one process at a time.
    pub(crate) fn update_index<T>(&self, change: impl FnOnce(&mut ImageIndex) -> Result<T>) -> Result<T> {
        let _guard = self.lock_exclusive()?;
        let mut index = self.index()?;
        let result = change(&mut index)?;
        write(self.path(), &index.0)?;
        Ok(result)
    }
}

/// Writes an empty list, unless there is one.
pub(super) fn create(store: &Path) -> Result<()> {
    match store.join("index.json").exists() {
        true => Ok(()),
        false => write(store, &Index::default()),
    }
}

fn write(store: &Path, index: &Index) -> Result<()> {
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.into(),
        manifests: index.manifests.clone(),
    };
    let bytes = serde_json::to_vec_pretty(&index).map_err(|e| Error::InvalidDocument {
        what: "index.json of the store".into(),
        reason: e.to_string(),
    })?;
    let new = store.join("index.json.new");
    write_file(&new, &bytes)?;
    fs::rename(&new, store.join("index.json")).map_err(Error::io("rename", &new))?;
    sync_directory(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str, names: &[&str]) -> Record {
        let digest = Digest::sha256(content.as_bytes());
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, &digest, 7);
        Record { descriptor, digest, references: names.iter().map(|n| n.parse().unwrap()).collect() }
    }

    #[test]
    fn names_move_and_go() {
        let mut index = ImageIndex::default();
        index.add(record("a", &["demo:1", "demo:latest"]));
        index.add(record("b", &[]));
        index.add(record("b", &["demo"]));
        assert_eq!(index.0.manifests.len(), 2);
        assert_eq!(index.by_reference(&"demo".parse().unwrap()).unwrap().digest, Digest::sha256(b"b"));
        assert_eq!(index.by_digest(&Digest::sha256(b"a")).unwrap().references, ["demo:1".parse().unwrap()]);
        assert!(index.remove_reference(&"demo:1".parse().unwrap()));
        assert!(!index.remove_reference(&"demo:1".parse().unwrap()));
        assert_eq!(index.records().len(), 1);
        assert!(index.remove_digest(&Digest::sha256(b"b")));
        assert!(index.records().is_empty());
    }

    #[test]
    fn an_image_that_loses_its_names_stays() {
        let mut index = ImageIndex::default();
        index.add(record("a", &["demo", "demo:1"]));
        index.add(record("b", &["demo"]));
        assert_eq!(index.by_digest(&Digest::sha256(b"a")).unwrap().references, ["demo:1".parse().unwrap()]);
        index.add(record("b", &["demo:1"]));
        assert!(index.by_digest(&Digest::sha256(b"a")).unwrap().references.is_empty());
        assert_eq!(index.0.manifests.len(), 3);
    }
}
