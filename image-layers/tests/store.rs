//! What is in a store stays whole: snapshots are shared and never change, writable layers are private, garbage goes and
//! nothing else does.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fixture::*;
use image_layers::{
    Class, Compression, Error, Image, ImageBuilder, ImportOptions, LayerBuilder, LowerLayer, RootfsMount,
    Store, Subject,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    (dir, store)
}

fn import(dir: &tempfile::TempDir, store: &Store, layers: &[Layer], name: &str) -> Image {
    let path = layout(&dir.path().join(name.replace(['/', ':'], "-")), layers, name);
    store.import(path, &ImportOptions::new()).unwrap().remove(0)
}

fn snapshots(store: &Store) -> Vec<PathBuf> {
    let top = fixture::snapshots(store.path(), store.backend());
    match fs::read_dir(top) {
        Ok(entries) => entries.map(|e| e.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    }
}

fn lower(mount: &RootfsMount) -> Vec<PathBuf> {
    match mount {
        RootfsMount::Overlay { lower, .. } => lower
            .iter()
            .map(|l| match l {
                LowerLayer::Directory(path) | LowerLayer::Erofs(path) => path.clone(),
                _ => panic!("unknown lower layer"),
            })
            .collect(),
        other => panic!("not an overlay: {other:?}"),
    }
}

#[test]
fn layers_are_unpacked_once_and_shared() {
    let (dir, store) = store();
    let [a, b] = two_layers();
    let c = Layer::plain(Tar::new().file("c", "c").finish());
    let first = import(&dir, &store, &[a.clone(), b], "x/first:1");
    let second = import(&dir, &store, &[a, c], "x/second:1");
    let one = store.prepare(&first, "one").unwrap();
    assert_eq!(snapshots(&store).len(), 2);
    let two = store.prepare(&second, "two").unwrap();
    assert_eq!(snapshots(&store).len(), 3);
    let (first, second) = (lower(one.mount()), lower(two.mount()));
    assert_eq!((first.len(), second.len()), (2, 2));
    assert_eq!(first.last(), second.last(), "the base is shared");
    assert_ne!(first[0], second[0]);
    assert_eq!(fs::read(first[1].join("etc/b")).unwrap(), b"two");
    assert_eq!(fs::read(second[0].join("c")).unwrap(), b"c");
    assert_eq!(fs::symlink_metadata(first[1].join("var")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(store.layers().unwrap(), ["one", "two"]);
    one.remove().unwrap();
    two.remove().unwrap();
    assert!(store.layers().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
}

#[test]
fn a_writable_layer_has_one_owner_and_a_name() {
    let (dir, store) = store();
    let image = import(&dir, &store, &two_layers(), "x/demo:1");
    let layer = store.prepare(&image, "job-1").unwrap();
    assert!(matches!(store.prepare(&image, "job-1"), Err(Error::KeyExists { key }) if key == "job-1"));
    let RootfsMount::Overlay { upper: Some(upper), work: Some(work), .. } = layer.mount() else {
        panic!("{:?}", layer.mount())
    };
    assert!(upper.is_dir() && work.is_dir());
    for bad in ["", ".", "..", "a/b", "-x", "x\0", &"x".repeat(129)] {
        assert!(matches!(store.prepare(&image, bad), Err(Error::InvalidKey { .. })), "{bad:?}");
    }
    let again = store.layer("job-1").unwrap();
    assert_eq!(again.mount(), layer.mount());
    assert_eq!(again.image(), image.digest());
    let error = again.remove().unwrap_err();
    assert_eq!(error.class(), Class::Busy, "another handle has it: {error}");
    layer.remove().unwrap();
    assert!(matches!(store.layer("job-1"), Err(Error::KeyNotFound { .. })));
    store.prepare(&image, "job-1").unwrap();
}

#[test]
fn garbage_is_what_nothing_needs() {
    let (dir, store) = store();
    let [shared, own] = two_layers();
    let first = import(&dir, &store, &[shared.clone(), own.clone()], "x/first:1");
    let second = import(&dir, &store, std::slice::from_ref(&shared), "x/second:1");
    store.view(&first).unwrap();
    store.view(&second).unwrap();
    let has = |layer: &Layer| store.path().join("blobs/sha256").join(layer.digest().hex()).exists();
    assert_eq!(store.collect_garbage().unwrap(), Default::default());
    // A container keeps what it is over, also when its image is not listed any more.
    let container = store.prepare(&first, "c").unwrap();
    store.remove_image(&first).unwrap();
    assert!(matches!(store.remove_image(&first), Err(Error::ReferenceNotFound { .. })));
    assert_eq!(store.collect_garbage().unwrap(), Default::default());
    drop(container);
    assert_eq!(store.layer("c").unwrap().image(), first.digest());
    // So does a lease, until it ends.
    let lease = store.lease().unwrap();
    lease.keep(&first).unwrap();
    store.layer("c").unwrap().remove().unwrap();
    assert_eq!(store.collect_garbage().unwrap(), Default::default());
    drop(lease);
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.snapshots), (3, 1));
    assert!(has(&shared) && !has(&own));
    assert!(matches!(store.lease().unwrap().keep(&first), Err(Error::BlobNotFound { .. })));
    store.remove_reference(&"x/second:1".parse().unwrap()).unwrap();
    let collected = store.collect_garbage().unwrap();
    assert_eq!((collected.blobs, collected.snapshots), (3, 1));
    assert!(snapshots(&store).is_empty());
}

#[test]
fn damage_is_found_and_made_good() {
    let (dir, store) = store();
    let layers = two_layers();
    let image = import(&dir, &store, &layers, "x/demo:1");
    store.view(&image).unwrap();
    let found = store.verify().unwrap();
    assert!(found.is_empty(), "{found:?}");
    // A file of a snapshot, with the same size and time.
    let damaged =
        snapshots(&store).into_iter().map(|s| s.join("data/fs/etc/b")).find(|p| p.exists()).unwrap();
    let time = fs::metadata(&damaged).unwrap().modified().unwrap();
    fs::write(&damaged, "twa").unwrap();
    fs::File::options().write(true).open(&damaged).unwrap().set_modified(time).unwrap();
    let found = store.verify().unwrap();
    assert!(
        matches!(&found[..], [d] if matches!(d.subject, Subject::Snapshot { .. }) && !d.repaired),
        "{found:?}"
    );
    assert!(found[0].error.to_string().contains("etc/b"), "{}", found[0].error);
    assert!(store.repair().unwrap()[0].repaired);
    store.view(&image).unwrap();
    assert_eq!(fs::read(&damaged).unwrap(), b"two");
    assert!(store.verify().unwrap().is_empty());
    // A blob.
    let blob = store.path().join("blobs/sha256").join(layers[1].digest().hex());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![0; layers[1].blob.len()]).unwrap();
    let found = store.verify().unwrap();
    assert!(matches!(&found[..], [d] if d.subject == Subject::Blob(layers[1].digest())), "{found:?}");
    store.repair().unwrap();
    assert!(
        matches!(&store.verify().unwrap()[..], [d] if d.subject == Subject::Image(image.digest().clone()))
    );
    import(&dir, &store, &layers, "x/demo:1");
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn what_the_machine_may_have_lost_is_made_again() {
    let (dir, store) = store();
    let image = import(&dir, &store, &two_layers(), "x/demo:1");
    let container = store.prepare(&image, "c").unwrap();
    let top = lower(container.mount())[0].clone();
    drop(container);
    // As if the machine had gone down: the snapshots are of another boot, and one is cut short.
    for snapshot in snapshots(&store) {
        let path = snapshot.join("snapshot.json");
        let text = fs::read_to_string(&path).unwrap();
        let at = text.find("\"boot\":\"").unwrap() + 8;
        fs::write(&path, format!("{}{}{}", &text[..at], "00000000", &text[at + 8..])).unwrap();
    }
    fs::write(top.join("etc/c"), "").unwrap();
    fs::write(store.path().join("boot"), "00000000").unwrap();
    let store = Store::open_or_create(store.path()).unwrap();
    assert!(snapshots(&store).is_empty());
    let container = store.layer("c").unwrap();
    assert_eq!(fs::read(lower(container.mount())[0].join("etc/c")).unwrap(), b"three");
    // What is known to be on the disk stays.
    store.sync().unwrap();
    for snapshot in snapshots(&store) {
        assert!(!fs::read_to_string(snapshot.join("snapshot.json")).unwrap().contains("boot"));
    }
    let store = Store::open_or_create(store.path()).unwrap();
    assert_eq!(snapshots(&store).len(), 2);
}

#[test]
fn what_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + std::fmt::Debug + 'static>() {}
    shared::<Store>();
    shared::<Image>();
    shared::<image_layers::WritableLayer>();
    shared::<image_layers::View>();
    shared::<image_layers::Lease>();
    shared::<image_layers::Source>();
    shared::<image_layers::SourceImage>();
    shared::<ImportOptions>();
    shared::<ImageBuilder<'static>>();
    shared::<Error>();
}

#[test]
fn usage_tells_shared_from_own() {
    let (dir, store) = store();
    let shared = Layer::plain(Tar::new().file("big", noise(300_000, 1)).finish());
    let own = Layer::plain(Tar::new().file("small", noise(50_000, 2)).finish());
    let first = import(&dir, &store, &[shared.clone(), own], "x/first:1");
    let second = import(&dir, &store, &[shared], "x/second:1");
    let container = store.prepare(&first, "c").unwrap();
    let usage = store.usage().unwrap();
    let of = |image: &Image| usage.images.iter().find(|u| u.digest == *image.digest()).unwrap();
    assert!(of(&first).bytes > 650_000, "blobs and snapshots: {usage:?}");
    assert!((100_000..150_000).contains(&of(&first).unique_bytes), "{usage:?}");
    assert!(of(&second).unique_bytes < 20_000);
    assert_eq!(usage.snapshots.len(), 2);
    let RootfsMount::Overlay { upper: Some(upper), .. } = container.mount() else { panic!() };
    fs::write(upper.join("new"), noise(100_000, 3)).unwrap();
    let layer = &store.usage().unwrap().layers[0];
    assert!(layer.key == "c" && layer.bytes >= 100_000 && layer.inodes >= 3, "{layer:?}");
}

#[test]
fn an_image_made_of_files_has_the_same_digest_every_time() {
    let (dir, store) = store();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/one"), "1").unwrap();
    fs::hard_link(tree.join("sub/one"), tree.join("two")).unwrap();
    let build = |store: &Store| {
        let layer = LayerBuilder::new()
            .content("/etc/motd", "hello\n", 0o644)
            .file("bin/app", tree.join("sub/one"), 0o4755)
            .directory("/tmp", 0o1777)
            .symlink("/lib64", "lib")
            .owner(7, 8)
            .content("srv/own", "x", 0o600)
            .tree("/srv/tree", &tree);
        ImageBuilder::new()
            .layer(layer)
            .layer(LayerBuilder::new().content("etc/motd", "bye\n", 0o644))
            .compression(Compression::Zstd)
            .platform("linux/arm/v7".parse().unwrap())
            .entrypoint(["/bin/app"])
            .cmd(["-v"])
            .env("A", "1")
            .label("k", "v")
            .user("7:8")
            .exposed_ports(["80/tcp"])
            .build(store, Some(&"made/here:1".parse().unwrap()))
            .unwrap()
    };
    let image = build(&store);
    let other = Store::open_or_create(dir.path().join("other")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(5));
    fs::write(tree.join("sub/one"), "1").unwrap();
    assert_eq!(build(&other).digest(), image.digest());
    let config = image.config();
    assert_eq!(config.args(), ["/bin/app", "-v"]);
    assert_eq!((config.user.as_str(), &config.env[..]), ("7:8", &["A=1".to_owned()][..]));
    assert_eq!(config.platform.to_string(), "linux/arm/v7");
    assert_eq!(store.resolve("made/here:1").unwrap().digest(), image.digest());
    let view = store.view(&image).unwrap();
    let layers = lower(view.mount());
    let base = &layers[1];
    let metadata = |path: &str| fs::symlink_metadata(base.join(path)).unwrap();
    assert_eq!(fs::read(base.join("etc/motd")).unwrap(), b"hello\n");
    assert_eq!(fs::read(layers[0].join("etc/motd")).unwrap(), b"bye\n");
    assert_eq!(metadata("bin/app").mode() & 0o7777, 0o4755);
    assert_eq!(metadata("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(metadata("etc").mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(base.join("lib64")).unwrap(), PathBuf::from("lib"));
    assert_eq!(metadata("srv/tree/sub/one").ino(), metadata("srv/tree/two").ino());
    if is_root() {
        assert_eq!((metadata("srv/own").uid(), metadata("srv/own").gid()), (7, 8));
    }
    // Settings of a base are kept, changed or added to.
    let derived = ImageBuilder::over(&image)
        .env("B", "2")
        .env("A", "3")
        .label("l", "w")
        .cmd(["x"])
        .build(&store, None)
        .unwrap();
    assert_eq!(derived.layers(), image.layers());
    assert_eq!(derived.config().env, ["B=2", "A=3"]);
    assert_eq!(derived.config().labels.len(), 2);
    assert_eq!(derived.config().args(), ["/bin/app", "x"]);
    for path in ["../x", "a/../../b", "etc/.wh.motd", "/"] {
        let layer = LayerBuilder::new().content(path, "x", 0o644);
        let error = ImageBuilder::new().layer(layer).build(&store, None).unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{path}: {error}");
    }
}

/// Another program may be making it at this moment, or have been killed over it.
#[test]
fn a_store_in_the_making_is_completed() {
    for half in [&["oci-layout"][..], &["index.json.new"], &["index.json.new", "version.new", "lock", "boot"]]
    {
        let dir = scratch();
        for name in half {
            fs::write(dir.path().join(name), "{").unwrap();
        }
        let store = Store::open_or_create(dir.path()).unwrap();
        assert!(store.images().unwrap().is_empty(), "{half:?}");
        assert!(Store::open_or_create(dir.path()).unwrap().verify().unwrap().is_empty(), "{half:?}");
    }
}
