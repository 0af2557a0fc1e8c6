//! Containers on EROFS snapshots: each layer a mounted image file, stacked, changed, committed and run again.
#![cfg(feature = "images")]
#![allow(missing_docs, clippy::unwrap_used)]

mod fixture;

use std::path::Path;

use container_core::{Container, ContainerBuilder, Mount};
use image_layers::{
    Image, ImageBuilder, LayerBuilder, LowerLayer, RootfsMount, SnapshotKind, Store, StoreOptions,
    probe_snapshots,
};

/// A store of EROFS images, on a file system they can be mounted from.
fn store() -> Option<(tempfile::TempDir, Store)> {
    if !fixture::containers() {
        return None;
    }
    let parent = if Path::new("/var/tmp").is_dir() { "/var/tmp".into() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(parent).unwrap();
    let probes = probe_snapshots(directory.path());
    let erofs = probes.into_iter().find(|probe| probe.kind == SnapshotKind::Erofs).unwrap();
    if let Some(reason) = erofs.refused {
        fixture::skip("erofs", &reason);
        return None;
    }
    // A path that no mount option would hold.
    let odd = directory.path().join(format!("a,b:c\\d {}", "x".repeat(230)));
    let store = StoreOptions::new().backend(SnapshotKind::Erofs).open_or_create(odd).unwrap();
    Some((directory, store))
}

/// An image that has the host's programs bound into it.
fn image(store: &Store) -> Image {
    let mut system = LayerBuilder::new().directory("/tmp", 0o1777);
    for name in ["bin", "sbin", "lib", "lib64"] {
        let host = Path::new("/").join(name);
        if let Ok(target) = std::fs::read_link(&host) {
            system = system.symlink(&host, target);
        } else if host.is_dir() {
            system = system.directory(&host, 0o755);
        }
    }
    let large: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let data = LayerBuilder::new()
        .directory("/usr", 0o755)
        .content("/etc/passwd", "root:x:0:0:root:/:\n", 0o644)
        .content("/data/kept", "kept\n", 0o600)
        .content("/data/gone", "gone\n", 0o644)
        .content("/data/changed", "before\n", 0o644)
        .content("/data/large", large, 0o644);
    let name = "erofs:1".parse().unwrap();
    ImageBuilder::new().layer(system).layer(data).build(store, Some(&name)).unwrap()
}

fn shell(store: &Store, image: &Image, script: &str) -> ContainerBuilder {
    let mut builder = Container::builder().image(store, image).command(["/bin/sh", "-c", script]);
    for name in ["bin", "sbin", "lib", "lib64", "usr"] {
        let host = Path::new("/").join(name);
        if host.is_dir() && std::fs::read_link(&host).is_err() {
            builder = builder.mount(Mount::new("none", &host, &host).options(["rbind", "ro", "nosuid"]));
        }
    }
    builder
}

fn says(builder: &ContainerBuilder) -> String {
    let output = builder.output().unwrap();
    assert!(output.status.success(), "{:?}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn layers_are_stacked_changed_and_committed() {
    let Some((_directory, store)) = store() else { return };
    let image = image(&store);
    let look = "cd /data && ls && cat kept changed && cksum <large && stat -c %a kept";

    let before = says(&shell(&store, &image, look));
    assert!(before.starts_with("changed\ngone\nkept\nlarge\nkept\nbefore\n"), "{before:?}");

    let change = "set -e; cd /data; rm gone; echo after >changed; mkdir new; ln large new/link; rm -r /tmp; mkdir /tmp";
    let mut container = shell(&store, &image, change).id("changing").spawn().unwrap();
    assert!(container.wait().unwrap().success());
    let layer = store.layer("changing").unwrap();
    let RootfsMount::Overlay { lower, upper: Some(_), .. } = layer.mount() else { panic!("{layer:?}") };
    assert_eq!(lower.len(), 2);
    assert!(lower.iter().all(|layer| matches!(layer, LowerLayer::Erofs(_))));
    let committed = layer.commit(Some(&"erofs:2".parse().unwrap())).unwrap();
    drop(layer);
    container.remove().unwrap();

    assert_eq!(says(&shell(&store, &image, look)), before, "the image never changes");
    let look_again =
        "cd /data && ls && cat kept changed && cksum <new/link && stat -c %a kept; test ! -e gone";
    let after = says(&shell(&store, &committed, look_again));
    assert_eq!(
        after,
        before.replace("gone\n", "").replace("before\n", "after\n").replace("large\n", "large\nnew\n")
    );
}

#[test]
fn a_read_only_root_of_one_layer_is_the_image_itself() {
    let Some((_directory, store)) = store() else { return };
    let mut layer = LayerBuilder::new().content("/hello", "hi\n", 0o644);
    for name in ["bin", "sbin", "lib", "lib64", "usr", "dev", "proc", "sys", "etc", "run"] {
        let host = Path::new("/").join(name);
        layer = match std::fs::read_link(&host) {
            Ok(target) => layer.symlink(&host, target),
            Err(_) => layer.directory(&host, 0o755),
        };
    }
    let image = ImageBuilder::new().layer(layer).build(&store, Some(&"one:1".parse().unwrap())).unwrap();
    let script = "cat /hello; stat -f -c %T /; touch /x 2>/dev/null || echo refused";
    let said = says(&shell(&store, &image, script).read_only(true));
    assert!(said.starts_with("hi\n") && said.ends_with("refused\n"), "{said:?}");
}
