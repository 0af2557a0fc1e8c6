//! What a file system cannot store is said, never dropped in silence.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fixture::mount::{Mounted, in_mount_namespace};
use fixture::*;
use image_layers::{
    Class, Error, ImportOptions, Loss, SnapshotKind, Source, StoreOptions, UnpackOptions, probe_snapshots,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The value of `security.capability` for cap_net_raw+ep.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

struct Disk<'a>(&'a Path);

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// A file with a capability and one with an attribute of its own; an opaque directory over one with other content.
fn layers() -> Vec<Layer> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut file = |path: &str, key: &str, value: &[u8]| {
        builder.append_pax_extensions([(key, value)]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o755);
        header.set_size(1);
        header.set_cksum();
        builder.append_data(&mut header, path, &b"x"[..]).unwrap();
    };
    file("bin/ping", "SCHILY.xattr.security.capability", CAPABILITY);
    file("note", "SCHILY.xattr.user.note", b"n");
    let lower = builder.into_inner().unwrap();
    let base = Tar::new().directory("d", 0o755).file("d/old", "old").finish();
    let upper = Tar::new().directory("d", 0o755).file("d/.wh..wh..opq", "").file("d/new", "new").finish();
    vec![Layer::gzip(base), Layer::plain(lower), Layer::zstd(upper)]
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    rustix::fs::lgetxattr(path, name, &mut value).ok().map(|n| value[..n].to_vec())
}

fn check(root: &Path, stored: bool) {
    assert_eq!(xattr(&root.join("bin/ping"), "security.capability"), stored.then(|| CAPABILITY.to_vec()));
    assert_eq!(xattr(&root.join("note"), "user.note"), stored.then(|| b"n".to_vec()));
    let names: Vec<_> = fs::read_dir(root.join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["new"]);
}

/// On a file system without extended attributes.
fn without(disk: &Path, input: &Path) {
    let probes = probe_snapshots(disk);
    println!("{probes:?}");
    let expected = ["bin/ping security.capability", "note user.note"];
    for kind in probes.iter().filter(|p| p.refused.is_none()).map(|p| p.kind) {
        let store =
            StoreOptions::new().backend(kind).open_or_create(disk.join(format!("store-{kind}"))).unwrap();
        let image = store.import(input, &ImportOptions::new()).unwrap().remove(0);
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = told.clone();
        let allow = UnpackOptions::new().allow_loss(move |Loss { entry, attribute, .. }| {
            sink.lock().unwrap().push(format!("{} {attribute}", entry.display()));
        });
        // EROFS keeps attributes in its own file.
        let keeps = kind == SnapshotKind::Erofs;
        match store.unpack(&image, &UnpackOptions::new()) {
            Ok(()) => assert!(keeps, "{kind}"),
            Err(error) => {
                assert_eq!(error.class(), Class::Unsupported, "{kind}: {error}");
                let Error::Layer { index: 1, source, .. } = error else { panic!("{error:?}") };
                assert!(matches!(*source, Error::UnsupportedAttribute { .. }), "{source:?}");
            }
        }
        let container = store.prepare_with(&image, "c", &allow).unwrap();
        let mut told = told.lock().unwrap().clone();
        told.sort();
        assert_eq!(told, if keeps { &[][..] } else { &expected[..] }, "{kind}");
        let mounted = Mounted::new(container.mount(), &disk.join(format!("mnt-{kind}"))).unwrap();
        check(mounted.root(), keeps);
        assert!(store.verify().unwrap().is_empty());
    }
    let target = disk.join("rootfs");
    let options = ImportOptions::new();
    let unpack = |options: &ImportOptions| Source::open(input, options)?.image(options)?.unpack(&target);
    assert_eq!(unpack(&options).unwrap_err().class(), Class::Unsupported);
    assert!(!target.exists());
    unpack(&options.allow_loss(|_| {})).unwrap();
    check(&target, false);
}

#[test]
fn a_file_system_without_attributes() {
    if !is_root() {
        return skip("root", "only root can mount a file system without extended attributes");
    }
    let ran = in_mount_namespace(|| {
        let dir = scratch();
        let input = layout(&dir.path().join("layout"), &layers(), "x/attributes:1");
        let disk: PathBuf = dir.path().join("disk");
        fs::create_dir(&disk).unwrap();
        mount("none", &disk, "ramfs", MountFlags::empty(), None).unwrap();
        let _mounted = Disk(&disk);
        without(&disk, &input);
    });
    if ran.is_none() {
        skip("overlay", "no mount namespace can be made here");
    }
}

/// On tmpfs, the way it comes.
#[test]
fn a_file_system_in_memory() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return skip("tmpfs", "no /dev/shm here") };
    let input = layout(&dir.path().join("layout"), &layers(), "x/attributes:1");
    for probe in probe_snapshots(dir.path()).into_iter().filter(|probe| probe.refused.is_none()) {
        let path = dir.path().join(format!("store-{}", probe.kind));
        let store = StoreOptions::new().backend(probe.kind).open_or_create(path).unwrap();
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        let unpacked = store.unpack(&image, &UnpackOptions::new());
        // Without attributes of users (Linux before 6.6, or built so) it has to be said.
        let missing = matches!(&unpacked, Err(error) if error.class() == Class::Unsupported);
        assert!(unpacked.is_ok() || missing, "{}: {unpacked:?}", probe.kind);
    }
}

#[test]
fn a_file_system_with_attributes() {
    let dir = scratch();
    let input = layout(&dir.path().join("layout"), &layers(), "x/attributes:1");
    let target = dir.path().join("rootfs");
    let options = ImportOptions::new();
    Source::open(&input, &options).unwrap().image(&options).unwrap().unpack(&target).unwrap();
    // A label of the host's policy on the target is nobody's business here.
    if is_root() {
        check(&target, true);
    }
}
