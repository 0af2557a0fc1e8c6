//! Watching and stopping work that takes a while.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, Limits, Result};

/// Stops work from another thread. Clones share one flag; once set it stays set.
///
/// Imports, unpacking and commits look at it between small pieces of work and then fail with [`Error::Cancelled`],
/// leaving nothing half made.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks all work that was given this flag to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](Cancel::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is being done when a [`Progress`] callback is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A layer's blob is copied into the store and hashed.
    Import,
    /// A layer is decoded, checked and written out.
    Unpack,
    /// A container's changes are packed into a layer.
    Commit,
}

/// How far one layer is. Numbers only grow; events of several layers come interleaved, from several threads.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event {
    /// What is being done.
    pub step: Step,
    /// Which layer of the image, from 0 at the bottom.
    pub layer: usize,
    /// How many layers the image has.
    pub layers: usize,
    /// Bytes of the blob (compressed, as stored) that are done.
    pub bytes: u64,
    /// Bytes of the blob in total; 0 where it is not known beforehand.
    pub total: u64,
    /// Entries (files, directories, links...) that are done.
    pub entries: u64,
    /// Whether this layer is complete.
    pub done: bool,
}

/// A callback for [`Event`]s, called about every 256 KiB and at the end of each layer. It must be quick.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Event) + Send + Sync>);

impl Progress {
    /// Calls `callback` with each event.
    pub fn new(callback: impl Fn(Event) + Send + Sync + 'static) -> Progress {
        Progress(Arc::new(callback))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Something of an image that the file system it was unpacked to cannot store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// The path in the image.
    pub entry: PathBuf,
    /// The extended attribute that is missing there.
    pub attribute: String,
}

/// Hears of each [`Loss`].
#[derive(Clone)]
pub(crate) struct Losses(Arc<dyn Fn(Loss) + Send + Sync>);

impl Losses {
    pub(crate) fn new(callback: impl Fn(Loss) + Send + Sync + 'static) -> Losses {
        Losses(Arc::new(callback))
    }
}

impl fmt::Debug for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Losses")
    }
}

/// How to unpack an image: within which bounds, and whom to tell.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct UnpackOptions {
    pub(crate) control: Control,
}

impl UnpackOptions {
    /// The default [`Limits`], nobody to tell.
    pub fn new() -> UnpackOptions {
        UnpackOptions::default()
    }

    /// Ceilings for what the layers may ask for.
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

    /// Goes on where the file system cannot store something, and tells what. Without this, that is
    /// [`Error::UnsupportedAttribute`].
    pub fn allow_loss(mut self, callback: impl Fn(Loss) + Send + Sync + 'static) -> Self {
        self.control.losses = Some(Losses::new(callback));
        self
    }
}

/// What every long piece of work carries: its ceilings, whether to go on, whom to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    pub(crate) limits: Limits,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Option<Progress>,
    pub(crate) losses: Option<Losses>,
}

impl Control {
    /// Fails once the work was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The same for one layer, with its own counters.
    pub(crate) fn layer(&self, step: Step, layer: usize, layers: usize, total: u64) -> LayerControl {
        LayerControl {
            control: self.clone(),
            step,
            layer,
            layers,
            total,
            counters: Arc::new(Counters::default()),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    entries: AtomicU64,
    told: AtomicU64,
}

/// A [`Control`] for one layer. Clones share the counters, so decoder and writer threads can each have one.
#[derive(Clone, Debug)]
pub(crate) struct LayerControl {
    control: Control,
    step: Step,
    layer: usize,
    layers: usize,
    total: u64,
    counters: Arc<Counters>,
}

impl LayerControl {
    const STRIDE: u64 = 256 << 10;

    pub(crate) fn limits(&self) -> &Limits {
        &self.control.limits
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.control.check()
    }

    /// Something cannot be stored in `path`. Fails unless that was allowed.
    pub(crate) fn lose(&self, loss: Loss, path: &Path) -> Result<()> {
        match &self.control.losses {
            Some(losses) => {
                (losses.0)(loss);
                Ok(())
            }
            None => {
                let Loss { entry, attribute } = loss;
                Err(Error::UnsupportedAttribute { entry, attribute, path: path.to_owned() })
            }
        }
    }

    /// `n` more bytes of the blob were read.
    pub(crate) fn read(&self, n: u64) {
        let bytes = self.counters.bytes.fetch_add(n, Ordering::Relaxed) + n;
        if bytes / Self::STRIDE != (bytes - n) / Self::STRIDE {
            self.tell(bytes, false);
        }
    }

    /// `n` more entries were done.
    pub(crate) fn entries(&self, n: u64) {
        self.counters.entries.fetch_add(n, Ordering::Relaxed);
    }

    /// The layer is complete.
    pub(crate) fn done(&self) {
        let bytes = self.counters.bytes.load(Ordering::Relaxed);
        self.tell(bytes, true);
    }

    fn tell(&self, bytes: u64, done: bool) {
        let Some(progress) = &self.control.progress else { return };
        // Threads race here; never report less than was reported before.
        let bytes = self.counters.told.fetch_max(bytes, Ordering::Relaxed).max(bytes);
        (progress.0)(Event {
            step: self.step,
            layer: self.layer,
            layers: self.layers,
            bytes,
            total: self.total,
            entries: self.counters.entries.load(Ordering::Relaxed),
            done,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn events_come_by_stride_and_at_the_end() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let control = Control {
            progress: Some(Progress::new(move |e| sink.lock().unwrap().push((e.bytes, e.entries, e.done)))),
            ..Control::default()
        };
        let layer = control.layer(Step::Unpack, 0, 1, 600 << 10);
        for _ in 0..6 {
            layer.read(100 << 10);
            layer.entries(1);
        }
        layer.done();
        assert_eq!(
            *seen.lock().unwrap(),
            [(300 << 10, 2, false), (600 << 10, 5, false), (600 << 10, 6, true)]
        );
    }

    #[test]
    fn cancel_is_shared_by_clones() {
        let control = Control::default();
        assert!(control.check().is_ok());
        control.cancel.clone().cancel();
        assert!(matches!(control.layer(Step::Import, 0, 1, 0).check(), Err(Error::Cancelled)));
    }
}
