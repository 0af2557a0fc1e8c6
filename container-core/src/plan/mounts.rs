//! The spec's mounts, lowered. Sources of the host are opened as detached mounts with all their attributes (`prepare`), by
//! whoever may: the calling thread, or the new process in its user namespace. Inside they are attached in the order listed.

use std::ffi::{CString, OsString};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::namespaces::{CGROUP, IPC, Namespaces, PID, USER};
use super::operation::{FIRST_FREE, Follow, Layer, NewMount, Operation, Overlay, ROOT, Slot, Target, Upper};
use super::{Extras, Facts, LowerLayer, Maps, Rootfs, UpperLayer, c_string};
use crate::error::{Error, Result};
use crate::id_map::IdMapping;
use crate::mount_options::{MountOptions, Propagation, Scope, attr};
use crate::sys::mount::MountAttr;

/// What lowering the mounts of one container gathers.
pub(super) struct Mounts<'a> {
    pub(super) spec: &'a Spec,
    pub(super) extras: &'a Extras,
    pub(super) facts: &'a Facts,
    pub(super) namespaces: &'a Namespaces,
    pub(super) prepare: Vec<Operation>,
    pub(super) attach: Vec<Operation>,
    /// What comes after all mounts and devices.
    pub(super) late: Vec<Operation>,
    pub(super) slots: Slot,
    pub(super) idmaps: Vec<(Slot, Maps)>,
    /// Device nodes in the root cannot be opened.
    pub(super) no_devices: bool,
}

/// A detached copy starts out in its source's peer group: cut, so that nothing but what is asked for is shared.
const CUT: MountAttr = MountAttr { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };

impl Mounts<'_> {
    fn slot(&mut self) -> Slot {
        self.slots += 1;
        self.slots - 1
    }

    /// The root as a detached mount in its slot.
    pub(super) fn root(&mut self) -> Result<()> {
        debug_assert!(self.slots >= FIRST_FREE);
        match &self.extras.rootfs {
            Some(Rootfs::Overlay { lower, upper, userxattr, volatile }) => {
                if lower.is_empty() {
                    return Err(Error::invalid("rootfs", "an overlay needs a lower layer"));
                }
                let path = |path: &PathBuf| c_string("rootfs", path.as_os_str());
                let lower = lower.iter().map(|layer| {
                    Ok(match layer {
                        LowerLayer::Directory(dir) => Layer::Directory(path(dir)?),
                        LowerLayer::Erofs(file) => Layer::Erofs(path(file)?),
                    })
                });
                let overlay = Overlay {
                    lower: lower.collect::<Result<_>>()?,
                    upper: match upper {
                        None => None,
                        Some(UpperLayer::Directories { upper, work }) => {
                            Some(Upper::Directories { upper: path(upper)?, work: path(work)? })
                        }
                        Some(UpperLayer::Mount { mount }) => Some(Upper::Mount { mount: *mount }),
                        Some(UpperLayer::Memory { size }) => Some(Upper::Memory {
                            size: c_string("size of the writable layer", size.to_string())?,
                        }),
                    },
                    userxattr: *userxattr,
                    volatile: *volatile,
                    attributes: self.root_attributes(),
                };
                self.prepare.push(Operation::Overlay { slot: ROOT, overlay: Box::new(overlay) });
                Ok(())
            }
            Some(Rootfs::Directory { source, .. }) => self.root_directory(&source.clone()),
            None => {
                let root =
                    self.spec.root().as_ref().ok_or_else(|| Error::invalid("root", "there is none"))?;
                self.root_directory(&self.extras.bundle.join(root.path()))
            }
        }
    }

    fn root_directory(&mut self, path: &Path) -> Result<()> {
        let path = c_string("root.path", path.as_os_str())?;
        self.prepare.push(Operation::OpenTree { slot: ROOT, path, recursive: true, follow: true });
        let name = "root".to_owned();
        let shared = self.root_propagation()?;
        let propagation = match shared.map(|p| p.kind) {
            None | Some(libc::MS_PRIVATE | libc::MS_UNBINDABLE) => libc::MS_PRIVATE,
            Some(libc::MS_SLAVE) => libc::MS_SLAVE,
            Some(_) => 0,
        };
        let attr = MountAttr { set: self.root_attributes(), propagation, ..MountAttr::default() };
        if attr != MountAttr::default() {
            self.prepare.push(Operation::SetAttributes { slot: ROOT, attr, recursive: true, name });
        }
        Ok(())
    }

    fn root_attributes(&self) -> u64 {
        if self.no_devices { attr::NODEV } else { 0 }
    }

    fn root_propagation(&self) -> Result<Option<Propagation>> {
        let word = self.spec.linux().as_ref().and_then(|l| l.rootfs_propagation().as_ref());
        let Some(word) = word.filter(|word| !word.is_empty()) else { return Ok(None) };
        Ok(MountOptions::parse([word.as_str()])?.propagation.first().copied())
    }

    /// All mounts of the spec, in their order.
    pub(super) fn all(&mut self) -> Result<()> {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        for (index, mount) in mounts.iter().enumerate() {
            self.one(mount, &mounts[..index])?;
        }
        Ok(())
    }

    fn one(&mut self, mount: &Mount, earlier: &[Mount]) -> Result<()> {
        let options = MountOptions::parse(mount.options().iter().flatten().map(String::as_str))?;
        let kind = mount.typ().as_deref().unwrap_or("none");
        let destination = destination(mount, &super::rootfs::place(self.spec, self.extras))?;
        let bind = options.bind.or((kind == "bind").then_some(Scope::Single));
        let follow = if kind == "proc" || kind == "sysfs" {
            Follow::None
        } else if options.destination_nofollow {
            Follow::NotLast
        } else {
            Follow::All
        };
        let target = Target { path: c_string("mounts.destination", destination)?, follow };
        if options.remount {
            self.attach.push(Operation::Remount { target, changes: changes(&options, true) });
            return Ok(());
        }
        match (bind, kind) {
            (Some(scope), _) => self.bind(mount, &options, scope, target, earlier),
            (None, "cgroup" | "cgroup2") => self.control_groups(mount, &options, target, kind),
            (None, "none" | "") => Err(Error::invalid(
                format!("mounts: {}", mount.destination().display()),
                "it has neither a type nor bind among its options",
            )),
            (None, _) => self.file_system(mount, &options, target, kind),
        }
    }

    /// A part of the host's tree.
    fn bind(
        &mut self,
        mount: &Mount,
        options: &MountOptions,
        scope: Scope,
        target: Target,
        earlier: &[Mount],
    ) -> Result<()> {
        let source =
            mount.source().as_ref().filter(|source| !source.as_os_str().is_empty()).ok_or_else(|| {
                Error::invalid(
                    format!("mounts: {}", mount.destination().display()),
                    "a bind mount needs a source",
                )
            })?;
        let source = self.extras.bundle.join(source);
        // Options for a file system have nothing to act on here; mount(2) passes over them too.
        let slot = self.slot();
        let name = source.display().to_string();
        let recursive = scope == Scope::Recursive;
        let inside = self.made_inside(&source, earlier);
        let before = self.prepare.len();
        if let Some(path) = &inside {
            let path = c_string("mounts.source", path.as_os_str())?;
            self.prepare.push(Operation::OpenInside { slot, path, recursive });
        } else {
            self.prepare.push(Operation::OpenTree {
                slot,
                path: c_string("mounts.source", source.as_os_str())?,
                recursive,
                follow: !options.source_nofollow,
            });
        }
        self.idmap(mount, options, slot, &name)?;
        if options.propagation.is_empty() {
            let attr = match self.root_propagation()? {
                Some(p) if p.kind == libc::MS_SHARED => None,
                Some(p) if p.kind == libc::MS_SLAVE => Some(MountAttr { propagation: libc::MS_SLAVE, ..CUT }),
                _ => Some(CUT),
            };
            if let Some(attr) = attr {
                self.prepare.push(Operation::SetAttributes {
                    slot,
                    attr,
                    recursive: true,
                    name: name.clone(),
                });
            }
        }
        let mut changes = changes(options, true);
        if let Some(clear) = self.implied(options) {
            let attr = MountAttr { clear, ..MountAttr::default() };
            changes.insert(0, (attr, false));
        }
        for (attr, recursive) in changes {
            self.prepare.push(Operation::SetAttributes { slot, attr, recursive, name: name.clone() });
        }
        match inside {
            Some(_) => self.attach.extend(self.prepare.drain(before..)),
            None => self.opened_on_host(before),
        }
        self.attach.push(Operation::Attach { slot, target, source: name });
        Ok(())
    }

    /// What was pushed to `prepare` from `before` on is the host's part of the next mount. It is made before the clone, unless a mount
    /// was made inside by then: since Linux 6.8 `/proc/self/mountinfo` lists mounts in the order in which they were made, and tools
    /// take the last one of a path for the one that is seen.
    fn opened_on_host(&mut self, before: usize) {
        let made_inside = self.attach.iter().any(|operation| matches!(operation, Operation::Mount(_)));
        if !self.facts.privileged || !made_inside {
            return;
        }
        let operations = self.prepare.drain(before..);
        let run = self.attach.iter().rposition(|operation| !matches!(operation, Operation::Attach { .. }));
        match run.and_then(|at| self.attach.get_mut(at)) {
            Some(Operation::FromHost { sources }) => sources.extend(operations),
            _ => {
                let sources = operations.collect();
                self.attach.push(Operation::FromHost { sources });
            }
        }
    }

    /// The path in the container of a source in its root directory where mounts were made before: only there they can be seen.
    /// A root that is the host's, or has no place there, cannot tell its files from the host's by their paths: the host's are meant.
    fn made_inside(&self, source: &Path, earlier: &[Mount]) -> Option<PathBuf> {
        let root = super::rootfs::place(self.spec, self.extras);
        if root == Path::new("/") {
            return None;
        }
        let path = Path::new("/").join(source.strip_prefix(&root).ok()?);
        let related = |mount: &Mount| {
            let other = destination(mount, &root).unwrap_or_default();
            path.starts_with(&other) || Path::new(&other).starts_with(&path)
        };
        (path != Path::new("/") && earlier.iter().any(related)).then_some(path)
    }

    /// Flags of the source's mount that a bind mount loses. As with mount(2), which remounts it with what is named and nothing
    /// else: once a flag is named, all are meant. A user namespace may not take flags away that restrict; there the source's stay.
    fn implied(&self, options: &MountOptions) -> Option<u64> {
        const RESTRICTING: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let named = options.attributes_set() | options.attributes_clear();
        let all = RESTRICTING | attr::NODIRATIME | attr::NOSYMFOLLOW;
        let lost = if self.namespaces.has_user() { 0 } else { RESTRICTING };
        (named & all != 0).then_some((lost | attr::NOSYMFOLLOW) & !options.attributes_set())
    }

    /// Owners of files shown shifted: by the mount's own mappings, or by the container's.
    fn idmap(&mut self, mount: &Mount, options: &MountOptions, slot: Slot, name: &str) -> Result<()> {
        let list = |own: &Option<Vec<_>>| own.iter().flatten().map(IdMapping::from).collect::<Vec<_>>();
        let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
        let asked = options.idmap.is_some() || !uids.is_empty() || !gids.is_empty();
        if !asked {
            return Ok(());
        }
        let subject = || format!("mounts: {}", mount.destination().display());
        if !self.facts.privileged {
            return Err(Error::unsupported(
                "an idmapped mount",
                "it takes CAP_SYS_ADMIN over the source's file system",
            ));
        }
        let recursive = options.idmap == Some(Scope::Recursive);
        let maps = if uids.is_empty() && gids.is_empty() {
            let joined = self.namespaces.joined.iter().find(|joined| joined.kind == USER);
            match (joined, &self.namespaces.maps) {
                (Some(joined), _) => {
                    let userns = joined.slot;
                    self.prepare.push(Operation::Idmap { slot, userns, recursive, name: name.to_owned() });
                    return Ok(());
                }
                (None, Some(maps)) => maps.clone(),
                (None, None) => {
                    return Err(Error::invalid(subject(), "idmap without mappings needs a user namespace"));
                }
            }
        } else if uids.is_empty() || gids.is_empty() {
            return Err(Error::invalid(subject(), "uidMappings and gidMappings go together"));
        } else {
            Maps { uids, gids }
        };
        crate::id_map::validate("mounts.uidMappings", &maps.uids)?;
        crate::id_map::validate("mounts.gidMappings", &maps.gids)?;
        let userns = match self.idmaps.iter().find(|(_, known)| *known == maps) {
            Some((slot, _)) => *slot,
            None => {
                let userns = self.slot();
                self.idmaps.push((userns, maps));
                userns
            }
        };
        self.prepare.push(Operation::Idmap { slot, userns, recursive, name: name.to_owned() });
        Ok(())
    }

    /// A file system of its own.
    fn file_system(
        &mut self,
        mount: &Mount,
        options: &MountOptions,
        target: Target,
        kind: &str,
    ) -> Result<()> {
        let source =
            mount.source().as_ref().map_or_else(|| OsString::from(kind), |s| s.clone().into_os_string());
        let mut data = options.data.iter().map(|option| split_option(option)).collect::<Result<Vec<_>>>()?;
        // These have one superblock for all, or belong to the kernel: only the mount point can be read-only.
        let pseudo = ["proc", "sysfs", "mqueue", "devpts", "tmpfs", "cgroup", "cgroup2"].contains(&kind);
        let superblock = options.superblock_flags();
        for (bit, word) in [
            (libc::MS_RDONLY, "ro"),
            (libc::MS_SYNCHRONOUS, "sync"),
            (libc::MS_DIRSYNC, "dirsync"),
            (libc::MS_MANDLOCK, "mand"),
            (libc::MS_LAZYTIME, "lazytime"),
        ] {
            if superblock & bit != 0 && !(pseudo && bit == libc::MS_RDONLY) {
                data.push((c_string("mounts.options", word)?, None));
            }
        }
        if kind == "devpts" {
            // A group that is not mapped cannot own terminals; the terminal group of a single-id map is such a one.
            self.drop_unmapped_group(&mut data);
        }
        let label =
            self.spec.linux().as_ref().and_then(|l| l.mount_label().as_ref()).filter(|l| !l.is_empty());
        if let Some(label) = label.filter(|_| self.facts.selinux && !["proc", "sysfs"].contains(&kind)) {
            data.push((c"context".to_owned(), Some(c_string("linux.mountLabel", label)?)));
        }
        // What the spec mounts below needs its places made first.
        let mut attributes = options.attributes_set();
        if kind == "tmpfs" && attributes & attr::RDONLY != 0 {
            attributes &= !attr::RDONLY;
            let change = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
            self.late.push(Operation::Remount { target: target.clone(), changes: vec![(change, false)] });
        }
        let new = NewMount {
            kind: c_string("mounts.type", kind)?,
            source: c_string("mounts.source", source)?,
            data,
            attributes,
            after: changes(options, false),
            target,
            copy_up: options.tmpcopyup && kind == "tmpfs",
            inherit_mode: kind == "tmpfs" && !options.data.iter().any(|option| option.starts_with("mode=")),
            stand_in: self.stand_in(kind).map(ToOwned::to_owned),
        };
        // What is made of the host's files has to be made where they are.
        if self.facts.privileged && !pseudo {
            let (slot, before) = (self.slot(), self.prepare.len());
            let target = new.target.clone();
            self.prepare.push(Operation::MakeMount { slot, new: Box::new(new) });
            self.opened_on_host(before);
            self.attach.push(Operation::Attach { slot, target, source: kind.to_owned() });
        } else {
            self.attach.push(Operation::Mount(Box::new(new)));
        }
        Ok(())
    }

    /// These show a namespace, and only who rules over that one may mount them: of a namespace of the host the container gets
    /// what the host has mounted. Of the kernel's devices too where the host hides some of them: what it shows is all the same.
    /// But never of the host's processes in place of the container's own.
    fn stand_in(&self, kind: &str) -> Option<&'static std::ffi::CStr> {
        if self.facts.privileged {
            return None;
        }
        match kind {
            "proc" if !self.namespaces.contains(PID) => Some(c"/proc"),
            "mqueue" if !self.namespaces.contains(IPC) => Some(c"/dev/mqueue"),
            "sysfs" => Some(c"/sys"),
            _ => None,
        }
    }

    fn drop_unmapped_group(&self, data: &mut Vec<(CString, Option<CString>)>) {
        let Some(maps) = self.namespaces.ids(self.facts) else { return };
        data.retain(|(key, value)| {
            let gid = value.as_ref().and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u32>().ok());
            key.as_c_str() != c"gid"
                || gid.is_none_or(|gid| crate::id_map::to_host(&maps.gids, gid).is_some())
        });
    }

    /// The control groups as the container is to see them: its own as the root.
    fn control_groups(
        &mut self,
        mount: &Mount,
        options: &MountOptions,
        target: Target,
        kind: &str,
    ) -> Result<()> {
        super::cgroups::lower(self, mount, options, target, kind)
    }

    pub(super) fn own_cgroup_view(&self) -> bool {
        self.namespaces.contains(CGROUP)
    }

    pub(super) fn is_rootless(&self) -> bool {
        !self.facts.privileged
    }

    pub(super) fn bind_source(&mut self, source: &Path, target: Target, attr: MountAttr) -> Result<()> {
        let (slot, before) = (self.slot(), self.prepare.len());
        let name = source.display().to_string();
        self.prepare.push(Operation::OpenTree {
            slot,
            path: c_string("cgroup", source.as_os_str())?,
            recursive: true,
            follow: true,
        });
        let attr = MountAttr { propagation: libc::MS_PRIVATE, ..attr };
        self.prepare.push(Operation::SetAttributes { slot, attr, recursive: true, name: name.clone() });
        self.opened_on_host(before);
        self.attach.push(Operation::Attach { slot, target, source: name });
        Ok(())
    }
}

/// A destination, relative ones taken from the container's root. One that repeats where the root is on the host is taken from
/// there, as runc does.
fn destination(mount: &Mount, root: &Path) -> Result<OsString> {
    let path = mount.destination();
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("mounts.destination", "it is empty"));
    }
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if root != Path::new("/")
        && let Ok(inside) = plain.strip_prefix(root)
        && !inside.as_os_str().is_empty()
    {
        plain = Path::new("/").join(inside);
    }
    if plain.as_os_str() == "/" {
        return Err(Error::invalid(
            format!("mounts.destination {}", path.display()),
            "the root itself is given by root.path",
        ));
    }
    Ok(plain.into_os_string())
}

/// Attribute changes of an option list, each with whether it goes for all mounts below. `attributes`: those of the mount point
/// itself too, which a new file system gets when it is made.
fn changes(options: &MountOptions, attributes: bool) -> Vec<(MountAttr, bool)> {
    let mut out = Vec::new();
    let change = |set, clear| MountAttr { set, clear, ..MountAttr::default() };
    if attributes && options.attributes_set() | options.attributes_clear() != 0 {
        let mut clear = options.attributes_clear();
        if options.attributes_set() & attr::ATIME != 0 {
            clear |= attr::ATIME;
        }
        out.push((change(options.attributes_set(), clear), false));
    }
    if options.recursive_set | options.recursive_clear != 0 {
        out.push((change(options.recursive_set, options.recursive_clear), true));
    }
    for propagation in &options.propagation {
        out.push((
            MountAttr { propagation: propagation.kind, ..MountAttr::default() },
            propagation.recursive,
        ));
    }
    out
}

/// `key=value` or `key`.
pub(super) fn split_option(option: &str) -> Result<(CString, Option<CString>)> {
    let c = |text: &str| c_string("mounts.options", text);
    match option.split_once('=') {
        Some((key, value)) => Ok((c(key)?, Some(c(value)?))),
        None => Ok((c(option)?, None)),
    }
}
