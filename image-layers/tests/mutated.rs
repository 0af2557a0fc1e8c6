//! Damaged and hostile input: thousands of archives that differ from a good one in a few bytes. Each is imported and unpacked or
//! refused with an error; none panics, hangs, or leaves anything behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::Path;

use fixture::*;
use image_layers::{Class, ImportOptions, Limits, Store, UnpackOptions};

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// A few small changes, of the kind that reach deep into a parser.
fn mutate(good: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.below(256) as u8,
            2 => bytes.truncate(at.max(1)),
            3 => {
                let end = (at + 1 + dice.below(600)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + dice.below(600)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = dice.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let digits = b"0123456789-\"{}[],:nul/.";
                bytes[at] = digits[dice.below(digits.len())];
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

fn try_all(name: &str, good: &[u8], rounds: usize) {
    let dir = scratch_in_memory();
    let path = dir.path().join(name);
    let store = Store::open_or_create(dir.path().join("store")).unwrap();
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    limits.archive_bytes = 4 << 20;
    let seed = 0x5eed_0001_u64.wrapping_add(name.len() as u64 * 7919);
    let mut dice = Dice(seed);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..rounds {
        fs::write(&path, mutate(good, &mut dice)).unwrap();
        let result = store
            .import(&path, &ImportOptions::new().any_platform(true).limits(limits))
            .and_then(|images| store.unpack(&images[0], &UnpackOptions::new().limits(limits)));
        match result {
            Ok(()) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
                assert_ne!(error.class(), Class::Cancelled, "{name} {round}: {error}");
            }
        }
    }
    println!("{name}: {accepted} accepted, {refused} refused");
    assert!(refused > rounds / 4);
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
    let damage = store.verify().unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    assert_only(dir.path(), &[name, "store"]);
}

fn assert_only(dir: &Path, names: &[&str]) {
    let mut found: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

/// All that a layer can hold, small.
fn rich_layer() -> Vec<u8> {
    Tar::new()
        .directory("etc", 0o755)
        .file("etc/one", "1")
        .symlink("link", "etc/one")
        .hard_link("hard", "etc/one")
        .file(&format!("{}/long", "d".repeat(120)), "long")
        .file("etc/.wh.gone", "")
        .file("etc/.wh..wh..opq", "")
        .finish()
}

#[test]
fn archives_of_docker() {
    let layers = [Layer::plain(rich_layer()), Layer::gzip(rich_layer())];
    try_all("docker.tar", &docker_archive(&[(&layers, &["demo:1"])]), 1500);
}

#[test]
fn archives_of_oci() {
    let dir = scratch_in_memory();
    let layers = [Layer::zstd(rich_layer()), Layer::plain(rich_layer())];
    let archive = oci_archive(&layout(&dir.path().join("layout"), &layers, "demo:1"));
    try_all("oci.tar", &archive, 1500);
}

#[test]
fn compressed_archives() {
    let layers = [Layer::plain(rich_layer())];
    let archive = docker_archive(&[(&layers, &["demo:1"])]);
    try_all("a.tar.gz", &gzip(&archive), 500);
    try_all("a.tar.zst", &zstd(&archive), 500);
}
