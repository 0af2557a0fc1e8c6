//! `spec`: a configuration to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::failure::Failure;

/// Writes `config.json` into `bundle` (default: the working directory); one that is there stays.
pub fn spec(bundle: Option<&Path>, rootless: bool) -> Result<(), Failure> {
    let path = bundle.unwrap_or(Path::new(".")).join("config.json");
    let mut text = serde_json::to_string_pretty(&default(rootless))
        .map_err(|error| Failure::because("make a configuration", error))?;
    text.push('\n');
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(format!("file {} exists. Remove it first", path.display()))
            }
            _ => Failure::because(format!("write {}", path.display()), error),
        })
}

fn default(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // On version 1 the container would see of its control groups what it may not change.
        namespaces.push("cgroup");
    }
    let devpts = "newinstance,ptmxmode=0666,mode=0620";
    let mut config = json!({
        "ociVersion": container_core::SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", "proc", ""),
            mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "devpts", &format!("nosuid,noexec,{devpts},gid=5")),
            mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if rootless {
        // What an ordinary user may not do is left out: limits, group 5 of the terminals, a network and sysfs of its own.
        namespaces.retain(|name| *name != "network");
        namespaces.push("user");
        config["mounts"][2] = mount("/dev/pts", "devpts", "devpts", &format!("nosuid,noexec,{devpts}"));
        config["mounts"][5] = mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro");
        if let Some(linux) = config["linux"].as_object_mut() {
            linux.remove("resources");
            let id = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
            linux.insert("uidMappings".into(), id(nix::unistd::geteuid().as_raw()));
            linux.insert("gidMappings".into(), id(nix::unistd::getegid().as_raw()));
        }
    }
    config["linux"]["namespaces"] = namespaces.iter().map(|name| json!({ "type": name })).collect();
    config
}

fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Value {
    let mut mount = json!({ "destination": destination, "type": kind, "source": source });
    if !options.is_empty() {
        mount["options"] = options.split(',').collect();
    }
    mount
}

#[cfg(test)]
mod tests {
    use super::default;
    use container_core::oci_spec::runtime::Spec;

    #[test]
    fn it_is_a_configuration() {
        for rootless in [false, true] {
            let spec: Spec = serde_json::from_value(default(rootless)).unwrap();
            assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        }
    }
}
