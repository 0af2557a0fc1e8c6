//! Starting a container changes nothing of the program that starts it. Alone in its file: other tests change its descriptors.

mod common;

use common::{Bundle, config, run};
use serde_json::json;

#[test]
fn nothing_of_the_caller_changes() {
    let Some(bundle) = Bundle::new() else { return };
    let state = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let keep = [
            "Umask",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "Uid",
            "Groups",
            "CapEff",
            "CapBnd",
            "NoNewPrivs",
            "Seccomp",
        ];
        let lines: Vec<String> =
            status.lines().filter(|l| keep.iter().any(|k| l.starts_with(k))).map(str::to_owned).collect();
        let links = ["cwd", "root", "ns/mnt", "ns/net", "ns/pid_for_children", "ns/user"]
            .map(|name| std::fs::read_link(format!("/proc/self/{name}")).unwrap());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
        (
            lines,
            links,
            mounts,
            descriptors,
            std::fs::metadata("/proc/self/status").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap(),
        )
    };
    run(&bundle, &config("true")).unwrap();
    let before = state();
    run(&bundle, &config("true")).unwrap();
    let mut spec = config("true");
    spec["process"]["args"] = json!(["missing"]);
    run(&bundle, &spec).unwrap_err();
    assert_eq!(state(), before);
}
