//! Containers of an ordinary user with subordinate ids: files have the owners of their image, processes run as whom they want,
//! and whatever they leave can be read, committed and removed.
#![cfg(feature = "images")]
#![allow(missing_docs, clippy::unwrap_used)]

mod fixture;

use std::io::{BufRead, BufReader};

use container_core::{Container, ContainerBuilder, Feature, Host, IdMapping, Signal};
use image_layers::{Image, ImageBuilder, LayerBuilder, Owners, SnapshotKind, Store, StoreOptions};

/// Is there more than one id to be had? Said visibly where not.
fn subordinate_ids() -> bool {
    if !fixture::containers() {
        return false;
    }
    if fixture::is_root() {
        fixture::skip("subids", "this is about an ordinary user");
        return false;
    }
    let host = Host::probe().unwrap();
    match host.verdict(Feature::SubordinateIds).obstacle() {
        None => true,
        Some(why) => {
            fixture::skip("subids", why);
            false
        }
    }
}

/// What an image of a database has: a directory that only its user may enter.
fn database(store: &Store) -> Image {
    let base = fixture::image(store);
    let data = LayerBuilder::new().owner(999, 999).directory("/var/lib/db", 0o700).content(
        "/var/lib/db/config",
        "of the image\n",
        0o600,
    );
    let users = "root:x:0:0:root:/root:/bin/sh\ndb:x:999:999::/var/lib/db:/bin/sh\n";
    let passwd = LayerBuilder::new()
        .owner(0, 0)
        .directory("/etc", 0o755)
        .content("/etc/passwd", users, 0o644)
        .content("/etc/group", "root:x:0:\ndb:x:999:\nshared:x:50:db\n", 0o644)
        .directory("/tmp", 0o1777);
    ImageBuilder::over(&base).layer(data).layer(passwd).build(store, None).unwrap()
}

fn shell(store: &Store, image: &Image, script: &str) -> ContainerBuilder {
    fixture::with_tools(Container::builder().image(store, image).command(["/bin/sh", "-ec", script]))
}

fn output(builder: &ContainerBuilder) -> String {
    let output = builder.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn assert_swept(store: &Store) {
    for part in ["leases", "layers"] {
        let left: Vec<_> = std::fs::read_dir(store.path().join(part)).unwrap().collect();
        assert!(left.is_empty(), "{part}: {left:?}");
    }
}

/// For each way of keeping layers, and at last nothing is left of the store.
fn with_stores(test: impl Fn(&Store, &Image)) {
    for kind in [SnapshotKind::Overlay, SnapshotKind::Copy] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = StoreOptions::new().backend(kind).open_or_create(&path).unwrap();
        let image = database(&store);
        test(&store, &image);
        assert_swept(&store);
        store.destroy().unwrap();
        assert!(!path.exists());
    }
}

const SERVE: &str = "
id -u; id -g; id -G
stat -c '%n %U:%G %a' /var/lib/db /var/lib/db/config /etc /etc/passwd
cat /var/lib/db/config
umask 077; mkdir -p /var/lib/db/tables/deep; echo row >/var/lib/db/tables/deep/1; echo changed >/var/lib/db/config
mkdir /tmp/locked; touch /tmp/locked/file; chmod 0 /tmp/locked
";

#[test]
fn a_service_runs_as_its_own_user_over_its_own_files() {
    if !subordinate_ids() {
        return;
    }
    with_stores(|store, image| {
        for user in ["db", "999:999"] {
            let text = output(&shell(store, image, SERVE).user(user));
            let groups = if user == "db" { "999 50" } else { "999" };
            let expected = format!(
                "999\n999\n{groups}\n/var/lib/db db:db 700\n/var/lib/db/config db:db 600\n/etc root:root 755\n/etc/passwd root:root 644\nof the image\n"
            );
            assert_eq!(text, expected);
            assert_swept(store);
        }
        // Root goes down by itself, as entrypoints do, and may give files away before.
        let script = "cd /tmp; echo secret >file; chown 70:71 file; chmod 400 file; stat -c '%u:%g' file; chown -R 5:5 /var/lib/db; stat -c %u /var/lib/db/config";
        assert_eq!(output(&shell(store, image, script)), "70:71\n5\n");
    });
}

#[test]
fn what_its_users_wrote_is_committed_with_their_ids() {
    if !subordinate_ids() {
        return;
    }
    with_stores(|store, image| {
        let mut container = shell(store, image, SERVE)
            .user("db")
            .id("db-1")
            .stdout(container_core::Stdio::null())
            .spawn()
            .unwrap();
        assert!(container.wait().unwrap().success());
        let layer = store.layer("db-1").unwrap();
        assert!(matches!(layer.owners(), Owners::Mapped(_)));
        assert!(store.usage().unwrap().layers[0].inodes > 5);
        let committed = layer.commit(None).unwrap();
        drop(layer);
        container.remove().unwrap();
        assert_swept(store);
        let look = "cat /var/lib/db/tables/deep/1 /var/lib/db/config; stat -c '%u:%g %a' /var/lib/db/tables/deep/1 /tmp/locked";
        assert_eq!(output(&shell(store, &committed, look)), "row\nchanged\n999:999 600\n999:999 0\n");
        store.remove_image(&committed).unwrap();
        assert!(store.verify().unwrap().is_empty());
        store.collect_garbage().unwrap();
    });
}

/// One id that was asked for has snapshots of its own, beside those with all of them.
#[test]
fn one_id_and_many_share_a_store() {
    if !subordinate_ids() {
        return;
    }
    let own = |id: u32| {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        ([IdMapping::single(id, uid)], [IdMapping::single(id, gid)])
    };
    with_stores(|store, image| {
        let look = "stat -c '%u:%g' /var/lib/db; id -u";
        let one = |id| shell(store, image, look).id_mappings(own(id).0, own(id).1).user(format!("{id}:{id}"));
        assert_eq!(output(&shell(store, image, look)), "999:999\n0\n");
        assert_eq!(output(&one(999)), "999:999\n999\n");
        assert_eq!(output(&one(0)), "0:0\n0\n");
        // A number that nobody was granted is the caller alone.
        let beyond = shell(store, image, "id -u").user("1000000:1000000");
        assert_eq!(output(&beyond), "1000000\n");
        assert_eq!(output(&shell(store, image, look).read_only(true)), "999:999\n0\n");
        assert!(store.verify().unwrap().is_empty());
    });
}

#[test]
fn pools_state_directories_and_drops_leave_nothing() {
    if !subordinate_ids() {
        return;
    }
    with_stores(|store, image| {
        let builder = shell(store, image, &format!("{SERVE}\nread go")).user("db");
        // Dropped while it runs.
        let container = builder
            .clone()
            .stdin(container_core::Stdio::piped())
            .stdout(container_core::Stdio::null())
            .spawn()
            .unwrap();
        drop(container);
        assert_swept(store);
        // Left to another handle.
        let state = tempfile::tempdir().unwrap();
        let mut container = shell(store, image, &format!("{SERVE}\necho done; exec sleep 1000"))
            .user("db")
            .id("kept")
            .state_directory(state.path())
            .stdout(container_core::Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(container.stdout.take().unwrap()).lines();
        assert!(said.map(Result::unwrap).any(|line| line == "done"));
        container.detach().unwrap();
        let mut container = Container::open(state.path(), "kept").unwrap();
        container.kill(Signal::KILL).unwrap();
        container.wait().unwrap();
        container.remove().unwrap();
        assert_swept(store);
        // In memory.
        let text = output(
            &shell(store, image, "echo x >/var/lib/db/new; stat -c %u /var/lib/db/new")
                .user("db")
                .writable_memory(1 << 20),
        );
        assert_eq!(text, "999\n");
        assert_swept(store);
    });
}

/// Its own users' files are as near as those of the caller.
#[test]
fn files_of_its_users_go_in_and_out() {
    if !subordinate_ids() {
        return;
    }
    with_stores(|store, image| {
        let script = format!(
            "{SERVE}\necho done; read go || true; cat /var/lib/db/in; stat -c '%u:%g %a' /var/lib/db/in /var/lib/db/copy/tables"
        );
        let mut container = shell(store, image, &script)
            .user("db")
            .stdin(container_core::Stdio::piped())
            .stdout(container_core::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(container.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.any(|line| line == "done"));
        assert_eq!(container.read_file("/var/lib/db/tables/deep/1").unwrap(), b"row\n");
        container.write_file("/var/lib/db/in", 0o600, b"put in\n").unwrap();
        let mut archive = Vec::new();
        container.copy_out("/var/lib/db/tables", &mut archive).unwrap();
        let mut read = tar::Archive::new(&archive[..]);
        let listed: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap())
            })
            .collect();
        let expected = [("tables", 0o700), ("tables/deep", 0o700), ("tables/deep/1", 0o600)];
        assert_eq!(listed, expected.map(|(path, mode)| (path.to_owned(), 999, 999, mode)));
        container.copy_in("/var/lib/db/copy", &archive[..]).unwrap();
        if store.backend() == SnapshotKind::Overlay {
            let changed: Vec<_> = container.changes().unwrap();
            let has = |path: &str| changed.iter().any(|change| change.path == std::path::Path::new(path));
            assert!(has("/var/lib/db/tables/deep/1") && has("/var/lib/db/config"), "{changed:?}");
        }
        drop(container.stdin.take());
        assert_eq!(said.collect::<Vec<_>>(), ["put in", "999:999 600", "999:999 700"]);
        assert!(container.wait().unwrap().success());
        assert_eq!(container.read_file("/var/lib/db/config").unwrap(), b"changed\n");
        container.remove().unwrap();
    });
}

/// Containers that root starts in a user namespace see the owners of their image too.
#[test]
fn root_maps_the_owners_of_an_image() {
    if !fixture::containers() {
        return;
    }
    if !fixture::is_root() {
        return fixture::skip("root", "only root maps any id");
    }
    let map = || [IdMapping { container_id: 0, host_id: 200_000, size: 65536 }];
    with_stores(|store, image| {
        let text = output(&shell(store, image, SERVE).user("db").id_mappings(map(), map()));
        assert!(text.starts_with("999\n999\n999 50\n/var/lib/db db:db 700\n"), "{text}");
        assert!(text.contains("/etc/passwd root:root 644\nof the image\n"), "{text}");
        // Beside one without.
        let text = output(&shell(store, image, SERVE).user("db"));
        assert!(text.contains("/var/lib/db db:db 700\n/var/lib/db/config db:db 600\n"), "{text}");
        assert!(store.verify().unwrap().is_empty());
    });
}
