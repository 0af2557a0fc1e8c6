//! What a launch does, one prepared operation after the other.
//!
//! Everything in here is ready for the kernel: C strings, flag words, masks, instructions. Where an operation needs a
//! descriptor it names a *slot*: the number is known only when the launch opens it.

use std::ffi::CString;
use std::sync::Arc;

use crate::seccomp::Program;
use crate::step::Step;
use crate::sys::mount::MountAttr;
use crate::sys::thread::SchedAttr;

/// Index of a descriptor that the launch opens and later operations use.
pub(crate) type Slot = usize;

/// The slot of the new root's mount.
pub(crate) const ROOT: Slot = 0;
/// The slot of the host's `/dev/null`, source of masked files.
pub(crate) const NULL: Slot = 1;
/// The slot of the empty read-only directory, source of masked directories.
pub(crate) const EMPTY: Slot = 2;
/// The slot of the host's `/proc`, by which a process reaches its own files there whatever is mounted inside.
pub(crate) const PROC: Slot = 3;
/// First slot for everything else.
pub(crate) const FIRST_FREE: Slot = 4;

/// A place below the new root to put a mount on; made when missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: CString,
    /// Which symbolic links on the way are followed (inside the root, always).
    pub(crate) follow: Follow,
}

/// How far symbolic links of the image are followed on the way to a mount target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// All, within the root.
    All,
    /// All but the last component.
    NotLast,
    /// None: proc and sysfs must never land somewhere else.
    None,
}

/// A file system made new inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewMount {
    pub(crate) kind: CString,
    pub(crate) source: CString,
    /// Options of the file system, `key` or `key=value`.
    pub(crate) data: Vec<(CString, Option<CString>)>,
    /// Attributes of the mount point.
    pub(crate) attributes: u64,
    /// Changes once it is made: recursive attributes and propagation.
    pub(crate) after: Vec<(MountAttr, bool)>,
    pub(crate) target: Target,
    /// Fill it with what the image has there.
    pub(crate) copy_up: bool,
    /// Its root gets the mode of the directory that it covers, where that was there before.
    pub(crate) inherit_mode: bool,
    /// What of the caller's own tree is bound in its place, where the kernel makes none in a user namespace.
    pub(crate) stand_in: Option<CString>,
}

/// One layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Directory(CString),
    /// A file with an EROFS file system (mounting from a file: Linux 6.12).
    Erofs(CString),
}

/// An overlay of layers, or a single EROFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) lower: Vec<Layer>,
    pub(crate) upper: Option<Upper>,
    pub(crate) userxattr: bool,
    pub(crate) volatile: bool,
    pub(crate) attributes: u64,
}

/// What takes the changes of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    Directories {
        upper: CString,
        work: CString,
    },
    /// A detached mount with `upper` and `work` in it.
    Mount {
        mount: i32,
    },
    /// A tmpfs with this option for its size.
    Memory {
        size: CString,
    },
}

/// Which kernel object a node in `/dev` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: CString,
    /// Type and permission bits.
    pub(crate) mode: u32,
    pub(crate) number: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A mount of the host's node to use instead of making one (user namespaces may not make devices).
    pub(crate) bind: Option<Slot>,
}

/// The five capability masks and the highest capability the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

/// What the parent does while the starting process waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Request {
    /// Write the id maps (the process has made its user namespace itself).
    MapIds = 1,
    /// Run prestart and createRuntime hooks, then createContainer hooks.
    CreateHooks,
    /// Run startContainer hooks.
    StartHooks,
    /// Write the offsets of a new time namespace.
    TimeOffsets,
    /// Set resource limits that need rights of the parent's user namespace.
    Limits,
    /// Move network devices in.
    NetworkDevices,
    /// Look the user up in the root that comes along; the answer is an [`Identity`].
    Identify,
    /// The terminal's master side comes along.
    Terminal,
    /// The seccomp listener comes along.
    Listener,
    /// A second process took over; its pidfd comes along.
    Successor,
    /// Everything is set up; the gate is next.
    Ready,
    /// The next thing is exec.
    Executing,
    /// Make the host's part of mounts; the descriptors come back one by one.
    FromHost,
}

/// One step of a launch with all it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    OpenNamespace {
        slot: Slot,
        kind: u64,
        path: CString,
    },
    Join {
        slot: Slot,
        kind: u64,
        retry: bool,
        name: String,
    },
    JoinRetried,
    /// Join all namespaces of these kinds that init is in.
    JoinAll {
        kinds: u64,
    },
    /// Keep others from looking into this process before it is the command.
    Shield,
    /// Close what nothing later needs: others may take it from a process that has joined them.
    CloseOthers {
        /// The slots that stay.
        keep: Vec<Slot>,
    },
    Unshare {
        kinds: u64,
    },
    /// Continue in a child of the parent (CLONE_PARENT) with these new namespaces; this process ends.
    Succeed {
        flags: u64,
    },
    Await(Request),
    BecomeRoot,
    EnterCgroup,
    OpenTree {
        slot: Slot,
        path: CString,
        recursive: bool,
        follow: bool,
    },
    /// Have the parent do these, and take over what they opened.
    FromHost {
        sources: Vec<Operation>,
    },
    /// What lies in the container's root by now, with the mounts made there.
    OpenInside {
        slot: Slot,
        path: CString,
        recursive: bool,
    },
    OpenNull,
    OpenEmpty,
    Overlay {
        slot: Slot,
        overlay: Box<Overlay>,
    },
    SetAttributes {
        slot: Slot,
        attr: MountAttr,
        recursive: bool,
        name: String,
    },
    /// Map the owners of a detached mount by the user namespace in `userns`.
    Idmap {
        slot: Slot,
        userns: Slot,
        recursive: bool,
        name: String,
    },
    Isolate {
        flags: u64,
    },
    AttachRoot {
        path: CString,
    },
    OpenRoot {
        path: CString,
    },
    Mount(Box<NewMount>),
    /// The same, but detached.
    MakeMount {
        slot: Slot,
        new: Box<NewMount>,
    },
    /// Pipes among the standard streams become the command's user's, who else could not open them again.
    /// `None`: as found by name.
    GiveStreams {
        ids: Option<(u32, u32)>,
    },
    Attach {
        slot: Slot,
        target: Target,
        source: String,
    },
    Remount {
        target: Target,
        changes: Vec<(MountAttr, bool)>,
    },
    Device(Box<Device>),
    Link {
        target: CString,
        path: CString,
    },
    Mask {
        path: CString,
    },
    ReadOnly {
        path: CString,
    },
    RootPropagation {
        propagation: u64,
        recursive: bool,
    },
    RootReadOnly,
    /// Put the root over the launcher's single empty mount.
    MoveRoot,
    /// Trade the host's tree for the root and take the host's away.
    PivotRoot,
    /// Only change the root directory: the mount namespace is not our own.
    ChangeRoot,
    HostName {
        name: CString,
    },
    DomainName {
        name: CString,
    },
    Loopback,
    Sysctl {
        path: CString,
        value: CString,
    },
    OomScore {
        value: CString,
    },
    Keyring {
        name: Option<CString>,
    },
    Session,
    ParentDeath,
    Terminal {
        rows: u16,
        columns: u16,
        uid: Option<u32>,
        console: bool,
        onlcr: bool,
    },
    Descriptors,
    Limit {
        resource: u32,
        soft: u64,
        hard: u64,
        name: String,
    },
    Scheduler(SchedAttr),
    IoPriority {
        value: i32,
    },
    CpuAffinity {
        mask: Vec<u64>,
        text: String,
    },
    MemoryPolicy {
        mode: i32,
        nodes: Vec<u64>,
    },
    Personality {
        value: u64,
    },
    Gate,
    BoundingSet {
        keep: u64,
        last: u32,
    },
    KeepCapabilities,
    Groups {
        groups: Vec<u32>,
    },
    Group {
        gid: u32,
    },
    User {
        uid: u32,
    },
    /// Ids as the parent found them by name.
    Identity,
    Capabilities(Masks),
    AmbientSet {
        set: u64,
    },
    NoNewPrivileges,
    AppArmor {
        profile: CString,
    },
    SeLinux {
        label: CString,
    },
    Seccomp {
        program: Arc<Program>,
        listener: bool,
    },
    /// Use every permitted capability: a change of user has cleared the effective set.
    RaiseEffective,
    Umask {
        mask: u32,
    },
    /// Make a missing working directory.
    MakeWorkingDirectory {
        path: CString,
    },
    /// Make a missing working directory for those ids (`None`: found by name), or fail.
    MakeOwnWorkingDirectory {
        path: CString,
        ids: Option<(u32, u32)>,
    },
    WorkingDirectory {
        path: CString,
        last: bool,
    },
    Home {
        uid: u32,
    },
    Locate,
    /// Prepare the init that is executed in the command's place, and starts it.
    Init {
        close_all: bool,
    },
    Exec,
}

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
    /// The slot that it fills with a part of the host's tree, or with a file system made there.
    pub(crate) fn opens(&self) -> Option<Slot> {
        match self {
            Self::OpenTree { slot, .. } | Self::MakeMount { slot, .. } => Some(*slot),
            _ => None,
        }
    }

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
    use crate::mount_options::attr;
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
    let cleared = attr.clear & !crate::mount_options::attr::ATIME;
    if cleared != 0 {
        out.push_str(&format!(" -{r}{}", attribute_words(cleared)));
    }
    if attr.propagation != 0 {
        let rec = if recursive { libc::MS_REC } else { 0 };
        out.push_str(&format!(" {}", propagation_name(attr.propagation | rec)));
    }
    out
}
