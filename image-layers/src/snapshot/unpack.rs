//! Unpacking several layers: staged side by side, settled in order.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::apply::index;
use crate::apply::merge::Merged;
use crate::apply::tree::Tree;
use crate::owners::reach::Reach;
use crate::progress::LayerControl;
use crate::{Digest, Error, Result};

use super::{Blob, Snapshotter};

/// One layer to unpack.
pub(crate) struct LayerJob {
    /// Opens the blob as it is stored; called from another thread, when its turn comes.
    pub(crate) open: Box<dyn FnOnce() -> Result<Box<dyn Read + Send>> + Send>,
    /// Digest of the decoded layer.
    pub(crate) diff_id: Digest,
    /// An empty directory on the file system of the snapshots.
    pub(crate) scratch: PathBuf,
    pub(crate) control: LayerControl,
}

impl std::fmt::Debug for LayerJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerJob").field("diff_id", &self.diff_id).finish_non_exhaustive()
    }
}

/// Unpacks layers on top of the committed snapshots `below` (bottom first). When a layer is complete, `commit` gets its
/// number and scratch directory, and says where it put that.
///
/// # Errors
///
/// Those of the lowest layer that fails; what lies in scratch directories then is for the caller to remove.
pub(crate) fn unpack(
    backend: &dyn Snapshotter,
    below: &[PathBuf],
    jobs: Vec<LayerJob>,
    commit: &mut dyn FnMut(usize, &Path) -> Result<PathBuf>,
) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let _reach = Reach::keep();
    let mut merged = Merged::load(below, backend.content())?;
    let layers: Vec<_> = jobs.iter().map(|job| (job.scratch.clone(), job.control.clone())).collect();
    let stage = |blob: Blob<'_>, scratch: &Path| backend.stage(blob, scratch);
    stage_all(&stage, jobs, |number, mut tree| {
        let (scratch, control) = &layers[number];
        in_our_thread(|umask_is_zero| backend.settle(&mut tree, &merged, scratch, umask_is_zero))?;
        thread::scope(|scope| {
            let index = scope.spawn(|| index::write(&tree, &scratch.join(index::FILE)));
            backend.seal(&tree, scratch)?;
            joined(index.join())
        })?;
        let committed = commit(number, scratch)?;
        control.done();
        if number + 1 < layers.len() {
            merged.push(tree, &committed.join(backend.content()))?;
        }
        Ok(())
    })
}

/// Runs `work` in a thread whose umask may be 0; it is told whether it is.
pub(super) fn in_our_thread<T: Send>(work: impl FnOnce(bool) -> T + Send) -> T {
    thread::scope(|scope| {
        let run = || work(crate::sys::private_umask());
        joined(scope.spawn(run).join())
    })
}

fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Stages one layer into its scratch directory.
pub(super) type Stage<'a> = &'a (dyn Fn(Blob<'_>, &Path) -> Result<Tree> + Sync);

/// Stages all layers, as many at a time as there are processors, and calls `staged` for each in order.
pub(super) fn stage_all(
    stage: Stage<'_>,
    jobs: Vec<LayerJob>,
    mut staged: impl FnMut(usize, Tree) -> Result<()>,
) -> Result<()> {
    let processors = thread::available_parallelism().map_or(1, |n| n.get());
    let count = jobs.len();
    let threads = count.min(processors);
    // One writer beside the reader gains much, more of them little: they meet in the same directories.
    let writers = (processors / threads - 1).min(2);
    let stop = Arc::new(AtomicBool::new(false));
    let diff_ids: Vec<Digest> = jobs.iter().map(|job| job.diff_id.clone()).collect();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let (done, results) = channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (done, queue, stop) = (done.clone(), &queue, &stop);
            scope.spawn(move || {
                let umask_is_zero = crate::sys::private_umask();
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, job)) = next else { return };
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let result = stage_one(stage, job, writers, umask_is_zero, stop);
                    if done.send((number, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut waiting: BTreeMap<usize, Result<Tree>> = BTreeMap::new();
        let mut next = 0;
        let mut collect = || {
            while next < count {
                let tree = match waiting.remove(&next) {
                    Some(result) => result.map_err(|e| e.in_layer(next, &diff_ids[next]))?,
                    None => {
                        let (number, result) = results.recv().map_err(|_| Error::Cancelled)?;
                        waiting.insert(number, result);
                        continue;
                    }
                };
                staged(next, tree).map_err(|e| e.in_layer(next, &diff_ids[next]))?;
                next += 1;
            }
            Ok(())
        };
        let result = collect();
        // The others need not go on.
        stop.store(true, Ordering::Release);
        result
    })
}

fn stage_one(
    stage: Stage<'_>,
    job: LayerJob,
    writers: usize,
    umask_is_zero: bool,
    stop: &Arc<AtomicBool>,
) -> Result<Tree> {
    job.control.check()?;
    let reader = Box::new(Stoppable { inner: (job.open)()?, stop: stop.clone() });
    let blob = Blob { reader, diff_id: &job.diff_id, control: &job.control, writers, umask_is_zero };
    stage(blob, &job.scratch)
}

/// Ends a layer's work when another one has failed.
struct Stoppable {
    inner: Box<dyn Read + Send>,
    stop: Arc<AtomicBool>,
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::Cancelled));
        }
        self.inner.read(buffer)
    }
}
