//! Files have the owners that their image says, for an ordinary user with subordinate ids; and whatever such owners did, the user
//! can measure it, commit it and remove it.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use fixture::*;
use image_layers::{
    Class, Error, IdMaps, IdRange, Image, ImageBuilder, ImportOptions, LayerBuilder, LowerLayer, Owners,
    RootfsMount, SnapshotKind, Store, StoreOptions, probe_snapshots,
};

/// A user namespace like that of a container, to look and act from inside.
struct Inside(Child);

impl Inside {
    /// `None`, said visibly, for root and for a user without subordinate ids.
    fn new() -> Option<(Inside, IdMaps)> {
        let maps = match Owners::of_caller().unwrap() {
            Owners::Mapped(maps) => maps,
            _ => {
                skip("subids", "this is about an ordinary user with subordinate ids and newuidmap");
                return None;
            }
        };
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", "echo there; read gone"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        for (program, ranges) in [("newuidmap", maps.uids()), ("newgidmap", maps.gids())] {
            let mut command = Command::new(program);
            command.arg(child.id().to_string());
            for range in ranges {
                command.args([range.inside, range.outside, range.count].map(|n| n.to_string()));
            }
            assert!(command.status().unwrap().success());
        }
        Some((Inside(child), maps))
    }

    fn run(&self, directory: &Path, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-U", "-S", "0", "-G", "0", "sh", "-ec", script]);
        let output = command.current_dir(directory).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// cap_net_raw=ep.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

struct Owned(tar::Builder<Vec<u8>>);

impl Owned {
    fn entry(mut self, kind: tar::EntryType, path: &str, mode: u32, owner: (u64, u64), link: &str) -> Owned {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_600_000_000);
        let content: &[u8] = if kind == tar::EntryType::Regular { path.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        match link {
            "" => self.0.append_data(&mut header, path, content).unwrap(),
            link => self.0.append_link(&mut header, path, link).unwrap(),
        }
        self
    }

    fn file(self, path: &str, mode: u32, owner: (u64, u64)) -> Owned {
        self.entry(tar::EntryType::Regular, path, mode, owner, "")
    }

    fn directory(self, path: &str, mode: u32, owner: (u64, u64)) -> Owned {
        self.entry(tar::EntryType::Directory, path, mode, owner, "")
    }

    fn attribute(mut self, name: &str, value: &[u8]) -> Owned {
        self.0.append_pax_extensions([(name, value)]).unwrap();
        self
    }

    fn finish(self) -> Layer {
        Layer::gzip(self.0.into_inner().unwrap())
    }
}

/// Two layers of a database: directories that only its user may enter, changed by the second layer.
fn database() -> [Layer; 2] {
    use tar::EntryType::{Fifo, Link, Symlink};
    const DB: (u64, u64) = (999, 999);
    let below = Owned(tar::Builder::new(Vec::new()))
        .directory("var", 0o755, (0, 0))
        .directory("var/lib", 0o755, (0, 0))
        .directory("var/lib/db", 0o700, DB)
        .file("var/lib/db/data", 0o600, DB)
        .file("var/lib/db/gone", 0o600, DB)
        .directory("var/lib/db/old", 0o700, DB)
        .file("var/lib/db/old/file", 0o400, DB)
        .directory("var/lib/db/kept", 0o500, DB)
        .file("var/lib/db/kept/file", 0o000, DB)
        .directory("var/lib/db/closed", 0o000, DB)
        .file("var/lib/db/closed/file", 0o600, DB)
        .entry(Symlink, "var/lib/db/link", 0o777, (1000, 50), "data")
        .entry(Fifo, "var/lib/db/queue", 0o620, (999, 5), "")
        .file("var/lib/db/twin", 0o640, (999, 50))
        .entry(Link, "var/lib/db/same", 0o640, (999, 50), "var/lib/db/twin")
        .file("su", 0o4755, (0, 0))
        .file("sg", 0o2755, (7, 8))
        .attribute("SCHILY.xattr.security.capability", &CAPABILITY)
        .file("ping", 0o755, (0, 0))
        .file("large-id", 0o644, (1_000_000, 0));
    let above = Owned(tar::Builder::new(Vec::new()))
        .file("var/lib/db/.wh.gone", 0o644, (0, 0))
        .file("var/lib/db/old/.wh..wh..opq", 0o644, (0, 0))
        .file("var/lib/db/old/new", 0o600, DB)
        .entry(Link, "elsewhere", 0o600, DB, "var/lib/db/data")
        .file("var/lib/db/kept/more", 0o600, (70, 70));
    [below.finish(), above.finish()]
}

const LIST: &str = "find . -mindepth 1 -printf '%P %y %m %U:%G\\n' | LC_ALL=C sort";

const EXPECTED: &str = "\
elsewhere f 600 999:999
large-id f 644 0:0
ping f 755 0:0
sg f 2755 7:8
su f 4755 0:0
var d 755 0:0
var/lib d 755 0:0
var/lib/db d 700 999:999
var/lib/db/closed d 0 999:999
var/lib/db/closed/file f 600 999:999
var/lib/db/data f 600 999:999
var/lib/db/kept d 500 999:999
var/lib/db/kept/file f 0 999:999
var/lib/db/kept/more f 600 70:70
var/lib/db/link l 777 1000:50
var/lib/db/old d 700 999:999
var/lib/db/old/new f 600 999:999
var/lib/db/queue p 620 999:5
var/lib/db/same f 640 999:50
var/lib/db/twin f 640 999:50
";

/// Whether a backend works in a directory; said visibly where it does not.
fn can_be(kind: SnapshotKind, directory: &Path) -> bool {
    let probes = probe_snapshots(directory);
    let refused = probes.into_iter().find(|probe| probe.kind == kind).and_then(|probe| probe.refused);
    if let Some(reason) = &refused {
        skip(kind.as_str(), reason);
    }
    refused.is_none()
}

fn open(directory: &Path, kind: SnapshotKind) -> Store {
    StoreOptions::new().backend(kind).open_or_create(directory).unwrap()
}

fn import(store: &Store, scratch: &Path) -> Image {
    let layout = layout(&scratch.join("layout"), &database(), "db:1");
    store.import(layout, &ImportOptions::new()).unwrap().pop().unwrap()
}

/// With every backend that keeps directories: its name, a scratch directory, and in there a store with the image.
fn on_each_backend(test: impl Fn(SnapshotKind, &Path, Store, Image)) {
    for kind in [SnapshotKind::Copy, SnapshotKind::Overlay] {
        let scratch = scratch();
        if can_be(kind, scratch.path()) {
            let store = open(&scratch.path().join("store"), kind);
            let image = import(&store, scratch.path());
            test(kind, scratch.path(), store, image);
        }
    }
}

/// What is left of the store's own scratch: nothing.
fn assert_swept(store: &Store) {
    let left: Vec<_> =
        fs::read_dir(store.path().join("leases")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn unpacked_files_have_the_owners_of_the_image() {
    let Some((inside, _)) = Inside::new() else { return };
    on_each_backend(|kind, scratch, store, image| {
        let layer = store.prepare(&image, "one").unwrap();
        match layer.mount() {
            RootfsMount::Directory { source, .. } => {
                assert_eq!(inside.run(source, LIST), EXPECTED);
                assert_eq!(fs::read_link(source.join("var")).ok(), None);
            }
            RootfsMount::Overlay { lower, upper: Some(upper), work: Some(work), userxattr: true, .. } => {
                let lower: Vec<_> = lower
                    .iter()
                    .map(|layer| match layer {
                        LowerLayer::Directory(path) => path.to_str().unwrap(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let (lower, upper, work) = (lower.join(":"), upper.display(), work.display());
                fs::create_dir(scratch.join("root")).unwrap();
                let script = scratch.join("script");
                fs::write(&script, format!("cd root\n{LIST}\n")).unwrap();
                let mount = format!(
                    "unshare -m sh -ec 'mount -t overlay o -o lowerdir={lower},upperdir={upper},workdir={work},userxattr root; . ./script'"
                );
                assert_eq!(inside.run(scratch, &mount), EXPECTED);
            }
            other => panic!("{other:?}"),
        }
        assert!(store.verify().unwrap().is_empty(), "{:?}", store.verify());
        let usage = store.usage().unwrap();
        assert!(usage.snapshots.iter().all(|s| s.backend == kind.as_str() && s.inodes > 5), "{usage:?}");
        layer.remove().unwrap();
        assert_swept(&store);
        store.remove_image(&image).unwrap();
        let collected = store.collect_garbage().unwrap();
        assert_eq!(collected.snapshots, 2);
        assert_swept(&store);
        store.destroy().unwrap();
        assert!(!scratch.join("store").exists());
    });
}

/// What a process does that runs as somebody else than root.
const CHANGE: &str = "
mkdir -p var/lib/db; chown 999:999 var/lib/db; chmod 700 var/lib/db
mkdir -p tmp/mine/deep; echo secret >tmp/mine/deep/file; mkdir tmp/mine/locked; touch tmp/mine/locked/file
ln -s nowhere tmp/mine/link; ln tmp/mine/deep/file tmp/mine/again
chown -hR 999:998 tmp/mine; chmod 600 tmp/mine/deep/file; chmod 0 tmp/mine/locked; chmod 500 tmp/mine/deep; chmod 700 tmp/mine
mkdir tmp/sticky; chown 5:5 tmp/sticky; chmod 1777 tmp/sticky; touch tmp/sticky/file; chown 6:6 tmp/sticky/file
";

#[test]
fn what_others_wrote_is_measured_committed_and_removed() {
    let Some((inside, _)) = Inside::new() else { return };
    on_each_backend(|kind, scratch, store, image| {
        let layer = store.prepare(&image, "one").unwrap();
        let root = match layer.mount() {
            RootfsMount::Directory { source, .. } => source.clone(),
            RootfsMount::Overlay { upper: Some(upper), .. } => upper.clone(),
            other => panic!("{other:?}"),
        };
        inside.run(&root, CHANGE);
        let before = store.usage().unwrap().layers[0].inodes;
        assert!(before >= 12, "{before}");
        // The committed layer has the ids that were seen inside.
        let committed = layer.commit(Some(&"db:2".parse().unwrap())).unwrap();
        assert_eq!(committed.layers().len(), 3);
        let again = store.prepare(&committed, "two").unwrap();
        let top = match again.mount() {
            RootfsMount::Directory { source, .. } => source.clone(),
            RootfsMount::Overlay { lower, .. } => match &lower[0] {
                LowerLayer::Directory(path) => path.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let list = "find tmp -printf '%P %y %m %U:%G\\n' | LC_ALL=C sort; cat tmp/mine/deep/file";
        let seen = inside.run(&top, list);
        for line in [
            "mine d 700 999:998\n",
            "mine/again f 600 999:998\n",
            "mine/deep d 500 999:998\n",
            "mine/link l 777 999:998\n",
            "mine/locked d 0 999:998\n",
            "sticky d 1777 5:5\n",
            "sticky/file f 644 6:6\n",
            "secret\n",
        ] {
            assert!(seen.contains(line), "{kind}: {line:?} in {seen}");
        }
        assert!(store.verify().unwrap().is_empty());
        again.remove().unwrap();
        layer.remove().unwrap();
        assert_swept(&store);
        store.destroy().unwrap();
        assert!(!scratch.join("store").exists());
    });
}

#[test]
fn capabilities_are_those_of_the_containers_root() {
    let Some((inside, maps)) = Inside::new() else { return };
    let scratch = scratch();
    let store = open(&scratch.path().join("store"), SnapshotKind::Copy);
    let image = import(&store, scratch.path());
    let layer = store.prepare(&image, "one").unwrap();
    let RootfsMount::Directory { source, .. } = layer.mount() else { panic!() };
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(source.join("ping"), "security.capability", &mut value[..]).unwrap();
    let root = maps.uids()[0].outside.to_le_bytes();
    assert_eq!(value[..length], [&[1, 0, 0, 3][..], &CAPABILITY[4..], &root].concat());
    // Nothing was changed, so nothing is committed, though the attribute looks otherwise on the disk.
    let unchanged = layer.commit(None).unwrap();
    let empty = ImageBuilder::over(&image).changes(&layer).build(&store, None).unwrap();
    assert_eq!(unchanged.digest(), empty.digest());
    inside.run(source, "touch new");
    let changed = layer.commit(None).unwrap();
    assert_ne!(changed.layers()[2].digest, unchanged.layers()[2].digest);
    drop(layer);
    store.destroy().unwrap();
}

/// Root makes for a user namespace what an ordinary user makes for his own.
#[test]
fn root_gives_files_to_the_ids_of_a_user_namespace() {
    if !is_root() {
        return skip("root", "only root gives files to any id");
    }
    let scratch = scratch();
    let ranges = [IdRange::new(0, 200_000, 65536)];
    let owners = Owners::Mapped(IdMaps::new(ranges, ranges));
    let options = StoreOptions::new().backend(SnapshotKind::Copy).owners(owners);
    let store = options.open_or_create(scratch.path().join("store")).unwrap();
    let image = import(&store, scratch.path());
    let layer = store.prepare(&image, "one").unwrap();
    let RootfsMount::Directory { source, .. } = layer.mount() else { panic!() };
    let owner = |name: &str| {
        let info = fs::symlink_metadata(source.join(name)).unwrap();
        (info.uid() - 200_000, info.gid() - 200_000)
    };
    assert_eq!(owner("var"), (0, 0));
    assert_eq!(owner("var/lib/db/kept/more"), (70, 70));
    assert_eq!(owner("var/lib/db/link"), (1000, 50));
    assert_eq!(owner("large-id"), (0, 0));
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(source.join("ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(value[length - 4..length], 200_000u32.to_le_bytes());
    fs::write(source.join("new"), "x").unwrap();
    std::os::unix::fs::chown(source.join("new"), Some(200_999), Some(200_998)).unwrap();
    let changed = layer.commit(None).unwrap();
    let tree = scratch.path().join("tree");
    changed.unpack(&tree).unwrap();
    let info = fs::metadata(tree.join("new")).unwrap();
    assert_eq!((info.uid(), info.gid()), (999, 998));
    assert_eq!(
        fs::metadata(tree.join("large-id")).unwrap().uid(),
        1_000_000,
        "who could not be shown is kept"
    );
    assert!(store.verify().unwrap().is_empty());
    drop(layer);
    store.destroy().unwrap();
}

#[test]
fn a_sweep_takes_what_a_killed_program_left() {
    let Some((inside, _)) = Inside::new() else { return };
    let scratch = scratch();
    let directory = scratch.path().join("store");
    let store = open(&directory, SnapshotKind::Overlay);
    let left = directory.join("leases/1-2-3/0/data");
    fs::create_dir_all(&left).unwrap();
    inside.run(&left, CHANGE);
    drop(store);
    let store = open(&directory, SnapshotKind::Overlay);
    assert_swept(&store);
    store.destroy().unwrap();
}

/// Both in one store, each with snapshots of its own.
#[test]
fn snapshots_of_different_owners_are_kept_apart() {
    let Some((_inside, maps)) = Inside::new() else { return };
    let scratch = scratch();
    let mapped = open(&scratch.path().join("store"), SnapshotKind::Overlay);
    assert_eq!(mapped.owners(), &Owners::Mapped(maps));
    let plain = mapped.with_owners(Owners::Plain);
    let image = ImageBuilder::new()
        .layer(LayerBuilder::new().owner(999, 999).content("/file", "x", 0o600))
        .build(&mapped, None)
        .unwrap();
    let owner_of = |store: &Store, key: &str| {
        let layer = store.prepare(&image, key).unwrap();
        assert_eq!(layer.owners(), store.owners());
        let RootfsMount::Overlay { lower, .. } = layer.mount() else { panic!() };
        let LowerLayer::Directory(path) = &lower[0] else { panic!() };
        fs::metadata(path.join("file")).unwrap().uid()
    };
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(owner_of(&plain, "plain"), own);
    assert_ne!(owner_of(&mapped, "mapped"), own);
    assert_eq!(mapped.usage().unwrap().snapshots.len(), 2);
    assert!(mapped.verify().unwrap().is_empty());
    // A layer remembers for whom it is, whoever opens it.
    assert_eq!(plain.layer("mapped").unwrap().owners(), mapped.owners());
    assert_eq!(mapped.layer("plain").unwrap().owners(), &Owners::Plain);
    mapped.collect_garbage().unwrap();
    assert_eq!(mapped.usage().unwrap().snapshots.len(), 2, "both are needed");
    drop(plain);
    mapped.destroy().unwrap();
}

#[test]
fn ids_that_nobody_granted_are_an_error_that_names_the_file() {
    let Some(_) = Inside::new() else { return };
    let scratch = scratch();
    let own = |id: u32| [IdRange::new(0, id, 1), IdRange::new(1, 1, 1000)];
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owners = Owners::Mapped(IdMaps::new(own(uid), own(gid)));
    let store = StoreOptions::new().owners(owners).open_or_create(scratch.path().join("store")).unwrap();
    let image = import(&store, scratch.path());
    match store.prepare(&image, "one") {
        Err(error @ Error::Owners { .. }) => {
            assert_eq!(error.class(), Class::Unsupported);
            assert!(
                error.to_string().contains("/etc/subuid does not grant the 1000 ids from 1 on"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(store.usage().unwrap().snapshots.is_empty());
    assert_swept(&store);
}

fn in_a_program_of_its_own(test: &str, env: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(env.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Without newuidmap everything is the caller's, as for a user without such ids.
#[test]
fn without_the_helpers_files_are_the_callers() {
    if is_root() {
        return skip("user", "this is about an ordinary user");
    }
    in_a_program_of_its_own("plain_owners", &[("PATH", "/nonexistent")]);
}

#[test]
#[ignore = "run by the test above in a program of its own"]
fn plain_owners() {
    let scratch = scratch();
    let store = open(&scratch.path().join("store"), SnapshotKind::Copy);
    assert_eq!(store.owners(), &Owners::Plain);
    let image = import(&store, scratch.path());
    let layer = store.prepare(&image, "one").unwrap();
    let RootfsMount::Directory { source, .. } = layer.mount() else { panic!() };
    let info = fs::metadata(source.join("var/lib/db/data")).unwrap();
    assert_eq!(info.uid(), rustix::process::geteuid().as_raw());
    // The caller's own directories, whatever their modes, keep him from nothing.
    assert!(store.usage().unwrap().layers[0].inodes > 15);
    assert!(store.verify().unwrap().is_empty(), "{:?}", store.verify());
    let committed = layer.commit(None).unwrap();
    assert_eq!(committed.layers().len(), 3);
    let mode = fs::symlink_metadata(source.join("var/lib/db/closed")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0);
    layer.remove().unwrap();
    assert_swept(&store);
}

/// A plain directory is for its user alone, who could not remove what others own.
#[test]
fn a_plain_directory_is_the_callers() {
    let Some((_, _)) = Inside::new() else { return };
    let scratch = scratch();
    let store = open(&scratch.path().join("store"), SnapshotKind::Overlay);
    let image = import(&store, scratch.path());
    let target = scratch.path().join("tree");
    image.unpack(&target).unwrap();
    assert_eq!(fs::metadata(target.join("var/lib/db")).unwrap().uid(), rustix::process::geteuid().as_raw());
}

/// Nothing of the program changes, and nobody stays behind.
#[test]
fn the_program_is_as_before() {
    if Inside::new().is_some() {
        in_a_program_of_its_own("as_before", &[]);
    }
}

#[test]
#[ignore = "run by the test above in a program of its own"]
fn as_before() {
    let Some((inside, _)) = Inside::new() else { return };
    let status = || {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let wanted = ["Umask", "SigBlk", "CapEff", "CapPrm", "NoNewPrivs"];
        text.lines()
            .filter(|l| wanted.iter().any(|w| l.starts_with(w)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let namespace = || fs::read_link("/proc/self/ns/user").unwrap();
    // Owned by somebody else in a program that may not be traced any more.
    let traceable =
        || fs::metadata("/proc/self/environ").unwrap().uid() == rustix::process::geteuid().as_raw();
    let before = (status(), namespace(), traceable());
    let scratch = scratch();
    let tree = scratch.path().join("store");
    let store = open(&tree, SnapshotKind::Copy);
    let image = import(&store, scratch.path());
    let layer = store.prepare(&image, "one").unwrap();
    let RootfsMount::Directory { source, .. } = layer.mount() else { panic!() };
    inside.run(source, CHANGE);
    layer.remove().unwrap();
    store.destroy().unwrap();
    assert_eq!((status(), namespace(), traceable()), before);
    let named = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let tasks =
        fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().file_name().into_string().unwrap());
    for task in tasks {
        assert_ne!(named(&format!("self/task/{task}")).trim(), "hand");
    }
}
