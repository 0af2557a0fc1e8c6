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
    let group = match Cgroup::create_with(&request.hierarchy, &path, request.controllers) {
        Ok(group) => group,
        Err(_) if request.optional || request.best_effort => return Ok(Made::default()),
        Err(e) => return Err(error(e)),
    };
    match limit(&group, request) {
        Ok(skipped) => Ok(Made { group: Some(group), skipped }),
        Err(error) => {
            let _ = group.remove();
            Err(error)
        }
    }
}

fn limit(group: &Cgroup, request: &CgroupRequest) -> Result<Vec<String>> {
    let Some(resources) = &request.resources else { return Ok(Vec::new()) };
    let mut limits = Limits::try_from(resources).map_err(error)?;
    // What every container has in its `/dev` can be made and used, whatever the list says: all runtimes add these rules.
    if let Some(rules) = &mut limits.devices {
        rules.extend(DeviceRule::defaults());
    }
    if request.best_effort {
        let skipped = group.apply_best_effort(&limits);
        return Ok(skipped
            .iter()
            .map(|skipped| format!("{}: {}", skipped.controller, skipped.error))
            .collect());
    }
    group.apply(&limits).map_err(error)?;
    Ok(Vec::new())
}

pub(super) fn error(error: cgroup::Error) -> Error {
    Error::Cgroup(Box::new(error))
}
