//! A bundle: the directory with `config.json`.

use std::path::{Path, PathBuf};

use container_core::oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use serde_json::Value;

use crate::failure::Failure;
use crate::log::Log;

/// A bundle that was read.
pub struct Bundle {
    /// Absolute path of the directory.
    pub path: PathBuf,
    pub spec: Spec,
    /// The configuration as text, to be kept with the container's state.
    pub json: Vec<u8>,
}

impl Bundle {
    /// Reads `config` (default: `config.json`) in `directory` (default: the working directory).
    pub fn load(directory: Option<&Path>, config: Option<&Path>, log: &Log) -> Result<Self, Failure> {
        let path = match directory {
            Some(directory) => std::path::absolute(directory),
            None => std::env::current_dir(),
        };
        let path = plain(&path.map_err(|error| Failure::because("find the bundle", error))?);
        let file = path.join(config.unwrap_or(Path::new("config.json")));
        let json = std::fs::read(&file).map_err(|error| {
            Failure::because(
                format!("JSON specification file {} not found or not readable", file.display()),
                error,
            )
        })?;
        let mut spec: Spec = match serde_json::from_slice(&json) {
            Ok(spec) => spec,
            Err(error) => {
                let wrong = |error: &serde_json::Error| {
                    Failure::new(format!("parse {} as JSON: {error}", file.display()))
                };
                // What this runtime need not know may still be there: look for it only now that the short way failed.
                let mut value: Value = serde_json::from_slice(&json).map_err(|_| wrong(&error))?;
                check_memory_policy(&value)?;
                if !make_known(&mut value, log) {
                    return Err(wrong(&error));
                }
                let json = serde_json::to_vec(&value).map_err(|error| wrong(&error))?;
                let spec = serde_json::from_slice(&json).map_err(|error| wrong(&error))?;
                return Self { path, spec, json }.checked(log);
            }
        };
        // Explicit, so that what is kept and what is run agree.
        if spec.version().is_empty() {
            spec.set_version("1.0.0".to_owned());
        }
        Self { path, spec, json }.checked(log)
    }

    /// The kernel takes nothing into the ambient set that may not be inherited.
    fn tell_of_ambient(&self, log: &Log) {
        let Some(sets) = self.spec.process().as_ref().and_then(|process| process.capabilities().as_ref())
        else {
            return;
        };
        let inheritable =
            |capability| sets.inheritable().as_ref().is_some_and(|set| set.contains(capability));
        let mut refused: Vec<String> = sets
            .ambient()
            .iter()
            .flatten()
            .filter(|&capability| !inheritable(capability))
            .map(|capability| format!("CAP_{capability}"))
            .collect();
        // In one line: engines list every capability there.
        refused.sort_unstable();
        match &refused[..] {
            [] => {}
            [one] => {
                log.warn(&format!("can't raise ambient capability {one}: it is not in the inheritable set"))
            }
            several => log.warn(&format!(
                "can't raise ambient capabilities {}: they are not in the inheritable set",
                several.join(", ")
            )),
        }
    }

    fn checked(mut self, log: &Log) -> Result<Self, Failure> {
        check_version(self.spec.version())?;
        if !crate::context::is_host_root() {
            pass_over_device_rules(&mut self.spec, log);
        }
        self.tell_of_ambient(log);
        if self.spec.linux().is_none() {
            return Err(Failure::new(
                "config.json has no linux section: this runtime runs Linux containers only",
            ));
        }
        Ok(self)
    }

    /// Where the root file system is on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.spec.root().as_ref().map(|root| self.path.join(root.path())).unwrap_or_else(|| self.path.clone())
    }
}

/// Rules about devices, which Podman writes into every configuration, need the host's root. In a user namespace no device node can
/// be made, and none of the image's opened: what is left are nodes of the host that are bound in, and their modes. runc and crun
/// pass over the rules as well.
fn pass_over_device_rules(spec: &mut Spec, log: &Log) {
    let Some(linux) = spec.linux_mut() else { return };
    let Some(resources) = linux.resources_mut() else { return };
    if resources.devices().is_some() {
        log.debug("an ordinary user's container: rules about devices are passed over");
        resources.set_devices(None);
    }
    if *resources == LinuxResources::default() {
        linux.set_resources(None);
    }
}

/// `path` without `..`, by its words alone: what clients compare with what they gave.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// Whether the container keeps the caller's supplementary groups: crun's annotation, which Podman writes for
/// `--group-add keep-groups`.
pub fn keeps_groups(spec: &Spec) -> bool {
    let value = spec.annotations().as_ref().and_then(|all| all.get("run.oci.keep_original_groups"));
    value.is_some_and(|value| value == "1" || value == "true")
}

/// Reads a process document: the file of `exec --process`.
pub fn process(file: &Path, log: &Log) -> Result<Process, Failure> {
    let json =
        std::fs::read(file).map_err(|error| Failure::because(format!("read {}", file.display()), error))?;
    serde_json::from_slice(&json).or_else(|error| {
        let wrong = || Failure::new(format!("parse {} as JSON: {error}", file.display()));
        let mut value: Value = serde_json::from_slice(&json).map_err(|_| wrong())?;
        if !known_process(&mut value, log) {
            return Err(wrong());
        }
        serde_json::from_value(value)
            .map_err(|error| Failure::new(format!("parse {} as JSON: {error}", file.display())))
    })
}

/// What is wrong with the memory policy, by the names of the specification: the types know which there are.
fn check_memory_policy(config: &Value) -> Result<(), Failure> {
    use container_core::oci_spec::runtime::{MemoryPolicyFlagType, MemoryPolicyModeType};
    let Some(policy) = config.pointer("/linux/memoryPolicy") else { return Ok(()) };
    let mode = policy.get("mode").unwrap_or(&Value::Null);
    if serde_json::from_value::<MemoryPolicyModeType>(mode.clone()).is_err() {
        return Err(Failure::new(format!("invalid memory policy mode {mode}")));
    }
    let flags = policy.get("flags").and_then(Value::as_array).into_iter().flatten();
    match flags
        .into_iter()
        .find(|flag| serde_json::from_value::<MemoryPolicyFlagType>((*flag).clone()).is_err())
    {
        Some(flag) => Err(Failure::new(format!("invalid memory policy flag {flag}"))),
        None => Ok(()),
    }
}

/// Takes out what a runtime must pass over but the types refuse; whether anything was changed.
fn make_known(config: &mut Value, log: &Log) -> bool {
    let changed = without_nulls(config);
    config.get_mut("process").is_some_and(|process| known_process(process, log)) | changed
}

/// What a process may leave out, or say in words that the types do not have.
fn known_process(process: &mut Value, log: &Log) -> bool {
    let mut changed = process.get_mut("capabilities").is_some_and(|sets| known_capabilities(sets, log));
    let Some(fields) = process.as_object_mut() else { return changed };
    // Root, as for every runtime.
    if !fields.contains_key("user") {
        fields.insert("user".into(), serde_json::json!({ "uid": 0, "gid": 0 }));
        changed = true;
    }
    let flags = fields.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        // The specification's spelling on the left.
        let known = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = known.into();
        changed = true;
    }
    changed
}

/// Go's clients write `null` for what is absent.
fn without_nulls(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            let before = map.len();
            map.retain(|_, value| !value.is_null());
            let removed = map.len() != before;
            map.values_mut().fold(removed, |changed, value| without_nulls(value) | changed)
        }
        Value::Array(items) => items.iter_mut().fold(false, |changed, item| without_nulls(item) | changed),
        _ => false,
    }
}

/// The runtime specification: a capability that the runtime does not know is warned about and passed over.
fn known_capabilities(sets: &mut Value, log: &Log) -> bool {
    let Some(sets) = sets.as_object_mut() else { return false };
    let mut unknown: Vec<String> = Vec::new();
    for names in sets.values_mut().filter_map(Value::as_array_mut) {
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str())
                && !unknown.iter().any(|seen| seen == name)
            {
                unknown.push(name.to_owned());
            }
            known
        });
    }
    if unknown.is_empty() {
        return false;
    }
    log.warn(&format!("ignoring unknown or unavailable capabilities: [{}]", unknown.join(" ")));
    true
}

/// Any 1.x is taken: what a newer minor version adds may be ignored, and 2.0 may mean anything.
fn check_version(version: &str) -> Result<(), Failure> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => {
            Err(Failure::new(format!("ociVersion {version:?} is not supported: only 1.x is")))
        }
        _ => Err(Failure::new(format!("ociVersion {version:?} is no version: it must be like 1.2.0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_version_1_is_taken() {
        for version in ["1.0.0", "1.3.0", "1.0.2-dev", "1.99.0+x"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["", "1", "1.0", "2.0.0", "0.9.0", "x.y.z", "1.0.0.0"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }

    #[test]
    fn unknown_capabilities_are_passed_over() {
        let mut sets =
            serde_json::json!({ "bounding": ["CAP_KILL", "CAP_TO_COME"], "effective": ["CAP_TO_COME"] });
        assert!(known_capabilities(&mut sets, &Log::default()));
        assert_eq!(sets, serde_json::json!({ "bounding": ["CAP_KILL"], "effective": [] }));
        assert!(!known_capabilities(&mut sets, &Log::default()));
    }
}
