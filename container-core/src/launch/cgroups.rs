//! The control group of a launch.

use cgroup::{Cgroup, CgroupPath, Controller, DeviceRule, Limits, Max};

use crate::error::{Error, Result};
use crate::plan::CgroupRequest;
use crate::step::Step;

/// A group made for a launch, with what could not be set.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) group: Option<Cgroup>,
    pub(super) skipped: Vec<String>,
}

/// Makes the group and sets its limits. It is removed again when that fails.
pub(super) fn make(request: Option<&CgroupRequest>) -> Result<Made> {
    let Some(request) = request else { return Ok(Made::default()) };
    let path = CgroupPath::new(&request.path)
        .map_err(|e| Error::invalid(format!("linux.cgroupsPath {}", request.path), e.to_string()))?;
    let limits = limits(request)?;
    let create = if request.take { Cgroup::create_or_take } else { Cgroup::create_with };
    let group = match create(&request.hierarchy, &path, request.controllers) {
        Ok(group) => group,
        Err(_) if request.optional => return Ok(Made::default()),
        // Rules about devices are no limit that may be left out: without them the host's disks are open.
        Err(e)
            if request.best_effort
                && !request.rules_devices
                && !matches!(e, cgroup::Error::Exists { .. } | cgroup::Error::NotEmpty { .. }) =>
        {
            let skipped = limits.controllers().iter();
            return Ok(Made {
                group: None,
                skipped: skipped.map(|name| format!("{name}: {}", reason(&e))).collect(),
            });
        }
        Err(e) if is_refusal(&e) && !limits.is_empty() => return Err(refused(&limits, e)),
        Err(e) => return Err(error(e)),
    };
    if request.best_effort {
        let mut skipped = group.apply_best_effort(&limits);
        let devices = skipped.iter().position(|skipped| skipped.controller == Controller::Devices);
        if let Some(at) = devices.filter(|_| request.rules_devices) {
            let _ = group.remove();
            return Err(limit_error(&limits, skipped.swap_remove(at).error));
        }
        let skipped =
            skipped.iter().map(|skipped| format!("{}: {}", skipped.controller, reason(&skipped.error)));
        return Ok(Made { skipped: skipped.collect(), group: Some(group) });
    }
    match group.apply(&limits) {
        Ok(()) => Ok(Made { group: Some(group), skipped: Vec::new() }),
        Err(e) => {
            let _ = group.remove();
            Err(limit_error(&limits, e))
        }
    }
}

fn limits(request: &CgroupRequest) -> Result<Limits> {
    let mut limits = match &request.resources {
        Some(resources) => Limits::try_from(resources).map_err(error)?,
        None => Limits::new(),
    };
    // A container that may make device nodes, or has some in its image, could open every device of the host: without a word in
    // the spec nothing is allowed but what every container has in its `/dev`.
    if request.rules_devices {
        limits.devices.get_or_insert_default();
    }
    if let Some(rules) = &mut limits.devices {
        rules.extend(DeviceRule::defaults());
    }
    Ok(limits)
}

/// With its cause, in one line.
fn reason(error: &cgroup::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn is_refusal(error: &cgroup::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

/// Somebody without rights over control groups asked for limits.
fn refused(limits: &Limits, cause: cgroup::Error) -> Error {
    let why = match cause.raw_os_error() {
        Some(libc::EROFS) => "cgroup file system is read-only",
        _ => "no control group may be made here: it takes root, or a group that was delegated to this user",
    };
    Error::Limit {
        limit: limits.controllers().to_string(),
        reason: format!("{why}; or ask for limits as best effort"),
        source: Box::new(cause),
    }
}

/// The reason for a set-up that failed, where it is that the group's memory limit was met: the kernel killed the process, or
/// refused it memory.
pub(super) fn explain(group: Option<&Cgroup>, error: Error) -> Error {
    let killed = matches!(&error, Error::Setup { step: Step::Clone, .. });
    // The kernel says E2BIG when there is no memory to copy the arguments to.
    if !killed && !matches!(error.errno(), Some(libc::ENOMEM | libc::E2BIG)) {
        return error;
    }
    let Some(memory) = group.and_then(|group| group.stats().ok()).map(|stats| stats.memory) else {
        return error;
    };
    // Which process was killed for want of memory is counted where its memory is charged, which is not here while that is the
    // host program's. So the level tells: the kernel charges up to 64 pages at a time.
    const BATCH: u64 = 64 * 4096;
    let met = memory.limit_hits.is_some_and(|hits| hits > 0)
        || matches!((memory.peak, memory.max), (Some(peak), Some(Max::At(max))) if peak + BATCH >= max);
    if !met {
        return error;
    }
    Error::Limit {
        limit: "memory".to_owned(),
        reason: "it is too small for the container to be set up".to_owned(),
        source: Box::new(error),
    }
}

fn limit_error(limits: &Limits, cause: cgroup::Error) -> Error {
    let (limit, reason) = match &cause {
        cgroup::Error::Limit { controller, value, file, .. } => {
            (controller.to_string(), format!("the kernel refused {value} in {}", file.display()))
        }
        cgroup::Error::NoController { controller, reason } => (controller.to_string(), reason.clone()),
        cgroup::Error::InvalidLimit { limit, value, reason } => {
            (format!("{limit} = {value}"), (*reason).to_owned())
        }
        cgroup::Error::Unsupported { limit, version } => {
            ((*limit).to_owned(), format!("cgroup {version} has no such limit"))
        }
        _ => (limits.controllers().to_string(), "it could not be set".to_owned()),
    };
    Error::Limit { limit, reason, source: Box::new(cause) }
}

pub(super) fn error(error: cgroup::Error) -> Error {
    Error::Cgroup(Box::new(error))
}
