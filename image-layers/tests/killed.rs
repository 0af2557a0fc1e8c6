//! A store survives the death of its users at any moment, and several programs use one store at once.
//!
//! The programs are this test binary, run again for one of the `child_*` tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fixture::*;
use image_layers::{Image, ImportOptions, Progress, Step, Store};

const STORE: &str = "IMAGE_LAYERS_TEST_STORE";
const INPUT: &str = "IMAGE_LAYERS_TEST_INPUT";

fn child(name: &str, store: &Path, input: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(STORE, store)
        .env(INPUT, input)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child works on; `None` when this is no child but an ordinary run of the tests.
fn given() -> Option<(PathBuf, PathBuf)> {
    Some((std::env::var_os(STORE)?.into(), std::env::var_os(INPUT)?.into()))
}

/// Imports and unpacks. How much was copied goes to a file beside the store.
#[test]
fn child_unpacks() {
    let Some((path, input)) = given() else { return };
    let copied = Arc::new(Mutex::new(BTreeMap::new()));
    let sink = copied.clone();
    let progress = Progress::new(move |event| {
        if event.step == Step::Import {
            sink.lock().unwrap().insert(event.layer, event.bytes);
        }
    });
    let store = Store::open_or_create(&path).unwrap();
    let image = store.import(input, &ImportOptions::new().progress(progress)).unwrap().remove(0);
    store.view(&image).unwrap();
    let bytes: u64 = copied.lock().unwrap().values().sum();
    fs::write(path.with_extension(format!("copied-{}", std::process::id())), bytes.to_string()).unwrap();
}

/// Lists images until there is a file `stop` beside the input.
#[test]
fn child_lists() {
    let Some((store, input)) = given() else { return };
    let store = Store::open_or_create(store).unwrap();
    while !input.with_extension("stop").exists() {
        for image in store.images().unwrap() {
            assert_eq!(image.layers().len(), 5);
            for layer in image.layers() {
                let blob = store.path().join("blobs/sha256").join(layer.digest.hex());
                assert_eq!(fs::metadata(blob).unwrap().len(), layer.size);
            }
        }
    }
}

/// Five layers that take a while: many files, and some content that does not compress.
fn five_layers() -> Vec<Layer> {
    let layer = |n: u64| {
        let mut tar = Tar::new().directory("data", 0o755);
        for file in 0..40 {
            tar = tar.file(&format!("data/{n}-{file}"), noise(1500, n * 1000 + file));
        }
        if n > 0 {
            tar = tar.file(&format!("data/.wh.{}-7", n - 1), "");
        }
        let tar = tar.finish();
        if n.is_multiple_of(2) { Layer::gzip(tar) } else { Layer::zstd(tar) }
    };
    (0..5).map(layer).collect()
}

fn blobs(store: &Path) -> BTreeMap<PathBuf, u64> {
    let Ok(entries) = fs::read_dir(store.join("blobs/sha256")) else { return BTreeMap::new() };
    entries.map(|e| e.unwrap()).map(|e| (e.path(), e.metadata().unwrap().ino())).collect()
}

fn entries(path: PathBuf) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

fn assert_whole(store: &Store, image: &Image) {
    let damage = store.verify().unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    let snapshots = snapshots(store.path(), store.backend());
    assert_eq!(entries(snapshots), image.layers().len());
    assert_eq!(entries(store.path().join("leases")), 0, "leftovers are swept");
}

#[test]
fn a_kill_at_any_moment_leaves_a_store_that_works() {
    let dir = scratch_in_memory();
    let input = layout(&dir.path().join("layout"), &five_layers(), "x/killed:1");
    let path = dir.path().join("store");
    let mut whole = Duration::MAX;
    let mut run = || {
        let begun = Instant::now();
        assert!(child("child_unpacks", &path, &input).wait().unwrap().success());
        whole = whole.min(begun.elapsed());
        whole
    };
    let mut whole = run();
    let seed = std::process::id();
    println!("{whole:?} for a whole run, seed {seed}");
    let delays = noise(200, u64::from(seed));
    let mut interrupted = 0;
    for round in 0..100 {
        // Begin again with nothing.
        let store = Store::open_or_create(&path).unwrap();
        for image in store.images().unwrap() {
            store.remove_image(&image).unwrap();
        }
        store.collect_garbage().unwrap();
        assert!(blobs(&path).is_empty());
        drop(store);

        let fraction = u32::from(delays[round * 2]) << 8 | u32::from(delays[round * 2 + 1]);
        let mut victim = child("child_unpacks", &path, &input);
        std::thread::sleep(whole * fraction / 65536);
        victim.kill().unwrap();
        interrupted += u32::from(!victim.wait().unwrap().success());
        // No leaf of the store may have changed under a name it had.
        let before = blobs(&path);

        whole = run();
        let after = blobs(&path);
        for (blob, inode) in &before {
            assert_eq!(after.get(blob), Some(inode), "what was complete is not copied again");
        }
        let store = Store::open_or_create(&path).unwrap();
        let image = store.resolve("x/killed:1").unwrap();
        assert_whole(&store, &image);
    }
    println!("{interrupted} of 100 kills came in time");
    assert!(interrupted > 0);
}

#[test]
fn several_programs_share_one_store() {
    let dir = scratch_in_memory();
    let layers = five_layers();
    let input = layout(&dir.path().join("layout"), &layers, "x/shared:1");
    for round in 0..5 {
        let path = dir.path().join(format!("store{round}"));
        let stop = input.with_extension("stop");
        let mut lister = child("child_lists", &path, &input);
        let both = [child("child_unpacks", &path, &input), child("child_unpacks", &path, &input)];
        let mut copied = 0;
        for mut program in both {
            assert!(program.wait().unwrap().success());
            let bytes = fs::read_to_string(path.with_extension(format!("copied-{}", program.id()))).unwrap();
            copied += bytes.parse::<u64>().unwrap();
        }
        let size: usize = layers.iter().map(|layer| layer.blob.len()).sum();
        assert_eq!(copied, size as u64, "each blob is copied once in total");
        fs::write(&stop, "").unwrap();
        assert!(lister.wait().unwrap().success());
        fs::remove_file(&stop).unwrap();
        let store = Store::open_or_create(&path).unwrap();
        let images = store.images().unwrap();
        assert_eq!(images.len(), 1);
        assert_whole(&store, &images[0]);
    }
}

#[test]
fn who_waits_for_a_killed_program_takes_over() {
    let dir = scratch_in_memory();
    let input = layout(&dir.path().join("layout"), &five_layers(), "x/shared:1");
    let delays = noise(8, u64::from(std::process::id()));
    for (round, delay) in delays.into_iter().enumerate() {
        let path = dir.path().join(format!("store{round}"));
        Store::open_or_create(&path).unwrap();
        let mut first = child("child_unpacks", &path, &input);
        let mut second = child("child_unpacks", &path, &input);
        std::thread::sleep(Duration::from_millis(u64::from(delay)));
        first.kill().unwrap();
        first.wait().unwrap();
        let killed = Instant::now();
        assert!(second.wait().unwrap().success());
        // With all of the work that is left; the locks themselves go with the process.
        assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
        let store = Store::open_or_create(&path).unwrap();
        let image = store.resolve("x/shared:1").unwrap();
        assert_whole(&store, &image);
    }
}

#[test]
fn threads_share_one_store_as_programs_do() {
    let dir = scratch_in_memory();
    let layers = five_layers();
    let input = layout(&dir.path().join("layout"), &layers, "x/shared:1");
    let other = layout(&dir.path().join("other"), &layers[..3], "x/other:1");
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    std::thread::scope(|scope| {
        let work = |n: usize| {
            let (store, input) = (store.clone(), if n.is_multiple_of(2) { &input } else { &other });
            move || {
                let image = store.import(input, &ImportOptions::new()).unwrap().remove(0);
                let layer = store.prepare(&image, &format!("c{n}")).unwrap();
                store.collect_garbage().unwrap();
                assert!(store.layer(layer.key()).is_ok());
                layer.remove().unwrap();
            }
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(work(n))).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    assert!(store.layers().unwrap().is_empty());
    let image = store.resolve("x/shared:1").unwrap();
    assert_whole(&store, &image);
}
