//! Images of made-up trees, mounted by the kernel, checked by `fsck.erofs` and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::*;

mod cases;

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
                if pause == Some(i) {
                    self.end_files(&mut writer)?;
                    writer.suspend()?;
                    writer = Writer::resume(path)?;
                }
                let entry = &self.0[i];
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
        self.end_files(&mut writer)?;
        writer.finish(&*self)
    }

    fn end_files(&mut self, writer: &mut Writer) -> Result<(), crate::Error> {
        writer.end_files()?;
        self.0.iter_mut().for_each(|entry| entry.nid = writer.final_nid(entry.nid));
        Ok(())
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
pub(crate) fn skip(need: &str, reason: &str) {
    let required = std::env::var("CONTAINER_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "{need} required: {reason}");
    // Once, past the capture of output that successful tests have.
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap().insert(reason.to_owned()) {
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: {reason}\n"));
    }
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
