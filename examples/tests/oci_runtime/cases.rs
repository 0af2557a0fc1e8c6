//! The contract of the runtime cases: configurations and steps from public reports about other engines, each with the right
//! answer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{runtime, skip};

fn cases() -> Option<PathBuf> {
    let shared = std::env::var_os("CONTAINER_CASES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let script = shared.join("cases/runtime/run_cases.py");
    script.is_file().then_some(script)
}

#[test]
fn every_runtime_case_passes() {
    let Some(script) = cases() else {
        return skip("shared", "the runtime cases are not here: name their directory in CONTAINER_CASES");
    };
    if !Path::new("/bin/busybox").exists() {
        return skip("shared", "the cases need a static /bin/busybox");
    }
    let output = match Command::new("python3").arg(script).arg(runtime()).output() {
        Ok(output) => output,
        Err(error) => return skip("shared", &format!("python3: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let failures: String =
        text.lines().filter(|line| line.starts_with("FAIL")).map(|line| format!("{line}\n")).collect();
    println!("{}", text.lines().last().unwrap_or_default());
    assert!(output.status.success(), "{failures}{}", String::from_utf8_lossy(&output.stderr));
}
