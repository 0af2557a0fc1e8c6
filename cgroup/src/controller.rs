use std::fmt;

/// A cgroup version: of one controller's hierarchy, not of the whole host, since a hybrid host has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One mount for each controller or set of joined controllers (Documentation/admin-guide/cgroup-v1).
    V1,
    /// The unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

macro_rules! controllers {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A resource controller, under its v1 name where the versions differ.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Controller { $($(#[$doc])* $name,)* }

        impl Controller {
            /// Every controller this crate knows.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kernel's name: the mount option on v1.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

controllers! {
    /// CPU time: bandwidth and weight.
    Cpu = "cpu",
    /// CPU time used; v1 only, part of every v2 group.
    Cpuacct = "cpuacct",
    /// Which CPUs and memory nodes may be used.
    Cpuset = "cpuset",
    /// Memory and swap.
    Memory = "memory",
    /// Block devices; `io` on v2.
    Blkio = "blkio",
    /// Number of tasks.
    Pids = "pids",
    /// Huge pages.
    Hugetlb = "hugetlb",
    /// RDMA handles and objects.
    Rdma = "rdma",
    /// Scalar resources such as SEV address space ids; v2 and, since 5.13, v1.
    Misc = "misc",
    /// Access to device nodes; a BPF program on v2.
    Devices = "devices",
    /// Pausing; part of every v2 group since 5.2. A hybrid host's unified hierarchy is preferred for it.
    Freezer = "freezer",
    /// Class id of network packets; v1 only.
    NetCls = "net_cls",
    /// Priority of network traffic; v1 only.
    NetPrio = "net_prio",
    /// Grouping for perf; implicit on v2.
    PerfEvent = "perf_event",
}

impl Controller {
    /// The controller a v1 mount option or a word of `cgroup.controllers` names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "io" => Some(Self::Blkio),
            _ => Self::ALL.iter().copied().find(|controller| controller.name() == name),
        }
    }

    /// The word for `cgroup.subtree_control`, `None` where v2 has no such controller or needs none.
    #[must_use]
    pub const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Blkio => Some("io"),
            Self::Cpuacct
            | Self::Devices
            | Self::Freezer
            | Self::NetCls
            | Self::NetPrio
            | Self::PerfEvent => None,
            _ => Some(self.name()),
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of controllers.
///
/// ```
/// use cgroup::{Controller, Controllers};
///
/// let wanted: Controllers = [Controller::Memory, Controller::Pids].into_iter().collect();
/// assert!(wanted.contains(Controller::Memory));
/// assert_eq!(wanted.to_string(), "memory pids");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Controllers(u16);

impl Controllers {
    /// No controller.
    pub const NONE: Self = Self(0);
    /// Every controller.
    pub const ALL: Self = Self((1 << Controller::ALL.len()) - 1);

    /// Whether `controller` is a member.
    #[must_use]
    pub const fn contains(self, controller: Controller) -> bool {
        self.0 & (1 << controller as u8) != 0
    }

    /// The set with `controller` added.
    #[must_use]
    pub const fn with(self, controller: Controller) -> Self {
        Self(self.0 | 1 << controller as u8)
    }

    /// Members of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Members of this set that the other lacks.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Controller> {
        Controller::ALL.iter().copied().filter(move |controller| self.contains(*controller))
    }
}

impl FromIterator<Controller> for Controllers {
    fn from_iter<I: IntoIterator<Item = Controller>>(iter: I) -> Self {
        iter.into_iter().fold(Self::NONE, Self::with)
    }
}

impl From<Controller> for Controllers {
    fn from(controller: Controller) -> Self {
        Self::NONE.with(controller)
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, controller) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{controller}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controllers({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &controller in Controller::ALL {
            assert_eq!(Controller::from_name(controller.name()), Some(controller));
            if let Some(name) = controller.v2_name() {
                assert_eq!(Controller::from_name(name), Some(controller));
            }
        }
        assert_eq!(Controller::from_name("name=systemd"), None);
        assert_eq!(Controllers::ALL.iter().count(), Controller::ALL.len());
    }
}
