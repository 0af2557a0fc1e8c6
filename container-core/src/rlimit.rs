//! Limits of a process by itself (`setrlimit(2)`).

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

/// A resource that `setrlimit(2)` limits, for the first process and what it starts.
///
/// These limits hold for each process alone: to limit a container as a whole there are control groups
/// ([`memory`](crate::ContainerBuilder::memory) and its neighbours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of a core file.
    Core,
    /// Seconds of CPU time.
    Cpu,
    /// Bytes of the data segment.
    Data,
    /// Bytes of a file.
    FileSize,
    /// File locks.
    Locks,
    /// Bytes locked in memory.
    LockedMemory,
    /// Bytes in message queues.
    MessageQueue,
    /// Highest niceness, as `20 - nice`.
    Nice,
    /// One more than the highest descriptor.
    OpenFiles,
    /// Processes of the user: in the container's user namespace when it has one (Linux 5.14), else on the whole host. Does not
    /// hold the host's root.
    Processes,
    /// Bytes of resident memory (without effect in Linux).
    ResidentSet,
    /// Highest real-time priority.
    RealtimePriority,
    /// Microseconds of real-time scheduling without a pause.
    RealtimeTime,
    /// Pending signals.
    PendingSignals,
    /// Bytes of the stack.
    Stack,
}

/// No limit (`RLIM_INFINITY`).
pub const UNLIMITED: u64 = u64::MAX;

impl Resource {
    pub(crate) fn to_spec(self, soft: u64, hard: u64) -> PosixRlimit {
        let kind = match self {
            Self::AddressSpace => PosixRlimitType::RlimitAs,
            Self::Core => PosixRlimitType::RlimitCore,
            Self::Cpu => PosixRlimitType::RlimitCpu,
            Self::Data => PosixRlimitType::RlimitData,
            Self::FileSize => PosixRlimitType::RlimitFsize,
            Self::Locks => PosixRlimitType::RlimitLocks,
            Self::LockedMemory => PosixRlimitType::RlimitMemlock,
            Self::MessageQueue => PosixRlimitType::RlimitMsgqueue,
            Self::Nice => PosixRlimitType::RlimitNice,
            Self::OpenFiles => PosixRlimitType::RlimitNofile,
            Self::Processes => PosixRlimitType::RlimitNproc,
            Self::ResidentSet => PosixRlimitType::RlimitRss,
            Self::RealtimePriority => PosixRlimitType::RlimitRtprio,
            Self::RealtimeTime => PosixRlimitType::RlimitRttime,
            Self::PendingSignals => PosixRlimitType::RlimitSigpending,
            Self::Stack => PosixRlimitType::RlimitStack,
        };
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
            .expect("every required field is set")
    }
}
