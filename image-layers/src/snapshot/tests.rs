//! One suite for every backend.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;
use crate::decode::Encoder;
use crate::progress::{Control, Step};
use crate::tar::{Entry, Kind, Timestamp, Writer};
use crate::{Compression, Limits};

pub(super) fn entry(name: &str, kind: Kind) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
        kind,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Timestamp { secs: 1_600_000_000, nanos: 0 },
        size: 0,
        xattrs: Vec::new(),
        sparse: None,
    }
}

pub(super) struct Layer(Writer<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Layer {
        Layer(Writer::new(Vec::new()))
    }

    pub(super) fn entry(mut self, entry: Entry) -> Layer {
        self.0.entry(&entry).unwrap();
        self
    }

    /// The stored bytes of the entry before.
    pub(super) fn body(mut self, bytes: &[u8]) -> Layer {
        self.0.body(bytes).unwrap();
        self
    }

    pub(super) fn file(mut self, name: &str, content: &[u8]) -> Layer {
        let mut entry = entry(name, Kind::File);
        entry.size = content.len() as u64;
        self.0.entry(&entry).unwrap();
        self.0.body(content).unwrap();
        self
    }

    pub(super) fn dir(self, name: &str, mode: u16) -> Layer {
        self.entry(Entry { mode, ..entry(name, Kind::Directory) })
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Layer {
        self.entry(entry(name, Kind::Symlink { target: target.into() }))
    }

    pub(super) fn link(self, name: &str, target: &str) -> Layer {
        self.entry(entry(name, Kind::HardLink { target: target.into() }))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

/// Unpacks layers as the store would; returns the committed snapshots.
pub(super) fn unpack_all(kind: SnapshotKind, dir: &Path, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>> {
    let backend = snapshotter(kind);
    let control = Control { limits: Limits::default(), ..Control::default() };
    let formats = [Compression::Gzip, Compression::None, Compression::Zstd];
    let jobs = layers.iter().enumerate().map(|(i, layer)| {
        let mut encoder = Encoder::new(Vec::new(), formats[i % 3], None).unwrap();
        encoder.write_all(layer).unwrap();
        let blob = encoder.finish().unwrap();
        let scratch = dir.join(format!("scratch-{i}"));
        std::fs::create_dir(&scratch).unwrap();
        LayerJob {
            diff_id: Digest::sha256(layer),
            scratch,
            control: control.layer(Step::Unpack, i, layers.len(), blob.len() as u64),
            open: Box::new(move || Ok(Box::new(io::Cursor::new(blob)))),
        }
    });
    let jobs = jobs.collect();
    let mut committed = Vec::new();
    unpack(backend, &[], jobs, &mut |i, scratch| {
        let done = dir.join(i.to_string());
        std::fs::rename(scratch, &done).unwrap();
        committed.push(done.clone());
        Ok(done)
    })?;
    Ok(committed)
}

use std::io;

#[test]
fn whiteouts_links_and_times() {
    let scratch = tempfile::tempdir().unwrap();
    let base = Layer::new()
        .dir("etc", 0o755)
        .file("etc/a", b"1")
        .file("etc/b", &vec![b'x'; 300_000])
        .link("etc/c", "etc/a")
        .symlink("l", "etc")
        .dir("gone", 0o700)
        .file("gone/x", b"x")
        .finish();
    let upper = Layer::new()
        .file("etc/.wh.a", b"")
        .file("l/new", b"n")
        .file(".wh.gone", b"")
        .file("gone/y", b"y")
        .link("alias", "etc/b")
        .file("nothing/.wh.x", b"")
        .finish();
    let done = unpack_all(SnapshotKind::Overlay, scratch.path(), &[base, upper]).unwrap();
    let out = std::process::Command::new("find").arg(&done[1]).arg("-ls").output().unwrap();
    println!("{}", String::from_utf8_lossy(&out.stdout));
    let out = std::process::Command::new("find").arg(&done[0]).arg("-ls").output().unwrap();
    println!("{}", String::from_utf8_lossy(&out.stdout));
}
