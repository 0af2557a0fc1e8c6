//! OCI image layouts: `index.json`, possibly with indexes within, and `blobs/`.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::document::{self, Descriptor, Index};
use crate::media_type::Kind;
use crate::progress::Control;
use crate::{Digest, Error, Result};

use super::candidate::{Candidate, Origin};
use super::members::{Body, Members};

/// All images of a layout, also those within nested indexes; `None` when this is no layout.
pub(super) fn candidates(members: &Members, control: &Control) -> Result<Option<Vec<Candidate>>> {
    let Some(body) = members.get("index.json")? else {
        return Ok(None);
    };
    let index = Index::parse("index.json", &body.document("index.json", control)?)?;
    let mut nested = Nested { members, control, known: HashMap::new() };
    let mut found = Vec::new();
    for (group, entry) in index.manifests.iter().enumerate() {
        let names = [document::CONTAINERD_NAME, document::REF_NAME]
            .iter()
            .filter_map(|key| entry.annotations.get(*key).filter(|name| name.len() <= LONGEST_NAME).cloned())
            .collect::<Vec<_>>();
        for leaf in nested.leaves(entry, 0)?.iter() {
            found.push(Candidate {
                names: names.clone(),
                group,
                platform: leaf.platform.as_ref().map(|p| p.platform()),
                origin: Origin::Manifest(Descriptor { platform: None, ..leaf.clone() }),
            });
        }
        nested.check(found.len())?;
    }
    Ok(Some(found))
}

/// Longer than any reference can be.
const LONGEST_NAME: usize = 1024;

/// What the indexes lead to. Each is read once: a few of them that list each other many times could stand for more images
/// than any memory holds.
struct Nested<'a> {
    members: &'a Members,
    control: &'a Control,
    known: HashMap<String, Rc<[Descriptor]>>,
}

impl Nested<'_> {
    /// The manifests that an entry stands for, each once, with nothing but digest, size and platform.
    fn leaves(&mut self, entry: &Descriptor, depth: usize) -> Result<Rc<[Descriptor]>> {
        self.control.check()?;
        match entry.kind() {
            Kind::Manifest if !entry.is_attestation() => {
                let digest = entry.digest()?.to_string();
                let platform = entry.platform.clone();
                Ok([Descriptor { digest, size: entry.size, platform, ..Descriptor::default() }].into())
            }
            Kind::Index => self.index(entry, depth),
            // Of unknown type: to be ignored, by the image specification.
            _ => Ok([].into()),
        }
    }

    fn index(&mut self, entry: &Descriptor, depth: usize) -> Result<Rc<[Descriptor]>> {
        if let Some(leaves) = self.known.get(&entry.digest) {
            return Ok(leaves.clone());
        }
        if depth == self.control.limits.index_depth {
            let limit = self.control.limits.index_depth as u64;
            return Err(Error::LimitExceeded { what: "nested indexes".into(), name: "index_depth", limit });
        }
        let (_, bytes) = document_blob(self.members, entry, "index", self.control)?;
        let index = Index::parse(&format!("index {}", entry.digest), &bytes)?;
        let mut seen = HashSet::new();
        let mut leaves = Vec::new();
        for inner in &index.manifests {
            let inner = self.leaves(inner, depth + 1)?;
            leaves.extend(inner.iter().filter(|leaf| seen.insert(leaf.digest.clone())).cloned());
            self.check(leaves.len())?;
        }
        let leaves: Rc<[Descriptor]> = leaves.into();
        self.known.insert(entry.digest.clone(), leaves.clone());
        Ok(leaves)
    }

    fn check(&self, images: usize) -> Result<()> {
        let limit = self.control.limits.images;
        match images > limit {
            true => {
                Err(Error::LimitExceeded { what: "index.json".into(), name: "images", limit: limit as u64 })
            }
            false => Ok(()),
        }
    }
}

/// The blob of a descriptor, if it is there. Its size is checked, its content not yet.
pub(super) fn blob(members: &Members, digest: &Digest) -> Result<Option<Body>> {
    members.get(&format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex()))
}

/// A document by its descriptor, size and digest checked.
pub(super) fn document_blob(
    members: &Members,
    descriptor: &Descriptor,
    what: &str,
    control: &Control,
) -> Result<(Digest, Vec<u8>)> {
    let digest = descriptor.digest()?;
    let what = format!("{what} {digest}");
    let body = blob(members, &digest)?
        .ok_or_else(|| Error::BlobNotFound { digest: digest.clone(), path: members.path().to_owned() })?;
    if body.len() != descriptor.size {
        return Err(Error::SizeMismatch { what, expected: descriptor.size, actual: body.len() });
    }
    let bytes = body.document(&what, control)?;
    let actual = Digest::of(digest.algorithm(), &bytes);
    if actual != digest {
        return Err(Error::DigestMismatch { what, expected: digest, actual });
    }
    Ok((digest, bytes))
}
