//! Work can be watched and stopped, in every phase, and leaves nothing half made.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fixture::*;
use image_layers::{
    Cancel, Class, Event, Image, ImportOptions, Limits, Progress, Step, Store, UnpackOptions,
};

/// Three layers of a good MiB.
fn layers() -> Vec<Layer> {
    let layer = |n: u64| {
        let tar = Tar::new()
            .file(&format!("{n}/big"), noise(1_100_000, n))
            .file(&format!("{n}/small"), "s")
            .finish();
        if n == 1 { Layer::zstd(tar) } else { Layer::gzip(tar) }
    };
    (0..3).map(layer).collect()
}

fn assert_tidy(store: &Store) {
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
    let damage = store.verify().unwrap();
    assert!(damage.is_empty(), "{damage:?}");
}

#[test]
fn progress_only_grows_and_ends_complete() {
    let dir = scratch();
    let layers = layers();
    let input = layout(&dir.path().join("layout"), &layers, "x/p:1");
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let sink = events.clone();
    let progress = Progress::new(move |event| sink.lock().unwrap().push(event));
    let image = store.import(&input, &ImportOptions::new().progress(progress.clone())).unwrap().remove(0);
    store.unpack(&image, &UnpackOptions::new().progress(progress)).unwrap();
    for step in [Step::Import, Step::Unpack] {
        for (n, layer) in layers.iter().enumerate() {
            let events = events.lock().unwrap();
            let of: Vec<&Event> = events.iter().filter(|e| e.step == step && e.layer == n).collect();
            assert!(of.len() > 3, "{step:?} {n}: {of:?}");
            assert!(of.windows(2).all(|w| w[0].bytes <= w[1].bytes && w[0].entries <= w[1].entries));
            let last = of.last().unwrap();
            assert!(last.done && of[..of.len() - 1].iter().all(|e| !e.done), "{of:?}");
            assert_eq!(
                (last.bytes, last.total, last.layers),
                (layer.blob.len() as u64, layer.blob.len() as u64, 3)
            );
            assert_eq!(last.entries, if step == Step::Unpack { 2 } else { 0 });
        }
    }
}

/// Runs `work` with a flag that is set at the first event of a step, and checks how it ends.
fn cancelled<T: std::fmt::Debug>(step: Step, work: impl FnOnce(Cancel, Progress) -> image_layers::Result<T>) {
    let cancel = Cancel::new();
    let at: Arc<Mutex<Option<Instant>>> = Arc::default();
    let (flag, time) = (cancel.clone(), at.clone());
    let progress = Progress::new(move |event| {
        if event.step == step {
            flag.cancel();
            time.lock().unwrap().get_or_insert_with(Instant::now);
        }
    });
    let error = work(cancel, progress).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled, "{error:?}");
    let took = at.lock().unwrap().expect("the step was reached").elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

fn import(store: &Store, input: &Path) -> Image {
    store.import(input, &ImportOptions::new()).unwrap().remove(0)
}

#[test]
fn every_phase_can_be_stopped() {
    let dir = scratch();
    let input = layout(&dir.path().join("layout"), &layers(), "x/p:1");
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    cancelled(Step::Import, |cancel, progress| {
        store.import(&input, &ImportOptions::new().cancel(cancel).progress(progress))
    });
    assert!(store.images().unwrap().is_empty());
    assert_tidy(&store);
    let image = import(&store, &input);
    cancelled(Step::Unpack, |cancel, progress| {
        store.prepare_with(&image, "c", &UnpackOptions::new().cancel(cancel).progress(progress))
    });
    assert!(store.layers().unwrap().is_empty());
    assert_tidy(&store);
    let target = dir.path().join("rootfs");
    cancelled(Step::Unpack, |cancel, progress| {
        let options = ImportOptions::new().cancel(cancel).progress(progress);
        image_layers::Source::open(&input, &options)?.image(&options)?.unpack(&target)
    });
    assert!(!target.exists());
    // A flag that is set before stops everything before it begins.
    let cancel = Cancel::new();
    cancel.cancel();
    let error = store.import(&input, &ImportOptions::new().cancel(cancel.clone())).unwrap_err();
    assert_eq!(error.class(), Class::Cancelled);
    // And the next attempt works.
    store.prepare(&image, "c").unwrap();
    assert_tidy(&store);
}

#[test]
fn unpacking_to_a_directory_is_watched_stopped_and_bounded() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let input = layout(&dir.path().join("layout"), &layers(), "x/p:1");
    let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
    let target = dir.path().join("target");
    let cancel = Cancel::new();
    let flag = cancel.clone();
    let stop = Progress::new(move |_| flag.cancel());
    let options = UnpackOptions::new().cancel(cancel).progress(stop);
    assert_eq!(image.unpack_with(&target, &options).unwrap_err().class(), Class::Cancelled);
    assert!(!target.exists());
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    let options = UnpackOptions::new().limits(limits);
    assert_eq!(image.unpack_with(&target, &options).unwrap_err().class(), Class::TooLarge);
    assert!(!target.exists());
    // What the store has lost from its list, but not collected, can still be unpacked.
    store.remove_image(&image).unwrap();
    image.unpack(&target).unwrap();
    assert_eq!(fs::read(target.join("2/small")).unwrap(), b"s");
    store.collect_garbage().unwrap();
    let gone = image.unpack(dir.path().join("other")).unwrap_err();
    assert_eq!(gone.class(), Class::NotFound, "{gone:?}");
    assert!(!dir.path().join("other").exists());
    assert_tidy(&store);
}
