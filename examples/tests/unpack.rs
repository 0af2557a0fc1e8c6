//! What the example `unpack` promises: an image becomes a directory, or one line says by its first word why not.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image_layers::{Image, ImageBuilder, LayerBuilder, Store};

fn unpack(arguments: &[&Path]) -> Output {
    // target/debug/deps/unpack-HASH -> target/debug/examples/unpack
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join("unpack");
    Command::new(program).args(arguments).output().unwrap()
}

/// A store is an OCI layout, too.
fn image(dir: &Path, content: &[u8]) -> (PathBuf, Image) {
    let store = Store::open_or_create(dir).unwrap();
    let layer = LayerBuilder::new().content("/etc/motd", content, 0o640).symlink("/link", "etc/motd");
    let image =
        ImageBuilder::new().layer(layer).cmd(["/bin/sh"]).build(&store, Some(&"demo:1".parse().unwrap()));
    (dir.to_owned(), image.unwrap())
}

#[test]
fn an_image_becomes_a_directory() {
    let scratch = tempfile::tempdir().unwrap();
    let (input, _) = image(&scratch.path().join("image"), b"hello\n");
    let root = scratch.path().join("root");
    let output = unpack(&[&input, &root]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(fs::read(root.join("link")).unwrap(), b"hello\n");
    let output = unpack(&[Path::new("--config"), &input]);
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(config["config"]["Cmd"][0], "/bin/sh");
    // What is there already is nobody's to overwrite.
    fs::write(root.join("mine"), "").unwrap();
    assert_eq!(unpack(&[&input, &root]).status.code(), Some(1));
    assert!(root.join("mine").exists());
}

#[test]
fn a_failure_is_one_line_that_begins_with_its_class() {
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name);
    let (input, made) = image(&place("image"), b"hello\n");
    let (damaged, _) = image(&place("damaged"), b"hello\n");
    let blob = |image: &Path| image.join("blobs/sha256").join(made.layers()[0].digest.hex());
    let mut bytes = fs::read(blob(&damaged)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(blob(&damaged)).unwrap();
    fs::write(blob(&damaged), &bytes).unwrap();
    let (short, _) = image(&place("short"), b"hello\n");
    fs::remove_file(blob(&short)).unwrap();
    fs::write(blob(&short), &bytes[..bytes.len() - 1]).unwrap();
    let text = place("text");
    fs::write(&text, "no image".repeat(100)).unwrap();
    let odd = place("odd\nname\u{1b}[31m");
    let path = |text: &'static str| PathBuf::from(text);
    let cases: [(&str, Vec<PathBuf>); 7] = [
        ("not found: ", vec![odd]),
        ("invalid: ", vec![text]),
        ("not found: ", vec![path("--ref"), path("other:1"), input.clone()]),
        ("platform: ", vec![path("--platform"), path("plan9/mips"), input.clone()]),
        ("too large: ", vec![path("--max-layer-bytes"), path("100"), input]),
        ("digest: ", vec![damaged]),
        ("size: ", vec![short]),
    ];
    for (class, mut arguments) in cases {
        arguments.push(place("root"));
        let output = unpack(&arguments.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(class), "{class:?}: {said}");
        assert!(said.ends_with('\n') && !said.trim_end().contains(char::is_control), "{said:?}");
        assert!(!place("root").exists(), "{class}: something is left behind");
    }
    assert_eq!(unpack(&[Path::new("--nonsense")]).status.code(), Some(2));
}
