//! A launch, lowered: a pure function of (`Spec`, [`Extras`], [`Facts`]) to a list of prepared operations.
//!
//! Every optional field of the spec is resolved here, once, and fields are checked against each other. No kernel object is made,
//! so plans are tested without any rights, compared as text, and shown to whoever wants to know what a launch will do.
//!
//! The order of the operations is the order of the launch, and its reasons are told where it is made, in [`lower`].

mod cgroups;
mod devices;
pub(crate) mod exec;
mod extras;
mod facts;
mod lower;
mod mounts;
mod namespaces;
pub(crate) mod operation;
mod phrases;
mod process;
mod program;
mod rootfs;
mod scheduling;
mod services;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

pub use extras::{Extras, LowerLayer, Rootfs, UpperLayer};
pub use facts::Facts;
pub(crate) use namespaces::{Maps, Namespaces, USER};
use oci_spec::runtime::{LinuxResources, Spec};
use operation::{Operation, Slot};
pub(crate) use services::{Listener, Services, StartHook};

use crate::error::{Error, Result};

/// A launch that is ready to run: every step with all it needs. `Display` prints one step a line.
///
/// Made with [`Plan::new`] (pure, touches nothing) and run with `launch`; one plan can be run any number of times as long as
/// what it names (directories, namespaces) is there.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Done by the calling thread before the clone.
    pub(crate) outside: Vec<Operation>,
    /// Done by the new process.
    pub(crate) inside: Vec<Operation>,
    pub(crate) slots: usize,
    /// Namespaces of the first clone.
    pub(crate) clone_flags: u64,
    /// The process starts in the launcher's empty mount namespace and not in a copy of the host's.
    pub(crate) isolated: bool,
    /// The caller rules over the host: it may look into processes that hide.
    pub(crate) privileged: bool,
    /// The caller rules over its user namespace, where processes of containers may be its equals.
    pub(crate) capable: bool,
    /// Where the root stays mounted in the caller's namespace, for a container without a mount namespace of its own.
    pub(crate) root_stays_at: Option<PathBuf>,
    /// The process may share the host program's memory until it executes the command.
    pub(crate) may_share_memory: bool,
    /// User namespaces to make for idmapped mounts.
    pub(crate) idmaps: Vec<(Slot, Maps)>,
    pub(crate) cgroup: Option<CgroupRequest>,
    pub(crate) program: Program,
    pub(crate) services: Services,
}

/// The control group the launch makes.
#[derive(Clone, Debug)]
pub(crate) struct CgroupRequest {
    pub(crate) path: String,
    pub(crate) resources: Option<LinuxResources>,
    pub(crate) best_effort: bool,
    /// It may be left out where it cannot be made: nobody asked for it.
    pub(crate) optional: bool,
    /// Access to devices is restricted even if the spec has no rules.
    pub(crate) rules_devices: bool,
    pub(crate) hierarchy: cgroup::Hierarchy,
    pub(crate) controllers: cgroup::Controllers,
    /// One that is there, without processes, will do.
    pub(crate) take: bool,
}

/// The command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// The paths to try, in order.
    pub(crate) candidates: Vec<CString>,
    /// The filter lets execveat through, so that the command can be run by its descriptor.
    pub(crate) by_descriptor: bool,
    /// Nobody is in there yet who could change what a name leads to: a command behind a symbolic link can keep its name.
    pub(crate) keeps_name: bool,
}

impl Plan {
    /// A plan to fill in: nothing outside, no new namespaces, no sharing of memory.
    fn empty() -> Self {
        Self {
            outside: Vec::new(),
            inside: Vec::new(),
            slots: operation::FIRST_FREE,
            clone_flags: 0,
            isolated: false,
            privileged: false,
            capable: false,
            root_stays_at: None,
            may_share_memory: false,
            idmaps: Vec::new(),
            cgroup: None,
            program: Program::default(),
            services: Services::default(),
        }
    }

    /// Lowers a container's description. Pure: looks at nothing but its arguments.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the spec contradicts itself or names something that does not exist, and
    /// [`Error::Unsupported`] where the facts rule it out.
    pub fn new(spec: &Spec, extras: &Extras, facts: &Facts) -> Result<Self> {
        lower::container(spec, extras, facts)
    }

    /// The control group that the launch makes, as the specification or the container's name has it: absolute, or below the
    /// caller's own. `None` when it makes none, or may leave it out because nothing is limited and the caller may make none.
    pub fn cgroup_path(&self) -> Option<&str> {
        self.cgroup.as_ref().filter(|request| !request.optional).map(|request| request.path.as_str())
    }

    /// A process goes first and makes the container's own beside itself.
    pub(crate) fn has_second_stage(&self) -> bool {
        self.inside.iter().any(|operation| matches!(operation, Operation::Succeed { .. }))
    }

    /// Whether the root stays mounted in the caller's mount namespace after the container: it has none of its own.
    pub fn leaves_root(&self) -> bool {
        self.root_stays_at.is_some()
    }

    /// Lowers one more process of a running container, described by `container`, its spec.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn exec(
        process: &oci_spec::runtime::Process,
        container: &Spec,
        extras: &Extras,
        facts: &Facts,
    ) -> Result<Self> {
        exec::process(process, container, extras, facts)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut number = 0;
        let mut line = |f: &mut std::fmt::Formatter<'_>, step: String, subject: String| {
            number += 1;
            let gap = if subject.is_empty() { "" } else { " " };
            writeln!(f, "{number:3}  {step}{gap}{subject}")
        };
        if let Some(cgroup) = &self.cgroup {
            line(f, crate::step::Step::MakeCgroup.to_string(), cgroup.path.clone())?;
        }
        for operation in &self.outside {
            line(f, operation.step().to_string(), operation.subject())?;
        }
        let names = phrases::namespace_names(self.clone_flags);
        let into = if names.is_empty() { String::new() } else { format!("into new {names}") };
        line(f, crate::step::Step::Clone.to_string(), into)?;
        for operation in &self.inside {
            let subject = match operation {
                Operation::Exec => {
                    let words: Vec<String> =
                        self.program.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
                    words.join(" ")
                }
                Operation::Locate => continue,
                Operation::FromHost { sources } => {
                    for source in sources {
                        line(f, source.step().to_string(), source.subject())?;
                    }
                    continue;
                }
                _ => operation.subject(),
            };
            line(f, operation.step().to_string(), subject)?;
        }
        Ok(())
    }
}

/// A C string of `text`, or an error that names the field.
pub(crate) fn c_string(field: &str, text: impl AsRef<OsStr>) -> Result<CString> {
    let text = text.as_ref();
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid(format!("{field} {}", text.display()), "it contains a NUL byte"))
}
