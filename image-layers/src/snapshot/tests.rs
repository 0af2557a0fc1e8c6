//! One suite for every backend.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::apply::tree::NodeId;
use crate::decode::Encoder;
use crate::progress::{Control, Step};
use crate::tar::{Entry, Kind, Timestamp, Writer};
use crate::{Class, Compression, Limits, LowerLayer};

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

fn plain(kind: SnapshotKind) -> Box<dyn Snapshotter> {
    snapshotter(kind, &Owners::Plain)
}

/// Unpacks layers as the store would; returns the committed snapshots.
pub(super) fn unpack_all(kind: SnapshotKind, dir: &Path, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>> {
    let backend = plain(kind);
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
    unpack(&*backend, &[], jobs, &mut |i, scratch| {
        let done = dir.join(i.to_string());
        std::fs::rename(scratch, &done).unwrap();
        committed.push(done.clone());
        Ok(done)
    })?;
    Ok(committed)
}

/// Names below a directory with their kinds: `d`, `f`, `l`, `w` for a whiteout; `o` behind opaque directories.
fn listing(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"]
                .into_iter()
                .any(|key| rustix::fs::lgetxattr(&path, key, &mut [0; 8][..]).is_ok());
            all.push(match meta.file_type() {
                kind if kind.is_dir() && opaque => format!("{name} do"),
                kind if kind.is_dir() => format!("{name} d"),
                kind if kind.is_symlink() => format!("{name} l"),
                kind if kind.is_char_device() && meta.rdev() == 0 => format!("{name} w"),
                _ => format!("{name} f"),
            });
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn markers_stand_only_where_something_is_hidden() {
    let scratch = tempfile::tempdir().unwrap();
    let base = Layer::new()
        .dir("etc", 0o751)
        .file("etc/a", b"1")
        .file("etc/b", &vec![b'x'; 300_000])
        .link("etc/c", "etc/a")
        .symlink("l", "etc")
        .dir("gone", 0o700)
        .file("gone/x", b"x")
        .file("was-file", b"f")
        .dir("empty", 0o755)
        .file("empty/.wh.ghost", b"")
        .finish();
    let upper = Layer::new()
        .file("etc/.wh.a", b"")
        .file("etc/.wh.ghost", b"")
        .file("l/new", b"n")
        .file(".wh.gone", b"")
        .file("gone/y", b"y")
        .link("alias", "etc/b")
        .file("was-file/in", b"i")
        .file("nothing/.wh.x", b"")
        .file("fresh/.wh..wh..opq", b"")
        .dir("fresh", 0o755)
        .finish();
    let done = unpack_all(SnapshotKind::Overlay, scratch.path(), &[base, upper]).unwrap();
    assert_eq!(
        listing(&done[0].join("fs")),
        ["empty d", "etc d", "etc/a f", "etc/b f", "etc/c f", "gone d", "gone/x f", "l l", "was-file f"]
    );
    assert_eq!(
        listing(&done[1].join("fs")),
        [
            "alias f",
            "etc d",
            "etc/a w",
            "etc/new f",
            "fresh d",
            "gone do",
            "gone/y f",
            "was-file do",
            "was-file/in f"
        ]
    );
    let meta = std::fs::metadata(done[1].join("fs/etc")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.mtime()),
        (0o751, 1_600_000_000),
        "an implied directory is the one below"
    );
    assert_eq!(std::fs::read(done[1].join("fs/alias")).unwrap(), vec![b'x'; 300_000]);
    remove_tree(&done[0]).unwrap();
    assert_eq!(
        std::fs::read(done[1].join("fs/alias")).unwrap().len(),
        300_000,
        "nothing hangs on the lower snapshot"
    );
}

#[test]
fn an_opaque_root_cuts_the_chain() {
    let scratch = tempfile::tempdir().unwrap();
    let layers = [
        Layer::new().file("old", b"o").finish(),
        Layer::new().file("new", b"n").file(".wh..wh..opq", b"").finish(),
        Layer::new().file("newer", b"n").finish(),
    ];
    for kind in [SnapshotKind::Overlay, SnapshotKind::Copy] {
        let dir = scratch.path().join(kind.as_str());
        std::fs::create_dir(&dir).unwrap();
        let done = unpack_all(kind, &dir, &layers).unwrap();
        match plain(kind).view(&done).unwrap() {
            RootfsMount::Overlay { lower, .. } => {
                let names = |i: usize| LowerLayer::Directory(done[i].join("fs"));
                assert_eq!(lower, [names(2), names(1)]);
            }
            RootfsMount::Directory { source, .. } => assert_eq!(listing(&source), ["new f", "newer f"]),
        }
    }
}

#[test]
fn snapshots_of_copies_share_what_did_not_change() {
    let scratch = tempfile::tempdir().unwrap();
    let base = Layer::new().dir("d", 0o500).file("d/same", b"s").file("d/other", b"o").link("twin", "d/same");
    let upper = Layer::new().file("d/other", b"changed").file("d/more", b"m");
    let done = unpack_all(SnapshotKind::Copy, scratch.path(), &[base.finish(), upper.finish()]).unwrap();
    let inode =
        |layer: usize, name: &str| std::fs::metadata(done[layer].join("fs").join(name)).unwrap().ino();
    assert_eq!(inode(0, "d/same"), inode(1, "d/same"));
    assert_ne!(inode(0, "d/other"), inode(1, "d/other"));
    let writable = scratch.path().join("writable");
    std::fs::create_dir(&writable).unwrap();
    let backend = plain(SnapshotKind::Copy);
    let RootfsMount::Directory { source, read_only: false } = backend.prepare(&done, &writable).unwrap()
    else {
        panic!("not a directory")
    };
    let own = |name: &str| std::fs::metadata(source.join(name)).unwrap();
    assert_ne!(own("d/same").ino(), inode(1, "d/same"), "a container never has a snapshot's inode");
    assert_eq!(own("d/same").ino(), own("twin").ino());
    assert_eq!(own("d").mode() & 0o7777, 0o500);
    let mut layer = Vec::new();
    let stats = backend.diff(&done, &writable, &mut layer).unwrap();
    assert_eq!((stats.entries, layer.len()), (0, 1024), "nothing has changed");
    // Set back in time, but not in content.
    std::fs::write(source.join("twin"), b"S").unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    std::fs::File::options().write(true).open(source.join("twin")).unwrap().set_modified(time).unwrap();
    let mut layer = Vec::new();
    assert_eq!(
        backend.diff(&done, &writable, &mut layer).unwrap().entries,
        3,
        "d and both names of the file"
    );
}

#[test]
fn a_wrong_diff_id_and_a_broken_layer_leave_nothing_committed() {
    let scratch = tempfile::tempdir().unwrap();
    let good = Layer::new().file("a", b"1").finish();
    let mut broken = Layer::new().file("b", b"2").file("c", b"3").finish();
    broken.truncate(1700);
    let result = unpack_all(SnapshotKind::Overlay, scratch.path(), &[good.clone(), broken]);
    assert_eq!(result.unwrap_err().class(), Class::Truncated);
    let scratch = scratch.path().join("x");
    std::fs::create_dir(&scratch).unwrap();
    let job = LayerJob {
        diff_id: Digest::sha256(b"something else"),
        scratch: scratch.clone(),
        control: Control::default().layer(Step::Unpack, 0, 1, 0),
        open: Box::new(move || Ok(Box::new(io::Cursor::new(good)))),
    };
    let result = unpack(&*plain(SnapshotKind::Overlay), &[], vec![job], &mut |_, _| panic!("committed"));
    assert_eq!(result.unwrap_err().class(), Class::Digest);
}

/// An entry is created by name in an open directory and nothing is followed, so whoever swaps directories for links
/// meanwhile changes his own tree and nothing else.
#[test]
fn swapping_directories_for_links_meanwhile_leads_nowhere() {
    let scratch = tempfile::tempdir().unwrap();
    let outside = scratch.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut layer = Layer::new();
    for i in 0..400 {
        layer = layer.dir(&format!("d{i}"), 0o755).file(&format!("d{i}/sub/file"), b"content");
    }
    let layer = layer.finish();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let fs = scratch.path().join("scratch-0/fs");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for i in 0..400 {
                    let dir = fs.join(format!("d{i}"));
                    if std::fs::rename(&dir, fs.join(format!("moved{i}"))).is_ok() {
                        let _ = std::os::unix::fs::symlink(&outside, &dir);
                    }
                }
            }
        });
        let _ = unpack_all(SnapshotKind::Overlay, scratch.path(), &[layer]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn no_path_is_too_deep() {
    let scratch = tempfile::tempdir().unwrap();
    let deep = vec!["d"; 1200].join("/");
    let layer = Layer::new().file(&format!("{deep}/file"), b"deep").link("up", &format!("{deep}/file"));
    for kind in [SnapshotKind::Overlay, SnapshotKind::Copy] {
        let dir = scratch.path().join(kind.as_str());
        std::fs::create_dir(&dir).unwrap();
        let upper = Layer::new().file("other", b"o").link("again", &format!("{deep}/file")).finish();
        let done = unpack_all(kind, &dir, &[Layer(layer.0.clone()).finish(), upper]).unwrap();
        assert_eq!(std::fs::read(done[1].join("fs/again")).unwrap(), b"deep");
        let writable = dir.join("writable");
        std::fs::create_dir(&writable).unwrap();
        plain(kind).prepare(&done, &writable).unwrap();
        let root = writable.join(if kind == SnapshotKind::Overlay { "upper" } else { "fs" });
        std::fs::create_dir_all(root.join(vec!["e"; 600].join("/"))).unwrap();
        let mut out = Vec::new();
        let stats = plain(kind).diff(&done, &writable, &mut out).unwrap();
        assert_eq!(stats.entries, 601, "{kind}");
        remove_tree(&dir).unwrap();
    }
}

#[test]
fn files_that_aufs_kept_aside_live_on_under_their_names() {
    let scratch = tempfile::tempdir().unwrap();
    let aside = ".wh..wh.plnk/288.16777";
    let layer = Layer::new()
        .dir(".wh..wh.plnk", 0o700)
        .file(aside, b"content")
        .file(".wh..wh.plnk/1.2", b"nobody's")
        .link("a", aside)
        .dir("d", 0o755)
        .link("d/b", aside)
        .finish();
    for kind in SnapshotKind::ALL {
        let dir = scratch.path().join(kind.as_str());
        std::fs::create_dir(&dir).unwrap();
        let done = unpack_all(kind, &dir, std::slice::from_ref(&layer)).unwrap();
        let tree = crate::apply::index::read(&done[0].join(crate::apply::index::FILE)).unwrap();
        assert_eq!(tree.children(NodeId::ROOT).count(), 2, "{kind}");
        let node = |parts: &[&[u8]]| tree.node(tree.lookup(parts).unwrap());
        let (a, b) = (node(&[b"a"]), node(&[b"d", b"b"]));
        assert_eq!((a.inode, a.size), (b.inode, 7), "{kind}");
        if kind == SnapshotKind::Erofs {
            let mut content = String::new();
            let path = done[0].join(plain(kind).content());
            crate::erofs::Content::open(&path, a.data).unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "content");
            continue;
        }
        let root = done[0].join(plain(kind).content());
        assert_eq!(listing(&root), ["a f", "d d", "d/b f"], "{kind}");
        assert_eq!(std::fs::metadata(root.join("a")).unwrap().nlink(), 2, "{kind}");
        assert_eq!(std::fs::read(root.join("d/b")).unwrap(), b"content");
    }
}
