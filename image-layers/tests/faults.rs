//! One test for each kind of fault that engines are known for, on layers made here, into a plain directory and through a
//! store. (The public cases, where they are, run in `layer_cases`.)
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use fixture::*;
use image_layers::{Class, Error, ImportOptions, RootfsMount, SnapshotKind, Source, StoreOptions};

/// An entry that the crate `tar` would not write.
#[derive(Clone)]
struct Raw<'a> {
    name: &'a [u8],
    flag: u8,
    link: &'a [u8],
    mode: u32,
    id: u64,
    mtime: i64,
    records: Vec<(&'a str, &'a [u8])>,
    body: &'a [u8],
}

fn raw<'a>(name: &'a str, flag: u8) -> Raw<'a> {
    let (mtime, name) = (1_600_000_000, name.as_bytes());
    Raw { name, flag, link: b"", mode: 0o644, id: 0, mtime, records: Vec::new(), body: b"" }
}

fn file<'a>(name: &'a str, body: &'a str) -> Raw<'a> {
    Raw { body: body.as_bytes(), ..raw(name, b'0') }
}

fn directory(name: &str, mode: u32) -> Raw<'_> {
    Raw { mode, ..raw(name, b'5') }
}

fn symlink<'a>(name: &'a str, target: &'a str) -> Raw<'a> {
    Raw { link: target.as_bytes(), ..raw(name, b'2') }
}

fn hard_link<'a>(name: &'a str, target: &'a str) -> Raw<'a> {
    Raw { link: target.as_bytes(), ..raw(name, b'1') }
}

fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        builder.append_pax_extensions(entry.records.iter().copied()).unwrap();
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..entry.name.len()].copy_from_slice(entry.name);
        header.as_mut_bytes()[157..157 + entry.link.len()].copy_from_slice(entry.link);
        header.set_entry_type(tar::EntryType::new(entry.flag));
        header.set_mode(entry.mode);
        header.set_uid(entry.id);
        header.set_gid(entry.id);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        // Base-256 for what octal digits cannot say.
        let mtime = &mut header.as_mut_bytes()[136..148];
        mtime.fill(if entry.mtime < 0 { 0xff } else { 0 });
        mtime[4..].copy_from_slice(&entry.mtime.to_be_bytes());
        mtime[0] |= 0x80;
        header.set_size(entry.body.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.body).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Unpacks the layers in each way and gives the root to `check`; or returns the classes of the errors, which must be the
/// same. Nothing beside the target may change.
fn unpack(layers: &[&[Raw<'_>]], check: impl Fn(&Path)) -> Option<Class> {
    let blobs: Vec<Layer> = layers.iter().map(|entries| Layer::gzip(tar(entries))).collect();
    let dir = scratch();
    let input = layout(&dir.path().join("layout"), &blobs, "x/fault:1");
    let place = dir.path().join("place");
    let outside = place.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();

    let target = place.join("rootfs");
    let options = ImportOptions::new();
    let direct = Source::open(&input, &options).unwrap().image(&options).unwrap().unpack(&target);
    let direct = direct.map(|()| check(&target)).map_err(|e| e.class()).err();
    assert_eq!(target.exists(), direct.is_none(), "nothing half made");

    let store = StoreOptions::new().backend(SnapshotKind::Copy).open_or_create(place.join("store")).unwrap();
    let image = store.import(&input, &options).unwrap().remove(0);
    let stored = store.view(&image).map(|view| match view.mount() {
        RootfsMount::Directory { source, .. } => check(source),
        other => panic!("{other:?}"),
    });
    assert_eq!(stored.map_err(|e: Error| e.class()).err(), direct);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    direct
}

fn names(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            all.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path);
            }
        }
    }
    all.sort();
    all
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn names_that_try_to_leave() {
    let refused: [&[&[Raw<'_>]]; 4] = [
        &[&[file("../outside/file", "evil")]],
        &[&[file("a/../../outside/file", "evil")]],
        &[&[hard_link("a", "../outside/file"), file("a", "evil")]],
        &[&[hard_link("a", "b/../../outside/file")]],
    ];
    for layers in refused {
        assert_eq!(unpack(layers, |_| panic!("unpacked")), Some(Class::Escape));
    }
    // A root that is no directory, and a deletion of what is above.
    assert_eq!(unpack(&[&[symlink("./", "../outside")]], |_| panic!()), Some(Class::Invalid));
    assert_eq!(unpack(&[&[file("a/.wh...", "")]], |_| panic!()), Some(Class::Invalid));
    // With the root of the image as `/` these stay inside.
    let inside: [&[&[Raw<'_>]]; 4] = [
        &[&[file("/outside/file", "here")]],
        &[&[symlink("up", "../../../outside"), file("up/file", "here")]],
        &[&[symlink("up", "../outside")], &[file("up/file", "here")]],
        &[
            &[symlink("outside", "/other")],
            &[symlink("other", "../../outside2"), file("outside/file", "here")],
        ],
    ];
    for layers in inside {
        let class = unpack(layers, |root| {
            let found = ["outside/file", "outside2/file"].map(|name| root.join(name));
            assert!(found.iter().any(|path| fs::read_to_string(path).is_ok_and(|text| text == "here")));
        });
        assert_eq!(class, None);
    }
    // A symlink stays as it is; only what would go through it is kept inside.
    let through = [symlink("evil", "../outside/file"), hard_link("twin", "evil")];
    assert_eq!(
        unpack(&[&through], |root| assert_eq!(
            fs::read_link(root.join("twin")).unwrap(),
            Path::new("../outside/file")
        )),
        None
    );
}

#[test]
fn whiteouts_concern_what_is_below_in_any_order() {
    let below = [directory("d", 0o755), file("d/a", "old"), file("d/b", "old"), file("e", "old")];
    let mut above = vec![
        file("d/.wh..wh..opq", ""),
        file("d/a", "new"),
        file(".wh.e", ""),
        file("e", "new"),
        file(".wh.never-was", ""),
    ];
    for _ in 0..above.len() {
        above.rotate_left(1);
        let check = |root: &Path| {
            assert_eq!(names(root), ["d", "d/a", "e"]);
            assert_eq!((text(root.join("d/a")), text(root.join("e"))), ("new".into(), "new".into()));
        };
        assert_eq!(unpack(&[&below, &above], check), None);
    }
    let gone = |root: &Path| assert_eq!(names(root), ["only"]);
    assert_eq!(unpack(&[&below, &[file(".wh..wh..opq", ""), file("only", "")]], gone), None);
    let aufs = [file(".wh..wh.aufs", ""), file(".wh..wh.orph/x", ""), file("only", "")];
    assert_eq!(unpack(&[&aufs], gone), None);
}

#[test]
fn one_type_in_place_of_another() {
    let tree = [directory("x", 0o755), file("x/inner", "old"), file("target/kept", "kept")];
    let check = |root: &Path| {
        assert_eq!(fs::read_link(root.join("x")).unwrap(), Path::new("target"));
        assert_eq!(names(root), ["target", "target/kept", "x"]);
    };
    assert_eq!(unpack(&[&tree, &[symlink("x", "target")]], check), None);
    let back = [directory("x", 0o700), file("x/new", "new")];
    let check = |root: &Path| {
        assert_eq!(names(root), ["target", "target/kept", "x", "x/new"]);
        assert_eq!(fs::symlink_metadata(root.join("x")).unwrap().mode() & 0o7777, 0o700);
    };
    assert_eq!(unpack(&[&tree, &[symlink("x", "target")], &back], check), None);
    let check = |root: &Path| assert_eq!(text(root.join("x")), "file");
    assert_eq!(unpack(&[&tree, &[file("x", "file")]], check), None);
    // Within one layer, the last entry of a name counts.
    let twice = [file("x", "first"), directory("x", 0o755), symlink("x", "nowhere"), file("x", "file")];
    assert_eq!(unpack(&[&twice], check), None);
}

#[test]
fn hard_links_within_and_across_layers() {
    let base = [file("a", "content"), hard_link("b", "/a"), symlink("s", "a"), hard_link("t", "s")];
    let above = [hard_link("d/c", "./b"), hard_link("late", "later"), file("later", "2")];
    let check = |root: &Path| {
        let inode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().ino();
        assert_eq!(inode("late"), inode("later"));
        assert_eq!(text(root.join("d/c")), "content");
        assert_eq!(fs::read_link(root.join("t")).unwrap(), Path::new("a"));
    };
    assert_eq!(unpack(&[&base, &above], check), None);
    assert_eq!(unpack(&[&[hard_link("a", "nowhere")]], |_| panic!()), Some(Class::NotFound));
    assert_eq!(unpack(&[&[directory("d", 0o755), hard_link("a", "d")]], |_| panic!()), Some(Class::Invalid));
    // A new file in the place of one name leaves the other name alone.
    let replaced = [file("b", "new")];
    let check = |root: &Path| {
        assert_eq!((text(root.join("a")), text(root.join("b"))), ("content".into(), "new".into()));
    };
    assert_eq!(unpack(&[&base, &replaced], check), None);
}

#[test]
fn metadata_is_what_the_layer_says() {
    let base = [
        Raw { mtime: 7, ..directory("d", 0o555) },
        Raw { mode: 0o6755, id: 1000, ..file("d/setuid", "x") },
        Raw { records: vec![("mtime", b"-1.25")], ..file("d/before", "x") },
        Raw { mtime: -86_400, ..file("d/negative", "x") },
        Raw { records: vec![("mtime", b"1600000000.123456789")], ..file("d/nanos", "x") },
        Raw { records: vec![("uid", b"3000000000"), ("gid", b"3000000001")], ..file("d/large", "x") },
    ];
    let implied = [file("d/more", "x")];
    let check = |root: &Path| {
        let at = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        // An implied directory keeps the mode it has below, and a directory its time in spite of what came into it.
        assert_eq!((at("d").mode() & 0o7777, at("d").mtime()), (0o555, 7));
        assert_eq!((at("d/before").mtime(), at("d/before").mtime_nsec()), (-2, 750_000_000));
        assert_eq!(at("d/negative").mtime(), -86_400);
        assert_eq!(at("d/nanos").mtime_nsec(), 123_456_789);
        if is_root() {
            assert_eq!((at("d/setuid").uid(), at("d/setuid").mode() & 0o7777), (1000, 0o6755));
            assert_eq!((at("d/large").uid(), at("d/large").gid()), (3_000_000_000, 3_000_000_001));
        }
    };
    assert_eq!(unpack(&[&base, &implied], check), None);
    let root_entry = [directory("./", 0o711), file("a", "x")];
    let check = |root: &Path| assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(unpack(&[&root_entry], check), None);
    let fifo = [raw("pipe", b'6')];
    let check = |root: &Path| {
        assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    };
    assert_eq!(unpack(&[&fifo], check), None);
    if is_root() {
        let check = |root: &Path| {
            let device = fs::symlink_metadata(root.join("null")).unwrap();
            assert!(device.file_type().is_char_device());
            assert_eq!(device.rdev(), rustix::fs::makedev(1, 3));
        };
        assert_eq!(unpack(&[&[raw("null", b'3')]], check), None);
    }
}

#[test]
fn attributes_of_any_bytes_survive_the_change_of_owner() {
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let binary: &[u8] = b"a=b\n\0\xff";
    let mut records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.user.binary", binary),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.twice", b"1"),
        ("SCHILY.xattr.user.twice", b"2"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ];
    if is_root() {
        records.push(("SCHILY.xattr.security.capability", CAPABILITY));
    }
    let entry = Raw { records, id: 1000, ..file("f", "x") };
    let check = |root: &Path| {
        let get = |name: &str| {
            let mut value = vec![0; 100];
            rustix::fs::lgetxattr(root.join("f"), name, &mut value).ok().map(|n| value[..n].to_vec())
        };
        assert_eq!(get("user.binary").as_deref(), Some(binary));
        assert_eq!(get("user.empty").as_deref(), Some(&b""[..]));
        assert_eq!(get("user.twice").as_deref(), Some(&b"2"[..]));
        assert_eq!(get("trusted.overlay.opaque"), None);
        if is_root() {
            assert_eq!(get("security.capability").as_deref(), Some(CAPABILITY));
        }
    };
    assert_eq!(unpack(&[&[entry]], check), None);
}

#[test]
fn names_of_any_bytes_and_length() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let entries = [
        Raw { records: vec![("path", long.as_bytes())], ..file("short", "long") },
        Raw { name: b"latin-\xe9", ..file("", "1") },
        file("a\\b\n\"c", "2"),
        file("./dotted//./name", "3"),
    ];
    let check = |root: &Path| {
        assert_eq!(text(root.join(&long)), "long");
        assert_eq!(text(root.join(std::ffi::OsStr::from_bytes(b"latin-\xe9"))), "1");
        assert_eq!(text(root.join("a\\b\n\"c")), "2");
        assert_eq!(text(root.join("dotted/name")), "3");
    };
    assert_eq!(unpack(&[&entries], check), None);
    let too_long = "n".repeat(256);
    let entry = Raw { records: vec![("path", too_long.as_bytes())], ..file("short", "x") };
    assert_eq!(unpack(&[&[entry]], |_| panic!()), Some(Class::Invalid));
}
