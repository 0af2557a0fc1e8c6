//! The steps of a launch: each kind declared once, with the phrase that plans and errors print.

macro_rules! steps {
    ($($(#[doc = $doc:literal])* $name:ident = $phrase:literal,)*) => {
        /// A kind of step in setting a container up.
        ///
        /// `Display` gives the phrase a plan and an error start with: `mount`, as in `mount proc on /proc`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Step {
            $($(#[doc = $doc])* $name,)*
        }

        impl std::fmt::Display for Step {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$name => $phrase,)* })
            }
        }
    };
}

steps! {
    /// Start the process that becomes the container, in its new namespaces.
    Clone = "clone",
    /// Open a namespace that is to be joined.
    OpenNamespace = "open namespace",
    /// Join an existing namespace.
    Join = "join",
    /// Keep others from looking into the starting process.
    Shield = "hide memory",
    /// Make a namespace that has to come after others.
    Unshare = "unshare",
    /// Map user and group ids into the new user namespace.
    MapIds = "map ids",
    /// Become root of the new user namespace.
    BecomeRoot = "become root in the user namespace",
    /// Shift the clocks of a new time namespace.
    TimeOffset = "set clock offset",
    /// Make the container's control group and set its limits.
    MakeCgroup = "make control group",
    /// Enter the control group.
    EnterCgroup = "enter control group",
    /// Open a directory or file of the host as a detached mount.
    OpenTree = "open",
    /// Assemble the layers of the root file system.
    Overlay = "overlay",
    /// Set attributes of a mount before it is attached.
    MountAttributes = "set mount attributes of",
    /// Make the user namespace of an idmapped mount.
    Idmap = "map owners of",
    /// Put the new root where it can be worked on.
    AttachRoot = "attach root",
    /// Mount a file system or a part of the host's tree inside.
    Mount = "mount",
    /// Change a mount that is there.
    Remount = "remount",
    /// Copy what the image has at the place of a tmpfs.
    CopyUp = "copy into",
    /// Make a device node.
    Device = "make device",
    /// Make a symbolic link.
    Link = "link",
    /// Hide a path.
    Mask = "mask",
    /// Make a path read-only.
    ReadOnly = "make read-only",
    /// Change how the root shares mounts.
    Propagation = "set propagation of",
    /// Leave the host's file tree for the new root.
    EnterRoot = "enter root",
    /// Set the host name.
    HostName = "set host name",
    /// Set the NIS domain name.
    DomainName = "set domain name",
    /// Bring the loopback interface up.
    Loopback = "raise loopback",
    /// Move a network interface of the host inside.
    NetworkDevice = "move network device",
    /// Set a kernel parameter.
    Sysctl = "set sysctl",
    /// Set the out-of-memory score adjustment.
    OomScore = "set OOM score adjustment",
    /// Start a session keyring of its own.
    Keyring = "new session keyring",
    /// Start a session.
    Session = "new session",
    /// Open the terminal.
    Terminal = "open terminal",
    /// Put standard streams and passed descriptors in place.
    Descriptors = "arrange descriptors",
    /// Set a resource limit.
    ResourceLimit = "set limit",
    /// Set scheduling policy and priority.
    Scheduler = "set scheduler",
    /// Set the I/O priority.
    IoPriority = "set I/O priority",
    /// Choose the CPUs to run on.
    CpuAffinity = "set CPU affinity",
    /// Set the NUMA memory policy.
    MemoryPolicy = "set memory policy",
    /// Set the execution domain.
    Personality = "set personality",
    /// Ask for a signal when the host program ends.
    ParentDeath = "follow the parent into death",
    /// Run hooks.
    Hooks = "run hooks",
    /// Wait for the order to start.
    Gate = "wait for start",
    /// Look a user or group up.
    Identify = "identify user",
    /// Set the supplementary groups.
    Groups = "set groups",
    /// Set the group.
    Group = "set group",
    /// Set the user.
    User = "set user",
    /// Drop capabilities from the bounding set.
    BoundingSet = "drop bounding set to",
    /// Set effective, permitted and inheritable capabilities.
    Capabilities = "set capabilities",
    /// Set the ambient capabilities.
    AmbientSet = "set ambient set",
    /// Give up gaining privileges by execve.
    NoNewPrivileges = "set no_new_privs",
    /// Set the security label of the process.
    SecurityLabel = "set security label",
    /// Install the system call filter.
    Seccomp = "install seccomp filter",
    /// Put a tiny init in front of the command.
    Init = "init in front of the command",
    /// Set the file mode creation mask.
    Umask = "set umask",
    /// Enter the working directory.
    WorkingDirectory = "chdir to",
    /// Replace the set-up code by the command.
    Exec = "exec",
}
