//! A full disk and a full inode table are clean errors that lose nothing, and the same call succeeds once there is room.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::mount::{in_mount_namespace, in_user_namespace};
use fixture::*;
use image_layers::{
    Class, Error, ImageBuilder, ImportOptions, LayerBuilder, SnapshotKind, Store, StoreOptions,
    probe_snapshots,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

const INSIDE: &str = "IMAGE_LAYERS_TEST_FULL";

/// Runs `test` where file systems can be mounted: as root in a mount namespace, else in a user namespace.
fn where_mounting_works(name: &str, test: impl FnOnce() + Send) {
    if is_root() || std::env::var_os(INSIDE).is_some() {
        if in_mount_namespace(test).is_none() {
            skip("overlay", "no mount namespace can be made here");
        }
        return;
    }
    in_user_namespace(name, INSIDE);
}

/// A small file system, for as long as this lives.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn mount<'a>(path: &'a Path, options: &str) -> Disk<'a> {
        fs::create_dir(path).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount("none", path, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        Disk(path)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn resize(path: &Path, options: &str) {
    let options = std::ffi::CString::new(options).unwrap();
    mount_remount(path, MountFlags::empty(), options.as_c_str()).unwrap();
}

/// That the error tells what is full, where, and at which layer.
fn assert_no_space(error: &Error, below: &Path) {
    assert_eq!(error.class(), Class::Io, "{error}");
    let Error::Layer { index, source, .. } = error else { panic!("no layer is named: {error:?}") };
    assert!(*index < 4);
    let Error::Io { path, source, .. } = &**source else { panic!("{source:?}") };
    // The file in the store, or the path inside of the layer.
    assert!(path.starts_with(below) || path.is_relative(), "{}", path.display());
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{source}");
}

fn assert_tidy(store: &Store) {
    assert_eq!(fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
}

/// Needs room for one more layer.
fn assert_whole(store: &Store) {
    assert_tidy(store);
    let damage = store.verify().unwrap();
    assert!(damage.is_empty(), "{damage:?}");
}

/// Four layers of about 300 KiB each, and 100 files.
fn layers() -> Vec<Layer> {
    let layer = |n: u64| {
        let mut tar = Tar::new();
        for file in 0..100 {
            tar = tar.file(&format!("{n}/{file}"), noise(3000, n * 100 + file));
        }
        Layer::gzip(tar.finish())
    };
    (0..4).map(layer).collect()
}

#[test]
fn no_space() {
    where_mounting_works("no_space", || {
        let dir = scratch();
        let input = layout(&dir.path().join("layout"), &layers(), "x/full:1");
        let disk = dir.path().join("disk");
        let _mounted = Disk::mount(&disk, "size=800k");
        let store = Store::open_or_create(disk.join("store")).unwrap();
        let options = ImportOptions::new();

        // Half of the blobs have room.
        assert_no_space(&store.import(&input, &options).unwrap_err(), &disk);
        assert!(store.images().unwrap().is_empty());
        let complete = fs::read_dir(store.path().join("blobs/sha256")).unwrap().count();
        assert!((1..4).contains(&complete), "{complete} blobs are kept");
        assert_tidy(&store);

        // All of the blobs, but not of the snapshots.
        resize(&disk, "size=2M");
        let image = store.import(&input, &options).unwrap().remove(0);
        assert_no_space(&store.prepare(&image, "c").unwrap_err(), &disk);
        assert_eq!(store.images().unwrap().len(), 1);
        assert!(store.layers().unwrap().is_empty());
        assert_tidy(&store);

        // Nothing at all: what is there can be read, and garbage collected.
        let filler = disk.join("filler");
        let _ = fs::write(&filler, vec![1; 4 << 20]);
        assert_eq!(store.resolve("x/full:1").unwrap().digest(), image.digest());
        assert!(Store::open_or_create(store.path()).is_ok());
        store.collect_garbage().unwrap();
        let error = ImageBuilder::new()
            .layer(LayerBuilder::new().content("big", noise(100_000, 5), 0o644))
            .build(&store, None)
            .unwrap_err();
        assert_eq!(error.class(), Class::Io);
        fs::remove_file(&filler).unwrap();
        assert_tidy(&store);

        resize(&disk, "size=8M");
        store.prepare(&image, "c").unwrap();
        assert_whole(&store);
    });
}

#[test]
fn no_inodes() {
    where_mounting_works("no_inodes", || {
        let dir = scratch();
        let input = layout(&dir.path().join("layout"), &layers(), "x/full:1");
        let disk = dir.path().join("disk");
        let _mounted = Disk::mount(&disk, "size=64M,nr_inodes=250");
        let store = Store::open_or_create(disk.join("store")).unwrap();
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        assert_no_space(&store.prepare(&image, "c").unwrap_err(), &disk);
        assert!(store.layers().unwrap().is_empty());
        assert_eq!(store.images().unwrap().len(), 1);
        // Not one is left, and still garbage goes.
        store.remove_image(&image).unwrap();
        let hoard = disk.join("hoard");
        fs::create_dir(&hoard).unwrap();
        let files = (0..).take_while(|n| fs::write(hoard.join(n.to_string()), "").is_ok()).count();
        println!("{files} inodes were left");
        assert!(store.collect_garbage().unwrap().blobs == 6);
        fs::remove_dir_all(&hoard).unwrap();
        resize(&disk, "size=64M,nr_inodes=10000");
        let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
        store.prepare(&image, "c").unwrap();
        assert_whole(&store);
    });
}

/// A real file system on a disk, for as long as this lives.
struct Ext4 {
    path: PathBuf,
}

impl Ext4 {
    /// `None`, said visibly, where there can be none.
    fn mount(scratch: &Path, options: &[&str]) -> Option<Ext4> {
        let image = scratch.join("ext4.img");
        fs::File::create_new(&image).unwrap().set_len(16 << 20).unwrap();
        let path = scratch.join("ext4");
        fs::create_dir(&path).unwrap();
        let ok = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if !ok(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-O", "^has_journal"])
            .args(options)
            .arg(&image))
            || !ok(Command::new("mount").args(["-o", "loop"]).args([&image, &path]))
        {
            skip("ext4", "no ext4 can be made and mounted here");
            return None;
        }
        Some(Ext4 { path })
    }

    /// Takes space until no more than `left` bytes are free.
    fn fill(&self, left: u64) -> PathBuf {
        let filler = self.path.join("filler");
        let free = rustix::fs::statvfs(&self.path).unwrap();
        let file = fs::File::create_new(&filler).unwrap();
        let taken = (free.f_bavail * free.f_frsize).saturating_sub(left);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).unwrap();
        filler
    }

    /// Takes inodes until no more than `left` are free.
    fn hoard(&self, left: u64) -> PathBuf {
        let hoard = self.path.join("hoard");
        fs::create_dir(&hoard).unwrap();
        let free = rustix::fs::statvfs(&self.path).unwrap().f_ffree;
        (0..free.saturating_sub(left)).for_each(|n| fs::write(hoard.join(n.to_string()), "").unwrap());
        hoard
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
    }
}

/// On a disk as it is, with each backend: first half of the blobs have room, then all blobs but no snapshots.
#[test]
fn a_full_disk() {
    if !is_root() {
        return skip("root", "only root mounts a disk");
    }
    let ran = in_mount_namespace(|| {
        let dir = scratch();
        let input = layout(&dir.path().join("layout"), &layers(), "x/full:1");
        let Some(disk) = Ext4::mount(dir.path(), &[]) else { return };
        for probe in probe_snapshots(&disk.path) {
            let kind = probe.kind;
            if let Some(reason) = probe.refused {
                skip(kind.as_str(), &reason);
                continue;
            }
            let path = disk.path.join(format!("store-{kind}"));
            let store = StoreOptions::new().backend(kind).open_or_create(&path).unwrap();
            let filler = disk.fill(700 << 10);
            assert_no_space(&store.import(&input, &ImportOptions::new()).unwrap_err(), &disk.path);
            assert!(store.images().unwrap().is_empty());
            let complete = fs::read_dir(path.join("blobs/sha256")).unwrap().count();
            assert!((1..4).contains(&complete), "{kind}: {complete} blobs are kept");
            assert_tidy(&store);
            fs::remove_file(&filler).unwrap();

            let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
            let filler = disk.fill(500 << 10);
            assert_no_space(&store.prepare(&image, "c").unwrap_err(), &disk.path);
            assert!(store.layers().unwrap().is_empty());
            assert_eq!(store.resolve("x/full:1").unwrap().digest(), image.digest());
            assert_tidy(&store);
            fs::remove_file(&filler).unwrap();

            // Layers side by side take no room from each other that they do not need.
            let filler =
                disk.fill(if kind == SnapshotKind::Erofs { (8 << 20) + (400 << 10) } else { 6 << 20 });
            store.prepare(&image, "c").unwrap();
            fs::remove_file(&filler).unwrap();
            assert_whole(&store);
            fs::remove_dir_all(&path).unwrap();
        }
    });
    if ran.is_none() {
        skip("overlay", "no mount namespace can be made here");
    }
}

/// The same with room but without inodes.
#[test]
fn a_full_inode_table() {
    if !is_root() {
        return skip("root", "only root mounts a disk");
    }
    let ran = in_mount_namespace(|| {
        let dir = scratch();
        let input = layout(&dir.path().join("layout"), &layers(), "x/full:1");
        let Some(disk) = Ext4::mount(dir.path(), &["-N", "1500"]) else { return };
        for kind in [SnapshotKind::Overlay, SnapshotKind::Copy] {
            let path = disk.path.join(format!("store-{kind}"));
            let store = StoreOptions::new().backend(kind).open_or_create(&path).unwrap();
            let image = store.import(&input, &ImportOptions::new()).unwrap().remove(0);
            let hoard = disk.hoard(150);
            assert_no_space(&store.prepare(&image, "c").unwrap_err(), &disk.path);
            assert!(store.layers().unwrap().is_empty());
            assert_eq!(store.images().unwrap().len(), 1);
            assert_tidy(&store);
            fs::remove_dir_all(&hoard).unwrap();
            store.prepare(&image, "c").unwrap();
            assert_whole(&store);
            fs::remove_dir_all(&path).unwrap();
        }
    });
    if ran.is_none() {
        skip("overlay", "no mount namespace can be made here");
    }
}
