//! Images of made-up trees, mounted by the kernel, checked by `fsck.erofs` and read back.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Content by seed and size, so that large ones need no memory.
    File {
        seed: u8,
        size: usize,
    },
    Directory,
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// Another name of the entry with this number.
    Link(usize),
}

#[derive(Clone, Debug)]
struct Entry {
    parent: usize,
    name: Vec<u8>,
    what: What,
    metadata: Metadata,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    nid: Nid,
}

fn create(path: &Path) -> crate::Result<Writer> {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path);
    let file = file.map_err(crate::Error::io("create", path))?;
    Ok(Writer::new(file, path, *b"0123456789abcdef"))
}

/// A tree to be written; entry 0 is the root.
#[derive(Clone, Debug)]
struct Model(Vec<Entry>);

impl Model {
    fn new() -> Model {
        let mut model = Model(Vec::new());
        model.add(0, b"", What::Directory);
        model
    }

    fn add(&mut self, parent: usize, name: &[u8], what: What) -> usize {
        let n = self.0.len() as u32;
        let metadata = Metadata {
            mode: if what == What::Directory { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 1_700_000_000 + i64::from(n), nanos: n },
        };
        self.0.push(Entry { parent, name: name.to_vec(), what, metadata, xattrs: Vec::new(), nid: 0 });
        n as usize
    }

    fn file(&mut self, parent: usize, name: &str, size: usize) -> usize {
        self.add(parent, name.as_bytes(), What::File { seed: self.0.len() as u8, size })
    }

    /// The entry that has the metadata.
    fn target(&self, entry: usize) -> usize {
        if let What::Link(target) = self.0[entry].what { target } else { entry }
    }

    fn write(&mut self, path: &Path) -> Result<(), crate::Error> {
        self.write_with_pause(path, None)
    }

    /// Puts the image aside before the entry `pause`.
    fn write_with_pause(&mut self, path: &Path, pause: Option<usize>) -> Result<(), crate::Error> {
        let mut writer = create(path)?;
        for i in 0..self.0.len() {
            if let What::File { seed, size } = self.0[i].what {
                let entry = &self.0[i];
                if pause == Some(i) {
                    writer.suspend()?;
                    writer = Writer::resume(path)?;
                }
                let nid = writer.file(&entry.metadata, &entry.xattrs, size as u64)?;
                // Pieces of all lengths: within a block, over its border, larger than the buffer.
                let (body, mut at, mut step) = (content(seed, size), 0, 1 + usize::from(seed));
                while at < size {
                    let end = size.min(at + step);
                    writer.append(&body[at..end])?;
                    (at, step) = (end, step * 7);
                }
                self.0[i].nid = nid;
            }
        }
        writer.finish(&*self)
    }

    fn path(&self, entry: usize) -> PathBuf {
        let (mut at, mut parts) = (entry, Vec::new());
        while at != 0 {
            parts.push(OsStr::from_bytes(&self.0[at].name));
            at = self.0[at].parent;
        }
        parts.iter().rev().collect()
    }
}

fn content(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 13 + i * 7) as u8 ^ seed).collect()
}

impl Tree for Model {
    fn root(&self) -> u32 {
        0
    }

    fn children(&self, directory: u32, into: &mut Vec<u32>) {
        into.extend((1..self.0.len() as u32).filter(|&i| self.0[i as usize].parent == directory as usize));
    }

    fn name(&self, entry: u32) -> &[u8] {
        &self.0[entry as usize].name
    }

    fn inode(&self, entry: u32) -> u32 {
        self.target(entry as usize) as u32
    }

    fn inodes(&self) -> usize {
        self.0.len()
    }

    fn kind(&self, entry: u32) -> Kind<'_> {
        let entry = &self.0[self.target(entry as usize)];
        match &entry.what {
            What::File { .. } => Kind::File(entry.nid),
            What::Directory => Kind::Directory,
            What::Symlink(target) => Kind::Symlink(target),
            &What::Char(major, minor) => Kind::Char { major, minor },
            &What::Block(major, minor) => Kind::Block { major, minor },
            What::Fifo => Kind::Fifo,
            What::Link(_) => unreachable!("links lead to no links"),
        }
    }

    fn metadata(&self, entry: u32) -> Metadata {
        self.0[self.target(entry as usize)].metadata
    }

    fn xattrs(&self, entry: u32) -> Cow<'_, Xattrs> {
        Cow::Borrowed(&self.0[self.target(entry as usize)].xattrs)
    }
}

/// Says that something is not tested; an error where `CONTAINER_TESTS_REQUIRE` asks for it.
#[allow(clippy::print_stderr)]
fn skip(need: &str, reason: &str) {
    let required = std::env::var("CONTAINER_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "{need} required: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// A mounted image, at no place in the tree: it goes when the descriptor is closed.
struct Mounted(OwnedFd);

impl Mounted {
    fn new(image: &Path) -> Option<Mounted> {
        let mount = || {
            let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "source", image)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
        };
        match mount() {
            Ok(mount) => Some(Mounted(mount)),
            Err(rustix::io::Errno::PERM) => {
                skip("root", "mounting needs CAP_SYS_ADMIN");
                None
            }
            Err(error @ (rustix::io::Errno::NODEV | rustix::io::Errno::NOTBLK)) => {
                skip("erofs", &format!("EROFS cannot be mounted from a file here: {error}"));
                None
            }
            Err(error) => panic!("mount {}: {error}", image.display()),
        }
    }

    fn root(&self) -> PathBuf {
        format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into()
    }
}

/// A directory on a file system that images can be mounted from, where there is one.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(if Path::new("/var/tmp").is_dir() {
        "/var/tmp".into()
    } else {
        std::env::temp_dir()
    })
    .unwrap()
}

fn fsck(image: &Path) {
    match Command::new("fsck.erofs").arg(image).output() {
        Ok(output) => assert!(
            output.status.success(),
            "fsck.erofs: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => skip("fsck.erofs", "no fsck.erofs"),
        Err(error) => panic!("fsck.erofs: {error}"),
    }
}

/// Writes the model and compares what comes back by every road.
fn check(mut model: Model) {
    let directory = scratch();
    let path = directory.path().join("image");
    model.write(&path).unwrap();
    fsck(&path);
    for entry in &model.0 {
        if let What::File { seed, size } = entry.what {
            let mut all = Vec::new();
            Content::open(&path, entry.nid).unwrap().read_to_end(&mut all).unwrap();
            assert!(all == content(seed, size), "{entry:?}");
        }
    }
    if let Some(mounted) = Mounted::new(&path) {
        compare(&model, &mounted.root());
    }
    let again = directory.path().join("again");
    model.write(&again).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "not the same bytes every time");
}

fn compare(model: &Model, root: &Path) {
    let mut names: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    let mut links: BTreeMap<usize, u64> = BTreeMap::new();
    for (i, entry) in model.0.iter().enumerate().skip(1) {
        names.entry(entry.parent).or_default().push(&entry.name);
        *links.entry(model.target(i)).or_default() += 1;
    }
    for i in 0..model.0.len() {
        let entry = &model.0[model.target(i)];
        // One component at a time: the whole path may be too long.
        let path = root.join(model.path(i));
        let found = if i == 0 { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let Metadata { mode, uid, gid, mtime } = entry.metadata;
        assert_eq!(
            (found.permissions().mode() & 0o7777, found.uid(), found.gid()),
            (u32::from(mode), uid, gid),
            "{}",
            path.display()
        );
        assert_eq!((found.mtime(), found.mtime_nsec()), (mtime.secs, i64::from(mtime.nanos)));
        let kind = found.file_type();
        match &entry.what {
            &What::File { seed, size } => {
                assert!(kind.is_file());
                assert_eq!((found.len(), found.nlink()), (size as u64, links[&model.target(i)]));
                assert_eq!(found.ino(), entry.nid);
                assert!(fs::read(&path).unwrap() == content(seed, size), "{}", path.display());
            }
            What::Directory => {
                assert!(kind.is_dir());
                let mut listed: Vec<Vec<u8>> = fs::read_dir(&path)
                    .unwrap()
                    .map(|e| e.unwrap().file_name().as_bytes().to_vec())
                    .collect();
                listed.sort();
                let mut expected = names.remove(&i).unwrap_or_default();
                expected.sort();
                assert!(listed == expected, "{}", path.display());
                let inside =
                    model.0.iter().skip(1).filter(|e| e.parent == i && e.what == What::Directory).count();
                assert_eq!(found.nlink(), 2 + inside as u64);
                let up = fs::metadata(path.join("..")).unwrap().ino();
                let parent = if i == 0 { root.to_path_buf() } else { root.join(model.path(entry.parent)) };
                if i != 0 {
                    assert_eq!(up, fs::metadata(parent).unwrap().ino());
                }
            }
            What::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), target);
                assert_eq!(found.nlink(), links[&model.target(i)]);
            }
            &What::Char(major, minor) => {
                assert!(kind.is_char_device());
                assert_eq!(found.rdev(), rustix::fs::makedev(major, minor));
            }
            &What::Block(major, minor) => {
                assert!(kind.is_block_device());
                assert_eq!(found.rdev(), rustix::fs::makedev(major, minor));
            }
            What::Fifo => assert!(kind.is_fifo()),
            What::Link(_) => unreachable!(),
        }
        compare_xattrs(&path, i == 0, &entry.xattrs);
    }
}

fn compare_xattrs(path: &Path, follow: bool, expected: &Xattrs) {
    let c = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut list = vec![0; 64 << 10];
    let n = if follow {
        rustix::fs::listxattr(&c, &mut list[..])
    } else {
        rustix::fs::llistxattr(&c, &mut list[..])
    }
    .unwrap();
    let mut found: Vec<&[u8]> = list[..n].split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    let mut names: Vec<&[u8]> = expected.iter().map(|(name, _)| name.as_slice()).collect();
    found.sort();
    names.sort();
    assert!(found == names, "{}: {found:?} instead of {names:?}", path.display());
    for (name, value) in expected {
        let mut buffer = vec![0; 65536];
        let name = CString::new(name.as_slice()).unwrap();
        let n = if follow {
            rustix::fs::getxattr(&c, &name, &mut buffer[..])
        } else {
            rustix::fs::lgetxattr(&c, &name, &mut buffer[..])
        };
        assert!(buffer[..n.unwrap()] == value[..], "{}: {name:?}", path.display());
    }
}

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
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
    assert_eq!(&bytes[..16], b"\0\0\0\0\0\0\0\0\0\0begin\0");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes[..10], size - 10).unwrap();
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
    assert_eq!(Content::open(&finished, nid).unwrap().size(), 5);
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

fn any_entry() -> impl Strategy<Value = (usize, Vec<u8>, What, Metadata, Vec<(Vec<u8>, Vec<u8>)>)> {
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
