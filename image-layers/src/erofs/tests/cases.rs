//! What is tested.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

#[test]
fn an_empty_tree() {
    check(Model::new());
}

#[test]
fn all_kinds() {
    let mut model = Model::new();
    let etc = model.add(0, b"etc", What::Directory);
    let empty = model.add(etc, b"empty", What::Directory);
    model.0[empty].metadata.mode = 0o1777;
    let passwd = model.file(etc, "passwd", 1000);
    model.file(etc, "nothing", 0);
    model.add(etc, b"mtab", What::Symlink(b"../proc/mounts".to_vec()));
    let long = model.add(etc, b"long", What::Symlink(vec![b'x'; 4040]));
    model.add(etc, b"long2", What::Link(long));
    model.add(etc, b"longer", What::Symlink(vec![b'y'; 4095]));
    model.add(0, b"null", What::Char(1, 3));
    model.add(0, b"whiteout", What::Char(0, 0));
    model.add(0, b"sda", What::Block(259, 0x12345));
    let fifo = model.add(0, b"fifo", What::Fifo);
    model.add(empty, b"fifo", What::Link(fifo));
    model.add(0, b"!before-the-dots", What::Link(passwd));
    model.add(0, b"-", What::Link(passwd));
    model.add(0, b"...", What::Fifo);
    model.add(0, b"\xff\xfe\n", What::Directory);
    let su = model.file(0, "su", 70_000);
    model.0[su].metadata = Metadata { mode: 0o4755, uid: 70_000, gid: 4_000_000_000, ..model.0[su].metadata };
    let old = model.file(0, "old", 10);
    model.0[old].metadata.mtime = Timestamp { secs: -1_000_000, nanos: 999_999_999 };
    let future = model.file(0, "future", 10);
    model.0[future].metadata.mtime.secs = 1 << 33;
    check(model);
}

#[test]
fn the_same_time_everywhere() {
    let mut model = Model::new();
    let parent = model.add(0, b"d", What::Directory);
    let file = model.file(parent, "f", 5000);
    model.add(0, b"link", What::Link(file));
    model.add(0, b"sym", What::Symlink(b"d/f".to_vec()));
    let other = model.file(0, "owned", 5);
    model.0[other].metadata.gid = 65536;
    for entry in &mut model.0 {
        entry.metadata.mtime = Timestamp { secs: 315_532_800, nanos: 5 };
    }
    check(model);
}

#[test]
fn put_aside_and_taken_up_again() {
    for secs in [1_700_000_000, -5, 0] {
        let mut model = Model::new();
        for i in 0..8 {
            model.file(0, &format!("{i}"), 700 * i);
        }
        for entry in &mut model.0 {
            entry.metadata.mtime = Timestamp { secs, nanos: 7 };
        }
        let directory = scratch();
        let path = directory.path().join("image");
        model.write_with_pause(&path, Some(4)).unwrap();
        fsck(&path);
        if let Some(mounted) = Mounted::new(&path) {
            compare(&model, &mounted.root());
        }
    }
}

#[test]
fn sizes_around_blocks() {
    let mut model = Model::new();
    for base in [4096, 8192, 256 << 10, 512 << 10] {
        for size in base - 2..=base + 2 {
            model.file(0, &size.to_string(), size);
        }
    }
    for size in 4096 - 66..4096 - 62 {
        model.file(0, &size.to_string(), size);
        model.file(0, &format!("+{size}"), 4096 + size);
    }
    // Small and large ones by turns, over many shelves.
    for i in 0..400 {
        model.file(0, &format!("turn{i}"), [10, 3000, 40_000, 2000, 5000, 4095][i % 6] + i);
    }
    check(model);
}

#[test]
fn names_at_the_borders_of_directory_blocks() {
    let mut model = Model::new();
    for last in 228..=236 {
        let directory = model.add(0, last.to_string().as_bytes(), What::Directory);
        for i in 0..15u8 {
            model.add(directory, &[vec![b'a' + i], vec![b'n'; 244]].concat(), What::Fifo);
        }
        model.add(directory, &vec![b'z'; last], What::Fifo);
        model.add(directory, &vec![b'z'; 255], What::Directory);
    }
    check(model);
}

#[test]
fn a_directory_of_fifty_thousand() {
    let mut model = Model::new();
    let directory = model.add(0, b"many", What::Directory);
    let target = model.file(directory, "target", 3);
    for i in 0..50_000 {
        let what = if i % 1000 == 0 { What::Link(target) } else { What::Symlink(b"target".to_vec()) };
        model.add(directory, format!("{i:x}").as_bytes(), what);
    }
    let directory = scratch();
    let path = directory.path().join("image");
    model.write(&path).unwrap();
    fsck(&path);
    let Some(mounted) = Mounted::new(&path) else { return };
    let root = mounted.root().join("many");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 50_001);
    for i in (0..50_000).step_by(500) {
        assert_eq!(fs::read(root.join(format!("{i:x}"))).unwrap(), content(target as u8, 3));
    }
    assert_eq!(fs::metadata(root.join("target")).unwrap().nlink(), 51);
    assert_eq!(fs::metadata(root.join("nothing")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn attributes_of_all_sizes() {
    let mut model = Model::new();
    let attribute = |name: &str, len: usize| (name.as_bytes().to_vec(), content(9, len));
    model.0[0].xattrs = vec![attribute("trusted.overlay.opaque", 1), attribute("user.big", 2700)];
    for (i, len) in [0, 1, 2, 3, 1000, 3900, 3990, 4000, 4010, 4020, 4096, 65535].into_iter().enumerate() {
        for (kind, size) in [("f", 0), ("g", 30), ("h", 4096), ("i", 10_000)] {
            let file = model.file(0, &format!("{kind}{i}"), size);
            model.0[file].xattrs = vec![attribute("trusted.x", len)];
        }
        let directory = model.add(0, format!("d{i}").as_bytes(), What::Directory);
        model.0[directory].xattrs = vec![attribute("user.overlay.opaque", 1), attribute("user.x", len)];
        model.file(directory, "inside", 100);
        let link = model.add(directory, b"s", What::Symlink(b"x".to_vec()));
        model.0[link].xattrs = vec![attribute("trusted.l", len)];
    }
    let capable = model.file(0, "ping", 5000);
    model.0[capable].xattrs = vec![(
        b"security.capability".to_vec(),
        [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec(),
    )];
    let most = model.file(0, "most", 5000);
    model.0[most].xattrs = (0..4).map(|i| attribute(&format!("user.{i}"), 65_000)).collect();
    check(model);
}

#[test]
fn holes_take_no_space() {
    let directory = scratch();
    let path = directory.path().join("image");
    let mut writer = create(&path).unwrap();
    let mut model = Model::new();
    let file = model.file(0, "sparse", 0);
    let size: u64 = (5 << 30) + 77;
    let nid = writer.file(&model.0[file].metadata, &[], size).unwrap();
    writer.skip(10).unwrap();
    writer.append(b"begin").unwrap();
    writer.skip((5 << 30) - 15 + 70).unwrap();
    writer.append(b"endxxxx").unwrap();
    model.0[file].nid = nid;
    let last = model.file(0, "last", 0);
    model.0[last].nid = writer.file(&model.0[last].metadata, &[], 3 << 20).unwrap();
    writer.skip(3 << 20).unwrap();
    writer.finish(&model).unwrap();
    fsck(&path);
    let image = fs::metadata(&path).unwrap();
    assert!(image.len() > 5 << 30 && image.blocks() * 512 < 1 << 20, "{} {}", image.len(), image.blocks());
    let Some(mounted) = Mounted::new(&path) else { return };
    let file = fs::File::open(mounted.root().join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut bytes = [9; 32];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..16], b"\0\0\0\0\0\0\0\0\0\0begin\0");
    file.read_exact_at(&mut bytes[..10], size - 10).unwrap();
    assert_eq!(&bytes[..10], b"\0\0\0endxxxx");
    assert!(fs::read(mounted.root().join("last")).unwrap() == vec![0; 3 << 20]);
}

#[test]
fn what_the_tree_leaves_out_is_not_there() {
    let mut model = Model::new();
    model.file(0, "a", 9000);
    model.file(0, "b", 10);
    let directory = scratch();
    let path = directory.path().join("image");
    let mut writer = create(&path).unwrap();
    for size in [5000u64, 3] {
        writer.file(&Metadata::default(), &[], size).unwrap();
        writer.append(&vec![1; size as usize]).unwrap();
    }
    writer.finish(&Model::new()).unwrap();
    fsck(&path);
    let Some(mounted) = Mounted::new(&path) else { return };
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
}

#[test]
fn an_unfinished_or_damaged_image_is_none() {
    let directory = scratch();
    let path = directory.path().join("image");
    let mut writer = create(&path).unwrap();
    writer.file(&Metadata::default(), &[], 5000).unwrap();
    writer.append(&[1; 5000]).unwrap();
    drop(writer);
    assert!(Content::open(&path, 0).is_err());
    let mut model = Model::new();
    let file = model.file(0, "f", 5);
    let finished = directory.path().join("finished");
    model.write(&finished).unwrap();
    let nid = model.0[file].nid;
    assert!(Content::open(&finished, nid).is_ok());
    assert!(Content::open(&finished, nid + 1).is_err(), "no inode there");
    let mut bytes = fs::read(&finished).unwrap();
    bytes[1200] ^= 1;
    fs::write(&finished, bytes).unwrap();
    assert!(matches!(Content::open(&finished, nid), Err(crate::Error::Checksum { .. })));
}

#[test]
fn what_erofs_does_not_have_is_refused() {
    let refused = |change: &dyn Fn(&mut Model)| {
        let directory = scratch();
        let mut model = Model::new();
        change(&mut model);
        let result = model.write(&directory.path().join("image"));
        assert!(matches!(result, Err(crate::Error::UnsupportedLayer { .. })), "{result:?}");
    };
    refused(&|model| {
        model.add(0, b"x", What::Symlink(vec![b'x'; 4096]));
    });
    refused(&|model| {
        model.add(0, b"x", What::Char(4096, 0));
    });
    refused(&|model| {
        let file = model.file(0, "x", 1);
        model.0[file].xattrs = vec![(b"com.apple.quarantine".to_vec(), vec![1])];
    });
    refused(&|model| model.0[0].xattrs = vec![(b"user.x".to_vec(), vec![1; 3000])]);
}

type AnyEntry = (usize, Vec<u8>, What, Metadata, Vec<(Vec<u8>, Vec<u8>)>);

fn any_entry() -> impl Strategy<Value = AnyEntry> {
    let what = prop_oneof![
        4 => (any::<u8>(), prop_oneof![0..200usize, 0..10_000usize, 3900..4300usize, 0..300_000usize])
            .prop_map(|(seed, size)| What::File { seed, size }),
        4 => Just(What::Directory),
        2 => prop::collection::vec(1..=255u8, 1..4096).prop_map(What::Symlink),
        1 => (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| What::Char(major, minor)),
        1 => Just(What::Fifo),
        2 => (0..100usize).prop_map(What::Link),
    ];
    let name = prop::collection::vec(prop_oneof![Just(b'.'), Just(b'a'), 1..=255u8], 1..=255)
        .prop_filter("a name", |name| !name.contains(&b'/') && name != b"." && name != b"..");
    let metadata =
        (0..0o10000u16, prop_oneof![0..1000u32, any::<u32>()], any::<u32>(), 0..3i64, 0..2u32).prop_map(
            |(mode, uid, gid, secs, nanos)| Metadata { mode, uid, gid, mtime: Timestamp { secs, nanos } },
        );
    let attribute = ("trusted\\.[a-z]{1,5}", prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(name, value)| (name.into_bytes(), value));
    (0..100usize, name, what, metadata, prop::collection::vec(attribute, 0..3))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(entries in prop::collection::vec(any_entry(), 0..80)) {
        let mut model = Model::new();
        for (parent, name, mut what, metadata, mut xattrs) in entries {
            let parent = parent % model.0.len();
            let taken = |e: &Entry| e.parent == parent && e.name == name;
            // Whole paths have to stay below what a system call takes.
            if model.0[parent].what != What::Directory
                || model.0.iter().skip(1).any(taken)
                || model.path(parent).as_os_str().len() > 3000
            {
                continue;
            }
            if let What::Link(target) = what {
                let target = target % model.0.len();
                if matches!(model.0[target].what, What::Directory | What::Link(_)) {
                    continue;
                }
                what = What::Link(target);
            }
            xattrs.sort();
            xattrs.dedup_by(|a, b| a.0 == b.0);
            let entry = model.add(parent, &name, what);
            // The kernel keeps user.* from symlinks and devices, trusted.* it serves everywhere.
            (model.0[entry].metadata, model.0[entry].xattrs) = (metadata, xattrs);
        }
        check(model);
    }
}
