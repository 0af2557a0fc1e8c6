//! What a container changed becomes a layer: all of it and nothing else.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fixture::mount::{Mounted, in_mount_namespace};
use fixture::*;
use image_layers::{
    Image, ImageBuilder, ImportOptions, Reference, RootfsMount, SnapshotKind, Store, StoreOptions,
};

fn base() -> Layer {
    let tar = Tar::new()
        .directory("etc", 0o755)
        .file("etc/keep", "keep")
        .file("etc/change", "before")
        .file("etc/delete", "delete")
        .directory("tree", 0o750)
        .file("tree/old", "old")
        .directory("tree/sub", 0o700)
        .file("tree/sub/deep", "deep")
        .file("one", "linked")
        .hard_link("two", "one");
    Layer::gzip(tar.finish())
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The tree of an image in a plain directory.
fn unpacked(dir: &Path, image: &Image) -> PathBuf {
    let target = dir.join(image.digest().hex());
    image.unpack(&target).unwrap();
    target
}

/// What a shell in the container could do.
fn change(root: &Path) {
    fs::write(root.join("etc/change"), "after").unwrap();
    fs::remove_file(root.join("etc/delete")).unwrap();
    fs::remove_dir_all(root.join("tree")).unwrap();
    fs::create_dir(root.join("tree")).unwrap();
    fs::write(root.join("tree/new"), "new").unwrap();
    fs::write(root.join("a"), "a").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    symlink("etc/keep", root.join("link")).unwrap();
    fs::set_permissions(root.join("one"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn check(root: &Path) {
    assert_eq!(fs::read(root.join("etc/keep")).unwrap(), b"keep");
    assert_eq!(fs::read(root.join("etc/change")).unwrap(), b"after");
    assert!(!root.join("etc/delete").exists());
    let names: Vec<_> = fs::read_dir(root.join("tree")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
    assert_eq!(fs::metadata(root.join("a")).unwrap().ino(), fs::metadata(root.join("b")).unwrap().ino());
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("etc/keep"));
    assert_eq!(fs::metadata(root.join("one")).unwrap().mode() & 0o7777, 0o600);
}

fn with_each_backend(test: impl Fn(&Path, &Store, &Image)) {
    let dir = scratch();
    let input = layout(&dir.path().join("layout"), &[base()], "x/base:1");
    for probe in image_layers::probe_snapshots(dir.path()) {
        if let Some(reason) = probe.refused {
            // Past the capture of output that successful tests have.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {} backend: {reason}", probe.kind);
            continue;
        }
        let work = dir.path().join(probe.kind.as_str());
        let store = StoreOptions::new().backend(probe.kind).open_or_create(work.join("store")).unwrap();
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        test(&work, &store, &image);
    }
}

#[test]
fn changes_become_a_layer() {
    if !is_root() {
        return skip("root", "only root mounts here; the layer cases commit as an ordinary user");
    }
    with_each_backend(|work, store, image| {
        let container = store.prepare(image, "c").unwrap();
        let ran = in_mount_namespace(|| {
            let mounted = Mounted::new(container.mount(), &work.join("mnt")).unwrap();
            change(mounted.root());
            check(mounted.root());
        });
        if ran.is_none() {
            return skip("overlay", "no mount namespace can be made here");
        }
        let changed = container.commit(Some(&name("x/changed:1"))).unwrap();
        assert_eq!(changed.layers().len(), 2);
        assert_eq!(changed.layers()[0], image.layers()[0]);
        assert_eq!(changed.config().args(), image.config().args());
        assert_eq!(store.resolve("x/changed:1").unwrap().digest(), changed.digest());
        check(&unpacked(work, &changed));
        // The same changes again are the same image, and the base is what it was.
        assert_eq!(container.commit(None).unwrap().digest(), changed.digest());
        assert_eq!(fs::read(unpacked(work, image).join("tree/old")).unwrap(), b"old");
        // A container over the new image; its changes are a third layer.
        container.remove().unwrap();
        let next = store.prepare(&changed, "next").unwrap();
        let third =
            ImageBuilder::over(&changed).changes(&next).cmd(["/bin/next"]).build(store, None).unwrap();
        assert_eq!(third.layers().len(), 3);
        assert_eq!(third.config().cmd, ["/bin/next"]);
        check(&unpacked(work, &third));
        let damage = store.verify().unwrap();
        assert!(damage.is_empty(), "{damage:?}");
    });
}

#[test]
fn a_container_without_changes_adds_an_empty_layer() {
    with_each_backend(|work, store, image| {
        let container = store.prepare(image, "c").unwrap();
        let same = container.commit(None).unwrap();
        let target = unpacked(work, &same);
        assert_eq!(fs::read(target.join("tree/sub/deep")).unwrap(), b"deep");
        let top = same.layers().last().unwrap();
        assert!(top.size < 1024, "{top:?}");
    });
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let dir = scratch();
    let store =
        StoreOptions::new().backend(SnapshotKind::Overlay).open_or_create(dir.path().join("store")).unwrap();
    let empty = ImageBuilder::new().cmd(["/x"]).build(&store, Some(&name("x/scratch:1"))).unwrap();
    let view = store.view(&empty).unwrap();
    let RootfsMount::Directory { source, read_only: true } = view.mount() else {
        panic!("{:?}", view.mount())
    };
    assert_eq!(fs::read_dir(source).unwrap().count(), 0);
    let container = store.prepare(&empty, "c").unwrap();
    let RootfsMount::Directory { source, read_only: false } = container.mount() else { panic!() };
    fs::write(source.join("first"), "1").unwrap();
    let filled = container.commit(None).unwrap();
    assert_eq!(fs::read(unpacked(dir.path(), &filled).join("first")).unwrap(), b"1");
}

/// The label of a security policy and the access list of a network file system are put on every file by the host.
#[test]
fn labels_of_the_host_stay_behind() {
    const LABEL: &[u8] = b"system_u:object_r:container_file_t:s0\0";
    let key = "security.selinux";
    let dir = scratch();
    let probe = dir.path().join("probe");
    fs::write(&probe, "").unwrap();
    let label = |path: &Path| rustix::fs::lsetxattr(path, key, LABEL, rustix::fs::XattrFlags::empty());
    if label(&probe).is_err() {
        return skip("root", "no labels of a security policy can be set here");
    }
    let labelled = |path: &Path| rustix::fs::lgetxattr(path, key, &mut [0; 100][..]).is_ok();
    let input = layout(&dir.path().join("layout"), &[base()], "x/base:1");
    for kind in [SnapshotKind::Copy, SnapshotKind::Overlay] {
        let place = dir.path().join(kind.as_str());
        let Ok(store) = StoreOptions::new().backend(kind).open_or_create(&place) else {
            skip(kind.as_str(), &format!("no {kind} here"));
            continue;
        };
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        let container = store.prepare(&image, "c").unwrap();
        let root = match container.mount() {
            RootfsMount::Directory { source, .. } => source.clone(),
            RootfsMount::Overlay { upper: Some(upper), .. } => upper.clone(),
            other => panic!("{other:?}"),
        };
        fs::write(root.join("new"), "n").unwrap();
        let mut pending = vec![root.clone()];
        while let Some(path) = pending.pop() {
            label(&path).unwrap();
            if path.is_dir() && !path.is_symlink() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        let committed = container.commit(Some(&name("x/labels:1"))).unwrap();
        let blob = place.join("blobs/sha256").join(committed.layers()[1].digest.hex());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(fs::File::open(blob).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        // The root has a new time, for there is a new name in it.
        let names: Vec<PathBuf> = entries.filter(|path| path != Path::new("./")).collect();
        assert_eq!(names, [Path::new("new")], "{kind}: what only has a label did not change");
        let target = dir.path().join(format!("{kind}-unpacked"));
        committed.unpack(&target).unwrap();
        assert!(!labelled(&target.join("new")), "{kind}");
        assert!(labelled(&root.join("new")), "{kind}: nothing is cleared");
    }
}
