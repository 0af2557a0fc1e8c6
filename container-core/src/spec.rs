//! From the builder to a runtime specification and what it cannot say. Every default of the builder is decided here.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    BoxBuilder, Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxIdMapping,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxResources, Process, ProcessBuilder, Root as SpecRoot,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::builder::{ContainerBuilder, DEFAULT_PIDS, Layer, Root, Seccomp};
use crate::error::{Error, Result};
use crate::host::granted::Lack;
use crate::id_map::IdMapping;
use crate::mount::{self, Mount};
use crate::namespace::{Namespace, NamespaceKind};
use crate::plan::{Extras, Facts, LowerLayer, Maps, Rootfs, UpperLayer};
use crate::{capability, seccomp, state, user};

/// The `PATH` of a container whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const READ_ONLY_CGROUPS: &str = "cgroup file system is read-only";

/// Every kind but user and time is new by default.
const DEFAULT_NAMESPACES: [NamespaceKind; 6] = [
    NamespaceKind::Mount,
    NamespaceKind::Pid,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Cgroup,
    NamespaceKind::Network,
];

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
        let mut image = ImageDefaults::default();
        let path = match &self.root {
            Root::Directory(path) => {
                let path = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
                extras.rootfs = rootfs;
                path
            }
            Root::Mount(mount) => {
                extras.rootfs = Some(rootfs.unwrap_or_else(|| mount.clone()));
                PathBuf::from("rootfs")
            }
            #[cfg(feature = "images")]
            Root::Image(_, of) => {
                let config = of.config();
                let words = |list: &[String]| list.iter().map(OsString::from).collect::<Vec<_>>();
                image = ImageDefaults {
                    entrypoint: words(&config.entrypoint),
                    command: words(&config.cmd),
                    env: words(&config.env),
                    user: config.user.clone(),
                    working_dir: PathBuf::from(&config.working_dir),
                };
                extras.rootfs = rootfs;
                PathBuf::from("rootfs")
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

    fn process(
        &self,
        image: &ImageDefaults,
        user: (u32, u32),
        capabilities: &[Capability],
        extras: &mut Extras,
    ) -> Result<Process> {
        let mut args = self.entrypoint.clone().unwrap_or_else(|| image.entrypoint.clone());
        match &self.command {
            Some(command) => args.extend(command.iter().cloned()),
            None if self.entrypoint.is_none() => args.extend(image.command.iter().cloned()),
            None => {}
        }
        if args.is_empty() {
            return Err(Error::invalid("command", "neither the builder nor the image says what to run"));
        }
        let mut env = image.env.clone();
        if !env.iter().any(|variable| variable.as_bytes().starts_with(b"PATH=")) {
            env.push(format!("PATH={DEFAULT_PATH}").into());
        }
        let env = self.environment(env)?;

        let cwd = match &self.current_dir {
            Some(directory) => directory.clone(),
            None if image.working_dir.as_os_str().is_empty() => PathBuf::from("/"),
            None => Path::new("/").join(&image.working_dir),
        };
        if !cwd.is_absolute() {
            return Err(Error::invalid(format!("current_dir {}", cwd.display()), "it must begin with /"));
        }
        let user = UserBuilder::default().uid(user.0).gid(user.1).umask(self.umask.unwrap_or(0o022)).build();
        let mut process = ProcessBuilder::default()
            .user(user.map_err(|e| Error::invalid("user", e.to_string()))?)
            .cwd(cwd)
            .capabilities(capability_sets(capabilities))
            .no_new_privileges(self.no_new_privileges)
            .rlimits(self.rlimits.iter().map(|(r, soft, hard)| r.to_spec(*soft, *hard)).collect::<Vec<_>>())
            .build()
            .map_err(|e| Error::invalid("process", e.to_string()))?;
        process.set_oom_score_adj(self.oom_score);
        self.set_terminal(&mut process);
        set_args(&mut process, args, extras)?;
        set_env(&mut process, env, extras);
        Ok(process)
    }

    fn set_terminal(&self, process: &mut Process) {
        process.set_terminal(Some(self.terminal.is_some()));
        process.set_console_size(
            self.terminal
                .and_then(|size| BoxBuilder::default().height(size.rows).width(size.columns).build().ok()),
        );
    }

    /// Applies the builder's changes to `base`, variables as `NAME=value`.
    fn environment(&self, base: Vec<OsString>) -> Result<Vec<OsString>> {
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        let mut put = |name: &OsStr, value: Option<&OsStr>| {
            let known = variables.iter().position(|(known, _)| known == name);
            match (known, value) {
                (Some(at), Some(value)) => variables[at].1 = value.to_owned(),
                (Some(at), None) => drop(variables.remove(at)),
                (None, Some(value)) => variables.push((name.to_owned(), value.to_owned())),
                (None, None) => {}
            }
        };
        if !self.clear_env {
            for variable in &base {
                if let Some((name, value)) = split(variable) {
                    put(name, Some(value));
                }
            }
        }
        if self.inherit_env {
            for (name, value) in std::env::vars_os() {
                put(&name, Some(&value));
            }
        }
        for (name, value) in &self.env {
            check_variable(name, value.as_deref().unwrap_or_default())?;
            put(name, value.as_deref());
        }
        if self.terminal.is_some() && !variables.iter().any(|(name, _)| name == "TERM") {
            variables.push(("TERM".into(), "xterm".into()));
        }
        Ok(variables
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            })
            .collect())
    }

    fn capability_list(&self, own_user_namespace: bool, facts: &Facts) -> Vec<Capability> {
        let mut list = self.capabilities.clone().unwrap_or_else(|| {
            let mut list = capability::DEFAULT.to_vec();
            if facts.cgroups.is_none() || self.goes_without_cgroup(facts) {
                // Nothing would keep its holder from making a node for the host's disk.
                list.retain(|capability| *capability != Capability::Mknod);
            }
            if !own_user_namespace && facts.capable {
                // In a container, this program itself may not have all of them.
                list.retain(|capability| facts.permitted & 1 << capability::number(*capability) != 0);
            }
            list
        });
        list.extend(self.add_capabilities.iter().copied());
        list.retain(|capability| !self.drop_capabilities.contains(capability));
        list
    }

    /// Nothing can be made in control groups that are shown read-only, as in a container without privileges: who asks for no limit
    /// in so many words needs none.
    fn goes_without_cgroup(&self, facts: &Facts) -> bool {
        let read_only =
            |hierarchy: &cgroup::Hierarchy| hierarchy.mounts().iter().any(|mount| mount.is_read_only());
        let optional = self.limits.is_empty() || self.limits_best_effort;
        self.no_cgroup || (optional && facts.cgroups.as_ref().is_some_and(read_only))
    }

    /// The maps that the container of an ordinary user gets when it says nothing of its own: with all the ids that were granted
    /// to that user, unless the number of the wanted user is beyond them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for ids that are granted in a way that nothing can be made of.
    pub(crate) fn granted<'f>(&self, wanted: &str, facts: &'f Facts) -> Result<Option<&'f Maps>> {
        if !self.uid_mappings.is_empty() || !facts.has_one_id() || !self.makes(NamespaceKind::User) {
            return Ok(None);
        }
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
        let has = |maps: &[IdMapping], word: &str| {
            // Who goes by a name is found inside.
            word.parse().map_or(true, |id| crate::id_map::to_host(maps, id).is_some())
        };
        match &facts.granted {
            Ok(maps) => Ok(Some(maps).filter(|maps| has(&maps.uids, user) && has(&maps.gids, group))),
            Err(Lack::Nothing(_)) => Ok(None),
            Err(Lack::Broken(reason)) => Err(Error::invalid(
                "subordinate ids",
                format!("{reason}; id_mappings with the own id alone does without them"),
            )),
        }
    }

    fn makes(&self, kind: NamespaceKind) -> bool {
        self.namespace_of(kind).is_none_or(|namespace| *namespace == Namespace::New)
    }

    fn namespace_of(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.namespaces.iter().find(|(known, _)| *known == kind).map(|(_, namespace)| namespace)
    }

    fn linux(
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

    /// Whether the writable layer is a file system of its own, and not the store's.
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

/// The numbers of a user who may be given by name, before the root file system is mounted.
fn lookup(wanted: &str, rootfs: Option<&Rootfs>, root: &SpecRoot) -> Result<(u32, u32)> {
    let directories: Vec<PathBuf> = match rootfs {
        None => vec![root.path().clone()],
        Some(Rootfs::Directory { source, .. }) => vec![source.clone()],
        Some(Rootfs::Overlay { lower, upper, .. }) => {
            let lower = lower.iter().filter_map(|layer| match layer {
                LowerLayer::Directory(path) => Some(path.clone()),
                LowerLayer::Erofs(_) => None,
            });
            let upper = upper.iter().filter_map(|upper| match upper {
                UpperLayer::Directories { upper, .. } => Some(upper.clone()),
                UpperLayer::Mount { .. } | UpperLayer::Memory { .. } => None,
            });
            upper.chain(lower).collect()
        }
    };
    if wanted.is_empty() {
        return Ok((0, 0));
    }
    // Numbers and `root` need no files, and are known without any directory.
    let numbers = |wanted: &str| -> Option<(u32, u32)> {
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, "0"));
        let number = |word: &str| if word == "root" { Some(0) } else { word.parse().ok() };
        Some((number(user)?, number(group)?))
    };
    let mut answer =
        numbers(wanted).ok_or_else(|| Error::UnknownUser { kind: "user", name: wanted.to_owned() });
    for directory in directories {
        if let Ok(directory) = File::open(&directory) {
            match user::resolve(directory.as_fd(), wanted) {
                Ok(user) => return Ok((user.uid, user.gid)),
                Err(error) if answer.is_err() => answer = Err(error),
                Err(_) => {}
            }
        }
    }
    answer
}

/// What could only reach the process as something else is refused.
pub(crate) fn check_variable(name: &OsStr, value: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
        let reason = "a name is not empty and holds neither '=' nor a NUL byte";
        return Err(Error::invalid(format!("environment variable name {name:?}"), reason));
    }
    if value.as_bytes().contains(&0) {
        return Err(Error::invalid(
            format!("environment variable {name:?}"),
            "its value contains a NUL byte",
        ));
    }
    Ok(())
}

fn split(variable: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = variable.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])))
}

/// The spec holds text only: where the bytes are none, they go along beside it and win.
pub(crate) fn set_args(process: &mut Process, args: Vec<OsString>, extras: &mut Extras) -> Result<()> {
    if let Some(bad) = args.iter().find(|word| word.as_bytes().contains(&0)) {
        return Err(Error::invalid(format!("argument {bad:?}"), "it contains a NUL byte"));
    }
    process.set_args(Some(args.iter().map(|word| word.to_string_lossy().into_owned()).collect()));
    extras.args = args.iter().any(|word| word.to_str().is_none()).then_some(args);
    Ok(())
}

pub(crate) fn set_env(process: &mut Process, env: Vec<OsString>, extras: &mut Extras) {
    process.set_env(Some(env.iter().map(|word| word.to_string_lossy().into_owned()).collect()));
    extras.env = env.iter().any(|word| word.to_str().is_none()).then_some(env);
}

fn capability_sets(list: &[Capability]) -> LinuxCapabilities {
    let set: Capabilities = list.iter().copied().collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
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
    use super::*;
    use crate::Container;
    use std::os::unix::ffi::OsStringExt;

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
