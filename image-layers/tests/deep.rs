//! Many layers, and a store at an awkward place.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use fixture::mount::{Mounted, in_mount_namespace};
use fixture::*;
use image_layers::{
    Class, ImportOptions, LowerLayer, RootfsMount, SnapshotKind, StoreOptions, probe_snapshots,
};

/// Each layer adds a file, replaces one, and every tenth removes one.
fn layers(count: usize) -> Vec<Layer> {
    let layer = |n: usize| {
        let mut tar = Tar::new().file(&format!("n{n:03}"), n.to_string()).file("last", n.to_string());
        if n % 10 == 9 {
            tar = tar.file(&format!(".wh.n{:03}", n - 1), "");
        }
        Layer::plain(tar.finish())
    };
    (0..count).map(layer).collect()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count()
}

fn odd_path(dir: &Path) -> PathBuf {
    let path = dir.join("a:b,c=d\\e f");
    path.join("x".repeat(200 - path.as_os_str().len().min(199)))
}

#[test]
fn two_hundred_layers_in_a_long_and_odd_path() {
    let dir = scratch_in_memory();
    let store =
        StoreOptions::new().backend(SnapshotKind::Overlay).open_or_create(odd_path(dir.path())).unwrap();
    assert!(store.path().as_os_str().len() >= 200);
    let input = layout(&dir.path().join("layout"), &layers(200), "x/deep:1");
    let image = store.import(input, &ImportOptions::new()).unwrap().remove(0);
    let container = store.prepare(&image, "c").unwrap();
    assert!(matches!(container.mount(), RootfsMount::Overlay { lower, .. } if lower.len() == 200));
    if !is_root() {
        return skip("root", "only root mounts here; the layer cases mount as an ordinary user");
    }
    let ran = in_mount_namespace(|| {
        let before = mounts();
        let mounted = Mounted::new(container.mount(), &dir.path().join("mnt")).unwrap();
        assert_eq!(mounts(), before + 1);
        let root = mounted.root();
        assert_eq!(fs::read_to_string(root.join("last")).unwrap(), "199");
        for n in 0..200 {
            let path = root.join(format!("n{n:03}"));
            assert_eq!(path.exists(), n % 10 != 8, "{n}");
        }
        fs::write(root.join("new"), "from the container").unwrap();
        fs::remove_file(root.join("n000")).unwrap();
    });
    if ran.is_none() {
        return skip("overlay", "no mount namespace can be made here");
    }
    let RootfsMount::Overlay { upper: Some(upper), .. } = container.mount() else { panic!() };
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "from the container");
    assert!(store.verify().unwrap().is_empty());
    container.remove().unwrap();
}

#[test]
fn more_layers_than_the_kernel_stacks() {
    let dir = scratch_in_memory();
    let input = layout(&dir.path().join("layout"), &layers(501), "x/deep:1");
    let store =
        StoreOptions::new().backend(SnapshotKind::Overlay).open_or_create(dir.path().join("store")).unwrap();
    let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
    let error = store.prepare(&image, "c").unwrap_err();
    assert_eq!(error.class(), Class::Unsupported);
    assert!(error.to_string().contains("500"), "{error}");
    assert!(store.layers().unwrap().is_empty());
    // One tree of them all is no stack.
    let target = dir.path().join("rootfs");
    image.unpack(&target).unwrap();
    assert_eq!(fs::read_to_string(target.join("last")).unwrap(), "500");
    assert!(!target.join("n498").exists());
}

#[test]
fn an_opaque_root_cuts_the_stack() {
    let dir = scratch_in_memory();
    let mut all = layers(10);
    all.push(Layer::plain(Tar::new().file(".wh..wh..opq", "").file("only", "1").finish()));
    all.extend(layers(1));
    let input = layout(&dir.path().join("layout"), &all, "x/deep:1");
    let store =
        StoreOptions::new().backend(SnapshotKind::Overlay).open_or_create(dir.path().join("store")).unwrap();
    let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
    let view = store.view(&image).unwrap();
    let RootfsMount::Overlay { lower, .. } = view.mount() else { panic!("{:?}", view.mount()) };
    assert_eq!(lower.len(), 2);
    assert!(lower.iter().all(|l| matches!(l, LowerLayer::Directory(_))));
}

#[test]
fn every_backend_at_a_long_and_odd_path() {
    let dir = scratch();
    let input = layout(&dir.path().join("layout"), &layers(10), "x/odd:1");
    let place = odd_path(dir.path());
    fs::create_dir_all(&place).unwrap();
    for probe in probe_snapshots(&place) {
        let kind = probe.kind;
        if let Some(reason) = probe.refused {
            skip(kind.as_str(), &reason);
            continue;
        }
        let store = StoreOptions::new().backend(kind).open_or_create(place.join(kind.as_str())).unwrap();
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        let container = store.prepare(&image, "c").unwrap();
        if !is_root() && kind != SnapshotKind::Copy {
            skip("root", "only root mounts here; the layer cases mount as an ordinary user");
            continue;
        }
        let ran = in_mount_namespace(|| {
            let mounted = Mounted::new(container.mount(), &place.join(format!("mnt-{kind}"))).unwrap();
            assert_eq!(fs::read_to_string(mounted.root().join("last")).unwrap(), "9", "{kind}");
            assert!(!mounted.root().join("n008").exists(), "{kind}");
            fs::write(mounted.root().join("new"), "n").unwrap();
        });
        if ran.is_none() {
            skip("overlay", "no mount namespace can be made here");
        }
        container.remove().unwrap();
        assert!(store.verify().unwrap().is_empty(), "{kind}");
    }
}
