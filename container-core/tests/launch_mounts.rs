//! Mounts are where and what the spec says, and nowhere else.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Bundle, config, is_root, run};
use serde_json::{Value, json};

fn with_mounts(script: &str, mounts: Value) -> Value {
    let mut spec = config(script);
    let list = spec["mounts"].as_array_mut().unwrap();
    list.extend(mounts.as_array().unwrap().iter().cloned());
    spec
}

fn text(bundle: &Bundle, spec: &Value) -> String {
    let output = run(bundle, spec).unwrap_or_else(|e| {
        panic!("{e}: {}", std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default())
    });
    assert_eq!(output.status, 0, "{}", output.text);
    output.text
}

#[test]
fn bind_mounts_of_files_and_directories() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::create_dir(bundle.path().join("data")).unwrap();
    std::fs::write(bundle.path().join("data/file"), "data\n").unwrap();
    let spec = with_mounts(
        "cat /mnt/deep/er/file /etc/conf.d/one; touch /mnt/deep/er/new 2>/dev/null && echo writable; \
         grep ' /mnt/deep/er ' /proc/self/mountinfo; ls -ld /mnt/deep | cut -c1-10",
        json!([
            {"destination": "mnt//deep/./er/", "source": "data", "type": "none", "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]},
            {"destination": "/etc/conf.d/one", "source": "data/file", "options": ["bind"]}
        ]),
    );
    let text = text(&bundle, &spec);
    assert!(text.starts_with("data\ndata\n"), "{text}");
    assert!(!text.contains("writable"));
    assert!(text.contains("ro,nosuid,nodev,noexec"), "{text}");
    assert!(!bundle.path().join("data/new").exists());
    let place = std::fs::metadata(bundle.root().join("mnt/deep")).unwrap();
    assert_eq!(place.permissions().mode() & 0o7777, 0o755);
    assert!(std::fs::metadata(bundle.root().join("etc/conf.d/one")).unwrap().is_file());
}

#[test]
fn links_in_the_image_stay_inside() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::create_dir(bundle.path().join("data")).unwrap();
    std::fs::write(bundle.path().join("data/file"), "data\n").unwrap();
    symlink("/run", bundle.root().join("var/run")).unwrap();
    symlink("../../../../../../tmp", bundle.root().join("up")).unwrap();
    let spec = with_mounts(
        "cat /run/a/file /tmp/b/file",
        json!([
            {"destination": "/var/run/a", "source": "data", "options": ["rbind"]},
            {"destination": "/up/b", "source": "data", "options": ["rbind"]}
        ]),
    );
    assert_eq!(text(&bundle, &spec), "data\ndata\n");
    assert!(bundle.root().join("run/a").is_dir() && bundle.root().join("tmp/b").is_dir());
}

#[test]
fn proc_is_never_mounted_through_a_link() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::remove_dir(bundle.root().join("proc")).unwrap();
    symlink("tmp", bundle.root().join("proc")).unwrap();
    let error = run(&bundle, &config("true")).unwrap_err();
    assert!(error.to_string().contains("must be mounted on ordinary directory"), "{error}");
}

#[test]
fn a_tmpfs_with_options_and_the_images_content() {
    let Some(bundle) = Bundle::new() else { return };
    let dir = bundle.root().join("etc/skel");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file"), "copied\n").unwrap();
    std::fs::set_permissions(dir.join("sub"), std::fs::Permissions::from_mode(0o2750)).unwrap();
    symlink("/etc/motd", dir.join("link")).unwrap();
    let spec = with_mounts(
        "cat /etc/skel/sub/file /etc/skel/link; stat -c %a /etc/skel/sub; readlink /etc/skel/link; echo x >/etc/skel/new; \
         stat -c '%a' /scratch; grep ' /scratch ' /proc/self/mountinfo; touch /ro/x 2>/dev/null || echo ro",
        json!([
            {"destination": "/etc/skel", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1770", "size=100k", "noatime"]},
            {"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=64k"]}
        ]),
    );
    let text = text(&bundle, &spec);
    assert!(text.starts_with("copied\nfrom the image\n2750\n/etc/motd\n1770\n"), "{text}");
    assert!(text.contains("rw,noatime") && text.contains("size=100k"), "{text}");
    assert!(text.ends_with("ro\n"));
    assert!(!dir.join("new").exists());
}

#[test]
fn a_later_mount_covers_and_a_wrong_option_is_named() {
    let Some(bundle) = Bundle::new() else { return };
    let spec = with_mounts(
        "ls /m; ls /m/below",
        json!([
            {"destination": "/m/below", "type": "tmpfs", "options": ["mode=700"]},
            {"destination": "/m", "type": "tmpfs"},
            {"destination": "/m/below", "type": "tmpfs"}
        ]),
    );
    assert_eq!(text(&bundle, &spec), "below\n");
    let spec =
        with_mounts("true", json!([{"destination": "/m", "type": "tmpfs", "options": ["colour=blue"]}]));
    let error = run(&bundle, &spec).unwrap_err();
    assert!(error.to_string().ends_with("option colour=blue"), "{error}");
    let spec = with_mounts("true", json!([{"destination": "/m", "source": "missing", "options": ["bind"]}]));
    let error = run(&bundle, &spec).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_read_only_root_with_missing_mount_points() {
    let Some(bundle) = Bundle::new() else { return };
    let mut spec = with_mounts(
        "touch /x 2>/dev/null || echo ro; echo y >/made/here/y && echo rw",
        json!([{"destination": "/made/here", "type": "tmpfs"}]),
    );
    spec["root"]["readonly"] = json!(true);
    assert_eq!(text(&bundle, &spec), "ro\nrw\n");
    assert!(bundle.root().join("made/here").is_dir());
}

#[test]
fn masked_and_read_only_paths() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::create_dir(bundle.root().join("secret")).unwrap();
    std::fs::write(bundle.root().join("secret/key"), "secret\n").unwrap();
    let mut spec = config(
        "cat /etc/passwd; ls /secret; touch /secret/new 2>/dev/null || echo no; touch /var/x 2>/dev/null || echo ro; \
         cat /proc/kcore; ls /proc/acpi 2>/dev/null; ls /proc/scsi 2>/dev/null; grep ' /proc/sys ' /proc/self/mountinfo; true",
    );
    let linux = &mut spec["linux"];
    linux["maskedPaths"].as_array_mut().unwrap().extend([
        json!("/etc/passwd"),
        json!("/secret"),
        json!("/secret/key"),
        json!("/secret"),
        json!("/no/such"),
    ]);
    linux["readonlyPaths"].as_array_mut().unwrap().extend([json!("/var"), json!("/no/such")]);
    let text = text(&bundle, &spec);
    assert!(text.starts_with("no\nro\n"), "{text}");
    assert!(text.contains("ro,nosuid,nodev,noexec"), "flags of the mount it lies on: {text}");
    assert_eq!(std::fs::read_to_string(bundle.root().join("secret/key")).unwrap(), "secret\n");
}

#[test]
fn devices_work() {
    let Some(bundle) = Bundle::new() else { return };
    let mut spec = config(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T' /dev/$d; done; echo x >/dev/null; \
         head -c 2 /dev/zero | od -An -tx1; readlink /dev/fd; readlink /dev/ptmx; ls -l /dev/pts/ptmx | cut -c1-10",
    );
    if is_root() {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/deep/extra", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}
        ]);
        spec["process"]["args"][2] = json!(format!(
            "{}; stat -c '%a %u:%g %F' /dev/deep/extra /dev/pipe",
            spec["process"]["args"][2].as_str().unwrap()
        ));
    }
    let text = text(&bundle, &spec);
    for wanted in [
        "/dev/null 1:3",
        "/dev/zero 1:5",
        "/dev/full 1:7",
        "/dev/random 1:8",
        "/dev/urandom 1:9",
        "/dev/tty 5:0",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(
        text.contains(" 00 00\n") && text.contains("/proc/self/fd\n") && text.contains("pts/ptmx\n"),
        "{text}"
    );
    if is_root() {
        assert!(text.contains("640 5:6 character special file") && text.contains("600 0:0 fifo"), "{text}");
    }
}

#[test]
fn owners_of_an_idmapped_mount() {
    if !is_root() {
        return common::skipped("root", "idmapped mounts take CAP_SYS_ADMIN");
    }
    let Some(bundle) = Bundle::new() else { return };
    std::fs::create_dir(bundle.path().join("data")).unwrap();
    std::fs::write(bundle.path().join("data/file"), "").unwrap();
    let spec = with_mounts(
        "stat -c %u:%g /mnt/file /plain/file",
        json!([
            {"destination": "/mnt", "source": "data", "options": ["bind"],
             "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
             "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 10}]},
            {"destination": "/plain", "source": "data", "options": ["bind"]}
        ]),
    );
    assert_eq!(text(&bundle, &spec), "1000:2000\n0:0\n");
}

#[test]
fn a_tmpfs_without_a_mode_takes_that_of_the_directory_it_covers() {
    let Some(bundle) = Bundle::new() else { return };
    std::fs::set_permissions(bundle.root().join("var"), std::fs::Permissions::from_mode(0o2751)).unwrap();
    let spec = with_mounts(
        "stat -c %a /var /new /tmp",
        json!([
            {"destination": "/var", "type": "tmpfs"},
            {"destination": "/new", "type": "tmpfs"},
            {"destination": "/tmp", "type": "tmpfs", "options": ["mode=700"]}
        ]),
    );
    assert_eq!(text(&bundle, &spec), "2751\n1777\n700\n");
}
