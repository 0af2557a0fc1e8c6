//! Groups that systemd makes: transient scopes, asked for over D-Bus.
//!
//! Where systemd runs it owns the top of the hierarchy, and an ordinary user usually gets a part of it only through the
//! user's own systemd. A scope is a group that systemd makes, puts existing processes into, and hands over
//! (`Delegate=yes`); what is below it then is the caller's to use. Limits are given to systemd, so that it does not reset them
//! when it reloads, and written to the group's files as well, for those systemd has no property for and so that each is known to
//! be in force.

mod bus;
mod name;
mod properties;

use crate::error::{Error, Result};
use crate::group::Cgroup;
use crate::hierarchy::Hierarchy;
use crate::limits::Limits;
use bus::Bus;
pub use name::ScopeName;

/// A systemd to ask.
///
/// ```no_run
/// use cgroup::{Hierarchy, Limits, systemd::{ScopeName, Systemd}};
///
/// let child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
/// let hierarchy = Hierarchy::discover()?;
/// let name = ScopeName::new("demo-1")?;
/// let scope = Systemd::of_caller().start_scope(&hierarchy, &name, &[child.id()], &Limits::new().memory(64 << 20))?;
/// println!("{:?}", scope.cgroup().stats()?.memory.current);
/// scope.stop()?;
/// # Ok::<(), cgroup::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Systemd {
    bus: Bus,
}

/// A running scope, and the group it has.
///
/// Dropping it changes nothing; systemd ends a scope when its last process has gone.
#[derive(Debug)]
pub struct Scope {
    systemd: Systemd,
    name: ScopeName,
    cgroup: Cgroup,
}

impl Systemd {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self { bus: Bus::System }
    }

    /// The calling user's own, on the bus that `DBUS_SESSION_BUS_ADDRESS` or `XDG_RUNTIME_DIR` names.
    #[must_use]
    pub fn user() -> Self {
        Self { bus: Bus::User }
    }

    /// The system's for root, the user's own for anybody else.
    #[must_use]
    pub fn of_caller() -> Self {
        if rustix::process::geteuid().is_root() { Self::system() } else { Self::user() }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`Error::Systemd`] with the reason.
    pub fn ping(&self) -> Result<()> {
        self.bus.version().map(drop)
    }

    /// Starts a scope with `pids`, of which there must be at least one, and sets its limits. The scope is stopped again when a
    /// limit cannot be set; its processes are killed then.
    ///
    /// # Errors
    /// [`Error::Systemd`] when systemd cannot be reached or refuses, such as for a name that is in use; everything that
    /// [`Cgroup::apply`] returns.
    pub fn start_scope(
        &self,
        hierarchy: &Hierarchy,
        name: &ScopeName,
        pids: &[u32],
        limits: &Limits,
    ) -> Result<Scope> {
        let Some(first) = pids.first() else {
            let source = "a scope needs a process to start with".into();
            return Err(Error::Systemd { action: "start", unit: name.unit().to_owned(), source });
        };
        self.bus.start(name, pids, properties::of(limits))?;
        let cgroup = Cgroup::of_process(hierarchy, *first)?;
        let scope = Scope { systemd: self.clone(), name: name.clone(), cgroup };
        match scope.cgroup.apply(limits) {
            Ok(()) => Ok(scope),
            Err(error) => {
                // The failed limit is what the caller has to know.
                let _ = scope.stop();
                Err(error)
            }
        }
    }

    /// Finds a scope that runs.
    ///
    /// # Errors
    /// [`Error::Systemd`] when there is none, [`Error::NotFound`] when its group is not visible here.
    pub fn open_scope(&self, hierarchy: &Hierarchy, name: &ScopeName) -> Result<Scope> {
        let path = crate::path::CgroupPath::new(self.bus.control_group(name)?)?;
        let cgroup = Cgroup::open(hierarchy, &path)?;
        Ok(Scope { systemd: self.clone(), name: name.clone(), cgroup })
    }
}

impl Scope {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ScopeName {
        &self.name
    }

    /// Its group. Groups may be made below it; the group itself is systemd's to remove.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Sets limits, see [`Cgroup::apply`].
    ///
    /// # Errors
    /// [`Error::Systemd`], and what [`Cgroup::apply`] returns.
    pub fn apply(&self, limits: &Limits) -> Result<()> {
        self.systemd.bus.set(&self.name, properties::of(limits))?;
        self.cgroup.apply(limits)
    }

    /// Kills every process of the scope and has systemd remove it. A scope that is gone already is no error.
    ///
    /// # Errors
    /// [`Error::Kill`], [`Error::Systemd`].
    pub fn stop(&self) -> Result<()> {
        self.cgroup.kill()?;
        self.systemd.bus.stop(&self.name)
    }
}

/// For [`crate::fuzzing`].
pub(crate) fn fuzzing(limits: &Limits) {
    let _ = properties::of(limits);
}
