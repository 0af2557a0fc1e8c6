//! What to take from an input.

use crate::progress::{Control, Losses};
use crate::{Cancel, Limits, Loss, Platform, Progress, Reference};

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

    /// For [`SourceImage::unpack`](crate::SourceImage::unpack): goes on where the file system cannot store something, and tells what. Without this, that
    /// is [`Error::UnsupportedAttribute`](crate::Error::UnsupportedAttribute).
    pub fn allow_loss(mut self, callback: impl Fn(Loss) + Send + Sync + 'static) -> Self {
        self.control.losses = Some(Losses::new(callback));
        self
    }
}
