//! A state directory and bundles of its own for each test, and nothing left afterwards.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Says that a test does not run here, and fails where the environment promises that it does.
pub fn skip(need: &str, reason: &str) {
    // Past the capture of output that successful tests have.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: {reason}\n"));
    let required = std::env::var("CONTAINER_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word.trim() == need), "{need} is required here: {reason}");
}

/// The example, which cargo builds for the tests of its package.
pub fn runtime() -> PathBuf {
    if let Some(other) = std::env::var_os("OCI_RUNTIME") {
        return other.into();
    }
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples/oci-runtime")
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where a test's containers live.
pub struct Sandbox {
    scratch: TempDir,
    /// In every command line and path of this sandbox, and in nobody else's.
    pub mark: String,
}

impl Sandbox {
    /// `None` (and a visible word) where there is no static program to put into a container.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let busybox = Path::new("/bin/busybox");
        if !busybox.exists() {
            skip("busybox", "there is no static /bin/busybox");
            return None;
        }
        if !is_root() && !unshare_works() {
            skip("userns", "an ordinary user can make no user namespace here");
            return None;
        }
        let mark = format!("ocirt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let scratch = tempfile::Builder::new().prefix(&mark).tempdir().unwrap();
        let root = scratch.path().join("bundle/rootfs");
        for directory in ["bin", "proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "true", "cat", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let sandbox = Self { scratch, mark };
        sandbox.configure(&["sleep", "1000"], |_| {});
        Some(sandbox)
    }

    pub fn bundle(&self) -> PathBuf {
        self.scratch.path().join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// Writes the configuration: `args` in namespaces of its own, changed by `change`.
    pub fn configure(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let mut kinds = vec!["pid", "ipc", "uts", "mount"];
        if !is_root() {
            kinds.push("user");
        }
        let namespaces: Vec<_> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
        let mut config = json!({
            "ociVersion": "1.2.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "env": ["PATH=/bin"], "cwd": "/" },
            "root": { "path": "rootfs" },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": namespaces },
        });
        if is_root() {
            config["linux"]["cgroupsPath"] = format!("/{}", self.mark).into();
        } else {
            let id = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
            config["linux"]["uidMappings"] = id(nix::unistd::geteuid().as_raw());
            config["linux"]["gidMappings"] = id(nix::unistd::getegid().as_raw());
        }
        change(&mut config);
        std::fs::write(self.bundle().join("config.json"), config.to_string()).unwrap();
    }

    /// The runtime with this sandbox's state directory.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(runtime());
        command.arg("--root").arg(self.state()).args(args).current_dir(self.bundle()).stdin(Stdio::null());
        command
    }

    /// Runs a command and returns what it said. Output goes to files: a container that inherits a pipe would keep it open.
    pub fn call(&self, args: &[&str]) -> Output {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = self.scratch.path().join(format!("output{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let [out, err] = ["out", "err"].map(|kind| base.with_extension(kind));
        let create = |path: &Path| std::fs::File::create(path).unwrap();
        let status = self.command(args).stdout(create(&out)).stderr(create(&err)).status().unwrap();
        let take = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::remove_file(path).unwrap();
            bytes
        };
        Output { status, stdout: take(&out), stderr: take(&err) }
    }

    /// Runs a command that has to succeed, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to fail, and returns its one line of complaint.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.call(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?} succeeded");
        assert!(text.starts_with("error: ") && text.lines().count() == 1, "{args:?}: {text:?}");
        text
    }

    pub fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self, id: &str) -> i32 {
        let state: Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["pid"].as_i64().unwrap() as i32
    }

    /// What is left of this sandbox's containers: processes, control groups, state.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = processes(&self.mark);
        left.extend(cgroups(&self.mark));
        if let Ok(entries) = std::fs::read_dir(self.state()) {
            left.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
        }
        left
    }

    /// Nothing is left, or will be in a moment: a process that was killed takes its time.
    pub fn assert_clean(&self, when: &str) {
        let clean = eventually(|| self.leftovers().is_empty());
        assert!(clean, "{when}: left behind {:?}", self.leftovers());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.state()).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str() {
                let _ = self.command(["delete", "--force", id]).output();
            }
        }
    }
}

/// Whether `condition` holds within ten seconds.
pub fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    condition()
}

/// Processes whose command line or control group has `mark` in it. One that has ended and waits for init to notice is gone.
fn processes(mark: &str) -> Vec<String> {
    let own = std::process::id();
    let lives = |process: &Path| {
        std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    let has =
        |file: PathBuf| std::fs::read(file).is_ok_and(|text| String::from_utf8_lossy(&text).contains(mark));
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .map(|pid| PathBuf::from(format!("/proc/{pid}")))
        .filter(|path| has(path.join("cmdline")) || has(path.join("cgroup")))
        .filter(|path| lives(path))
        .map(|path| path.display().to_string())
        .collect()
}

/// Control groups of the name `mark`.
fn cgroups(mark: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(|mountpoint| Path::new(mountpoint).join(mark))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect()
}

fn unshare_works() -> bool {
    Command::new("unshare").args(["-Ur", "true"]).output().is_ok_and(|output| output.status.success())
}
