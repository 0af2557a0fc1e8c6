//! The images that an input lists, before any of them is read.

use std::collections::HashSet;

use crate::document::{Descriptor, DockerImage, Manifest};
use crate::progress::Control;
use crate::{Platform, Reference};

use super::members::Members;
use super::{docker_archive, oci_layout};

/// An image that an input lists.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Names as written there.
    pub(super) names: Vec<String>,
    /// Candidates of one group are the same image for different platforms.
    pub(super) group: usize,
    /// As the index has it; the configuration decides where it is missing.
    pub(super) platform: Option<Platform>,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    Manifest(Descriptor),
    Docker(DockerImage),
}

impl Candidate {
    /// The digest of the manifest, where there is one.
    pub(super) fn manifest_digest(&self) -> Option<&str> {
        match &self.origin {
            Origin::Manifest(descriptor) => Some(&descriptor.digest),
            Origin::Docker(_) => None,
        }
    }

    /// What to call it in a list.
    pub(super) fn label(&self) -> String {
        match (self.names.first(), &self.origin) {
            (Some(name), _) => name.clone(),
            (None, Origin::Manifest(descriptor)) => descriptor.digest.clone(),
            (None, Origin::Docker(image)) => image.config.clone(),
        }
    }

    pub(super) fn is_called(&self, wanted: &str) -> bool {
        let digest = match &self.origin {
            Origin::Manifest(descriptor) => descriptor.digest == wanted,
            Origin::Docker(image) => {
                let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
                // The archive names configurations by their digest, in several ways.
                hex.len() == 64 && image.config.contains(hex)
            }
        };
        if digest || self.names.iter().any(|name| name == wanted) {
            return true;
        }
        // A bare word could be a tag, and was compared as such; as a repository it must not match the tag of another.
        let Ok(wanted) = wanted.parse::<Reference>() else { return false };
        self.full_references().any(|reference| reference == wanted)
    }

    fn full_references(&self) -> impl Iterator<Item = Reference> {
        full_references(&self.names, matches!(self.origin, Origin::Docker(_)))
    }
}

/// The names that say which repository they are of. In a layout, a bare word is a tag only.
pub(super) fn full_references(names: &[String], docker: bool) -> impl Iterator<Item = Reference> {
    names.iter().filter(move |name| docker || name.contains(['/', ':'])).filter_map(|name| name.parse().ok())
}

/// Newer archives of Docker have both tables. The layout counts; Docker's own list adds names that the layout leaves out, and
/// images, since some versions wrote a layout without any.
pub(super) fn merge(
    members: &Members,
    control: &Control,
    mut layout: Vec<Candidate>,
    docker: Vec<DockerImage>,
) -> Vec<Candidate> {
    let mut rest = docker;
    let mut read = HashSet::new();
    for candidate in &mut layout {
        if rest.is_empty() {
            break;
        }
        let Origin::Manifest(descriptor) = &candidate.origin else { continue };
        // One manifest may be listed many times.
        if !read.insert(descriptor.digest.clone()) {
            continue;
        }
        let Ok((digest, bytes)) = oci_layout::document_blob(members, descriptor, "manifest", control) else {
            continue;
        };
        let Ok(manifest) = Manifest::parse(&format!("manifest {digest}"), &bytes) else { continue };
        let Some((_, hex)) = manifest.config.digest.split_once(':') else { continue };
        for image in rest.extract_if(.., |image| image.config.contains(hex)) {
            let new: Vec<String> =
                image.repo_tags.into_iter().filter(|tag| !candidate.is_called(tag)).collect();
            candidate.names.extend(new);
        }
    }
    let first = layout.iter().map(|c| c.group + 1).max().unwrap_or(0);
    let more = docker_archive::candidates(rest).into_iter();
    layout.extend(more.map(|c| Candidate { group: c.group + first, ..c }));
    layout
}
