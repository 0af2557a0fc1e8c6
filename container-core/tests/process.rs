//! The process inside: working directory, user, bytes (LC-H20 to LC-H23, H27).

mod fixture;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use container_core::{Error, Step};
use fixture::Root;

#[test]
fn h21_a_working_directory_that_is_not_there() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    // In a root that can be written it is made, for the user of the command.
    let output = root.shell("pwd; stat -c %u:%g .").user("1000:50").current_dir("/srv/a/b").output().unwrap();
    assert_eq!(output.stdout, b"/srv/a/b\n1000:50\n", "{output:?}");
    assert!(root.path().join("srv/a/b").is_dir());
    // In a mount that can be written, too, whatever the root is.
    let within =
        root.shell("pwd").read_only(true).tmpfs("/tmp", 1 << 20).current_dir("/tmp/x").output().unwrap();
    assert_eq!(within.stdout, b"/tmp/x\n", "{within:?}");

    let failed = |result: container_core::Result<container_core::Output>, errno: i32| match result {
        Err(Error::Setup { step: Step::WorkingDirectory, subject, source }) => {
            assert!(subject.contains('/'), "{subject}");
            assert_eq!(source.raw_os_error(), Some(errno), "{subject}");
        }
        other => panic!("{other:?}"),
    };
    failed(root.shell("pwd").current_dir("/etc/passwd").output(), libc::ENOTDIR);
    failed(root.shell("pwd").read_only(true).current_dir("/srv/new/c").output(), libc::EROFS);
    assert!(!root.path().join("srv/new").exists(), "a read-only root is not written, not even by us");
    // What is there needs no making.
    let there = root.shell("pwd").read_only(true).current_dir("/srv/a").output().unwrap();
    assert_eq!(there.stdout, b"/srv/a\n", "{there:?}");
    // One more process: the same rules.
    let container = root.command(&["sleep", "60"]).read_only(true).spawn().unwrap();
    failed(container.exec(["pwd"]).current_dir("/srv/new/c").output(), libc::EROFS);

    let outside = tempfile::tempdir().unwrap();
    let relative = format!("/../../../..{}", outside.path().display());
    std::os::unix::fs::symlink(relative, root.path().join("escape")).unwrap();
    for read_only in [false, true] {
        let _ = root.shell("pwd").read_only(read_only).current_dir("/escape/made").output();
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was made outside");
}

#[test]
fn h22_users_by_name_and_number() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let passwd = "root:x:0:0::/root:/bin/sh\nbroken line\napp:x:1000:1001::/home/app:/bin/sh\n";
    std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
    let groups = "root:x:0:\ngrp:x:50:\na:x:60:app\nb:x:61:app\nc:x:62:app,x\nd:x:63:app\n";
    std::fs::write(root.path().join("etc/group"), groups).unwrap();
    let ids = |user: &str| {
        let output = root.shell("id -u; id -g; id -G; echo $HOME").user(user).output().map(|o| o.stdout);
        output.map(|bytes| String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    };
    if fixture::is_root() {
        assert_eq!(ids("app").unwrap(), ["1000", "1001", "1001 60 61 62 63", "/home/app"]);
    } else {
        // One id is all there is.
        assert_eq!(ids("app").unwrap()[..2], ["1000", "1001"]);
    }
    assert_eq!(ids("app:grp").unwrap()[..3], ["1000", "50", "50"]);
    assert_eq!(ids("1234").unwrap()[..2], ["1234", "0"]);
    assert_eq!(ids("1234:grp").unwrap()[..2], ["1234", "50"]);
    assert_eq!(ids("root").unwrap()[..2], ["0", "0"]);
    assert!(
        matches!(ids("nobody-here"), Err(Error::UnknownUser { kind: "user", name }) if name == "nobody-here")
    );
    assert!(matches!(ids("app:none"), Err(Error::UnknownUser { kind: "group", name }) if name == "none"));

    // A user that somebody added inside is there for the next process.
    let container = root.shell("sleep 60").spawn().unwrap();
    let add = "echo new:x:1000:1000::/:/bin/sh >> /etc/passwd";
    assert!(container.exec(["/bin/sh", "-c", add]).output().unwrap().status.success());
    if fixture::is_root() {
        let output = container.exec(["id", "-u"]).user("new").output().unwrap();
        assert_eq!(output.stdout, b"1000\n", "{output:?}");
    }
    assert!(matches!(container.exec(["id"]).user("newer").output(), Err(Error::UnknownUser { .. })));
    drop(container);

    // A file of 10 MiB, and the name at its end.
    let mut long = "x:x:5:5::/:/bin/sh\n".repeat((10 << 20) / 19);
    long.push_str("last:x:1000:1001::/:/bin/sh\n");
    std::fs::write(root.path().join("etc/passwd"), long).unwrap();
    assert_eq!(ids("last").unwrap()[..2], ["1000", "1001"]);

    std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
    std::fs::remove_file(root.path().join("etc/group")).unwrap();
    assert_eq!(ids("77:78").unwrap()[..2], ["77", "78"]);
    assert_eq!(ids("root").unwrap()[..2], ["0", "0"]);
    // A link to the host's file finds the container's, which is not there.
    std::os::unix::fs::symlink("/../../../../etc/passwd", root.path().join("etc/passwd")).unwrap();
    assert!(matches!(ids("daemon"), Err(Error::UnknownUser { .. })));
}

#[test]
fn h23_bytes_are_not_text() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let odd = OsStr::from_bytes(b"odd-\xff\xfe");
    let host = tempfile::tempdir().unwrap();
    let source = host.path().join(odd);
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "found").unwrap();
    let output = root
        .shell("printf '%s|' \"$1\" \"$VALUE\"; cat /mnt/*/file")
        .arg("sh")
        .arg(OsStr::from_bytes(b"\xff\xfe"))
        .env("VALUE", odd)
        .bind(&source, OsStr::from_bytes(b"/mnt/\xfa"))
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"\xff\xfe|odd-\xff\xfe|found", "{output:?}");
    // A host program whose own environment is no text, and who hands it on.
    let inherits = fixture::program("inherits_an_environment_that_is_no_text")
        .env("TEST_ROOT", root.path())
        .env(OsStr::from_bytes(b"NAME\xfe"), OsStr::from_bytes(b"value\xff"))
        .output()
        .unwrap();
    assert!(inherits.status.success(), "{}", String::from_utf8_lossy(&inherits.stderr));

    for builder in [root.shell("").arg("a\0b"), root.shell("").env("", "x"), root.shell("").env("a=b", "x")] {
        assert!(matches!(builder.spawn(), Err(Error::Invalid { .. })));
    }
}

#[test]
#[ignore = "run by h23 in a program of its own"]
fn inherits_an_environment_that_is_no_text() {
    let root = std::env::var_os("TEST_ROOT").unwrap();
    let builder = fixture::with_tools(container_core::Container::builder().rootfs(root));
    let output = builder.command(["env", "-0"]).inherit_env(true).output().unwrap();
    let found = output.stdout.split(|byte| *byte == 0).any(|variable| variable == b"NAME\xfe=value\xff");
    assert!(found, "{}", output.stdout.escape_ascii());
}

#[test]
fn h20_errors_name_step_and_subject() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let name = format!("h20-{}", std::process::id());
    for (n, failure) in fixture::failures::all().iter().enumerate() {
        let builder = root.command(&["true"]).id(format!("{name}-{n}"));
        let error = (failure.change)(builder).spawn().map(drop).expect_err(failure.name);
        assert!((failure.right)(&error), "{}: {error:?}", failure.name);
        assert!(fixture::cgroups_named(&format!("{name}-{n}")).is_empty(), "{}", failure.name);
    }
}

#[test]
fn files_go_in_and_come_out() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    std::fs::create_dir(root.path().join("srv")).unwrap();
    let mut container = root.shell("sleep 60").writable_memory(4 << 20).create().unwrap().start().unwrap();
    container.write_file("/srv/deep/er/file", 0o640, b"content").unwrap();
    assert_eq!(container.read_file("/srv/deep/er/file").unwrap(), b"content");
    let shell = |script: &str| container.exec(["/bin/sh", "-c", script]).output().unwrap();
    assert_eq!(shell("stat -c '%a %u' /srv/deep/er/file").stdout, b"640 0\n");

    // A link out of the container leads nowhere.
    shell("ln -s /../../../../etc/hostname /srv/link; ln -s /proc/self/root/etc/hostname /srv/magic");
    assert!(container.read_file("/srv/link").is_err());
    let mut archive = Vec::new();
    container.copy_out("/srv", &mut archive).unwrap();
    let names: Vec<_> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        ["srv/", "srv/deep/", "srv/deep/er/", "srv/deep/er/file", "srv/link", "srv/magic"]
            .map(|n| n.trim_end_matches('/').to_owned())
    );

    container.copy_in("/copy", &archive[..]).unwrap();
    assert_eq!(
        shell("cat /copy/srv/deep/er/file; readlink /copy/srv/link").stdout,
        b"content/../../../../etc/hostname\n"
    );
    let mut evil = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../escape");
    header.set_cksum();
    evil.append(&header, std::io::empty()).unwrap();
    assert!(matches!(
        container.copy_in("/copy", &evil.into_inner().unwrap()[..]),
        Err(Error::Invalid { .. })
    ));

    // Also when it has ended.
    container.stop(std::time::Duration::ZERO).unwrap();
    assert_eq!(container.read_file("/srv/deep/er/file").unwrap(), b"content");
    assert!(!root.path().join("srv/deep").exists(), "the root directory itself is untouched");
    assert_eq!(std::fs::metadata(root.path()).unwrap().uid(), rustix::process::geteuid().as_raw());
}
