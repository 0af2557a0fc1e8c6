//! What a launch does, one prepared operation after the other.
//!
//! Everything in here is ready for the kernel: C strings, flag words, masks, instructions. Where an operation needs a
//! descriptor it names a *slot*: the number is known only when the launch opens it.

use std::ffi::CString;
use std::sync::Arc;

use crate::seccomp::Program;
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

impl Operation {
    /// The slot that it fills with a part of the host's tree, or with a file system made there.
    pub(crate) fn opens(&self) -> Option<Slot> {
        match self {
            Self::OpenTree { slot, .. } | Self::MakeMount { slot, .. } => Some(*slot),
            _ => None,
        }
    }
}
