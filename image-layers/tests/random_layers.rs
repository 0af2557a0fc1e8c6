//! Random layers: every backend shows the same tree, a model that knows only the specification agrees, the order of
//! entries does not matter, and what a container changed comes back after commit and another unpacking.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use fixture::mount::{Mounted, in_mount_namespace};
use fixture::*;
use image_layers::{
    Error, ImportOptions, Reference, SnapshotKind, Source, Store, StoreOptions, UnpackOptions,
    probe_snapshots,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[derive(Clone, Debug)]
enum Change {
    File(String, u8),
    Directory(String, u32),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

impl Change {
    fn name(&self) -> String {
        match self {
            Change::File(path, _) | Change::Directory(path, _) => path.clone(),
            Change::Symlink(path, _) | Change::HardLink(path, _) => path.clone(),
            Change::Whiteout(path) => match path.rsplit_once('/') {
                Some((parent, name)) => format!("{parent}/.wh.{name}"),
                None => format!(".wh.{path}"),
            },
            Change::Opaque(path) => format!("{path}/.wh..wh..opq"),
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

/// Changes without links, for which the model is complete.
fn plain_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::File(path, byte)),
        3 => (path(), prop_oneof![Just(0o755), Just(0o750), Just(0o1777)]).prop_map(|(path, mode)| Change::Directory(path, mode)),
        3 => path().prop_map(Change::Whiteout),
        1 => path().prop_map(Change::Opaque),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let target =
        prop_oneof![path(), path().prop_map(|p| format!("/{p}")), path().prop_map(|p| format!("../{p}"))];
    prop_oneof![
        6 => plain_change(),
        2 => (path(), target).prop_map(|(path, target)| Change::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Change::HardLink(path, target)),
    ]
}

/// Layers whose names occur once each and where nothing is below something that is no directory, as writers have to.
fn orderly(layer: Vec<Change>) -> Vec<Change> {
    let mut seen: BTreeMap<String, bool> = BTreeMap::new();
    layer
        .into_iter()
        .filter(|change| {
            let name = change.name();
            let parts: Vec<_> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
            let below_file = parts.iter().any(|parent| seen.get(*parent) == Some(&false));
            let is_directory = matches!(change, Change::Directory(..));
            let above = format!("{name}/");
            let holds = !is_directory && seen.keys().any(|other| other.starts_with(&above));
            if below_file || holds || seen.contains_key(&name) {
                return false;
            }
            seen.insert(name, is_directory);
            true
        })
        .collect()
}

fn tar(layer: &[Change]) -> Vec<u8> {
    let mut tar = Tar::new();
    for change in layer {
        let name = change.name();
        tar = match change {
            Change::File(_, byte) => tar.file(&name, vec![*byte; 1 + usize::from(*byte) % 5 * 200]),
            Change::Directory(_, mode) => tar.directory(&name, *mode),
            Change::Symlink(_, target) => tar.symlink(&name, target),
            Change::HardLink(_, target) => tar.hard_link(&name, target),
            Change::Whiteout(_) | Change::Opaque(_) => tar.file(&name, b""),
        };
    }
    tar.finish()
}

/// What is at a path: kind, mode, content or target, and which of the names of its inode comes first.
type Facts = BTreeMap<String, (char, u32, Vec<u8>, String)>;

fn facts(root: &Path) -> Facts {
    let mut first_name: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut paths = expect::walk(root);
    paths.sort();
    let describe = |path: std::path::PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let m = fs::symlink_metadata(&path).unwrap();
        let (kind, content) = if m.is_dir() {
            ('d', Vec::new())
        } else if m.is_symlink() {
            ('l', fs::read_link(&path).unwrap().to_str().unwrap().into())
        } else {
            ('f', fs::read(&path).unwrap())
        };
        let first = match kind {
            'd' => String::new(),
            _ => first_name.entry((m.dev(), m.ino())).or_insert_with(|| name.clone()).clone(),
        };
        (name, (kind, m.mode() & 0o7777, content, first))
    };
    paths.into_iter().map(describe).collect()
}

/// The specification, naively: layer by layer, deletions first.
fn model(layers: &[Vec<Change>]) -> BTreeMap<String, (char, u32, Vec<u8>)> {
    let mut tree: BTreeMap<String, (char, u32, Vec<u8>)> = BTreeMap::new();
    let remove = |tree: &mut BTreeMap<String, (char, u32, Vec<u8>)>, path: &str, itself: bool| {
        let below = format!("{path}/");
        tree.retain(|name, _| !name.starts_with(&below) && (!itself || name != path));
    };
    for layer in layers {
        for change in layer {
            match change {
                Change::Whiteout(path) => remove(&mut tree, path, true),
                Change::Opaque(path) => remove(&mut tree, path, false),
                _ => {}
            }
        }
        // A whiteout or opaque marker alone makes no directory; an entry makes all above it.
        for change in layer {
            let (path, node) = match change {
                Change::File(path, byte) => {
                    (path, ('f', 0o644, vec![*byte; 1 + usize::from(*byte) % 5 * 200]))
                }
                Change::Directory(path, mode) => (path, ('d', *mode, Vec::new())),
                _ => continue,
            };
            for (at, _) in path.match_indices('/') {
                let parent = &path[..at];
                if tree.get(parent).is_none_or(|node| node.0 != 'd') {
                    tree.insert(parent.to_owned(), ('d', 0o755, Vec::new()));
                }
            }
            if node.0 == 'f' {
                remove(&mut tree, path, true);
            }
            tree.insert(path.clone(), node);
        }
        // Directories that are only implied keep what was known of them; explicit ones win whatever the order.
        for change in layer {
            if let Change::Directory(path, mode) = change {
                tree.insert(path.clone(), ('d', *mode, Vec::new()));
            }
        }
    }
    tree
}

fn image(dir: &Path, layers: &[Vec<u8>]) -> std::path::PathBuf {
    let pack = |(i, tar): (usize, &Vec<u8>)| match i % 3 {
        0 => Layer::plain(tar.clone()),
        1 => Layer::gzip(tar.clone()),
        _ => Layer::zstd(tar.clone()),
    };
    let layers: Vec<_> = layers.iter().enumerate().map(pack).collect();
    layout(dir, &layers, "random:1")
}

fn name() -> Reference {
    "random:1".parse().unwrap()
}

fn options() -> ImportOptions {
    ImportOptions::new().any_platform(true)
}

/// What the image looks like in a plain directory, and with each backend this host has.
fn everywhere(scratch: &Path, input: &Path, may_mount: bool) -> Vec<(String, Result<Facts, Error>)> {
    let dir = scratch.join("directory");
    let source = Source::open(input, &options()).unwrap().image(&options()).unwrap();
    let mut all = vec![("directory".to_owned(), source.unpack(&dir).map(|()| facts(&dir)))];
    for probe in probe_snapshots(scratch) {
        let mounts = probe.kind != SnapshotKind::Copy;
        if probe.refused.is_some() || mounts && !may_mount {
            continue;
        }
        let place = scratch.join(probe.kind.as_str());
        let store = StoreOptions::new().backend(probe.kind).open_or_create(&place).unwrap();
        let image = store.import(input, &options().name(name())).unwrap().remove(0);
        let seen = store.unpack(&image, &UnpackOptions::new()).map(|()| {
            let layer = store.prepare(&image, "c").unwrap();
            let mounted = Mounted::new(layer.mount(), &fresh(&place, "mnt")).unwrap();
            let seen = facts(mounted.root());
            drop(mounted);
            layer.remove().unwrap();
            seen
        });
        all.push((probe.kind.to_string(), seen));
    }
    all
}

fn fresh(place: &Path, name: &str) -> std::path::PathBuf {
    let dir = place.with_extension(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn check(layers: &[Vec<Change>], may_mount: bool, modelled: bool) -> Result<(), TestCaseError> {
    let scratch = scratch();
    let tars: Vec<_> = layers.iter().map(|layer| tar(layer)).collect();
    let input = image(scratch.path(), &tars);
    let all = everywhere(scratch.path(), &input, may_mount);
    let (_, first) = &all[0];
    for (backend, seen) in &all[1..] {
        match (first, seen) {
            (Ok(first), Ok(seen)) => {
                // Names of one inode in different layers may be copies.
                let without = |facts: &Facts| {
                    facts.iter().map(|(k, v)| (k.clone(), (v.0, v.1, v.2.clone()))).collect::<Vec<_>>()
                };
                prop_assert_eq!(without(first), without(seen), "{} differs from directory", backend);
            }
            (Err(first), Err(seen)) => prop_assert_eq!(first.class(), seen.class(), "{}", backend),
            _ => prop_assert!(
                false,
                "{}: {:?}, directory: {:?}",
                backend,
                seen.as_ref().err(),
                first.as_ref().err()
            ),
        }
    }
    if modelled {
        let seen = first.as_ref().map_err(|e| TestCaseError::fail(e.to_string()))?;
        let seen: BTreeMap<_, _> = seen
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(k, v)| (k.clone(), (v.0, v.1, v.2.clone())))
            .collect();
        prop_assert_eq!(seen, model(layers));
        let turned: Vec<_> =
            layers.iter().map(|layer| tar(&layer.iter().rev().cloned().collect::<Vec<_>>())).collect();
        let dir = scratch.path().join("turned");
        let input = image(&scratch.path().join("turned-image"), &turned);
        Source::open(&input, &options()).unwrap().image(&options()).unwrap().unpack(&dir).unwrap();
        prop_assert_eq!(&facts(&dir), first.as_ref().unwrap(), "the order of entries matters");
    }
    Ok(())
}

/// `RANDOM_LAYERS` multiplies the number of cases, for a longer search.
fn runner(cases: u32) -> TestRunner {
    let times = std::env::var("RANDOM_LAYERS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let cases = cases.saturating_mul(times);
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// In a mount namespace where that is possible.
fn run(test: impl Fn(bool) + Send + Sync) {
    if in_mount_namespace(|| test(true)).is_none() {
        // Past the capture of output that successful tests have.
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("SKIPPED: backends that have to be mounted, for there is no mount namespace\n"),
        );
        test(false);
    }
}

#[test]
fn backends_agree_with_the_specification() {
    let layer = prop::collection::vec(plain_change(), 1..12).prop_map(orderly);
    let layers = prop::collection::vec(layer, 1..5);
    run(|may_mount| runner(60).run(&layers, |layers| check(&layers, may_mount, true)).unwrap());
}

#[test]
fn backends_agree_on_links_and_repeated_names() {
    let layers = prop::collection::vec(prop::collection::vec(any_change(), 1..14), 1..5);
    run(|may_mount| runner(100).run(&layers, |layers| check(&layers, may_mount, false)).unwrap());
}

/// Does in a mounted tree what a container might.
fn act(root: &Path, change: &Change) {
    let at = |path: &str| root.join(path);
    let clear = |path: &str| match fs::symlink_metadata(at(path)) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(at(path)).unwrap(),
        Ok(_) => fs::remove_file(at(path)).unwrap(),
        Err(_) => {}
    };
    let in_directory = |path: &str| {
        // Only through real directories, or the links of the image lead out of it.
        let mut dir = root.to_path_buf();
        for part in Path::new(path).parent().unwrap() {
            dir.push(part);
            match fs::symlink_metadata(&dir) {
                Ok(m) if m.is_dir() => {}
                Ok(_) => return false,
                Err(_) => fs::create_dir(&dir).unwrap(),
            }
        }
        true
    };
    let name = match change {
        Change::File(path, _)
        | Change::Directory(path, _)
        | Change::Whiteout(path)
        | Change::Opaque(path) => path,
        Change::Symlink(path, _) | Change::HardLink(path, _) => path,
    };
    if !in_directory(name) {
        return;
    }
    match change {
        Change::File(path, byte) => {
            if fs::symlink_metadata(at(path)).is_ok_and(|m| !m.is_file()) {
                clear(path);
            }
            fs::write(at(path), [*byte; 100]).unwrap();
        }
        Change::Directory(path, mode) => {
            if fs::symlink_metadata(at(path)).is_ok_and(|m| !m.is_dir()) {
                clear(path);
            }
            let _ = fs::create_dir(at(path));
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        Change::Symlink(path, target) => {
            clear(path);
            std::os::unix::fs::symlink(target, at(path)).unwrap();
        }
        Change::HardLink(path, target) => {
            if path != target
                && in_directory(target)
                && fs::symlink_metadata(at(target)).is_ok_and(|m| m.is_file())
            {
                if !Path::new(target).starts_with(path) {
                    clear(path);
                }
                let _ = fs::hard_link(at(target), at(path));
            }
        }
        Change::Whiteout(path) => clear(path),
        Change::Opaque(path) => {
            clear(path);
            fs::create_dir(at(path)).unwrap();
        }
    }
}

fn commit_comes_back(
    layers: &[Vec<Change>],
    changes: &[Change],
    may_mount: bool,
) -> Result<(), TestCaseError> {
    let scratch = scratch();
    let tars: Vec<_> = layers.iter().map(|layer| tar(layer)).collect();
    let input = image(scratch.path(), &tars);
    for probe in probe_snapshots(scratch.path()) {
        if probe.refused.is_some() || probe.kind != SnapshotKind::Copy && !may_mount {
            continue;
        }
        let place = scratch.path().join(probe.kind.as_str());
        let store: Store = StoreOptions::new().backend(probe.kind).open_or_create(&place).unwrap();
        let image = store.import(&input, &options().name(name())).unwrap().remove(0);
        let layer = store.prepare(&image, "c").unwrap();
        let mounted = Mounted::new(layer.mount(), &fresh(&place, "mnt")).unwrap();
        for change in changes {
            act(mounted.root(), change);
        }
        let wanted = facts(mounted.root());
        drop(mounted);
        let committed = layer.commit(None).unwrap();
        let again = store.prepare(&committed, "again").unwrap();
        let mounted = Mounted::new(again.mount(), &fresh(&place, "again")).unwrap();
        let seen = facts(mounted.root());
        let without = |facts: &Facts| {
            facts.iter().map(|(k, v)| (k.clone(), (v.0, v.1, v.2.clone()))).collect::<Vec<_>>()
        };
        prop_assert_eq!(without(&wanted), without(&seen), "{}", probe.kind);
        drop(mounted);
    }
    Ok(())
}

#[test]
fn what_was_committed_comes_back() {
    let layer = prop::collection::vec(plain_change(), 1..12).prop_map(orderly);
    let layers = prop::collection::vec(layer, 1..3);
    let strategy = (layers, prop::collection::vec(any_change(), 0..12));
    run(|may_mount| {
        runner(60)
            .run(&strategy, |(layers, changes)| commit_comes_back(&layers, &changes, may_mount))
            .unwrap();
    });
}
