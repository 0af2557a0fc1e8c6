//! Archives of `docker save`: `manifest.json`, with the names of configurations and layers among the archive's members.

use crate::document::{self, DockerImage};
use crate::progress::Control;
use crate::{Error, Result};

use super::candidate::{Candidate, Origin};
use super::members::Members;

/// What `manifest.json` lists; `None` where there is none.
pub(super) fn images(members: &Members, control: &Control) -> Result<Option<Vec<DockerImage>>> {
    let Some(body) = members.get("manifest.json")? else {
        return Ok(None);
    };
    let bytes = body.document("manifest.json", control)?;
    if document::parse("manifest.json", &bytes)?.is_null() {
        let reason = "it holds null instead of a list of images".to_owned();
        return Err(Error::InvalidDocument { what: "manifest.json".into(), reason });
    }
    document::parse_as("manifest.json", &bytes).map(Some)
}

pub(super) fn candidates(images: Vec<DockerImage>) -> Vec<Candidate> {
    let candidate = |(group, image): (usize, DockerImage)| Candidate {
        names: image.repo_tags.clone(),
        group,
        platform: None,
        origin: Origin::Docker(image),
    };
    images.into_iter().enumerate().map(candidate).collect()
}
