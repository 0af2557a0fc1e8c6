//! The one container that all make.

use std::fs;
use std::path::{Path, PathBuf};

use benches::busybox_root;
use container_core::Capability;
use container_core::oci_spec::runtime::Spec;
use container_core::seccomp;
use serde_json::{Value, json};

/// A directory with `rootfs`, the bundles `plain` and `sleep`, the filter ready-made, and the names it allows.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) directory: PathBuf,
}

impl Bundle {
    pub(crate) fn make(directory: &Path) -> Option<Self> {
        let root = busybox_root(directory).unwrap()?;
        assert!(root.ends_with("rootfs"));
        for (name, arguments) in [("plain", &["/bin/true"][..]), ("sleep", &["/bin/sleep", "1000000"])] {
            let bundle = directory.join(name);
            fs::create_dir(&bundle).unwrap();
            fs::write(bundle.join("config.json"), config(arguments).to_string()).unwrap();
        }
        fs::create_dir(directory.join("layers")).unwrap();
        let profile = seccomp::default_profile(&[]);
        let filter = seccomp::compile(&profile).unwrap();
        let words = filter.filter.iter().flat_map(|instruction| {
            let mut bytes = Vec::from(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
            bytes
        });
        fs::write(directory.join("bitmap.bpf"), words.collect::<Vec<u8>>()).unwrap();
        let allowed = profile.syscalls().iter().flatten().filter(|rule| rule.args().is_none());
        let names: Vec<&str> = allowed.flat_map(|rule| rule.names()).map(String::as_str).collect();
        fs::write(directory.join("names"), names.join("\n")).unwrap();
        Some(Self { directory: directory.to_owned() })
    }

    pub(crate) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn spec(&self, name: &str) -> Spec {
        serde_json::from_slice(&fs::read(self.directory.join(name).join("config.json")).unwrap()).unwrap()
    }
}

fn config(arguments: &[&str]) -> Value {
    const CAPABILITIES: [Capability; 14] = [
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fsetid,
        Capability::Fowner,
        Capability::Mknod,
        Capability::NetRaw,
        Capability::Setgid,
        Capability::Setuid,
        Capability::Setfcap,
        Capability::Setpcap,
        Capability::NetBindService,
        Capability::SysChroot,
        Capability::Kill,
        Capability::AuditWrite,
    ];
    let capabilities: Vec<String> = CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": arguments, "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/", "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
        },
        "root": {"path": "../rootfs", "readonly": false},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 268_435_456}, "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": 512}
            },
            "namespaces": kinds,
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp::default_profile(&CAPABILITIES)
        }
    })
}
