//! Programs that start containers, timed from outside.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::bundle::Bundle;

/// A command that makes the container of the bundle; the container's name is its last word.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    words: Vec<OsString>,
    /// Names what it starts.
    named: bool,
}

impl Program {
    fn engine(name: &str, program: &Path, bundle: &Bundle, which: &str, detached: bool) -> Self {
        let state = bundle.directory.join("state").join(name.replace(' ', "-"));
        std::fs::create_dir_all(&state).unwrap();
        let mut words: Vec<OsString> = vec![program.into(), "--root".into(), state.into(), "run".into()];
        if detached {
            words.push("--detach".into());
        }
        words.extend(["--bundle".into(), bundle.directory.join(which).into()]);
        Self { name: name.to_owned(), words, named: true }
    }

    fn command(&self, id: &str) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if self.named {
            command.arg(id);
        }
        command
    }

    /// Runs it under a name that is used once.
    pub(crate) fn run(&self) -> bool {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1000);
        self.run_as(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    pub(crate) fn run_as(&self, number: usize) -> bool {
        self.command(&id(number)).status().is_ok_and(|status| status.success())
    }

    pub(crate) fn delete(&self, number: usize) {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..3]).args(["delete", "--force"]).arg(id(number));
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    /// How many system calls it and its children make.
    pub(crate) fn system_calls(&self) -> Option<u64> {
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-q"]).args(&self.words).arg(id(0)).stdin(Stdio::null());
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let total = text.lines().rfind(|line| line.ends_with(" total"))?;
        // Share, seconds, microseconds a call, calls, and errors where there are some.
        total.split_whitespace().nth(3)?.parse().ok()
    }
}

fn id(number: usize) -> String {
    format!("bench-{}-{number}", std::process::id())
}

/// A program found in PATH.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// crun, runc and bwrap, as far as they are there. In this order, for the goals.
pub(crate) fn engines(bundle: &Bundle) -> Vec<Program> {
    let mut all: Vec<Program> = ["crun", "runc"]
        .into_iter()
        .map(|name| {
            let program = found(name).unwrap_or_else(|| name.into());
            Program::engine(name, &program, bundle, "plain", false)
        })
        .collect();
    let [root, filter] =
        ["rootfs", "bitmap.bpf"].map(|name| bundle.directory.join(name).display().to_string());
    let script = format!(
        "exec bwrap --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup --bind {root} / \
         --proc /proc --dev /dev --tmpfs /dev/shm --mqueue /dev/mqueue --ro-bind /sys /sys --hostname bench \
         --cap-drop ALL --seccomp 9 /bin/true 9<{filter}"
    );
    let words = ["/bin/sh", "-c", &script].map(OsString::from).to_vec();
    all.push(Program { name: "bwrap".into(), words, named: false });
    all
}

/// crun and runc, with containers that stay.
pub(crate) fn sleepers(bundle: &Bundle) -> Vec<Program> {
    ["crun", "runc"]
        .into_iter()
        .filter_map(|name| Some(Program::engine(name, &found(name)?, bundle, "sleep", true)))
        .collect()
}

/// Our own command.
pub(crate) fn oci_runtime(bundle: &Bundle) -> Option<Program> {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.parent()?.parent()?.join("examples/oci-runtime"))
    };
    let program = std::env::var_os("BENCH_OCI_RUNTIME").map(PathBuf::from).or_else(beside)?;
    if !program.is_file() {
        println!(
            "SKIPPED: {}: build it with `cargo build --release -p examples --example oci-runtime`",
            program.display()
        );
        return None;
    }
    Some(Program::engine("oci-runtime", &program, bundle, "plain", false))
}

/// The least that the kernel needs, with what the preset makes beforehand: its median in microseconds.
pub(crate) fn floor(bundle: &Bundle, preset: &str, count: usize, pause: Duration) -> Option<f64> {
    let program = std::env::var_os("BENCH_FLOOR")?;
    let mut command = Command::new(program);
    command.args(["ladder", &count.to_string()]).arg(&bundle.directory).arg(preset);
    command.env("FLOOR_UPPER", bundle.directory.join("layers"));
    if !pause.is_zero() {
        command.env("FLOOR_GAP_MS", pause.as_millis().to_string());
    }
    let text = String::from_utf8(command.output().ok()?.stdout).ok()?;
    text.lines().last()?.split_whitespace().nth(2)?.parse().ok()
}

/// This program in a mount namespace with so many mounts more.
pub(crate) fn beside_mounts(bundle: &Bundle, count: usize) -> Command {
    let place = bundle.directory.join("mounts");
    std::fs::create_dir_all(&place).unwrap();
    let mut command = Command::new("unshare");
    let script = format!(
        "for n in $(seq {count}); do mkdir -p {0}/$n && mount -t tmpfs none {0}/$n; done; exec \"$@\"",
        place.display()
    );
    command.args(["--mount", "/bin/sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    command
}

/// crun of old refuses a host with control groups of both versions when a controller is left to version 2. Seen through a mount
/// namespace of our own, none is.
pub(crate) fn mask_left_over_controllers() {
    let left_over = Path::new("/sys/fs/cgroup/unified/cgroup.controllers");
    let masked = "BENCH_MASKED";
    let some = std::fs::read(left_over).is_ok_and(|text| !text.is_empty());
    if !some || std::env::var_os(masked).is_some() {
        return;
    }
    let script = "mount --bind /dev/null \"$1\"; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", script, "sh"]).arg(left_over).args(std::env::args_os());
    // Only comes back when it fails; then crun is left out by itself.
    let _ = command.env(masked, "1").exec();
}
