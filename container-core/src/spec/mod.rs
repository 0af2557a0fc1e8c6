//! From the builder to a runtime specification and what it cannot say. Every default of the builder is decided here.

mod linux;
mod process;
mod users;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Root as SpecRoot, RootBuilder, Spec, SpecBuilder};

pub(crate) use process::{check_variable, set_args, set_env};

use crate::builder::{ContainerBuilder, Layer, Root};
use crate::error::{Error, Result};
use crate::id_map::IdMapping;
use crate::mount::{self, Mount};
use crate::namespace::{Namespace, NamespaceKind};
use crate::plan::{Extras, Facts, LowerLayer, Rootfs, UpperLayer};
use crate::state;
use users::lookup;

const READ_ONLY_CGROUPS: &str = "cgroup file system is read-only";

/// What a container's image says about it.
#[derive(Debug, Default)]
struct ImageDefaults {
    entrypoint: Vec<OsString>,
    command: Vec<OsString>,
    env: Vec<OsString>,
    user: String,
    working_dir: PathBuf,
}

/// A container described in full.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) spec: Spec,
    pub(crate) extras: Extras,
    /// Limits that are left out because no control group can be made here, each with the reason.
    pub(crate) left_out: Vec<String>,
}

impl ContainerBuilder {
    /// Describes the container called `id`, with `rootfs` in place of an image's.
    pub(crate) fn describe(&self, id: &str, rootfs: Option<Rootfs>, facts: &Facts) -> Result<Description> {
        if !state::is_valid_id(id) {
            return Err(Error::invalid(
                format!("container id {id:?}"),
                "it must be 1 to 255 letters, digits, '_', '+', '-' or '.', and neither '.' nor '..'",
            ));
        }
        let mut extras = Extras::new(id);
        extras.init = self.init;
        extras.die_with_parent = self.die_with_host.unwrap_or(self.state_directory.is_none());
        extras.no_cgroup = match &self.root {
            Root::Bundle(_) => self.no_cgroup,
            _ => self.goes_without_cgroup(facts),
        };
        let mut spec = match &self.root {
            Root::Bundle(directory) => self.bundle_spec(directory, &mut extras)?,
            _ => self.scratch_spec(id, rootfs, facts, &mut extras)?,
        };
        for edit in &self.edits {
            (edit.0)(&mut spec);
        }
        let left_out = match !self.no_cgroup && self.limits_best_effort && self.goes_without_cgroup(facts) {
            true => {
                self.limits.controllers().iter().map(|name| format!("{name}: {READ_ONLY_CGROUPS}")).collect()
            }
            false => Vec::new(),
        };
        Ok(Description { spec, extras, left_out })
    }

    fn bundle_spec(&self, directory: &Path, extras: &mut Extras) -> Result<Spec> {
        let config = directory.join("config.json");
        let text = std::fs::read(&config).map_err(|e| Error::io("read", &config, e))?;
        let mut spec: Spec = serde_json::from_slice(&text).map_err(|e| {
            Error::invalid(config.display().to_string(), format!("not a runtime specification: {e}"))
        })?;
        extras.bundle = std::path::absolute(directory).map_err(|e| Error::io("find", directory, e))?;
        extras.limits_best_effort = self.limits_best_effort;
        let mut process = spec.process().clone().unwrap_or_default();
        if let Some(command) = &self.command {
            set_args(&mut process, command.clone(), extras)?;
        }
        if !self.env.is_empty() || self.inherit_env || self.clear_env {
            let own = process.env().iter().flatten().map(OsString::from).collect();
            set_env(&mut process, self.environment(own)?, extras);
        }
        if self.terminal.is_some() {
            self.set_terminal(&mut process);
        }
        spec.set_process(Some(process));
        Ok(spec)
    }

    fn scratch_spec(
        &self,
        id: &str,
        rootfs: Option<Rootfs>,
        facts: &Facts,
        extras: &mut Extras,
    ) -> Result<Spec> {
        extras.own_working_directory = true;
        let (image, root) = self.root(rootfs, extras)?;
        if self.memory_layer() == Some(0) {
            return Err(Error::invalid("writable_memory 0", "a limit is more than 0"));
        }
        if let Some(mount) = self.mounts.iter().find(|mount| mount.has_no_room()) {
            let subject = format!("size 0 of the tmpfs at {}", mount.destination().display());
            return Err(Error::invalid(subject, "a limit is more than 0"));
        }
        if let Some(size) = self.memory_layer() {
            layer_over(UpperLayer::Memory { size }, facts.privileged, root.path(), extras);
        }
        let wanted = self.user.clone().unwrap_or_else(|| image.user.clone());
        let mut mappings = (self.uid_mappings.clone(), self.gid_mappings.clone());
        if let Some(granted) = self.granted(&wanted, facts)? {
            mappings = (granted.uids.clone(), granted.gids.clone());
        }
        // There is one id to give away, so it goes to the user that is wanted.
        let numbers = match mappings.0.is_empty() && facts.has_one_id() {
            true => Some(lookup(&wanted, extras.rootfs.as_ref(), &root)?),
            false => None,
        };
        let own_user_namespace = match self.namespace_of(NamespaceKind::User) {
            Some(Namespace::New) => true,
            Some(_) => false,
            None => {
                let exists = numbers.is_none_or(|(uid, gid)| facts.has_ids(uid, gid));
                !facts.sets_up(self.makes(NamespaceKind::Network)) || !mappings.0.is_empty() || !exists
            }
        };
        if own_user_namespace && mappings.0.is_empty() {
            mappings = match (facts.all_ids(), numbers) {
                (Some(all), None) => (all.uids, all.gids),
                (_, numbers) => {
                    let (uid, gid) = numbers.unwrap_or_default();
                    (vec![IdMapping::single(uid, facts.uid)], vec![IdMapping::single(gid, facts.gid)])
                }
            };
        }
        if numbers.is_none() && !wanted.is_empty() {
            extras.user = Some(wanted);
        }
        let numbers = numbers.unwrap_or_default();

        let capabilities = self.capability_list(own_user_namespace, facts);
        let process = self.process(&image, numbers, &capabilities, extras)?;
        let terminal_group = match self.namespace_of(NamespaceKind::User) {
            // Which ids there are in somebody else's is not known.
            Some(Namespace::Join(_)) => false,
            _ if own_user_namespace => crate::id_map::to_host(&mappings.1, 5).is_some(),
            _ => facts.has_ids(0, 5),
        };
        let mut mounts = mount::defaults(terminal_group);
        if facts.cgroups.is_some() {
            mounts.push(Mount::cgroup());
        }
        // Queues of the host's can be shown only as the host shows them.
        if !self.makes(NamespaceKind::Ipc) && !facts.privileged && !Path::new("/dev/mqueue").is_dir() {
            mounts.retain(|mount| mount.destination() != Path::new("/dev/mqueue"));
        }
        let (instead, beside): (Vec<_>, Vec<_>) =
            self.mounts.iter().cloned().partition(|mount| mount.destination() == Path::new("/proc"));
        if let Some(instead) = instead.last() {
            mounts.retain(|mount| mount.destination() != instead.destination());
            mounts.insert(0, instead.clone());
        }
        mounts.extend(beside);
        let linux = self.linux(own_user_namespace, mappings, &capabilities, facts, extras)?;

        let mut builder = SpecBuilder::default()
            .version("1.2.0")
            .root(root)
            .process(process)
            .mounts(mounts.iter().map(Mount::to_spec).collect::<Vec<_>>())
            .annotations(self.annotations.iter().cloned().collect::<HashMap<_, _>>())
            .linux(linux);
        if self.makes(NamespaceKind::Uts) {
            builder =
                builder.hostname(self.hostname.clone().unwrap_or_else(|| id.chars().take(12).collect()));
            if let Some(name) = &self.domainname {
                builder = builder.domainname(name.clone());
            }
        } else if self.hostname.is_some() || self.domainname.is_some() {
            return Err(Error::invalid(
                "hostname",
                "it cannot be set in a uts namespace that is not the container's own",
            ));
        }
        let mut spec = builder.build().map_err(|e| Error::invalid("specification", e.to_string()))?;
        // The spec's own defaults, which the builder of oci-spec puts in, are none of ours.
        spec.set_uid_mappings(None).set_gid_mappings(None);
        if !self.makes(NamespaceKind::Uts) {
            spec.set_hostname(None);
        }
        Ok(spec)
    }

    /// What the image says, and the root of the spec; the root file system itself goes to the extras.
    fn root(&self, rootfs: Option<Rootfs>, extras: &mut Extras) -> Result<(ImageDefaults, SpecRoot)> {
        let (image, path) = match &self.root {
            Root::Directory(path) => {
                let path = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
                extras.rootfs = rootfs;
                (ImageDefaults::default(), path)
            }
            Root::Mount(mount) => {
                extras.rootfs = Some(rootfs.unwrap_or_else(|| mount.clone()));
                (ImageDefaults::default(), PathBuf::from("rootfs"))
            }
            #[cfg(feature = "images")]
            Root::Image(_, of) => {
                let config = of.config();
                let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
                let image = ImageDefaults {
                    entrypoint: words(&config.entrypoint),
                    command: words(&config.cmd),
                    env: words(&config.env),
                    user: config.user.clone(),
                    working_dir: PathBuf::from(&config.working_dir),
                };
                extras.rootfs = rootfs;
                (image, PathBuf::from("rootfs"))
            }
            Root::Missing | Root::Bundle(_) => {
                return Err(Error::invalid(
                    "root",
                    "call image, rootfs or bundle: a container needs a root file system",
                ));
            }
        };
        let root = RootBuilder::default().path(path).readonly(self.read_only).build();
        Ok((image, root.map_err(|e| Error::invalid("root", e.to_string()))?))
    }

    /// Whether the writable layer is a file system of its own, and not the store's.
    #[cfg(feature = "images")]
    pub(crate) fn has_own_layer(&self) -> bool {
        self.layer != Layer::Store
    }

    /// The size of a file system on disk for the writable layer.
    pub(crate) fn disk_layer(&self) -> Option<u64> {
        match self.layer {
            Layer::Disk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Whether changes to the root file system are to go to memory, and how much of it.
    pub(crate) fn memory_layer(&self) -> Option<u64> {
        match self.layer {
            Layer::Memory(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Puts a writable layer over the root, whatever that is.
pub(crate) fn layer_over(upper: UpperLayer, privileged: bool, root: &Path, extras: &mut Extras) {
    let directory = |path: &Path, upper| Rootfs::Overlay {
        lower: vec![LowerLayer::Directory(path.to_owned())],
        upper: Some(upper),
        userxattr: !privileged,
        volatile: false,
    };
    extras.rootfs = Some(match extras.rootfs.take() {
        None => directory(root, upper),
        Some(Rootfs::Directory { source, .. }) => directory(&source, upper),
        Some(Rootfs::Overlay { lower, userxattr, .. }) => {
            Rootfs::Overlay { lower, upper: Some(upper), userxattr, volatile: false }
        }
    });
}

/// 16 random hexadecimal digits.
pub(crate) fn random_id() -> Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::io("read", "getrandom(2)", e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::linux::DEFAULT_NAMESPACES;
    use super::*;
    use crate::Container;
    use crate::builder::DEFAULT_PIDS;
    use oci_spec::runtime::LinuxIdMapping;
    use std::ffi::OsStr;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    fn describe(builder: &ContainerBuilder, privileged: bool) -> Result<Description> {
        builder.describe("test-1", None, &Facts::assumed(privileged))
    }

    fn some() -> ContainerBuilder {
        Container::builder().rootfs("/srv/root").command(["true"])
    }

    #[test]
    fn defaults_are_safe() {
        let Description { spec, extras, .. } = describe(&some(), true).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|n| n.typ()).collect();
        assert_eq!(kinds, DEFAULT_NAMESPACES);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        assert!(linux.seccomp().is_some());
        assert_eq!(linux.masked_paths().as_ref().unwrap().len(), mount::MASKED.len());
        assert_eq!(linux.resources().as_ref().unwrap().pids().unwrap().limit(), DEFAULT_PIDS as i64);
        assert!(extras.limits_best_effort && extras.die_with_parent);
        assert_eq!(spec.hostname().as_deref(), Some("test-1"));
        assert!(process.env().as_ref().unwrap().iter().any(|v| v.starts_with("PATH=")));
    }

    #[test]
    fn an_ordinary_user_gets_a_user_namespace_with_one_id() {
        let facts = Facts::assumed(false);
        for (user, uid, gid) in [("", 0, 0), ("1000", 1000, 0), ("7:8", 7, 8), ("root", 0, 0)] {
            let Description { spec, extras, .. } = describe(&some().user(user), false).unwrap();
            let linux = spec.linux().as_ref().unwrap();
            assert!(linux.namespaces().iter().flatten().any(|n| n.typ() == NamespaceKind::User));
            let map = |list: &Option<Vec<LinuxIdMapping>>| {
                list.as_ref().unwrap().iter().map(IdMapping::from).collect::<Vec<_>>()
            };
            assert_eq!(map(linux.uid_mappings()), [IdMapping::single(uid, facts.uid)], "{user}");
            assert_eq!(map(linux.gid_mappings()), [IdMapping::single(gid, facts.gid)], "{user}");
            assert_eq!(spec.process().as_ref().unwrap().user().uid(), uid);
            assert_eq!(extras.user, None);
        }
        assert!(matches!(describe(&some().user("app"), false), Err(Error::UnknownUser { .. })));
    }

    #[test]
    fn bytes_that_are_no_text_win_over_the_specs() {
        let odd = OsStr::from_bytes(b"\xff\xfe");
        let Description { extras, .. } = describe(&some().arg(odd).env("A", odd), true).unwrap();
        assert_eq!(extras.args.unwrap()[1], odd);
        assert!(extras.env.unwrap().contains(&OsString::from_vec(b"A=\xff\xfe".to_vec())));
        let Description { extras, .. } = describe(&some(), true).unwrap();
        assert_eq!((extras.args, extras.env), (None, None));
    }

    #[test]
    fn wrong_words_are_named() {
        for builder in
            [some().env("", "x"), some().env("A=B", "x"), some().env("A", "x\0"), some().arg("a\0b")]
        {
            assert!(matches!(describe(&builder, true), Err(Error::Invalid { .. })));
        }
        assert!(matches!(describe(&some().pids(0), true), Err(Error::Invalid { .. })));
        assert!(matches!(describe(&some().current_dir("a"), true), Err(Error::Invalid { .. })));
        assert!(matches!(describe(&Container::builder().command(["x"]), true), Err(Error::Invalid { .. })));
        assert!(matches!(describe(&Container::builder().rootfs("/x"), true), Err(Error::Invalid { .. })));
        assert!(matches!(
            describe(&some().no_cgroup(true).memory(1 << 20), true),
            Err(Error::Invalid { .. })
        ));
    }

    #[test]
    fn environment_is_overridden_by_name() {
        let builder = some().env("PATH", "/x").env("A", "1").env("A", "2").env("B", "1").env_remove("B");
        let Description { spec, .. } = describe(&builder, true).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().env().as_ref().unwrap(), &["PATH=/x", "A=2"]);
        let Description { spec, .. } = describe(&some().env_clear().env("A", "1"), true).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().env().as_ref().unwrap(), &["A=1"]);
    }

    #[test]
    fn explicit_limits_are_strict() {
        let Description { spec, extras, .. } = describe(&some().memory(64 << 20).cpus(0.5), true).unwrap();
        assert!(!extras.limits_best_effort);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.memory().unwrap().swap(), Some(64 << 20));
        assert!(resources.pids().is_some() && resources.cpu().is_some());
        assert!(
            describe(&some().memory(1 << 20).limits_best_effort(true), true)
                .unwrap()
                .extras
                .limits_best_effort
        );
    }
}
