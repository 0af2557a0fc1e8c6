//! The control group of a launch.

use cgroup::{Cgroup, CgroupPath, DeviceRule, Limits};

use crate::error::{Error, Result};
use crate::plan::CgroupRequest;

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
        Err(e)
            if request.best_effort
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
        let skipped = group.apply_best_effort(&limits);
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
    Error::Limit {
        limit: limits.controllers().to_string(),
        reason:
            "no control group may be made here: it takes root, or a group that was delegated to this user; \
                 or ask for limits as best effort"
                .into(),
        source: Box::new(cause),
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
