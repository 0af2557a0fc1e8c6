//! From an input into the store.

use std::io::Read;
use std::num::NonZero;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::decode::Compression;
use crate::document::{Descriptor, Manifest, PlatformDocument};
use crate::progress::{Control, Step};
use crate::source::{ImportOptions, Source, SourceImage};
use crate::{Digest, Error, Image, Result, media_type};

use super::Store;
use super::index::Record;
use super::ingest::Content;
use super::lease::{Lease, Root};

impl Store {
    /// Imports an image from an archive of `docker save` (either form), an OCI archive, each compressed or not, or an OCI
    /// layout directory. Every blob is checked against its digest. Blobs that the store has are not copied again.
    ///
    /// The image gets the full names it has in the input, or the one of [`ImportOptions::name`]. When the import fails or
    /// is cancelled, no image appears; blobs that were complete stay until the next garbage collection, so that a second
    /// attempt need not copy them again.
    ///
    /// # Errors
    /// As [`Source::open`] and [`Source::image`]; [`Error::DigestMismatch`], [`Error::SizeMismatch`]; [`Error::Io`].
    pub fn import(&self, path: impl AsRef<Path>, options: &ImportOptions) -> Result<Vec<Image>> {
        let lease = self.lease()?;
        let source = Source::open_spooling(path.as_ref(), lease.path(), &options.control)?;
        let chosen = match options.all {
            true => source.images(options)?,
            false => vec![source.image(options)?],
        };
        let mut records = Vec::new();
        for image in &chosen {
            records.push(self.import_one(&lease, image, options)?);
        }
        // All of them appear at once.
        self.update_index(|index| {
            records.iter().cloned().for_each(|record| index.add(record));
            Ok(())
        })?;
        records.iter().map(|record| Image::by_digest(self, &record.digest)).collect()
    }

    fn import_one(&self, lease: &Lease, image: &SourceImage, options: &ImportOptions) -> Result<Record> {
        let control = &options.control;
        if let Some((digest, _)) = image.manifest() {
            lease.protect([Root::Image(digest.clone())])?;
        }
        let layers = self.import_layers(lease, image, control)?;
        let (config_digest, config) = image.config_blob();
        self.ingest_bytes(lease, config_digest, config, control)?;
        let made;
        let (digest, bytes) = match image.manifest() {
            Some((digest, bytes)) => (digest, bytes),
            None => {
                made = manifest(config_digest, config.len() as u64, layers)?;
                (&made.0, &made.1)
            }
        };
        self.ingest_bytes(lease, digest, bytes, control)?;
        let platform = &image.config().platform;
        let descriptor = Descriptor {
            platform: Some(PlatformDocument {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
                variant: platform.variant.clone(),
            }),
            ..Descriptor::new(media_type_of(bytes), digest, bytes.len() as u64)
        };
        let references = match &options.name {
            Some(name) => vec![name.clone()],
            None => image.references(),
        };
        Ok(Record { descriptor, digest: digest.clone(), references })
    }

    /// Copies the layers, several at a time: hashing is what takes the time.
    fn import_layers(
        &self,
        lease: &Lease,
        image: &SourceImage,
        control: &Control,
    ) -> Result<Vec<Descriptor>> {
        let layers = image.layers();
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(layers.len());
        let next = AtomicUsize::new(0);
        let done: Vec<Mutex<Option<Result<Descriptor>>>> = layers.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(slot) = done.get(index) else { return };
                        let result = self.import_layer(lease, image, index, control);
                        if result.is_err() {
                            next.store(layers.len(), Ordering::Relaxed);
                        }
                        if let Ok(mut slot) = slot.lock() {
                            *slot = Some(result);
                        }
                    }
                });
            }
        });
        let results = done.into_iter().filter_map(|slot| slot.into_inner().ok().flatten());
        // Layers that were not begun, because another one failed, have no result; the failure ends the collecting.
        results.collect::<Result<Vec<_>>>()
    }

    fn import_layer(
        &self,
        lease: &Lease,
        image: &SourceImage,
        index: usize,
        control: &Control,
    ) -> Result<Descriptor> {
        let layer = &image.layers()[index];
        let diff_id = &image.config().diff_ids[index];
        let body = &layer.body;
        let progress = control.layer(Step::Import, index, image.layers().len(), body.len());
        let compression = body.compression()?;
        // An archive of Docker's old form does not say the digests of its layers. That of one which is not compressed is
        // its DiffID.
        let expected = match &layer.descriptor {
            Some((_, digest)) => Some((digest.clone(), body.len())),
            None if compression == Compression::None => Some((diff_id.clone(), body.len())),
            None => None,
        };
        let reader: Box<dyn Read + Send> = Box::new(body.reader());
        let content = Content { reader, expected, control: &progress };
        let (digest, size) = self.ingest(lease, content, control).map_err(|e| e.in_layer(index, diff_id))?;
        let media_type = match (&layer.descriptor, compression) {
            (Some((media_type, _)), _) => media_type,
            (None, Compression::Gzip) => media_type::OCI_LAYER_GZIP,
            (None, Compression::Zstd) => media_type::OCI_LAYER_ZSTD,
            (None, _) => media_type::OCI_LAYER,
        };
        Ok(Descriptor::new(media_type, &digest, size))
    }
}

/// The manifest of an image that came without one: the same for the same image, wherever and whenever it is imported.
pub(crate) fn manifest(
    config: &Digest,
    config_size: u64,
    layers: Vec<Descriptor>,
) -> Result<(Digest, Vec<u8>)> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.into(),
        config: Descriptor::new(media_type::OCI_CONFIG, config, config_size),
        layers,
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|e| Error::InvalidDocument { what: "manifest".into(), reason: e.to_string() })?;
    Ok((Digest::sha256(&bytes), bytes))
}

/// The family of a manifest, for its descriptor: manifests of OCI need not say it, those of Docker do.
fn media_type_of(manifest: &[u8]) -> &'static str {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    match Manifest::parse("manifest", manifest) {
        Ok(manifest) if manifest.media_type == docker => docker,
        _ => media_type::OCI_MANIFEST,
    }
}
