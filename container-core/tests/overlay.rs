//! Roots of many layers, on every kernel.

mod fixture;

use container_core::Container;
use container_core::plan::{LowerLayer, Rootfs, UpperLayer};
use fixture::Root;

/// As many as an image can have in other engines, and paths of any length. Before Linux 6.5 they do not fit into an option.
#[test]
fn a_root_of_128_layers() {
    if !fixture::containers() {
        return;
    }
    if let Some(why) =
        container_core::Host::probe().unwrap().verdict(container_core::Feature::Overlay).obstacle()
    {
        return fixture::skip("overlay", why);
    }
    let root = Root::new();
    let layers = tempfile::Builder::new().prefix("container-core-test-").tempdir().unwrap();
    let mut lower = Vec::new();
    for number in 0..127 {
        let layer = layers.path().join(format!("{number}-{}", "x".repeat(200)));
        std::fs::create_dir_all(layer.join("layers")).unwrap();
        std::fs::write(layer.join("layers").join(number.to_string()), "").unwrap();
        std::fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.push(LowerLayer::Directory(layer));
    }
    lower.push(LowerLayer::Directory(root.path().to_owned()));
    for upper in [None, Some(UpperLayer::Memory { size: 1 << 20 })] {
        let writes = upper.is_some();
        let rootfs =
            Rootfs::Overlay { lower: lower.clone(), upper, userxattr: !fixture::is_root(), volatile: false };
        let script = "cat /top; ls /layers | wc -l; echo x > /layers/new && echo written";
        let builder = Container::builder().rootfs_mount(rootfs).command(["/bin/sh", "-c", script]);
        let output = fixture::with_tools(builder).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, if writes { vec!["0127", "written"] } else { vec!["0127"] }, "{text}");
    }
}
