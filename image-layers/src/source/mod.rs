//! Where images come from: archives of `docker save` (in both of its forms), OCI archives, OCI layout directories.
//!
//! All of them are a set of named files ([`members`]) with one of two tables of contents in it: `index.json` of an OCI
//! layout or `manifest.json` of Docker. Newer archives have both; then the layout counts, and `manifest.json` only adds
//! names.

mod candidate;
mod docker_archive;
mod image;
mod members;
mod oci_layout;
mod options;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::document::{Descriptor, Manifest};
use crate::media_type::Kind;
use crate::progress::Control;
use crate::{Digest, Error, ImageConfig, Platform, Result};

pub use image::SourceImage;
pub use options::ImportOptions;

use candidate::{Candidate, Origin, merge};
use image::SourceLayer;
use members::{Body, Members};

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

/// A candidate for the wanted platform: one that was read, or one that is chosen already, with more names for it.
enum Fit {
    New(Box<SourceImage>),
    Known(usize, Vec<String>),
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
        let mut unfit = HashMap::new();
        for group in groups {
            let mut best: Option<(u32, Fit)> = None;
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
                // One manifest may be listed under several names; it is read once.
                let digest = candidate.manifest_digest();
                if let Some(platform) = digest.and_then(|digest| unfit.get(digest)) {
                    others.push(Platform::clone(platform));
                    continue;
                }
                let known = images.iter().position(|i: &SourceImage| {
                    i.manifest
                        .as_ref()
                        .is_some_and(|(d, _)| digest.is_some_and(|digest| d.to_string() == digest))
                });
                let fit = match known {
                    Some(known) => Fit::Known(known, candidate.names.clone()),
                    None => match self.load(candidate, control) {
                        // An archive may list platforms that it does not hold.
                        Err(Error::BlobNotFound { .. })
                            if options.any_platform && candidate.platform.is_some() =>
                        {
                            continue;
                        }
                        other => Fit::New(Box::new(other?)),
                    },
                };
                let config = match &fit {
                    Fit::Known(known, _) => images[*known].config(),
                    Fit::New(image) => image.config(),
                };
                let platform = candidate.platform.clone().unwrap_or_else(|| config.platform.clone());
                match wanted.rank(&platform) {
                    Some(rank) if best.as_ref().is_none_or(|b| rank < b.0) => best = Some((rank, fit)),
                    Some(_) => {}
                    None => {
                        unfit.extend(digest.map(|digest| (digest.to_owned(), platform.clone())));
                        others.push(platform);
                        if let Fit::New(image) = fit {
                            fallback.get_or_insert(*image);
                        }
                    }
                }
            }
            match best {
                Some((_, Fit::New(image))) => images.push(*image),
                Some((_, Fit::Known(known, names))) => images[known].names.extend(names),
                None => {}
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
