//! An image of a store.

use std::io::Read;

use crate::document::{Descriptor, Manifest};
use crate::progress::Step;
use crate::snapshot::{self, LayerJob};
use crate::store::index::Record;
use crate::{Digest, Error, ImageConfig, Platform, Reference, Result, Store, UnpackOptions, media_type};

/// An image in a [`Store`]: plain data about it. It stays usable for as long as the store has the image; hold a
/// [`Lease`](crate::Lease) to be sure of that.
#[derive(Clone, Debug)]
pub struct Image {
    store: Store,
    record: Record,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    config_digest: Digest,
    config: ImageConfig,
    layers: Vec<ImageLayer>,
}

/// A layer of an [`Image`], as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageLayer {
    /// The digest of the blob.
    pub digest: Digest,
    /// The bytes of the blob.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

impl Image {
    pub(crate) fn load(store: &Store, record: Record) -> Result<Image> {
        let manifest_bytes = store.read_document(&record.digest, "manifest")?;
        let manifest = Manifest::parse(&format!("manifest {}", record.digest), &manifest_bytes)?;
        let config_digest = manifest.config.digest()?;
        let config = store.read_document(&config_digest, "configuration")?;
        let config = ImageConfig::parse(&format!("configuration {config_digest}"), &config)?;
        let layers = manifest
            .layers
            .iter()
            .map(|l| Ok(ImageLayer { digest: l.digest()?, size: l.size, media_type: l.media_type.clone() }))
            .collect::<Result<Vec<_>>>()?;
        if layers.len() != config.diff_ids.len() {
            let (layers, diff_ids) = (layers.len(), config.diff_ids.len());
            return Err(Error::DiffIdCount { image: record.digest, layers, diff_ids });
        }
        Ok(Image { store: store.clone(), record, manifest, manifest_bytes, config_digest, config, layers })
    }

    /// An image by its digest alone: it may have been removed from the list, while a container still keeps its content.
    pub(crate) fn by_digest(store: &Store, digest: &Digest) -> Result<Image> {
        let record = store.index()?.by_digest(digest).unwrap_or_else(|| Record {
            descriptor: Default::default(),
            digest: digest.clone(),
            references: Vec::new(),
        });
        Image::load(store, record)
    }

    /// The digest of the manifest, which names the image.
    pub fn digest(&self) -> &Digest {
        &self.record.digest
    }

    /// The names it had when it was looked up.
    pub fn references(&self) -> &[Reference] {
        &self.record.references
    }

    /// What the image is and runs.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The digest of the configuration, which Docker calls the image id.
    pub fn config_digest(&self) -> &Digest {
        &self.config_digest
    }

    /// What the image is made for.
    pub fn platform(&self) -> &Platform {
        &self.config.platform
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[ImageLayer] {
        &self.layers
    }

    /// The manifest, byte for byte.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The bytes of all blobs of the image.
    pub fn size(&self) -> u64 {
        self.blobs().map(|(_, size)| size).sum()
    }

    /// Unpacks the image into a plain directory, as [`SourceImage::unpack`](crate::SourceImage::unpack) does.
    ///
    /// # Errors
    /// Whatever is wrong with the layers, as [`Error::Layer`]; [`Error::BlobNotFound`] when the image was collected;
    /// [`Error::Io`].
    pub fn unpack(&self, target: impl AsRef<std::path::Path>) -> Result<()> {
        self.unpack_with(target, &UnpackOptions::new())
    }

    /// As [`unpack`](Image::unpack), with limits, a cancel flag and progress.
    ///
    /// # Errors
    /// As [`unpack`](Image::unpack); [`Error::LimitExceeded`], [`Error::Cancelled`].
    pub fn unpack_with(&self, target: impl AsRef<std::path::Path>, options: &UnpackOptions) -> Result<()> {
        let control = &options.control;
        // Nobody may collect the layers meanwhile.
        let lease = self.store.lease()?;
        lease.keep(self)?;
        let count = self.layers.len();
        let job = |(index, layer): (usize, &ImageLayer)| {
            let (store, digest) = (self.store.clone(), layer.digest.clone());
            LayerJob {
                open: Box::new(move || Ok(Box::new(store.open_blob(&digest)?) as Box<dyn Read + Send>)),
                diff_id: self.config.diff_ids[index].clone(),
                scratch: std::path::PathBuf::new(),
                control: control.layer(Step::Unpack, index, count, layer.size),
            }
        };
        snapshot::unpack_to_directory(self.layers.iter().enumerate().map(job).collect(), target.as_ref())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What an index says of the image, apart from its names.
    pub(crate) fn descriptor(&self) -> Descriptor {
        let descriptor = &self.record.descriptor;
        match descriptor.digest.is_empty() {
            // It is not listed any more.
            true => {
                let media_type = match &self.manifest.media_type[..] {
                    "" => media_type::OCI_MANIFEST,
                    other => other,
                };
                Descriptor::new(media_type, self.digest(), self.manifest_bytes.len() as u64)
            }
            false => Descriptor { annotations: Default::default(), ..descriptor.clone() },
        }
    }

    /// Digest and size of everything the image consists of.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&Digest, u64)> {
        let documents = [
            (self.digest(), self.manifest_bytes.len() as u64),
            (&self.config_digest, self.manifest.config.size),
        ];
        documents.into_iter().chain(self.layers.iter().map(|l| (&l.digest, l.size)))
    }

    /// Fails when a blob is missing.
    pub(crate) fn check_blobs(&self) -> Result<()> {
        for (digest, size) in self.blobs() {
            if !self.store.has_blob(digest, size)? {
                return Err(Error::BlobNotFound {
                    digest: digest.clone(),
                    path: self.store.path().to_owned(),
                });
            }
        }
        Ok(())
    }
}
