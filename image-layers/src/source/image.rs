//! One image of an input.

use std::io;
use std::path::{Path, PathBuf};

use crate::progress::{Control, Step};
use crate::snapshot::{self, LayerJob};
use crate::{Digest, Error, ImageConfig, Reference, Result, Verifier};

use super::candidate::full_references;
use super::members::Body;

/// One image of a [`Source`](crate::Source), its documents checked, its layers not yet.
#[derive(Clone, Debug)]
pub struct SourceImage {
    pub(super) label: String,
    pub(super) names: Vec<String>,
    /// Digest and bytes; archives of Docker's old form have none.
    pub(super) manifest: Option<(Digest, Vec<u8>)>,
    pub(super) config_digest: Digest,
    pub(super) config_bytes: Vec<u8>,
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<SourceLayer>,
    pub(super) control: Control,
}

#[derive(Clone, Debug)]
pub(crate) struct SourceLayer {
    /// Media type and digest, where the input has a manifest that says so.
    pub(crate) descriptor: Option<(String, Digest)>,
    pub(crate) body: Body,
}

impl SourceLayer {
    /// The blob, checked against its descriptor as it is read.
    fn verified(&self) -> Box<dyn io::Read + Send> {
        match &self.descriptor {
            Some((_, digest)) => Box::new(Verifier::new(
                self.body.reader(),
                format!("blob {digest}"),
                digest.clone(),
                self.body.len(),
            )),
            None => Box::new(self.body.reader()),
        }
    }
}

impl SourceImage {
    /// What the image is and runs.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The digest of the manifest; where the input has none, that of the configuration.
    pub fn digest(&self) -> &Digest {
        self.manifest.as_ref().map_or(&self.config_digest, |(digest, _)| digest)
    }

    /// The names the input gives it that are full references.
    pub fn references(&self) -> Vec<Reference> {
        let mut references: Vec<Reference> = full_references(&self.names, self.manifest.is_none()).collect();
        references.sort();
        references.dedup();
        references
    }

    pub(crate) fn manifest(&self) -> Option<&(Digest, Vec<u8>)> {
        self.manifest.as_ref()
    }

    pub(crate) fn config_blob(&self) -> (&Digest, &[u8]) {
        (&self.config_digest, &self.config_bytes)
    }

    pub(crate) fn layers(&self) -> &[SourceLayer] {
        &self.layers
    }

    /// Unpacks the image into a plain directory: all layers into one tree, with no store and nothing to mount.
    ///
    /// `target` is made where it is missing, and must be empty. Every digest is checked; when something does not hold, or
    /// the work is cancelled, nothing is left in `target`.
    ///
    /// As an ordinary user everything belongs to the caller, and devices become empty files.
    ///
    /// # Errors
    /// Whatever the layers hold that is wrong, as [`Error::Layer`]; [`Error::Io`].
    pub fn unpack(&self, target: impl AsRef<Path>) -> Result<()> {
        let count = self.layers.len();
        let jobs = self
            .layers
            .iter()
            .zip(&self.config.diff_ids)
            .enumerate()
            .map(|(index, (layer, diff_id))| {
                let source = layer.clone();
                LayerJob {
                    open: Box::new(move || Ok(source.verified())),
                    diff_id: diff_id.clone(),
                    scratch: PathBuf::new(),
                    control: self.control.layer(Step::Unpack, index, count, layer.body.len()),
                }
            })
            .collect();
        snapshot::unpack_to_directory(jobs, target.as_ref()).map_err(|error| self.blame(error))
    }

    /// Damaged content shows as whatever the decoder stumbles over first. When the blob is not what its descriptor says,
    /// that is the error to tell.
    fn blame(&self, error: Error) -> Error {
        let Error::Layer { index, digest, source } = &error else { return error };
        let Some(layer) = self.layers.get(*index) else { return error };
        if matches!(**source, Error::Io { .. } | Error::LimitExceeded { .. }) {
            return error;
        }
        match io::copy(&mut layer.verified(), &mut io::sink()) {
            Err(e) => match e.downcast::<Error>() {
                Ok(cause) => cause.in_layer(*index, digest),
                Err(_) => error,
            },
            Ok(_) => error,
        }
    }
}
