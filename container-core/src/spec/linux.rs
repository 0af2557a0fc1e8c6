//! How it is isolated: namespaces, paths that are hidden, control group and limits, system call filter.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxIdMapping, LinuxNamespace, LinuxNamespaceBuilder, LinuxResources,
};

use crate::builder::{ContainerBuilder, DEFAULT_PIDS, Seccomp};
use crate::error::{Error, Result};
use crate::id_map::IdMapping;
use crate::namespace::{Namespace, NamespaceKind};
use crate::plan::{Extras, Facts};
use crate::{mount, seccomp};

/// Every kind but user and time is new by default.
pub(super) const DEFAULT_NAMESPACES: [NamespaceKind; 6] = [
    NamespaceKind::Mount,
    NamespaceKind::Pid,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Cgroup,
    NamespaceKind::Network,
];

impl ContainerBuilder {
    /// Nothing can be made in control groups that are shown read-only, as in a container without privileges: who asks for no limit
    /// in so many words needs none.
    pub(super) fn goes_without_cgroup(&self, facts: &Facts) -> bool {
        let read_only =
            |hierarchy: &cgroup::Hierarchy| hierarchy.mounts().iter().any(|mount| mount.is_read_only());
        let optional = self.limits.is_empty() || self.limits_best_effort;
        self.no_cgroup || (optional && facts.cgroups.as_ref().is_some_and(read_only))
    }

    pub(super) fn makes(&self, kind: NamespaceKind) -> bool {
        self.namespace_of(kind).is_none_or(|namespace| *namespace == Namespace::New)
    }

    pub(super) fn namespace_of(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.namespaces.iter().find(|(known, _)| *known == kind).map(|(_, namespace)| namespace)
    }

    pub(super) fn linux(
        &self,
        own_user_namespace: bool,
        mappings: (Vec<IdMapping>, Vec<IdMapping>),
        capabilities: &[Capability],
        facts: &Facts,
        extras: &mut Extras,
    ) -> Result<Linux> {
        let mut namespaces: Vec<LinuxNamespace> = Vec::new();
        let mut add = |kind, namespace: &Namespace| {
            let builder = LinuxNamespaceBuilder::default().typ(kind);
            let built = match namespace {
                Namespace::New => builder.build(),
                Namespace::Join(path) => builder.path(path.clone()).build(),
                Namespace::Host => return,
            };
            namespaces.extend(built.ok());
        };
        for kind in DEFAULT_NAMESPACES {
            add(kind, self.namespace_of(kind).unwrap_or(&Namespace::New));
        }
        match self.namespace_of(NamespaceKind::User) {
            Some(namespace) => add(NamespaceKind::User, namespace),
            None if own_user_namespace => add(NamespaceKind::User, &Namespace::New),
            None => {}
        }
        if let Some(namespace) = self.namespace_of(NamespaceKind::Time) {
            add(NamespaceKind::Time, namespace);
        }

        let mut linux = LinuxBuilder::default().namespaces(namespaces).build().unwrap_or_default();
        let paths =
            |list: &[&str]| (!self.unmask).then(|| list.iter().map(|path| (*path).to_owned()).collect());
        linux
            .set_masked_paths(paths(&mount::MASKED))
            .set_readonly_paths(paths(&mount::READ_ONLY))
            .set_resources(self.resources(own_user_namespace, facts, extras)?)
            .set_cgroups_path(self.cgroup.as_ref().map(PathBuf::from))
            .set_sysctl((!self.sysctls.is_empty()).then(|| self.sysctls.iter().cloned().collect()))
            .set_seccomp(match &self.seccomp {
                Seccomp::Default => Some(seccomp::default_profile(capabilities)),
                Seccomp::Unconfined => None,
                Seccomp::Profile(profile) => Some(profile.clone()),
            });
        if own_user_namespace {
            let lower = |list: Vec<IdMapping>| Some(list.into_iter().map(LinuxIdMapping::from).collect());
            linux.set_uid_mappings(lower(mappings.0)).set_gid_mappings(lower(mappings.1));
        }
        Ok(linux)
    }

    fn resources(
        &self,
        own_user_namespace: bool,
        facts: &Facts,
        extras: &mut Extras,
    ) -> Result<Option<LinuxResources>> {
        let nothing = Some(cgroup::Max::At(0));
        // A limit of 0 is none at all to the runtime specification.
        for (limit, subject) in [(self.limits.memory.max, "memory 0"), (self.limits.cpu.quota, "cpus")] {
            if limit == nothing {
                return Err(Error::invalid(subject, "a limit is more than 0"));
            }
        }
        if self.limits.pids == nothing {
            return Err(Error::invalid("pids 0", "the first process counts, so the least is 1"));
        }
        if self.goes_without_cgroup(facts) {
            return match self.limits.is_empty() || !self.no_cgroup {
                true => Ok(None),
                false => {
                    Err(Error::invalid("limits", "they need a control group, and no_cgroup asks for none"))
                }
            };
        }
        let mut limits = self.limits.clone();
        // Defaults that nobody asked for in so many words are no reason not to start.
        extras.limits_best_effort = self.limits_best_effort || limits.is_empty();
        limits.pids.get_or_insert(cgroup::Max::At(DEFAULT_PIDS));
        if facts.privileged && !own_user_namespace && limits.devices.is_none() {
            limits.devices = Some(cgroup::DeviceRule::defaults());
        }
        // Fewer groups are quicker to make: those of the limits, those whose figures an outcome tells, and what pauses.
        use cgroup::Controller::{Cpu, Freezer, Memory, Pids};
        let told = [Memory, Cpu, Pids, Freezer];
        extras.controllers = limits.controllers().iter().chain(told).collect();
        LinuxResources::try_from(&limits).map(Some).map_err(|e| Error::invalid("limits", e.to_string()))
    }
}
