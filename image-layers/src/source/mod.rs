//! Where images come from: archives of `docker save` (in both of its forms), OCI archives, OCI layout directories.
//!
//! All of them are a set of named files ([`members`]) with one of two tables of contents in it: `index.json` of an OCI
//! layout or `manifest.json` of Docker. Newer archives have both; then the layout counts, and `manifest.json` only adds
//! names.

mod docker_archive;
mod members;
mod oci_layout;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Descriptor, DockerImage, Manifest};
use crate::media_type::Kind;
use crate::progress::{Control, Losses, Step};
use crate::snapshot::{self, LayerJob};
use crate::{
    Cancel, Digest, Error, ImageConfig, Limits, Loss, Platform, Progress, Reference, Result, Verifier,
};

pub(crate) use members::Body;
use members::Members;

/// Which image to take from an input, and within which bounds.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ImportOptions {
    pub(crate) reference: Option<String>,
    pub(crate) platform: Platform,
    pub(crate) any_platform: bool,
    pub(crate) all: bool,
    pub(crate) name: Option<Reference>,
    pub(crate) control: Control,
}

impl ImportOptions {
    /// The only image of the input, or the one tagged `latest`, for the platform of this program.
    pub fn new() -> ImportOptions {
        ImportOptions::default()
    }

    /// Takes the image with this name: a tag, a full reference as it stands in the input, or a digest.
    pub fn reference(mut self, reference: impl Into<String>) -> Self {
        self.reference = Some(reference.into());
        self
    }

    /// Takes the image for this platform. The default is [`Platform::host`].
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Takes an image for another platform too where there is none for the wanted one. Off by default.
    pub fn any_platform(mut self, allow: bool) -> Self {
        self.any_platform = allow;
        self
    }

    /// Imports every image of the input that fits reference and platform, instead of asking for a choice. Off by default.
    pub fn all(mut self, all: bool) -> Self {
        self.all = all;
        self
    }

    /// Stores the image under this name, instead of the full references that the input gives it.
    pub fn name(mut self, name: Reference) -> Self {
        self.name = Some(name);
        self
    }

    /// Ceilings for what the input may ask for.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.control.limits = limits;
        self
    }

    /// A flag that stops the work.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.control.cancel = cancel;
        self
    }

    /// A callback that hears how far the work is.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.control.progress = Some(progress);
        self
    }

    /// For [`SourceImage::unpack`]: goes on where the file system cannot store something, and tells what. Without this, that
    /// is [`Error::UnsupportedAttribute`].
    pub fn allow_loss(mut self, callback: impl Fn(Loss) + Send + Sync + 'static) -> Self {
        self.control.losses = Some(Losses::new(callback));
        self
    }
}

/// An opened image input: a file or directory with one or more images.
///
/// ```no_run
/// use image_layers::{ImportOptions, Source};
/// let options = ImportOptions::new();
/// let image = Source::open("alpine.tar.gz", &options)?.image(&options)?;
/// println!("{} for {}", image.config().args().join(" "), image.config().platform);
/// image.unpack("rootfs")?;
/// # Ok::<(), image_layers::Error>(())
/// ```
#[derive(Debug)]
pub struct Source {
    members: Arc<Members>,
    candidates: Vec<Candidate>,
}

/// An image that an input lists.
#[derive(Clone, Debug)]
struct Candidate {
    /// Names as written there.
    names: Vec<String>,
    /// Candidates of one group are the same image for different platforms.
    group: usize,
    /// As the index has it; the configuration decides where it is missing.
    platform: Option<Platform>,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Manifest(Descriptor),
    Docker(DockerImage),
}

impl Source {
    /// Opens an archive, compressed or not, or a directory, and reads what images it lists. Limits, cancel flag and
    /// progress of `options` apply.
    ///
    /// A compressed archive is unpacked into an unnamed temporary file first.
    ///
    /// # Errors
    /// [`Error::SourceNotFound`], [`Error::NotAnImage`], [`Error::Truncated`], [`Error::InvalidDocument`],
    /// [`Error::LimitExceeded`].
    pub fn open(path: impl AsRef<Path>, options: &ImportOptions) -> Result<Source> {
        Source::open_spooling(path.as_ref(), &std::env::temp_dir(), &options.control)
    }

    pub(crate) fn open_spooling(path: &Path, spool: &Path, control: &Control) -> Result<Source> {
        let members = Members::open(path, spool, control)?;
        let layout = oci_layout::candidates(&members, control)?;
        let docker = docker_archive::images(&members, control)?;
        let candidates = match (layout, docker) {
            (Some(layout), Some(docker)) => merge(&members, control, layout, docker),
            (Some(layout), None) => layout,
            (None, Some(docker)) => docker_archive::candidates(docker),
            (None, None) if members.is_cut_off() => {
                return Err(Error::Truncated { what: path.display().to_string() });
            }
            (None, None) => {
                let reason = "it has neither index.json (OCI) nor manifest.json (docker save)".to_owned();
                return Err(Error::NotAnImage { path: path.to_owned(), reason });
            }
        };
        if candidates.is_empty() {
            return Err(Error::NotAnImage { path: path.to_owned(), reason: "it lists no image".into() });
        }
        Ok(Source { members: Arc::new(members), candidates })
    }

    /// The names of the images, as the input has them; digests for those without a name.
    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.candidates.iter().map(Candidate::label).collect();
        names.into_iter().collect()
    }

    /// The one image that `options` choose.
    ///
    /// # Errors
    /// [`Error::ReferenceNotFound`], [`Error::SeveralImages`], [`Error::PlatformMismatch`]; errors of the documents:
    /// digest, size, malformed, media types that are not those of an image.
    pub fn image(&self, options: &ImportOptions) -> Result<SourceImage> {
        let mut fitting = self.fitting(options)?;
        if fitting.len() > 1 {
            let latest = |i: &SourceImage| i.names.iter().any(|n| n == "latest");
            if fitting.iter().filter(|i| latest(i)).count() == 1 {
                fitting.retain(latest);
            }
        }
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            _ => {
                let available = fitting.iter().map(|i| i.label.clone()).collect();
                Err(Error::SeveralImages { path: self.members.path().to_owned(), available })
            }
        }
    }

    /// Every image that fits `options`; of an image for several platforms, the one that fits best.
    ///
    /// # Errors
    /// As [`image`](Source::image), without [`Error::SeveralImages`].
    pub fn images(&self, options: &ImportOptions) -> Result<Vec<SourceImage>> {
        self.fitting(options)
    }

    fn fitting(&self, options: &ImportOptions) -> Result<Vec<SourceImage>> {
        let control = &options.control;
        let wanted = &options.platform;
        let named: Vec<&Candidate> = match &options.reference {
            None => self.candidates.iter().collect(),
            Some(reference) => self.candidates.iter().filter(|c| c.is_called(reference)).collect(),
        };
        if named.is_empty() {
            let reference = options.reference.clone().unwrap_or_default();
            return Err(Error::ReferenceNotFound { reference, available: self.names() });
        }
        // Entries with the same names are one image for several platforms, as are those of one nested index.
        let mut groups: Vec<Vec<&Candidate>> = Vec::new();
        for candidate in named {
            let same = |g: &&mut Vec<&Candidate>| {
                g[0].group == candidate.group
                    || (!candidate.names.is_empty() && g[0].names == candidate.names)
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(candidate),
                None => groups.push(vec![candidate]),
            }
        }
        let mut images: Vec<SourceImage> = Vec::new();
        let mut others = Vec::new();
        let mut fallback = None;
        for group in groups {
            let mut best: Option<(u32, SourceImage)> = None;
            for candidate in group {
                control.check()?;
                // The index's word saves reading the manifest of each platform.
                if let Some(platform) = &candidate.platform {
                    let rank = wanted.rank(platform);
                    if !options.any_platform
                        && (rank.is_none() || best.as_ref().is_some_and(|b| Some(b.0) <= rank))
                    {
                        others.extend(rank.is_none().then(|| platform.clone()));
                        continue;
                    }
                }
                let image = match self.load(candidate, control) {
                    // An archive may list platforms that it does not hold.
                    Err(Error::BlobNotFound { .. })
                        if options.any_platform && candidate.platform.is_some() =>
                    {
                        continue;
                    }
                    other => other?,
                };
                let platform = candidate.platform.clone().unwrap_or_else(|| image.config.platform.clone());
                match wanted.rank(&platform) {
                    Some(rank) if best.as_ref().is_none_or(|b| rank < b.0) => best = Some((rank, image)),
                    Some(_) => {}
                    None => {
                        others.push(platform);
                        fallback.get_or_insert(image);
                    }
                }
            }
            // One manifest may be listed under several names.
            if let Some((_, image)) = best {
                match images.iter_mut().find(|i| i.manifest.is_some() && i.digest() == image.digest()) {
                    Some(same) => same.names.extend(image.names),
                    None => images.push(image),
                }
            }
        }
        if images.is_empty() && options.any_platform {
            images.extend(fallback);
        }
        if images.is_empty() {
            let what = options.reference.clone().unwrap_or_else(|| self.members.path().display().to_string());
            let mut available: Vec<Platform> = Vec::new();
            others.into_iter().for_each(|p| {
                if !available.contains(&p) {
                    available.push(p)
                }
            });
            return Err(Error::PlatformMismatch { what, wanted: wanted.clone(), available });
        }
        Ok(images)
    }

    fn load(&self, candidate: &Candidate, control: &Control) -> Result<SourceImage> {
        let members = &self.members;
        let (manifest, config_digest, config_bytes, layers) = match &candidate.origin {
            Origin::Manifest(descriptor) => {
                let (digest, bytes) = oci_layout::document_blob(members, descriptor, "manifest", control)?;
                let manifest = Manifest::parse(&format!("manifest {digest}"), &bytes)?;
                let config = &manifest.config;
                if config.kind() != Kind::Config {
                    let what = format!("the configuration of {digest}");
                    return Err(Error::UnsupportedMediaType { what, media_type: config.media_type.clone() });
                }
                let (config_digest, config) =
                    oci_layout::document_blob(members, config, "configuration", control)?;
                let layers = manifest
                    .layers
                    .iter()
                    .enumerate()
                    .map(|(index, layer)| self.layer(index, layer))
                    .collect::<Result<Vec<_>>>()?;
                (Some((digest, bytes)), config_digest, config, layers)
            }
            Origin::Docker(image) => {
                let config = self.member(&image.config)?.document("configuration", control)?;
                let layers = image
                    .layers
                    .iter()
                    .map(|name| Ok(SourceLayer { descriptor: None, body: self.member(name)? }))
                    .collect::<Result<Vec<_>>>()?;
                (None, Digest::sha256(&config), config, layers)
            }
        };
        let config = ImageConfig::parse(&format!("configuration {config_digest}"), &config_bytes)?;
        let id = manifest.as_ref().map_or(&config_digest, |(digest, _)| digest);
        if layers.len() != config.diff_ids.len() {
            let (layers, diff_ids) = (layers.len(), config.diff_ids.len());
            return Err(Error::DiffIdCount { image: id.clone(), layers, diff_ids });
        }
        if layers.len() > control.limits.layers {
            let limit = control.limits.layers as u64;
            return Err(Error::LimitExceeded { what: format!("image {id}"), name: "layers", limit });
        }
        Ok(SourceImage {
            label: candidate.label(),
            names: candidate.names.clone(),
            manifest,
            config_digest,
            config_bytes,
            config,
            layers,
            control: control.clone(),
        })
    }

    fn layer(&self, index: usize, descriptor: &Descriptor) -> Result<SourceLayer> {
        let foreign = match descriptor.kind() {
            Kind::Layer => false,
            Kind::ForeignLayer => true,
            _ => {
                let what = format!("layer {}", index + 1);
                return Err(Error::UnsupportedMediaType { what, media_type: descriptor.media_type.clone() });
            }
        };
        let digest = descriptor.digest()?;
        let body = match oci_layout::blob(&self.members, &digest)? {
            Some(body) => body,
            None if foreign => return Err(Error::ForeignLayer { digest, urls: descriptor.urls.clone() }),
            None => return Err(Error::BlobNotFound { digest, path: self.members.path().to_owned() }),
        };
        if body.len() != descriptor.size {
            let what = format!("layer {digest}");
            return Err(Error::SizeMismatch { what, expected: descriptor.size, actual: body.len() });
        }
        Ok(SourceLayer { descriptor: Some((descriptor.media_type.clone(), digest)), body })
    }

    fn member(&self, name: &str) -> Result<Body> {
        let archive = || self.members.path().to_owned();
        self.members
            .find(name)?
            .ok_or_else(|| Error::MemberNotFound { archive: archive(), member: name.to_owned() })
    }
}

impl Candidate {
    /// What to call it in a list.
    fn label(&self) -> String {
        match (self.names.first(), &self.origin) {
            (Some(name), _) => name.clone(),
            (None, Origin::Manifest(descriptor)) => descriptor.digest.clone(),
            (None, Origin::Docker(image)) => image.config.clone(),
        }
    }

    fn is_called(&self, wanted: &str) -> bool {
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
fn full_references(names: &[String], docker: bool) -> impl Iterator<Item = Reference> {
    names.iter().filter(move |name| docker || name.contains(['/', ':'])).filter_map(|name| name.parse().ok())
}

/// Newer archives of Docker have both tables. The layout counts; Docker's own list adds names that the layout leaves out, and
/// images, since some versions wrote a layout without any.
fn merge(
    members: &Members,
    control: &Control,
    mut layout: Vec<Candidate>,
    docker: Vec<DockerImage>,
) -> Vec<Candidate> {
    let mut rest = docker;
    for candidate in &mut layout {
        let Origin::Manifest(descriptor) = &candidate.origin else { continue };
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

/// One image of a [`Source`], its documents checked, its layers not yet.
#[derive(Clone, Debug)]
pub struct SourceImage {
    label: String,
    names: Vec<String>,
    /// Digest and bytes; archives of Docker's old form have none.
    manifest: Option<(Digest, Vec<u8>)>,
    config_digest: Digest,
    config_bytes: Vec<u8>,
    config: ImageConfig,
    layers: Vec<SourceLayer>,
    control: Control,
}

#[derive(Clone, Debug)]
pub(crate) struct SourceLayer {
    /// Media type and digest, where the input has a manifest that says so.
    pub(crate) descriptor: Option<(String, Digest)>,
    pub(crate) body: Body,
}

impl SourceLayer {
    /// The blob, checked against its descriptor as it is read.
    fn verified(&self) -> Box<dyn std::io::Read + Send> {
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
        match std::io::copy(&mut layer.verified(), &mut std::io::sink()) {
            Err(e) => match e.downcast::<Error>() {
                Ok(cause) => cause.in_layer(*index, digest),
                Err(_) => error,
            },
            Ok(_) => error,
        }
    }
}
