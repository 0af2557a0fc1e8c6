//! Layers as EROFS images under overlayfs, compared with the same layers unpacked into one directory.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
use rustix::thread::UnshareFlags;

use super::super::SnapshotKind;
use super::super::tests::{Layer, entry, unpack_all};
use super::super::{LayerJob, unpack_to_directory};
use super::*;
use crate::Limits;
use crate::progress::{Control, Step};
use crate::tar::{Entry, Kind, Timestamp};

/// A directory for images, if they can be mounted from there; otherwise says why not.
fn scratch() -> Option<tempfile::TempDir> {
    let parent = if Path::new("/var/tmp").is_dir() { "/var/tmp".into() } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(parent).unwrap();
    let Some(reason) = refusal(dir.path()) else { return Some(dir) };
    crate::erofs::tests::skip("erofs", &reason);
    None
}

fn backend() -> Erofs {
    Erofs { owners: Ownership::new(&crate::Owners::Plain) }
}

/// A view of snapshots, mounted at no place.
struct View {
    _layers: Vec<OwnedFd>,
    root: OwnedFd,
}

impl View {
    /// `None`, said visibly, where overlayfs is not to be had.
    fn new(chain: &[PathBuf]) -> Option<View> {
        let RootfsMount::Overlay { lower, upper: None, .. } = backend().view(chain).unwrap() else {
            panic!()
        };
        let mut layers: Vec<_> = lower
            .iter()
            .map(|layer| {
                let LowerLayer::Erofs(path) = layer else { panic!("{layer:?}") };
                mount_detached(&File::open(path).unwrap()).unwrap()
            })
            .collect();
        if layers.len() == 1 {
            return Some(View { root: layers.pop().unwrap(), _layers: layers });
        }
        let paths = layers.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()).into());
        let root = match stack(paths) {
            // Before Linux 6.15, overlayfs takes no layers that are mounted nowhere.
            Err(Errno::INVAL) => stack_attached(&layers)?,
            result => result.unwrap(),
        };
        Some(View { _layers: layers, root })
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/", self.root.as_raw_fd()).into()
    }
}

fn stack(layers: impl Iterator<Item = PathBuf>) -> rustix::io::Result<OwnedFd> {
    let overlay = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for path in layers {
        rustix::mount::fsconfig_set_string(&overlay, "lowerdir+", path)?;
    }
    rustix::mount::fsconfig_create(&overlay)?;
    rustix::mount::fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Stacks layers that are attached for a moment, in a mount namespace that nobody else sees. `None` where that is refused.
fn stack_attached(layers: &[OwnedFd]) -> Option<OwnedFd> {
    let places = tempfile::tempdir().unwrap();
    let stacked = std::thread::scope(|scope| {
        let stack = || {
            #[allow(unsafe_code, reason = "nothing in this thread relies on sharing with others")]
            // SAFETY: only the mount namespace, working directory and umask of this thread are separated.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            let mut paths = Vec::new();
            for (number, layer) in layers.iter().enumerate() {
                let path = places.path().join(number.to_string());
                fs::create_dir(&path).unwrap();
                move_mount(layer, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
                paths.push(path);
            }
            stack(paths.into_iter())
        };
        scope.spawn(stack).join().unwrap()
    });
    match stacked {
        Ok(root) => Some(root),
        Err(errno) => {
            crate::erofs::tests::skip("overlay", &format!("EROFS layers cannot be stacked here: {errno}"));
            None
        }
    }
}

/// All that can be seen of one entry.
type Seen = (u32, (u32, u32), (i64, i64), u64, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = root.join(&relative);
        let root = relative.as_os_str().is_empty();
        let meta = if root { fs::metadata(&path) } else { fs::symlink_metadata(&path) }.unwrap();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| relative.join(entry.unwrap().file_name())));
        }
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let times = (meta.mtime(), meta.mtime_nsec());
        let xattrs = if meta.is_symlink() { Vec::new() } else { see_xattrs(&path) };
        let seen = (meta.mode(), (meta.uid(), meta.gid()), times, size, content, xattrs);
        all.insert(relative, seen);
    }
    all
}

fn see_xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut list = vec![0; 4096];
    let n = rustix::fs::listxattr(&path, &mut list[..]).unwrap();
    let mut all: Vec<_> = list[..n]
        .split_inclusive(|&b| b == 0)
        .map(|name| {
            let mut value = vec![0; 4096];
            let name = std::ffi::CStr::from_bytes_with_nul(name).unwrap();
            let n = rustix::fs::getxattr(&path, name, &mut value[..]).unwrap();
            (name.to_bytes().to_vec(), value[..n].to_vec())
        })
        .collect();
    all.sort();
    all
}

fn unpack_flat(target: &Path, layers: &[Vec<u8>]) -> Result<()> {
    let control = Control { limits: Limits::default(), ..Control::default() };
    let jobs = layers.iter().enumerate().map(|(i, layer)| {
        let blob = layer.clone();
        LayerJob {
            diff_id: Digest::sha256(layer),
            scratch: PathBuf::new(),
            control: control.layer(Step::Unpack, i, layers.len(), blob.len() as u64),
            open: Box::new(move || Ok(Box::new(io::Cursor::new(blob)))),
        }
    });
    unpack_to_directory(jobs.collect(), target)
}

/// Both ways have to show the same, or to refuse the layers.
fn compare(layers: &[Vec<u8>]) {
    let Some(scratch) = scratch() else { return };
    let flat = scratch.path().join("flat");
    let expected = unpack_flat(&flat, layers);
    let actual = unpack_all(SnapshotKind::Erofs, scratch.path(), layers);
    let chain = match (expected, actual) {
        (Ok(()), Ok(chain)) => chain,
        (Err(expected), Err(actual)) => return assert_eq!(expected.class(), actual.class()),
        (expected, actual) => panic!("{expected:?} but {actual:?}"),
    };
    let expected = see(&flat);
    let Some(view) = View::new(&chain) else { return };
    let actual = see(&view.path());
    for (path, seen) in &expected {
        assert_eq!(Some(seen), actual.get(path), "{}", path.display());
    }
    assert_eq!(expected.len(), actual.len(), "{:?} but {:?}", expected.keys(), actual.keys());
}

#[test]
fn deletions_links_and_implied_directories() {
    let at = |secs| Timestamp { secs, nanos: 1 };
    let mut etc = entry("etc", Kind::Directory);
    (etc.mode, etc.mtime, etc.uid) = (0o2750, at(-3), 70_000);
    etc.xattrs = vec![(b"user.kept".to_vec(), b"v".to_vec()), (b"com.apple.unknown".to_vec(), b"x".to_vec())];
    let base = Layer::new()
        .entry(etc)
        .file("etc/a", b"1")
        .file("etc/b", &vec![b'x'; 300_001])
        .link("etc/c", "etc/a")
        .symlink("l", "etc")
        .symlink("usr-bin", "usr/bin")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o700)
        .file("usr/bin/tool", &vec![b't'; 5000])
        .dir("gone", 0o700)
        .file("gone/x", b"x")
        .dir("replaced", 0o711)
        .file("replaced/old", b"o")
        .dir("opaque", 0o755)
        .file("opaque/hidden", b"h")
        .entry(entry("pipe", Kind::Fifo))
        .entry(entry("tty", Kind::Char { major: 5, minor: 0 }));
    let middle = Layer::new()
        .file("etc/.wh.a", b"")
        .file("l/new", b"n")
        .file(".wh.gone", b"")
        .file("gone/y", b"y")
        .link("alias", "etc/b")
        .link("alias2", "etc/b")
        .link("pipe2", "pipe")
        .link("sym2", "l")
        .file("usr-bin/added", b"a")
        .file("opaque/shown", b"s")
        .file("opaque/.wh..wh..opq", b"")
        .file("nothing/.wh.x", b"");
    let top = Layer::new()
        .file("replaced", b"now a file")
        .link("again", "alias")
        .file("usr/.wh.bin", b"")
        .dir("usr/bin", 0o750)
        .file("deep/er/and/deeper", b"d");
    compare(&[base.finish(), middle.finish(), top.finish()]);
}

#[test]
fn an_opaque_root_hides_all_below() {
    let base = Layer::new().dir("a", 0o755).file("a/b", b"1");
    let top = Layer::new().file(".wh..wh..opq", b"").file("c", b"2").link("d", "a/b");
    compare(&[base.finish(), top.finish()]);
}

#[test]
fn holes_and_hard_links_to_them() {
    let extents = [(4097, 3), (2_000_000, 5), (3_000_000, 0)];
    let base = [sparse("sparse", &extents, b"abcdefgh"), vec![0; 1024]].concat();
    let top = Layer::new().link("copy", "sparse").finish();
    compare(&[base, top]);
}

/// A sparse file in the old encoding of GNU tar.
fn sparse(name: &str, extents: &[(u64, u64)], body: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name.to_owned());
    put(100, "0000640".to_owned());
    put(124, format!("{:011o}", body.len()));
    put(136, "00000000001".to_owned());
    put(148, "        ".to_owned());
    put(156, "S".to_owned());
    put(257, "ustar  ".to_owned());
    for (i, (offset, len)) in extents.iter().enumerate() {
        put(386 + i * 24, format!("{offset:011o}"));
        put(398 + i * 24, format!("{len:011o}"));
    }
    let (offset, len) = extents[extents.len() - 1];
    put(483, format!("{:011o}", offset + len));
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = [&header, body].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn the_same_layer_gives_the_same_image() {
    let Some(scratch) = scratch() else { return };
    let layers = [Layer::new().dir("a", 0o755).file("a/b", b"1").symlink("c", "a").finish()];
    let images = ["1", "2"].map(|name| {
        let dir = scratch.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::read(unpack_all(SnapshotKind::Erofs, &dir, &layers).unwrap()[0].join(CONTENT)).unwrap()
    });
    assert_eq!(images[0], images[1]);
}

#[test]
fn a_wrong_digest_leaves_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control { limits: Limits::default(), ..Control::default() };
    let blob = Layer::new().file("a", b"1").finish();
    let digest = Digest::sha256(b"other");
    let blob = Blob {
        reader: Box::new(io::Cursor::new(blob)),
        diff_id: &digest,
        control: &control.layer(Step::Unpack, 0, 1, 0),
        writers: 0,
        umask_is_zero: false,
    };
    assert!(matches!(backend().stage(blob, dir.path()), Err(Error::DigestMismatch { .. })));
    assert!(Content::open(&dir.path().join(CONTENT), 0).is_err());
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let name = prop::collection::vec("[abc]|a|b", 1..4).prop_map(|parts| parts.join("/"));
    let target = prop::collection::vec(prop_oneof![3 => "[abc]", 1 => Just("..".to_owned())], 1..3)
        .prop_map(|parts| parts.join("/"));
    let kind = prop_oneof![
        4 => Just(Kind::File),
        4 => Just(Kind::Directory),
        2 => (target.clone(), any::<bool>()).prop_map(|(target, absolute)| Kind::Symlink {
            target: if absolute { format!("/{target}") } else { target }.into_bytes()
        }),
        2 => target.prop_map(|target| Kind::HardLink { target: target.into_bytes() }),
        1 => Just(Kind::Fifo),
    ];
    let mark = prop_oneof![8 => Just(""), 2 => Just(".wh."), 1 => Just(".wh..wh..opq")];
    (name, kind, mark, 0..0o10000u16, 0..4i64, prop_oneof![0..20usize, 4000..9000usize]).prop_map(
        |(name, mut kind, mark, mode, secs, size)| {
            let mut name = name;
            if !mark.is_empty() {
                kind = Kind::File;
                let (parent, last) = name.rsplit_once('/').unwrap_or(("", &name));
                let last = if mark == ".wh." { format!(".wh.{last}") } else { mark.to_owned() };
                name = if parent.is_empty() { last } else { format!("{parent}/{last}") };
            }
            let mut entry = entry(&name, kind);
            (entry.mode, entry.mtime.secs) = (mode, secs);
            let mut body = Vec::new();
            if entry.kind == Kind::File && mark.is_empty() {
                entry.size = size as u64;
                body = (0..size).map(|i| (i ^ size) as u8).collect();
            }
            (entry, body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layers_show_what_a_directory_shows(
        layers in prop::collection::vec(prop::collection::vec(any_entry(), 0..8), 1..4),
    ) {
        let layers: Vec<Vec<u8>> = layers
            .into_iter()
            .map(|entries| {
                let fill = |layer: Layer, (entry, body): (Entry, Vec<u8>)| layer.entry(entry).body(&body);
                entries.into_iter().fold(Layer::new(), fill).finish()
            })
            .collect();
        compare(&layers);
    }
}
