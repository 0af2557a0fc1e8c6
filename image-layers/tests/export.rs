//! What goes out of a store comes in again, here and at other engines.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fixture::*;
use image_layers::{
    Cancel, Class, Compression, Error, Export, Image, ImageBuilder, ImportOptions, LayerBuilder, Source,
    Store,
};
use serde_json::Value;

fn store(dir: &Path, name: &str) -> Store {
    Store::open_or_create(dir.join(name)).unwrap()
}

/// Two images that share a layer, the second with two names.
fn images(store: &Store) -> (Image, Image) {
    let layer = LayerBuilder::new()
        .content("/etc/motd", "hello\n", 0o644)
        .content("/bin/app", noise(300_000, 1), 0o755)
        .symlink("/bin/link", "app");
    let build = ImageBuilder::new().layer(layer).cmd(["/bin/app"]).label("a", "b");
    let first = build.build(store, Some(&"example.com/x/first:1".parse().unwrap())).unwrap();
    let layer = LayerBuilder::new().content("/new", "new", 0o600);
    let second = ImageBuilder::over(&first).compression(Compression::Zstd).layer(layer);
    second.build(store, Some(&"second".parse().unwrap())).unwrap();
    store.tag(&store.resolve("second").unwrap(), &"second:2".parse().unwrap()).unwrap();
    (first, store.resolve("second").unwrap())
}

fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                all.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// Without the annotations and other things that belong to one store.
fn check_imported(again: &Store, images: &[&Image]) {
    for image in images {
        let found = again.resolve(&image.digest().to_string()).unwrap();
        assert_eq!(found.manifest(), image.manifest());
        assert_eq!(found.config().raw(), image.config().raw());
        assert_eq!(found.layers(), image.layers());
        let names = |image: &Image| {
            let mut names: Vec<_> = image.references().iter().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&found), names(image));
    }
    assert_eq!(again.images().unwrap().len(), images.len());
    assert!(again.verify().unwrap().is_empty());
}

#[test]
fn an_archive_comes_in_again_as_it_was() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, second) = images(&store);
    let path = dir.path().join("both.tar");
    fs::write(&path, "something else").unwrap();
    Export::new(&first).and(&second).archive(&path).unwrap();
    let again = self::store(dir.path(), "again");
    again.import(&path, &ImportOptions::new().all(true)).unwrap();
    check_imported(&again, &[&first, &second]);

    // The same bytes every time, from any store, to a file or to a writer.
    let bytes = fs::read(&path).unwrap();
    let mut written = Vec::new();
    let (one, two) = (again.resolve("example.com/x/first:1").unwrap(), again.resolve("second:2").unwrap());
    Export::new(&one).and(&two).write(&mut written).unwrap();
    assert!(bytes == written);

    // The layer that both share is there once.
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names[..3], ["oci-layout", "index.json", "manifest.json"]);
    let mut once = names.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), names.len());
    // Two directories; two manifests, configurations and layers.
    assert_eq!(names.len(), 3 + 2 + 6);
    // Nothing is left beside it.
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 3, "{beside:?}");
}

#[test]
fn a_layout_comes_in_again_as_it_was() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, second) = images(&store);
    let layout = dir.path().join("layout");
    Export::new(&first).and(&second).layout(&layout).unwrap();
    let again = self::store(dir.path(), "again");
    again.import(&layout, &ImportOptions::new().all(true)).unwrap();
    check_imported(&again, &[&first, &second]);
    // Not where something is already; an empty directory will do.
    let error = Export::new(&first).layout(&layout).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    Export::new(&first).and(&second).layout(&empty).unwrap();
    assert_eq!(files(&empty), files(&layout));
}

#[test]
fn names_can_be_others() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, second) = images(&store);
    let path = dir.path().join("named.tar");
    Export::new(&first).named("other:3".parse().unwrap()).and(&second).archive(&path).unwrap();
    let again = self::store(dir.path(), "again");
    again.import(&path, &ImportOptions::new().all(true)).unwrap();
    assert_eq!(again.resolve("other:3").unwrap().digest(), first.digest());
    assert!(again.resolve("example.com/x/first:1").is_err());
    assert_eq!(again.resolve("second:2").unwrap().digest(), second.digest());
    // One without any name, removed from the list meanwhile but kept.
    let lease = store.lease().unwrap();
    lease.keep(&first).unwrap();
    store.remove_image(&first).unwrap();
    store.collect_garbage().unwrap();
    let unlisted = dir.path().join("unlisted.tar");
    first.export(&unlisted).unwrap();
    let third = self::store(dir.path(), "third");
    assert_eq!(third.import(&unlisted, &ImportOptions::new()).unwrap()[0].digest(), first.digest());
}

#[test]
fn damage_and_cancelling_leave_what_was_there() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, _) = images(&store);
    let path = dir.path().join("image.tar");
    fs::write(&path, "old").unwrap();
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let check = |error: Error, class: Class| {
        assert_eq!(error.class(), class, "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(fs::read_dir(&layout).unwrap().count(), 0);
    };
    let cancel = Cancel::new();
    cancel.cancel();
    let export = Export::new(&first).cancel(cancel);
    check(export.archive(&path).unwrap_err(), Class::Cancelled);
    check(export.layout(&layout).unwrap_err(), Class::Cancelled);
    let blob = store.path().join("blobs/sha256").join(first.layers()[0].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, &bytes).unwrap();
    check(first.export(&path).unwrap_err(), Class::Digest);
    check(Export::new(&first).layout(&layout).unwrap_err(), Class::Digest);
    assert!(Export::new(&first).layout(dir.path().join("missing")).is_err());
    assert!(!dir.path().join("missing").exists());
    fs::remove_file(&blob).unwrap();
    check(first.export(&path).unwrap_err(), Class::NotFound);
    check(Export::new(&first).layout(&layout).unwrap_err(), Class::NotFound);
}

fn run(program: &str, args: &[&str], dir: &Path) -> Option<Output> {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("peers", &format!("{program} is not installed"));
            None
        }
        output => Some(output.unwrap()),
    }
}

fn text(output: Output, what: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// By every road: as an OCI archive, as a layout, as an archive of `docker save`.
#[test]
fn skopeo_reads_it() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, _) = images(&store);
    first.export(dir.path().join("image.tar")).unwrap();
    Export::new(&first).layout(dir.path().join("layout")).unwrap();
    let name = "example.com/x/first:1";
    for (input, same) in [
        (format!("oci-archive:image.tar:{name}"), true),
        (format!("oci:layout:{name}"), true),
        (format!("docker-archive:image.tar:{name}"), false),
    ] {
        let Some(output) = run("skopeo", &["inspect", "--raw", &input], dir.path()) else { return };
        let manifest = text(output, &input);
        if same {
            assert_eq!(manifest.as_bytes(), first.manifest(), "{input}");
        }
        let output = run("skopeo", &["inspect", "--config", "--raw", &input], dir.path()).unwrap();
        let config: Value = serde_json::from_str(&text(output, &input)).unwrap();
        assert_eq!(&config, first.config().raw(), "{input}");
        // Copying reads all of it, and checks it.
        let to = dir.path().join(if same {
            format!("copy-{}", &input[..5].replace(':', "_"))
        } else {
            "d".into()
        });
        let output = run(
            "skopeo",
            &["copy", "--insecure-policy", &input, &format!("oci:{}:x", to.display())],
            dir.path(),
        );
        text(output.unwrap(), &input);
        let rootfs = dir.path().join(format!("rootfs-{}", to.file_name().unwrap().display()));
        let options = ImportOptions::new();
        Source::open(&to, &options).unwrap().image(&options).unwrap().unpack(&rootfs).unwrap();
        assert_eq!(fs::read(rootfs.join("etc/motd")).unwrap(), b"hello\n", "{input}");
    }
}

#[test]
fn umoci_reads_it() {
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, _) = images(&store);
    Export::new(&first).named("app:1".parse().unwrap()).layout(dir.path().join("layout")).unwrap();
    let image = "layout:docker.io/library/app:1";
    let rootless = if is_root() { &[][..] } else { &["--rootless"] };
    let args = [&["raw", "unpack"], rootless, &["--image", image, "rootfs"]].concat();
    let Some(output) = run("umoci", &args, dir.path()) else { return };
    text(output, "umoci");
    assert_eq!(fs::read(dir.path().join("rootfs/etc/motd")).unwrap(), b"hello\n");
    assert_eq!(fs::read(dir.path().join("rootfs/bin/app")).unwrap(), noise(300_000, 1));
}

#[test]
fn podman_loads_it() {
    if !is_root() {
        return skip("root", "an own storage of podman needs root here");
    }
    let dir = scratch();
    let store = store(dir.path(), "store");
    let (first, second) = images(&store);
    Export::new(&first).and(&second).archive(dir.path().join("images.tar")).unwrap();
    let storage = ["--root", "podman", "--runroot", "run", "--storage-driver", "vfs"];
    let podman = |args: &[&str]| run("podman", &[&storage[..], args].concat(), dir.path());
    let Some(output) = podman(&["load", "-q", "-i", "images.tar"]) else { return };
    text(output, "podman load");
    for image in [&first, &second] {
        for name in image.references() {
            let name = name.to_string();
            let output = podman(&["image", "inspect", "--format", "{{.Id}} {{.Config.Cmd}}", &name]).unwrap();
            let said = text(output, &name);
            assert_eq!(said.trim(), format!("{} [/bin/app]", image.config_digest().hex()), "{name}");
        }
    }
}
