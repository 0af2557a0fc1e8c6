//! Containers of one image do not see each other, and the image never changes.
#![cfg(feature = "images")]

mod fixture;

use container_core::{Container, End, Stdio};
use image_layers::Store;

#[test]
fn what_one_container_does_no_other_sees() {
    if !fixture::containers() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(directory.path().join("store")).unwrap();
    let image = fixture::image(&store);
    let digest = image.digest().clone();
    let shell = |script: &str| {
        fixture::with_tools(Container::builder().image(&store, &image).command(["/bin/sh", "-c", script]))
    };

    let mut first =
        shell("echo mine > /srv/new; echo changed > /srv/kept; rm /srv/deleted; ls /srv; read go")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(first.stdout.take().unwrap());
    while line.matches('\n').count() < 2 {
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0);
    }
    assert_eq!(line, "kept\nnew\n");
    let second = shell("ls /srv; cat /srv/kept /srv/deleted").output().unwrap();
    assert_eq!(String::from_utf8(second.stdout).unwrap(), "deleted\nkept\nof the image\nof the image\n");
    first.wait().unwrap();
    drop(first);

    let third = shell("ls /srv").output().unwrap();
    assert_eq!(third.stdout, b"deleted\nkept\n");
    assert_eq!(store.images().unwrap()[0].digest(), &digest);
    assert!(store.verify().unwrap().is_empty());
    assert!(store.layers().unwrap().is_empty(), "every writable layer is gone with its container");
}

#[test]
fn the_source_of_a_bind_is_the_hosts() {
    if !fixture::containers() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "the host's\n").unwrap();
    let store = Store::open_or_create(directory.path().join("store")).unwrap();
    let image = fixture::image(&store);
    let of_image = fixture::with_tools(Container::builder().image(&store, &image));
    let of_host = Container::builder().rootfs("/").read_only(true);
    for builder in [of_image, of_host] {
        // A mount inside that has the name of what the source lies in.
        let above = directory.path().parent().unwrap();
        let builder =
            builder.tmpfs("/mnt", 1 << 20).tmpfs(above, 1 << 20).bind(directory.path(), "/mnt/seen");
        let output = builder.command(["/bin/cat", "/mnt/seen/file"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "the host's\n");
    }
}

#[test]
fn the_images_configuration_counts() {
    if !fixture::containers() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(directory.path()).unwrap();
    let image = fixture::image(&store);
    let builder = fixture::with_tools(Container::builder().image(&store, &image));
    let output = builder.output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.end), (&b"yes in /srv\n"[..], End::Exited(0)));
    let output =
        builder.clone().read_only(true).command(["/bin/sh", "-c", "echo x > /srv/new"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("ead-only"), "{text}");
}
