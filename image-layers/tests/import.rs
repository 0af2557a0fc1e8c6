//! Images come in from every form of archive and layout, are checked, and found by name and digest; what is wrong with an
//! input is said, and leaves nothing behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::Path;

use fixture::*;
use image_layers::{Algorithm, Class, Digest, Error, Image, ImportOptions, Limits, Platform, Source, Store};
use serde_json::json;

fn one(store: &Store, path: &Path) -> Image {
    let mut images = store.import(path, &ImportOptions::new()).unwrap();
    assert_eq!(images.len(), 1);
    images.remove(0)
}

fn class(store: &Store, path: &Path, options: &ImportOptions) -> (Class, Error) {
    let error = store.import(path, options).unwrap_err();
    (error.class(), error)
}

/// Whatever happens, nothing but complete things may be in a store.
fn assert_tidy(store: &Store) {
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn every_form_gives_the_same_layers() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let layers = two_layers();
    let layout = layout(&dir.path().join("layout"), &layers, "example.com/demo:1");
    let archive = oci_archive(&layout);
    let docker = docker_archive(&[(&layers, &["demo:2"])]);
    let mut images = vec![one(&store, &layout)];
    for (name, bytes) in [
        ("oci.tar", archive.clone()),
        ("oci.tar.gz", gzip(&archive)),
        ("docker.tar", docker.clone()),
        ("docker.tar.gz", gzip(&docker)),
        ("docker.tar.zst", zstd(&docker)),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        images.push(one(&store, &path));
    }
    for image in &images {
        let digests: Vec<_> = image.layers().iter().map(|l| l.digest.clone()).collect();
        assert_eq!(digests, [layers[0].digest(), layers[1].digest()]);
        assert_eq!(image.config().args(), ["/bin/demo"]);
        assert_eq!(image.config().diff_ids, [layers[0].diff_id(), layers[1].diff_id()]);
    }
    // The three of one form are one image, whatever wraps them.
    let digests: std::collections::BTreeSet<_> = images.iter().map(Image::digest).collect();
    assert_eq!(digests.len(), 2);
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(store.resolve("example.com/demo:1").unwrap().digest(), images[0].digest());
    assert_eq!(store.resolve("docker.io/library/demo:2").unwrap().digest(), images[5].digest());
    assert_eq!(store.resolve(&images[5].digest().to_string()).unwrap().references().len(), 1);
    assert!(matches!(store.resolve("demo:3"), Err(Error::ReferenceNotFound { .. })));
    assert_tidy(&store);
}

#[test]
fn the_store_is_a_layout_itself() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let image = one(&store, &layout(&dir.path().join("layout"), &two_layers(), "example.com/demo:1"));
    let other = Store::open_or_create(dir.path().join("other")).unwrap();
    let again = one(&other, store.path());
    assert_eq!(again.digest(), image.digest());
    assert_eq!(other.resolve("example.com/demo:1").unwrap().digest(), image.digest());
}

#[test]
fn one_of_several_is_chosen_by_name() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let [a, b] = two_layers();
    let path = dir.path().join("images.tar");
    let (one_layer, both) = ([a.clone()], [a, b]);
    fs::write(&path, docker_archive(&[(&one_layer, &["demo:one", "demo:uno"]), (&both, &["demo:two"])]))
        .unwrap();
    let (class, error) = class(&store, &path, &ImportOptions::new());
    assert_eq!(class, Class::Invalid);
    assert!(matches!(error, Error::SeveralImages { available, .. } if available == ["demo:one", "demo:two"]));
    for name in ["demo:two", "docker.io/library/demo:two"] {
        let images = store.import(&path, &ImportOptions::new().reference(name)).unwrap();
        assert_eq!(images[0].layers().len(), 2);
    }
    let error = store.import(&path, &ImportOptions::new().reference("demo:3")).unwrap_err();
    assert!(matches!(error, Error::ReferenceNotFound { available, .. } if available.len() == 2));
    let all = store.import(&path, &ImportOptions::new().all(true)).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(store.resolve("demo:uno").unwrap().digest(), store.resolve("demo:one").unwrap().digest());
    let named = ImportOptions::new().reference("demo:one").name("example.com/mine:1".parse().unwrap());
    store.import(&path, &named).unwrap();
    assert_eq!(store.resolve("example.com/mine:1").unwrap().layers().len(), 1);
    assert_tidy(&store);
}

#[test]
fn the_platform_decides() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let mut layout = Layout::new(dir.path().join("layout"));
    let manifests: Vec<_> = ["linux/s390x", "linux/arm/v6", "linux/arm64/v8", "linux/amd64"]
        .iter()
        .map(|name| {
            let platform: Platform = name.parse().unwrap();
            let mut image = layout.image(&[Layer::gzip(Tar::new().file("which", name).finish())], &platform);
            image["platform"] =
                json!({ "os": platform.os, "architecture": platform.architecture, "variant": platform.variant });
            image
        })
        .collect();
    let attestation = json!({ "mediaType": MANIFEST, "digest": "sha256:nonsense", "size": 1,
        "platform": { "os": "unknown", "architecture": "unknown" } });
    let inner =
        layout.document(INDEX, &json!({ "schemaVersion": 2, "manifests": [manifests[1], manifests[2]] }));
    let outer = layout.document(
        INDEX,
        &json!({ "schemaVersion": 2, "manifests": [attestation, manifests[0], inner, manifests[3]] }),
    );
    layout.add(outer, Some("latest"));
    let path = layout.finish();
    for (wanted, found) in [("linux/arm64", "arm64"), ("linux/arm/v7", "arm"), ("linux/s390x", "s390x")] {
        let options = ImportOptions::new().platform(wanted.parse().unwrap());
        assert_eq!(store.import(&path, &options).unwrap()[0].platform().architecture, found);
    }
    let options = ImportOptions::new().platform("linux/riscv64".parse().unwrap());
    let (class, error) = class(&store, &path, &options);
    assert_eq!(class, Class::Platform);
    assert!(
        error.to_string().contains("linux/riscv64") && error.to_string().contains("linux/arm64/v8"),
        "{error}"
    );
    assert_eq!(store.import(&path, &options.any_platform(true)).unwrap().len(), 1);
    assert_tidy(&store);
}

#[test]
fn wrong_input_is_named_and_leaves_nothing() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let options = ImportOptions::new();
    let layers = two_layers();
    let docker = docker_archive(&[(&layers, &["demo:1"])]);
    let packed = gzip(&docker);
    let escape = Tar::new()
        .file("manifest.json", r#"[{"Config":"../../etc/passwd","RepoTags":null,"Layers":[]}]"#)
        .finish();
    let missing =
        Tar::new().file("manifest.json", r#"[{"Config":"c.json","RepoTags":null,"Layers":["x"]}]"#).finish();
    for (name, bytes, class) in [
        ("empty", Vec::new(), Class::Invalid),
        ("text", b"just some text, and no archive at all".repeat(40), Class::Invalid),
        ("other.tar", Tar::new().file("a", "a").finish(), Class::Invalid),
        ("null.tar", Tar::new().file("manifest.json", "null").finish(), Class::Invalid),
        ("broken.tar", Tar::new().file("manifest.json", "[{").finish(), Class::Invalid),
        ("cut.tar", docker[..docker.len() / 2].to_vec(), Class::Truncated),
        ("cut.tar.gz", packed[..packed.len() - 20].to_vec(), Class::Truncated),
        ("escape.tar", escape, Class::Escape),
        ("missing.tar", missing, Class::NotFound),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = store.import(&path, &options).unwrap_err();
        assert_eq!(error.class(), class, "{name}: {error}");
    }
    let (not_found, error) = class(&store, &dir.path().join("nowhere.tar"), &options);
    assert_eq!(not_found, Class::NotFound);
    assert!(error.to_string().contains("nowhere.tar"));
    assert_eq!(class(&store, dir.path(), &options).0, Class::Invalid);
    assert!(store.images().unwrap().is_empty());
    assert_tidy(&store);
}

#[test]
fn blobs_are_checked_wherever_they_come_from() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let layers = two_layers();
    let path = layout(&dir.path().join("layout"), &layers, "latest");
    let blob = path.join("blobs/sha256").join(layers[0].digest().hex());
    let mut bytes = fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let (altered, error) = class(&store, &path, &ImportOptions::new());
    assert_eq!(altered, Class::Digest);
    assert!(matches!(error, Error::Layer { index: 0, .. }));
    bytes.push(0);
    fs::write(&blob, &bytes).unwrap();
    assert_eq!(class(&store, &path, &ImportOptions::new()).0, Class::Size);
    fs::remove_file(&blob).unwrap();
    assert_eq!(class(&store, &path, &ImportOptions::new()).0, Class::NotFound);
    assert!(store.images().unwrap().is_empty());
    fs::write(&blob, &layers[0].blob).unwrap();
    one(&store, &path);
    assert_tidy(&store);
}

#[test]
fn digests_of_sha512_are_as_good() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let layer = &two_layers()[0];
    let mut layout = Layout::new(dir.path().join("layout"));
    let digest = Digest::of(Algorithm::Sha512, &layer.blob);
    let blobs = dir.path().join("layout/blobs/sha512");
    fs::create_dir(&blobs).unwrap();
    fs::write(blobs.join(digest.hex()), &layer.blob).unwrap();
    let config = layout.document(
        "application/vnd.oci.image.config.v1+json",
        &config(std::slice::from_ref(layer), &Platform::host()),
    );
    let layers =
        json!([{ "mediaType": layer.media_type, "digest": digest.to_string(), "size": layer.blob.len() }]);
    let manifest =
        layout.document(MANIFEST, &json!({ "schemaVersion": 2, "config": config, "layers": layers }));
    layout.add(manifest, Some("latest"));
    let path = layout.finish();
    let image = one(&store, &path);
    assert_eq!(image.layers()[0].digest, digest);
    store.view(&image).unwrap();
    store.collect_garbage().unwrap();
    assert_tidy(&store);
    fs::write(blobs.join(digest.hex()), vec![0; layer.blob.len()]).unwrap();
    let other = Store::open_or_create(dir.path().join("other")).unwrap();
    assert_eq!(class(&other, &path, &ImportOptions::new()).0, Class::Digest);
}

#[test]
fn layers_of_other_kinds() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let layer = &two_layers()[0];
    let with = |name: &str, media_type: &str, present: bool| {
        let mut layout = Layout::new(dir.path().join(name));
        let config = layout.document(
            "application/vnd.docker.container.image.v1+json",
            &config(std::slice::from_ref(layer), &Platform::host()),
        );
        if present {
            layout.blob(&layer.blob);
        }
        let layers = json!([{ "mediaType": media_type, "digest": layer.digest().to_string(), "size": layer.blob.len(),
            "urls": ["https://example.com/layer"] }]);
        let manifest = layout.document(MANIFEST, &json!({ "config": config, "layers": layers }));
        layout.add(manifest, None);
        layout.finish()
    };
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    one(&store, &with("present", foreign, true));
    let (unsupported, error) = class(&store, &with("absent", foreign, false), &ImportOptions::new());
    assert_eq!(unsupported, Class::Unsupported);
    assert!(error.to_string().contains("https://example.com/layer"), "{error}");
    let path = with("weights", "application/vnd.example.weights", true);
    let (unsupported, error) = class(&store, &path, &ImportOptions::new());
    assert_eq!(unsupported, Class::Unsupported);
    assert!(error.to_string().contains("application/vnd.example.weights"), "{error}");
}

#[test]
fn what_an_input_may_ask_for_is_bounded() {
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let layers = two_layers();
    let path = layout(&dir.path().join("layout"), &layers, "latest");
    let archive = dir.path().join("docker.tar");
    let docker = docker_archive(&[(&layers, &["demo:1"])]);
    fs::write(&archive, &docker).unwrap();
    let packed = dir.path().join("docker.tar.gz");
    fs::write(&packed, gzip(&docker)).unwrap();
    type Change = fn(&mut Limits);
    let changes: [(&Path, Change, &str); 5] = [
        (&path, |l| l.json_bytes = 100, "json_bytes"),
        (&path, |l| l.layers = 1, "layers"),
        (&archive, |l| l.members = 3, "members"),
        (&archive, |l| l.json_bytes = 100, "json_bytes"),
        (&packed, |l| l.archive_bytes = 4096, "layer_bytes"),
    ];
    for (path, change, name) in changes {
        let mut limits = Limits::default();
        change(&mut limits);
        let (large, error) = class(&store, path, &ImportOptions::new().limits(limits));
        assert_eq!(large, Class::TooLarge, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    // Indexes within indexes, and one that goes in circles could only do so by breaking its own digest.
    let mut layout = Layout::new(dir.path().join("nested"));
    let mut descriptor = layout.image(&layers, &Platform::host());
    for _ in 0..9 {
        descriptor = layout.document(INDEX, &json!({ "manifests": [descriptor] }));
    }
    layout.add(descriptor, Some("latest"));
    assert_eq!(class(&store, &layout.finish(), &ImportOptions::new()).0, Class::TooLarge);
    // A few indexes that stand for 300^6 images.
    let mut layout = Layout::new(dir.path().join("laughs"));
    let mut descriptor = layout.image(&layers, &Platform::host());
    for _ in 0..6 {
        descriptor = layout.document(INDEX, &json!({ "manifests": vec![descriptor; 300] }));
    }
    layout.add(descriptor, Some("latest"));
    one(&store, &layout.finish());
    let mut layout = Layout::new(dir.path().join("many"));
    let manifests: Vec<_> =
        (0..40).map(|n| layout.image(&layers, &format!("linux/x{n}").parse().unwrap())).collect();
    layout.add(layout.document(INDEX, &json!({ "manifests": manifests })), Some("latest"));
    let path = layout.finish();
    let mut limits = Limits::default();
    limits.images = 39;
    let (large, error) = class(&store, &path, &ImportOptions::new().limits(limits));
    assert_eq!((large, error.to_string().contains("images")), (Class::TooLarge, true), "{error}");
    // JSON so deep that a parser would run out of stack.
    let deep = Tar::new().file("manifest.json", "[".repeat(100_000)).finish();
    fs::write(&archive, deep).unwrap();
    assert_eq!(class(&store, &archive, &ImportOptions::new()).0, Class::Invalid);
    assert_tidy(&store);
}

#[test]
fn a_store_is_not_made_of_a_directory_with_other_things() {
    let dir = scratch();
    fs::write(dir.path().join("something"), "else").unwrap();
    assert!(matches!(Store::open_or_create(dir.path()), Err(Error::NotAStore { .. })));
    let path = dir.path().join("store");
    Store::open_or_create(&path).unwrap();
    fs::write(path.join("version"), "image-layers store 999\n").unwrap();
    assert!(
        matches!(Store::open_or_create(&path), Err(Error::NotAStore { reason, .. }) if reason.contains("999"))
    );
}

#[test]
fn images_made_by_others() {
    let Some(shared) = shared() else { return };
    let images = shared.join("images");
    let dir = scratch();
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let amd64 = || ImportOptions::new().platform("linux/amd64".parse().unwrap());
    for (file, layers) in [
        ("alpine-3.10-docker.tar.gz", 1),
        ("dive-docker.tar", 14),
        ("dive-kaniko.tar", 14),
        ("dive-oci-gzip.tar", 1),
        ("dive-oci-zstd.tar", 1),
        ("dive-oci-uncompressed.tar", 1),
        ("whiteout-image.tar", 3),
    ] {
        let arm = ImportOptions::new().platform("linux/arm64".parse().unwrap());
        match store.import(images.join(file), &if file.contains("oci") { arm } else { amd64() }) {
            Ok(found) => assert_eq!(found[0].layers().len(), layers, "{file}"),
            Err(error) => panic!("{file}: {error}"),
        }
    }
    let path = images.join("hello-world-v25.tar");
    let (platform, error) = class(&store, &path, &amd64());
    assert_eq!(platform, Class::Platform);
    assert!(error.to_string().contains("arm64"), "{error}");
    let hello = store.import(&path, &amd64().any_platform(true)).unwrap();
    assert_eq!(hello[0].platform().architecture, "arm64");
    assert!(matches!(
        store.import(images.join("null-manifest.tar"), &amd64()),
        Err(Error::InvalidDocument { .. })
    ));
    let path = images.join("two-images-bundle.tar");
    assert!(
        matches!(store.import(&path, &amd64()), Err(Error::SeveralImages { available, .. }) if available.len() == 2)
    );
    assert_eq!(store.import(&path, &amd64().all(true)).unwrap().len(), 2);
    assert_tidy(&store);
}

#[test]
fn a_source_says_what_it_holds() {
    let dir = scratch();
    let options = ImportOptions::new();
    let path = layout(&dir.path().join("layout"), &two_layers(), "v1");
    let source = Source::open(&path, &options).unwrap();
    assert_eq!(source.names(), ["v1"]);
    let image = source.image(&options.reference("v1")).unwrap();
    assert!(image.references().is_empty(), "a tag alone is no full name");
    assert_eq!(image.config().platform, Platform::host());
}
