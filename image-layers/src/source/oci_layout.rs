//! OCI image layouts: `index.json`, possibly with indexes within, and `blobs/`.

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
    let mut found = Vec::new();
    for (group, entry) in index.manifests.iter().enumerate() {
        let names = [document::CONTAINERD_NAME, document::REF_NAME]
            .iter()
            .filter_map(|key| entry.annotations.get(*key).cloned())
            .collect::<Vec<_>>();
        collect(members, control, entry, group, &names, 0, &mut found)?;
    }
    Ok(Some(found))
}

fn collect(
    members: &Members,
    control: &Control,
    entry: &Descriptor,
    group: usize,
    names: &[String],
    depth: usize,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    control.check()?;
    match entry.kind() {
        Kind::Manifest if !entry.is_attestation() => found.push(Candidate {
            names: names.to_vec(),
            group,
            platform: entry.platform.as_ref().map(|p| p.platform()),
            origin: Origin::Manifest(entry.clone()),
        }),
        Kind::Index => {
            if depth == control.limits.index_depth {
                let limit = control.limits.index_depth as u64;
                return Err(Error::LimitExceeded {
                    what: "nested indexes".into(),
                    name: "index_depth",
                    limit,
                });
            }
            let (_, bytes) = document_blob(members, entry, "index", control)?;
            let index = Index::parse(&format!("index {}", entry.digest), &bytes)?;
            for inner in &index.manifests {
                collect(members, control, inner, group, names, depth + 1, found)?;
            }
        }
        // Of unknown type: to be ignored, by the image specification.
        _ => {}
    }
    Ok(())
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
