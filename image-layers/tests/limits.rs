//! Each ceiling stops what exceeds it, says its name, and leaves the store as it was; one unit more and it passes.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;

use fixture::*;
use image_layers::{Class, Error, ImportOptions, Limits, SnapshotKind, StoreOptions, UnpackOptions};

/// A tar archive with PAX records before an entry.
fn with_records(records: &[(&str, &[u8])], path: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(0);
    builder.append_data(&mut header, path, &b""[..]).unwrap();
    builder.into_inner().unwrap()
}

fn zeros(mib: usize) -> Layer {
    Layer::zstd(Tar::new().file("zeros", vec![0; mib << 20]).finish())
}

/// A frame whose window is 4 MiB.
fn wide_window() -> Layer {
    let tar = Tar::new().file("noise", noise(5 << 20, 1)).finish();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(22).unwrap();
    std::io::Write::write_all(&mut encoder, &tar).unwrap();
    Layer { blob: encoder.finish().unwrap(), ..Layer::zstd(tar) }
}

struct Given {
    name: &'static str,
    layer: Layer,
    /// Sets the ceiling.
    set: fn(&mut Limits, u64),
    /// What the layer needs.
    enough: u64,
    class: Class,
}

fn given() -> Vec<Given> {
    let too_large = |name, layer, set, enough| Given { name, layer, set, enough, class: Class::TooLarge };
    let three = Tar::new().file("a", "1").file("b", "2").file("c", "3").finish();
    let long = with_records(&[("path", "n".repeat(200).as_bytes())], "short");
    let attribute: &[(&str, &[u8])] = &[("SCHILY.xattr.user.name", &[7; 100])];
    let comments: &[(&str, &[u8])] = &[("comment", &[b'c'; 3000])];
    let sparse = Tar::new().file("body", vec![1; 10_000]).finish();
    let tar_len = sparse.len() as u64;
    let names = (0..200).fold(Tar::new(), |tar, n| tar.file(&format!("directory/{n:0100}"), "")).finish();
    vec![
        too_large("entries", Layer::gzip(three), |l, n| l.entries = n, 3),
        too_large("name_bytes", Layer::gzip(long), |l, n| l.name_bytes = n, 200),
        too_large("xattr_bytes", Layer::gzip(with_records(attribute, "x")), |l, n| l.xattr_bytes = n, 109),
        // "3013 comment=...\n"
        too_large("header_bytes", Layer::gzip(with_records(comments, "x")), |l, n| l.header_bytes = n, 3014),
        too_large("layer_bytes", Layer::gzip(sparse), |l, n| l.layer_bytes = n, tar_len),
        too_large("ratio", zeros(70), |l, n| l.ratio = n, 1_000_000),
        too_large("index_bytes", Layer::gzip(names), |l, n| l.index_bytes = n, 1 << 20),
        Given {
            name: "window_bytes",
            layer: wide_window(),
            set: |l, n| l.window_bytes = n,
            enough: 4 << 20,
            class: Class::Invalid,
        },
    ]
}

/// The largest value that is not enough: one less, where that is exact.
fn short_of(given: &Given) -> u64 {
    match given.name {
        "ratio" => 100,
        "index_bytes" => 10_000,
        "window_bytes" => 2 << 20,
        _ => given.enough - 1,
    }
}

#[test]
fn every_ceiling_holds_and_says_its_name() {
    let dir = scratch();
    for given in given() {
        let name = given.name;
        let input = layout(&dir.path().join(name), std::slice::from_ref(&given.layer), "x/limits:1");
        for kind in [SnapshotKind::Copy, SnapshotKind::Overlay] {
            let path = dir.path().join(format!("store-{name}-{kind}"));
            let Ok(store) = StoreOptions::new().backend(kind).open_or_create(&path) else {
                skip(kind.as_str(), &format!("no {kind} here"));
                continue;
            };
            let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
            let unpack = |value| {
                let mut limits = Limits::default();
                (given.set)(&mut limits, value);
                store.unpack(&image, &UnpackOptions::new().limits(limits))
            };
            let error = unpack(short_of(&given)).unwrap_err();
            assert_eq!(error.class(), given.class, "{name}: {error}");
            let Error::Layer { index: 0, source, .. } = &error else { panic!("{name}: {error:?}") };
            match &**source {
                Error::LimitExceeded { name: said, limit, .. } => {
                    assert_eq!((*said, *limit), (name, short_of(&given)), "{error}");
                }
                Error::InvalidCompression { .. } if given.class == Class::Invalid => {}
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(fs::read_dir(path.join("leases")).unwrap().count(), 0, "{name}");
            let snapshots = snapshots(&path, kind);
            assert_eq!(fs::read_dir(snapshots).map_or(0, Iterator::count), 0, "{name}");
            unpack(given.enough).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
