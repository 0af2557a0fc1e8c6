//! Operations in words: the kind of step each is, and what it is about. For plans and for errors.

use std::ffi::CString;

use super::operation::{Layer, Operation, Overlay, Request, Upper};
use crate::mount_options::attr;
use crate::step::Step;
use crate::sys::mount::MountAttr;

/// Names of namespace flags, in the order of the runtime specification.
pub(crate) const NAMESPACES: [(u64, &str); 8] = [
    (libc::CLONE_NEWPID as u64, "pid"),
    (libc::CLONE_NEWNET as u64, "network"),
    (libc::CLONE_NEWNS as u64, "mount"),
    (libc::CLONE_NEWIPC as u64, "ipc"),
    (libc::CLONE_NEWUTS as u64, "uts"),
    (libc::CLONE_NEWUSER as u64, "user"),
    (libc::CLONE_NEWCGROUP as u64, "cgroup"),
    (0x80, "time"),
];

/// `pid, mount, uts` of a flag word.
pub(crate) fn namespace_names(flags: u64) -> String {
    let names: Vec<&str> =
        NAMESPACES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    names.join(", ")
}

impl Operation {
    /// The kind of step this is, for plans and errors.
    pub(crate) fn step(&self) -> Step {
        match self {
            Self::OpenNamespace { .. } => Step::OpenNamespace,
            Self::Join { .. } | Self::JoinRetried | Self::JoinAll { .. } => Step::Join,
            Self::Shield => Step::Shield,
            Self::CloseOthers { .. } => Step::Descriptors,
            Self::Unshare { .. } => Step::Unshare,
            Self::Succeed { .. } => Step::Clone,
            Self::Await(request) => match request {
                Request::MapIds => Step::MapIds,
                Request::CreateHooks | Request::StartHooks => Step::Hooks,
                Request::TimeOffsets => Step::TimeOffset,
                Request::Limits => Step::ResourceLimit,
                Request::NetworkDevices => Step::NetworkDevice,
                Request::Identify => Step::Identify,
                Request::Terminal => Step::Terminal,
                Request::Listener => Step::Seccomp,
                Request::Successor => Step::Clone,
                Request::Ready => Step::Gate,
                Request::Executing => Step::Exec,
                Request::FromHost => Step::OpenTree,
            },
            Self::BecomeRoot => Step::BecomeRoot,
            Self::EnterCgroup => Step::EnterCgroup,
            Self::OpenTree { .. }
            | Self::OpenInside { .. }
            | Self::OpenNull
            | Self::OpenEmpty
            | Self::FromHost { .. } => Step::OpenTree,
            Self::Overlay { .. } => Step::Overlay,
            Self::SetAttributes { .. } => Step::MountAttributes,
            Self::Idmap { .. } => Step::Idmap,
            Self::Isolate { .. } | Self::RootPropagation { .. } => Step::Propagation,
            Self::AttachRoot { .. } => Step::AttachRoot,
            Self::OpenRoot { .. } => Step::OpenTree,
            Self::Mount(_) | Self::MakeMount { .. } | Self::Attach { .. } => Step::Mount,
            Self::GiveStreams { .. } => Step::Descriptors,
            Self::Remount { .. } => Step::Remount,
            Self::Device(_) => Step::Device,
            Self::Link { .. } => Step::Link,
            Self::Mask { .. } => Step::Mask,
            Self::ReadOnly { .. } | Self::RootReadOnly => Step::ReadOnly,
            Self::MoveRoot | Self::PivotRoot | Self::ChangeRoot => Step::EnterRoot,
            Self::HostName { .. } => Step::HostName,
            Self::DomainName { .. } => Step::DomainName,
            Self::Loopback => Step::Loopback,
            Self::Sysctl { .. } => Step::Sysctl,
            Self::OomScore { .. } => Step::OomScore,
            Self::Keyring { .. } => Step::Keyring,
            Self::Session => Step::Session,
            Self::ParentDeath => Step::ParentDeath,
            Self::Terminal { .. } => Step::Terminal,
            Self::Descriptors => Step::Descriptors,
            Self::Limit { .. } => Step::ResourceLimit,
            Self::Scheduler(_) => Step::Scheduler,
            Self::IoPriority { .. } => Step::IoPriority,
            Self::CpuAffinity { .. } => Step::CpuAffinity,
            Self::MemoryPolicy { .. } => Step::MemoryPolicy,
            Self::Personality { .. } => Step::Personality,
            Self::Gate => Step::Gate,
            Self::BoundingSet { .. } => Step::BoundingSet,
            Self::KeepCapabilities | Self::RaiseEffective | Self::Capabilities(_) => Step::Capabilities,
            Self::Groups { .. } => Step::Groups,
            Self::Group { .. } => Step::Group,
            Self::User { .. } | Self::Identity => Step::User,
            Self::AmbientSet { .. } => Step::AmbientSet,
            Self::NoNewPrivileges => Step::NoNewPrivileges,
            Self::AppArmor { .. } | Self::SeLinux { .. } => Step::SecurityLabel,
            Self::Seccomp { .. } => Step::Seccomp,
            Self::Umask { .. } => Step::Umask,
            Self::MakeWorkingDirectory { .. }
            | Self::MakeOwnWorkingDirectory { .. }
            | Self::WorkingDirectory { .. } => Step::WorkingDirectory,
            Self::Home { .. } => Step::Identify,
            Self::Init { .. } => Step::Init,
            Self::Locate | Self::Exec => Step::Exec,
        }
    }

    /// What it is about, in words.
    pub(crate) fn subject(&self) -> String {
        let text = |text: &CString| text.to_string_lossy().into_owned();
        match self {
            Self::OpenNamespace { kind, path, .. } => format!("{} {}", namespace_names(*kind), text(path)),
            Self::Join { name, .. } => name.clone(),
            Self::JoinRetried => "namespaces of the joined user namespace".into(),
            Self::JoinAll { kinds } | Self::Unshare { kinds } => namespace_names(*kinds),
            Self::Succeed { flags } => format!("into new {}", namespace_names(*flags)),
            Self::Await(request) => match request {
                Request::CreateHooks => "prestart, createRuntime, createContainer".into(),
                Request::StartHooks => "startContainer".into(),
                Request::Limits => "from outside".into(),
                Request::Identify => "by name".into(),
                Request::Listener => "listener".into(),
                _ => String::new(),
            },
            Self::OpenTree { path, recursive, .. } => {
                format!("{}{}", text(path), if *recursive { " with all below" } else { "" })
            }
            Self::FromHost { sources } => {
                let names: Vec<String> =
                    sources.iter().filter(|source| source.opens().is_some()).map(Self::subject).collect();
                names.join(", ")
            }
            Self::OpenInside { path, recursive, .. } => {
                format!("{} of the container{}", text(path), if *recursive { " with all below" } else { "" })
            }
            Self::OpenNull => "/dev/null".into(),
            Self::OpenEmpty => "an empty directory".into(),
            Self::Overlay { overlay, .. } => overlay.subject(),
            Self::SetAttributes { attr, recursive, name, .. } => describe_change(name, attr, *recursive),
            Self::Idmap { name, .. } => name.clone(),
            Self::Isolate { flags } => format!("the host's tree: {}", propagation_name(*flags)),
            Self::AttachRoot { path } => format!("at {}", text(path)),
            Self::OpenRoot { path } => text(path),
            Self::GiveStreams { .. } => "for the command's user".into(),
            Self::Mount(mount) | Self::MakeMount { new: mount, .. } => {
                let data: Vec<String> = mount
                    .data
                    .iter()
                    .map(|(key, value)| match value {
                        Some(value) => format!("{}={}", text(key), text(value)),
                        None => text(key),
                    })
                    .collect();
                let data = if data.is_empty() { String::new() } else { format!(" ({})", data.join(",")) };
                let words = attribute_words(mount.attributes);
                let words = if words.is_empty() { words } else { format!(" {words}") };
                let or = mount.stand_in.as_ref().map(|path| format!(", or the caller's {}", text(path)));
                let or = or.unwrap_or_default();
                format!("{} on {}{words}{data}{or}", text(&mount.kind), text(&mount.target.path))
            }
            Self::Attach { target, source, .. } => format!("{source} on {}", text(&target.path)),
            Self::Remount { target, changes } => {
                let path = text(&target.path);
                let changes: Vec<String> =
                    changes.iter().map(|(attr, deep)| describe_change(&path, attr, *deep)).collect();
                changes.join("; ")
            }
            Self::Device(device) => {
                let (major, minor) = (libc::major(device.number), libc::minor(device.number));
                let kind = match device.mode & libc::S_IFMT {
                    libc::S_IFBLK => "b",
                    libc::S_IFIFO => "p",
                    _ => "c",
                };
                let bind = if device.bind.is_some() { ", the host's" } else { "" };
                format!("{} ({kind} {major}:{minor} {:04o}{bind})", text(&device.path), device.mode & 0o7777)
            }
            Self::Link { target, path } => format!("{} -> {}", text(path), text(target)),
            Self::Mask { path } | Self::ReadOnly { path } => text(path),
            Self::RootReadOnly => "/".into(),
            Self::RootPropagation { propagation, recursive } => {
                let rec = if *recursive { libc::MS_REC } else { 0 };
                format!("/: {}", propagation_name(propagation | rec))
            }
            Self::MoveRoot => "by moving it over an empty one".into(),
            Self::PivotRoot => "by pivot_root".into(),
            Self::ChangeRoot => "by chroot".into(),
            Self::HostName { name } | Self::DomainName { name } => text(name),
            Self::Sysctl { path, value } => format!("{} = {}", text(path), text(value)),
            Self::OomScore { value } => text(value),
            Self::Limit { soft, hard, name, .. } => {
                let word = |n: u64| if n == u64::MAX { "unlimited".to_owned() } else { n.to_string() };
                format!("{name} {} (at most {})", word(*soft), word(*hard))
            }
            Self::Scheduler(attr) => format!("policy {} nice {}", attr.policy, attr.nice),
            Self::IoPriority { value } => format!("class {} level {}", value >> 13, value & 0x1fff),
            Self::CpuAffinity { text, .. } => text.clone(),
            Self::MemoryPolicy { mode, .. } => mode.to_string(),
            Self::Personality { value } => format!("{value:#x}"),
            Self::BoundingSet { keep, .. } => format!("{keep:#x}"),
            Self::KeepCapabilities => "to be kept over the change of user".into(),
            Self::RaiseEffective => "effective as permitted".into(),
            Self::Groups { groups } => format!("{groups:?}"),
            Self::Group { gid } => gid.to_string(),
            Self::User { uid } => uid.to_string(),
            Self::Identity => "by name".into(),
            Self::Capabilities(masks) => format!(
                "effective {:#x} permitted {:#x} inheritable {:#x}",
                masks.effective, masks.permitted, masks.inheritable
            ),
            Self::AmbientSet { set } => format!("{set:#x}"),
            Self::AppArmor { profile } => format!("AppArmor {}", text(profile)),
            Self::SeLinux { label } => format!("SELinux {}", text(label)),
            Self::Seccomp { program, .. } => format!("of {} instructions", program.filter.len()),
            Self::Umask { mask } => format!("{mask:04o}"),
            Self::MakeWorkingDirectory { path } | Self::MakeOwnWorkingDirectory { path, .. } => {
                format!("{} (made when missing)", text(path))
            }
            Self::WorkingDirectory { path, .. } => text(path),
            Self::Home { uid } => format!("{uid} for HOME"),
            Self::BecomeRoot
            | Self::Shield
            | Self::CloseOthers { .. }
            | Self::EnterCgroup
            | Self::Loopback
            | Self::Keyring { .. }
            | Self::Session
            | Self::ParentDeath
            | Self::Terminal { .. }
            | Self::Descriptors
            | Self::Gate
            | Self::NoNewPrivileges
            | Self::Locate
            | Self::Init { .. }
            | Self::Exec => String::new(),
        }
    }
}

impl Overlay {
    fn subject(&self) -> String {
        let lower: Vec<String> = self
            .lower
            .iter()
            .map(|layer| match layer {
                Layer::Directory(path) | Layer::Erofs(path) => path.to_string_lossy().into_owned(),
            })
            .collect();
        let upper = match &self.upper {
            Some(Upper::Directories { upper, .. }) => format!(", changes to {}", upper.to_string_lossy()),
            Some(Upper::Mount { .. }) => ", changes to a file system of its own".into(),
            Some(Upper::Memory { size }) => {
                format!(", changes to {} bytes of memory", size.to_string_lossy())
            }
            None => ", read-only".into(),
        };
        format!("{}{upper}{}", lower.join(":"), if self.volatile { " (volatile)" } else { "" })
    }
}

fn attribute_words(bits: u64) -> String {
    let mut words = Vec::new();
    for (bit, word) in [
        (attr::RDONLY, "ro"),
        (attr::NOSUID, "nosuid"),
        (attr::NODEV, "nodev"),
        (attr::NOEXEC, "noexec"),
        (attr::NODIRATIME, "nodiratime"),
        (attr::NOSYMFOLLOW, "nosymfollow"),
        (attr::IDMAP, "idmap"),
    ] {
        if bits & bit != 0 {
            words.push(word);
        }
    }
    match bits & attr::ATIME {
        attr::NOATIME => words.push("noatime"),
        attr::STRICTATIME => words.push("strictatime"),
        _ => {}
    }
    words.join(",")
}

fn propagation_name(flags: u64) -> String {
    let r = if flags & libc::MS_REC != 0 { "r" } else { "" };
    let word = match flags & !libc::MS_REC {
        libc::MS_SHARED => "shared",
        libc::MS_SLAVE => "slave",
        libc::MS_UNBINDABLE => "unbindable",
        _ => "private",
    };
    format!("{r}{word}")
}

fn describe_change(name: &str, attr: &MountAttr, recursive: bool) -> String {
    let mut out = name.to_owned();
    let r = if recursive { "r" } else { "" };
    if attr.set != 0 {
        out.push_str(&format!(" +{r}{}", attribute_words(attr.set)));
    }
    let cleared = attr.clear & !attr::ATIME;
    if cleared != 0 {
        out.push_str(&format!(" -{r}{}", attribute_words(cleared)));
    }
    if attr.propagation != 0 {
        let rec = if recursive { libc::MS_REC } else { 0 };
        out.push_str(&format!(" {}", propagation_name(attr.propagation | rec)));
    }
    out
}
