//! Shared by the launch tests: a root file system of static busybox, a spec, and running it to its end.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test file uses its own part; helpers of tests are tests"
)]

#[path = "../fixture/need.rs"]
mod need;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use container_core::launch::{self, Io};
use container_core::oci_spec::runtime::Spec;
use container_core::plan::{Extras, Facts, Plan};
use serde_json::{Value, json};

pub(crate) use need::skip as skipped;

pub(crate) fn is_root() -> bool {
    Facts::gather().unwrap().privileged
}

/// A directory with a root file system in `rootfs`, removed at the end.
pub(crate) struct Bundle {
    pub(crate) dir: tempfile::TempDir,
}

impl Bundle {
    /// None (and a visible word) when no static busybox is to be had.
    pub(crate) fn new() -> Option<Self> {
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
        let Some(busybox) = busybox else {
            skipped("busybox", "no static busybox in /bin");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("launch-").tempdir_in(scratch()).unwrap();
        let root = dir.path().join("rootfs");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "var"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "id", "echo", "mount", "umount", "stat", "true", "false", "sleep", "env",
            "readlink", "pwd", "hostname", "touch", "mkdir", "rm", "ps", "grep", "wc", "ulimit", "test",
            "tty", "stty", "kill", "chmod", "cp", "dd", "ip", "nc", "setsid", "unshare", "nsenter", "chroot",
            "mknod", "sort", "head", "od",
        ] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:10:app\n").unwrap();
        std::fs::write(root.join("etc/motd"), "from the image\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }
}

/// Somewhere overlay and friends work: memory when there is some.
fn scratch() -> PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.into() } else { std::env::temp_dir() }
}

/// The usual spec, which runs `script` in a shell; a user namespace with the caller's own ids where it takes one.
pub(crate) fn config(script: &str) -> Value {
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_DAC_OVERRIDE"],
                "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_DAC_OVERRIDE"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_DAC_OVERRIDE"]
            }
        },
        "root": {"path": "rootfs"},
        "hostname": "case",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/scsi", "/proc/missing", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if !is_root() {
        add_user_namespace(&mut spec, own_uid(), own_gid());
    }
    spec
}

pub(crate) fn own_uid() -> u32 {
    Facts::gather().unwrap().uid
}

pub(crate) fn own_gid() -> u32 {
    Facts::gather().unwrap().gid
}

/// A user namespace whose root is the given ids, alone.
pub(crate) fn add_user_namespace(spec: &mut Value, uid: u32, gid: u32) {
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    spec["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    spec["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
}

pub(crate) fn extras(bundle: &Bundle) -> Extras {
    let mut extras = Extras::new(format!("t{}-{}", std::process::id(), unique()));
    extras.bundle = bundle.path().into();
    extras
}

fn unique() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

pub(crate) fn plan(bundle: &Bundle, spec: &Value) -> container_core::Result<Plan> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    Plan::new(&spec, &extras(bundle), &Facts::gather().unwrap())
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) text: String,
}

/// Runs a spec to its end; standard output and error together.
pub(crate) fn run(bundle: &Bundle, spec: &Value) -> container_core::Result<Output> {
    run_plan(&plan(bundle, spec)?)
}

pub(crate) fn run_plan(plan: &Plan) -> container_core::Result<Output> {
    let (running, read) = spawn(plan)?;
    let text = read_all(read);
    let status = wait(&running.pidfd);
    if let Some(cgroup) = &running.cgroup {
        cgroup.remove().unwrap();
    }
    Ok(Output { status, text })
}

/// Starts a plan. When another test's process is just being forked, it has the busybox that a third test copies open for
/// writing for a moment: that test's container is started again.
pub(crate) fn spawn(plan: &Plan) -> container_core::Result<(launch::Running, std::io::PipeReader)> {
    for _ in 0..100 {
        let (io, read) = captured();
        match launch::spawn(plan, io) {
            Err(error) if error.errno() == Some(rustix::io::Errno::TXTBSY.raw_os_error()) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return Ok((other?, read)),
        }
    }
    panic!("text file busy for half a second");
}

/// Exit status, or minus the signal.
pub(crate) fn wait(pidfd: &OwnedFd) -> i32 {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| -status.terminating_signal().unwrap())
}

/// Runs a script in the usual container and gives what it printed; it has to succeed.
pub(crate) fn script(script: &str) -> Option<String> {
    let bundle = Bundle::new()?;
    let output = run(&bundle, &config(script)).unwrap();
    assert_eq!(output.status, 0, "{}", output.text);
    Some(output.text)
}

/// Streams for a process whose output is collected.
pub(crate) fn captured() -> (Io, std::io::PipeReader) {
    let (read, write) = std::io::pipe().unwrap();
    let write = OwnedFd::from(write);
    let io = Io {
        stdin: Some(File::open("/dev/null").unwrap().into()),
        stdout: Some(write.try_clone().unwrap()),
        stderr: Some(write),
        ..Io::default()
    };
    (io, read)
}

pub(crate) fn read_all(mut from: std::io::PipeReader) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}
