//! The shared layer cases: inputs on which other engines fail, each with the right outcome. Every case runs into a plain
//! directory and through a store with each backend that this host has.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod fixture;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::expect::{CommitFacts, Expect, Op, picture, unhex};
use fixture::mount::{Mounted, in_mount_namespace, in_user_namespace};
use fixture::*;
use image_layers::{
    Digest, Error, Image, ImageConfig, ImportOptions, Limits, Platform, Reference, SnapshotKind, Source,
    Store, StoreOptions, UnpackOptions, probe_snapshots,
};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat, utimensat,
};
use serde_json::Value;

/// Set in the process that plays root in a user namespace.
const INSIDE: &str = "LAYER_CASES_INSIDE";

/// Runs only the cases whose name contains the value.
const ONLY: &str = "LAYER_CASES_ONLY";

#[test]
fn layer_cases() {
    let Some(shared) = shared() else { return };
    let inside = std::env::var_os(INSIDE).is_some();
    if !is_root() && !inside {
        // Where an ordinary user can mount overlays.
        return in_user_namespace("layer_cases", INSIDE);
    }
    let dir = scratch();
    let generator = shared.join("cases/layers/make_cases.py");
    let made = Command::new("python3").arg(&generator).arg("--out").arg(dir.path().join("cases")).output();
    match made {
        Ok(output) if output.status.success() => {}
        other => return skip("shared", &format!("{} does not run: {other:?}", generator.display())),
    }
    let ran = in_mount_namespace(|| run_all(dir.path(), inside));
    match ran {
        Some((cases, wrong)) => {
            assert!(wrong.is_empty(), "{} of {cases} wrong:\n{}", wrong.len(), wrong.join("\n"));
            assert!(cases > 130 || std::env::var_os(ONLY).is_some(), "{cases} cases");
        }
        None => skip("overlay", "no mount namespace can be made here"),
    }
}

fn run_all(dir: &Path, rootless: bool) -> (usize, Vec<String>) {
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut names: Vec<_> = fs::read_dir(dir.join("cases")).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    let only = std::env::var(ONLY).ok();
    let kinds: Vec<SnapshotKind> =
        probe_snapshots(dir).into_iter().filter(|p| p.refused.is_none()).map(|p| p.kind).collect();
    println!("backends: {kinds:?}");
    for case in names {
        let expect = Expect::read(&case);
        if only.as_ref().is_some_and(|o| !expect.id.contains(o)) {
            continue;
        }
        count += 1;
        if rootless && expect.needs_root {
            continue;
        }
        let outside: Vec<_> = expect
            .outside_untouched
            .iter()
            .map(|p| dir.join("cases").join(p))
            .map(|p| (picture(&p), p))
            .collect();
        let mut run = |way: &str, test: &dyn Fn(&Path) -> Vec<String>| {
            let work = dir.join("work");
            fs::create_dir(&work).unwrap();
            fs::write(work.join("canary"), "").unwrap();
            let mut found = test(&work);
            if !work.join("canary").exists() {
                found.push("the folder around the root was changed".into());
            }
            for (before, path) in &outside {
                if picture(path) != *before {
                    found.push(format!("OUTSIDE CHANGED: {}", path.display()));
                }
            }
            wrong.extend(found.into_iter().map(|w| format!("{} ({way}): {w}", expect.id)));
            remove(&work);
        };
        match expect.input.as_str() {
            "reference" => run("references", &|_| references(&expect)),
            "gc" => {
                for kind in &kinds {
                    run(kind.as_str(), &|work| garbage(&expect, &case, work, *kind, rootless));
                }
            }
            _ => {
                if expect.ops.is_none() && expect.upper_ops.is_none() {
                    run("directory", &|work| judge(&expect, directory(&expect, &case, work, rootless)));
                }
                for kind in &kinds {
                    if expect.upper_ops.is_some() && *kind == SnapshotKind::Copy {
                        continue;
                    }
                    run(kind.as_str(), &|work| judge(&expect, stored(&expect, &case, work, *kind, rootless)));
                }
            }
        }
    }
    (count, wrong)
}

/// A layer may leave directories that cannot be entered.
fn remove(path: &Path) {
    let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(path).output();
    fs::remove_dir_all(path).unwrap();
}

fn judge(expect: &Expect, result: Result<Vec<String>, Error>) -> Vec<String> {
    match result {
        Ok(wrong) if expect.outcome == "ok" || expect.also_accept.iter().any(|o| o == "ok") => wrong,
        Ok(_) => vec![format!("accepted, wanted an error ({})", expect.error_contains)],
        Err(error) if expect.outcome == "error" => {
            let text = format!("{} {}", error.class(), chain(&error));
            match expect.error_contains.split('|').any(|class| text.contains(class)) {
                true => Vec::new(),
                false => vec![format!("refused as {text:?}, wanted {}", expect.error_contains)],
            }
        }
        Err(_) if expect.also_accept.iter().any(|o| o == "error") => Vec::new(),
        Err(error) => vec![format!("refused: {}", chain(&error))],
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn limits(expect: &Expect) -> Limits {
    let mut limits = Limits::default();
    if let Some(bytes) = expect.limits.get("layer_bytes") {
        limits.layer_bytes = *bytes;
    }
    limits
}

fn options(expect: &Expect) -> ImportOptions {
    let platform = match &expect.platform {
        Some(p) => Platform {
            os: p["os"].clone(),
            architecture: p["architecture"].clone(),
            variant: p.get("variant").cloned(),
        },
        None => "linux/amd64".parse().unwrap(),
    };
    let options = ImportOptions::new().limits(limits(expect)).platform(platform);
    match &expect.reference {
        Some(reference) => options.reference(reference),
        None => options,
    }
}

fn input(expect: &Expect, case: &Path) -> PathBuf {
    if expect.input == "docker-archive" { case.join("image.tar") } else { case.to_owned() }
}

fn config(expect: &Expect, config: &ImageConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, want) in expect.config.iter().flatten() {
        let have = match key.as_str() {
            "User" => Value::from(config.user.as_str()),
            "WorkingDir" => config.working_dir.as_str().into(),
            "StopSignal" => config.stop_signal.as_deref().unwrap_or_default().into(),
            "Env" => config.env.clone().into(),
            "Entrypoint" => config.entrypoint.clone().into(),
            "Cmd" => config.cmd.clone().into(),
            "ExposedPorts" => config.exposed_ports.clone().into(),
            "Volumes" => config.volumes.clone().into(),
            "Labels" => serde_json::to_value(&config.labels).unwrap(),
            other => panic!("{other}"),
        };
        if have != *want {
            wrong.push(format!("config {key} is {have}, wanted {want}"));
        }
    }
    wrong
}

fn directory(expect: &Expect, case: &Path, work: &Path, rootless: bool) -> Result<Vec<String>, Error> {
    let options = options(expect);
    let target = work.join("rootfs");
    let result = Source::open(input(expect, case), &options)
        .and_then(|source| source.image(&options))
        .and_then(|image| image.unpack(&target).map(|()| image));
    match result {
        Ok(image) => {
            let mut wrong = expect.compare(&target, rootless);
            wrong.extend(config(expect, image.config()));
            Ok(wrong)
        }
        Err(_) if target.exists() => Ok(vec!["a failure left a directory behind".into()]),
        Err(error) => Err(error),
    }
}

fn stored(
    expect: &Expect,
    case: &Path,
    work: &Path,
    kind: SnapshotKind,
    rootless: bool,
) -> Result<Vec<String>, Error> {
    let name = expect.store_dir_name.as_deref().unwrap_or("store");
    let store = StoreOptions::new().backend(kind).open_or_create(work.join(name))?;
    let tidy = |wrong: &mut Vec<String>| {
        let left = fs::read_dir(store.path().join("leases")).unwrap().count();
        if left > 0 {
            wrong.push(format!("{left} leases left behind"));
        }
    };
    let imported = store.import(input(expect, case), &options(expect));
    let image = match imported {
        Ok(mut images) => images.remove(0),
        Err(error) => {
            let mut wrong = Vec::new();
            tidy(&mut wrong);
            return if wrong.is_empty() { Err(error) } else { Ok(wrong) };
        }
    };
    let mut wrong = config(expect, image.config());
    store.unpack(&image, &UnpackOptions::new().limits(limits(expect)))?;
    if expect.ops.is_some() || expect.upper_ops.is_some() {
        wrong.extend(commit(expect, &store, &image, work)?);
        let image = store.resolve("example.com/new:1")?;
        wrong.extend(mounted(expect, &store, &image, work, rootless)?);
    } else {
        wrong.extend(mounted(expect, &store, &image, work, rootless)?);
    }
    tidy(&mut wrong);
    Ok(wrong)
}

/// The tree as a container sees it, and as a read-only view shows it.
fn mounted(
    expect: &Expect,
    store: &Store,
    image: &Image,
    work: &Path,
    rootless: bool,
) -> Result<Vec<String>, Error> {
    let view = store.view(image)?;
    let layer = store.prepare(image, "c")?;
    let mut wrong = Vec::new();
    for (way, mount) in [("view", view.mount()), ("container", layer.mount())] {
        let place = work.join(way);
        let found = match Mounted::new(mount, &place) {
            Ok(mounted) => expect.compare(mounted.root(), rootless),
            Err(error) => vec![format!("cannot be mounted: {error}")],
        };
        wrong.extend(found.into_iter().map(|w| format!("{way}: {w}")));
    }
    layer.remove()?;
    Ok(wrong)
}

fn commit(expect: &Expect, store: &Store, image: &Image, work: &Path) -> Result<Vec<String>, Error> {
    let layer = store.prepare(image, "ops")?;
    if let Some(ops) = &expect.ops {
        let mounted = Mounted::new(layer.mount(), &work.join("ops")).unwrap();
        ops.iter().for_each(|op| perform(mounted.root(), op));
    }
    if let Some(ops) = &expect.upper_ops {
        let image_layers::RootfsMount::Overlay { upper: Some(upper), .. } = layer.mount() else { panic!() };
        ops.iter().for_each(|op| perform(upper, op));
    }
    let new = layer.commit(Some(&"example.com/new:1".parse().unwrap()))?;
    layer.remove()?;
    let mut tar = Vec::new();
    if new.layers().len() > image.layers().len() {
        let top = new.layers().last().unwrap();
        let blob = fs::read(store.path().join("blobs/sha256").join(top.digest.hex())).unwrap();
        flate2::read::GzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
        assert_eq!(Digest::sha256(&tar), *new.config().diff_ids.last().unwrap());
    }
    Ok(check_layer(&expect.commit, &tar))
}

fn check_layer(facts: &CommitFacts, tar: &[u8]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    let mut keys = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_pax_local_extensions() {
            // The values are binary, which the crate `tar` does not expect.
            let mut records = Vec::new();
            entry.read_to_end(&mut records).unwrap();
            let mut rest = &records[..];
            while let Some(space) = rest.iter().position(|&b| b == b' ') {
                let len: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
                let key = rest[space + 1..len].split(|&b| b == b'=').next().unwrap();
                keys.push(String::from_utf8(key.to_vec()).unwrap());
                rest = &rest[len..];
            }
            continue;
        }
        let name =
            entry.path().unwrap().to_str().unwrap().trim_start_matches("./").trim_end_matches('/').to_owned();
        for key in keys.drain(..) {
            let refused = |p: &&String| key.starts_with(&format!("SCHILY.xattr.{p}"));
            wrong.extend(
                facts.layer_no_xattr_prefix.iter().find(refused).map(|_| format!("layer: {name} has {key}")),
            );
        }
        names.insert(name);
    }
    let missing = facts.layer_has.iter().filter(|n| !names.contains(*n));
    wrong.extend(missing.map(|n| format!("layer: lacks {n}: {names:?}")));
    let none = facts.layer_has_one_of.iter().filter(|any| !any.iter().any(|n| names.contains(n)));
    wrong.extend(none.map(|any| format!("layer: has none of {any:?}: {names:?}")));
    let extra = facts.layer_lacks.iter().filter(|n| names.contains(*n));
    wrong.extend(extra.map(|n| format!("layer: has {n}")));
    wrong
}

fn perform(root: &Path, op: &Op) {
    let path = root.join(&op.path);
    let mode = |default: u32| op.mode.as_ref().map_or(default, |m| u32::from_str_radix(m, 8).unwrap());
    let chmod = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    match op.op.as_str() {
        "write" => {
            fs::write(&path, unbase64(&op.b64)).unwrap();
            if op.mode.is_some() {
                chmod(mode(0));
            }
        }
        "mkdir" => {
            fs::create_dir(&path).unwrap();
            chmod(mode(0o755));
        }
        "rmtree" => fs::remove_dir_all(&path).unwrap(),
        "unlink" => fs::remove_file(&path).unwrap(),
        "symlink" => std::os::unix::fs::symlink(&op.target, &path).unwrap(),
        "link" => fs::hard_link(root.join(&op.target), &path).unwrap(),
        "rename" => {
            // What mv does with a folder of a lower layer: copy and delete.
            let to = root.join(&op.to);
            if fs::rename(&path, &to).is_err() {
                assert!(Command::new("cp").arg("-a").arg(&path).arg(&to).status().unwrap().success());
                fs::remove_dir_all(&path).unwrap();
            }
        }
        "chmod" => chmod(mode(0)),
        // In a user namespace with one id there is nobody else; owners are not compared there.
        "chown" => match std::os::unix::fs::lchown(&path, Some(op.uid), Some(op.gid)) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other.unwrap(),
        },
        "setxattr" => {
            rustix::fs::lsetxattr(&path, op.name.as_str(), &unhex(&op.hex), XattrFlags::empty()).unwrap();
        }
        "utime" => {
            let time = Timespec { tv_sec: op.s, tv_nsec: op.ns };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        "mkfifo" => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap(),
        "socket" => {
            // The address of a socket is short; the path may not be.
            use std::os::fd::AsRawFd;
            let directory = fs::File::open(path.parent().unwrap()).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let address = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
            drop(std::os::unix::net::UnixListener::bind(address).unwrap());
        }
        "mknod" => {
            let kind = if op.r#type == "block" { FileType::BlockDevice } else { FileType::CharacterDevice };
            mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), makedev(op.major, op.minor)).unwrap();
        }
        other => panic!("operation {other}"),
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits =
            group.iter().fold(0u32, |bits, c| bits << 6 | u32::from(value(*c))) << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

fn references(expect: &Expect) -> Vec<String> {
    let mut wrong = Vec::new();
    for case in &expect.refs {
        let parsed = case.input.parse::<Reference>();
        match (&parsed, case.outcome.as_str()) {
            (Ok(r), "ok") => {
                let have = (
                    Some(r.registry().to_owned()),
                    Some(r.repository().to_owned()),
                    r.tag().map(str::to_owned),
                    r.digest().map(|d| d.to_string()),
                );
                let want =
                    (case.registry.clone(), case.repository.clone(), case.tag.clone(), case.digest.clone());
                if have != want {
                    wrong.push(format!("{:?}: read as {have:?}, wanted {want:?}", case.input));
                }
            }
            (Err(_), "error") => {}
            _ => wrong.push(format!("{:?}: {parsed:?}, wanted {}", case.input, case.outcome)),
        }
    }
    wrong
}

fn garbage(expect: &Expect, case: &Path, work: &Path, kind: SnapshotKind, rootless: bool) -> Vec<String> {
    let store = StoreOptions::new().backend(kind).open_or_create(work.join("store")).unwrap();
    let mut images = std::collections::BTreeMap::new();
    for name in &expect.load {
        let options = options(expect).name(format!("example.com/{name}:1").parse().unwrap());
        let image = store.import(case.join(name), &options).unwrap().remove(0);
        store.view(&image).unwrap();
        images.insert(name, image);
    }
    expect.remove.iter().for_each(|name| store.remove_image(&images[name]).unwrap());
    store.collect_garbage().unwrap();
    let mut wrong = mounted(expect, &store, &images[&expect.mount], work, rootless).unwrap();
    let has = |digest: &String| {
        let digest: Digest = digest.parse().unwrap();
        store.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex()).exists()
    };
    wrong.extend(expect.store_has.iter().filter(|d| !has(d)).map(|d| format!("lacks {d}")));
    wrong.extend(expect.store_lacks.iter().filter(|d| has(d)).map(|d| format!("has {d}")));
    wrong
}
