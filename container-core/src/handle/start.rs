//! The verbs of the builder: what they make, in which order, and how it is taken down when a step fails.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::DiskLayer;
use super::rootfs::Held;
use super::streams::{DefaultStreams, Ends, Streams, connect};
use super::{Bounds, Container, Core, Created, Outcome, Output, Process, Resources};
use crate::builder::{ContainerBuilder, Root};
use crate::error::{Error, Result};
use crate::namespace::NamespaceKind;
use crate::plan::{Facts, Plan, Rootfs, UpperLayer};
use crate::spec::{Description, random_id};
use crate::{host, launch, sys};

/// The facts of this host, gathered once for as long as the caller stays who it is.
pub(crate) fn facts() -> Result<Arc<Facts>> {
    static KNOWN: Mutex<Option<Arc<Facts>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(facts) = known.as_ref()
        && facts.uid == rustix::process::geteuid().as_raw()
        && facts.gid == rustix::process::getegid().as_raw()
    {
        return Ok(Arc::clone(facts));
    }
    let fresh = Arc::new(Facts::gather()?);
    *known = Some(Arc::clone(&fresh));
    Ok(fresh)
}

/// Everything of a container before its process.
struct Prepared {
    description: Description,
    plan: Plan,
    ends: Ends,
    resources: Resources,
    bounds: Bounds,
    stop_signal: i32,
}

impl ContainerBuilder {
    /// The runtime specification that would be started, with `rootfs` as the root of an image's container.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a description that contradicts itself, [`Error::UnknownUser`], [`Error::Io`].
    pub fn spec(&self) -> Result<oci_spec::runtime::Spec> {
        let id = self.id.clone().map_or_else(random_id, Ok)?;
        Ok(self.describe(&id, None, &*facts()?)?.spec)
    }

    /// The plan that would run: print it to see every step, one a line. Nothing is started; of an image, what is not unpacked
    /// yet is.
    ///
    /// # Errors
    /// As [`spec`](Self::spec), and [`Error::Unsupported`], [`Error::Image`].
    pub fn plan(&self) -> Result<Plan> {
        let id = self.id.clone().map_or_else(random_id, Ok)?;
        let facts = facts()?;
        let (rootfs, _view) = match &self.root {
            #[cfg(feature = "images")]
            Root::Image(store, image) => {
                let store = self.store_for(store, image, &facts)?;
                let view = store.view(image).map_err(|e| Error::Image(Box::new(e)))?;
                (Some(Rootfs::try_from(view.mount().clone())?), Held::View(view))
            }
            _ => (None, Held::Nothing),
        };
        let Description { spec, extras, .. } = self.describe(&id, rootfs, &facts)?;
        Plan::new(&spec, &extras, &facts)
    }

    /// Starts the container. Its streams are inherited unless told otherwise.
    ///
    /// # Errors
    /// Why it could not be started, with the step and its subject. Nothing of it is left then.
    pub fn spawn(&self) -> Result<Container> {
        self.launch(DefaultStreams::Inherit)
    }

    /// Sets the container up to the last step before the command.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn create(&self) -> Result<Created> {
        let prepared = self.prepare(DefaultStreams::Inherit)?;
        prepared
            .run(|plan, io| {
                let mut held = launch::create(plan, io, launch::Gate::Held)?;
                let pidfd = held.pidfd.try_clone().map_err(|e| Error::io("duplicate", "pidfd", e))?;
                // The control group is the container's from here on; what is left with the gate is the order to start.
                let running = launch::Running {
                    pid: held.pid,
                    pidfd,
                    cgroup: held.cgroup.take(),
                    terminal: held.terminal.take(),
                    skipped: std::mem::take(&mut held.skipped),
                    status: held.status.take(),
                    root_mount: held.root_mount.take(),
                };
                Ok((running, Some(held)))
            })
            .map(|(container, held)| Created { container, held, touched: false })
    }

    /// Runs the container to its end and returns its status. Its streams are inherited unless told otherwise.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Container::wait`].
    pub fn status(&self) -> Result<ExitStatus> {
        Ok(self.launch(DefaultStreams::Inherit)?.finish()?.status)
    }

    /// Runs the container to its end and returns its status and what it wrote. Standard input is empty, unless there is
    /// [`input`](Self::input).
    ///
    /// It returns when the first process has ended, with everything written until then, even if somebody else still holds the
    /// pipes; and every process of the container is dead by then.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn output(&self) -> Result<Output> {
        self.run().map(Output::from)
    }

    /// Runs the container to its end: feeds its input while collecting its output, holds it to its limits, and says how it
    /// ended and what it used. The call for judges and runners of other people's code.
    ///
    /// # Errors
    /// Only if it never started, or could not be followed: see [`Outcome`] for everything else.
    pub fn run(&self) -> Result<Outcome> {
        self.start_collecting()?.finish()
    }

    /// Starts it with streams that are fed and collected.
    pub(crate) fn start_collecting(&self) -> Result<Container> {
        self.launch(DefaultStreams::Collect)
    }

    fn launch(&self, default: DefaultStreams) -> Result<Container> {
        let prepared = self.prepare(default)?;
        prepared.run(|plan, io| Ok((launch::spawn(plan, io)?, ()))).map(|(container, ())| container)
    }

    fn prepare(&self, default: DefaultStreams) -> Result<Prepared> {
        if sys::pidfd::children_are_discarded() && !sys::pidfd::keeps_exit_status() {
            return Err(Error::SigchldIgnored);
        }
        let facts = facts()?;
        let id = self.id.clone().map_or_else(random_id, Ok)?;
        // Wrong words cost nothing: they are found before anything is made.
        if !matches!(self.root, Root::Missing | Root::Bundle(_)) {
            self.describe(&id, None, &facts).map(drop).or_else(later)?;
        }
        let mut resources = Resources::default();
        if let Some(directory) = &self.state_directory {
            let die = self.die_with_host.unwrap_or(false);
            resources.entry = Some(super::detach::reserve(directory, &id, self.layer_key(&id), die)?);
        }
        let prepared = self.prepare_rest(default, &id, &facts, &mut resources);
        match prepared {
            Ok((description, plan, ends, stop_signal)) => {
                let bounds = Bounds {
                    input: self.input.clone(),
                    output: self.output_limit,
                    wall: self.timeout,
                    cpu: self.cpu_time,
                };
                Ok(Prepared { description, plan, ends, resources, bounds, stop_signal })
            }
            Err(error) => {
                let _ = resources.remove();
                Err(error)
            }
        }
    }

    fn prepare_rest(
        &self,
        default: DefaultStreams,
        id: &str,
        facts: &Facts,
        resources: &mut Resources,
    ) -> Result<(Description, Plan, Ends, i32)> {
        let (rootfs, stop_signal) = self.hold_rootfs(id, facts, resources)?;
        let mut description = self.describe(id, rootfs, facts)?;
        if let Some(size) = self.disk_layer() {
            if !facts.privileged {
                let remedy =
                    "loop devices are for privileged users; writable_memory limits the layer for everybody";
                return Err(Error::unsupported("a size limit on disk", remedy));
            }
            let disk = DiskLayer::make(size, &self.scratch_directory())?;
            let root = description.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
            crate::spec::layer_over(disk.upper(), facts.privileged, &root, &mut description.extras);
            resources.disk = Some(disk);
        }
        let plan = Plan::new(&description.spec, &description.extras, facts)?;
        let choices = [self.stdin.as_ref(), self.stdout.as_ref(), self.stderr.as_ref()];
        let ends = connect(choices, default, self.input.is_some(), self.terminal.is_some())?;
        Ok((description, plan, ends, stop_signal))
    }

    /// Where a layer's file may take space.
    fn scratch_directory(&self) -> std::path::PathBuf {
        match &self.root {
            #[cfg(feature = "images")]
            Root::Image(store, _) => store.path().to_owned(),
            _ => std::env::temp_dir(),
        }
    }
}

/// A user by name is looked for in a root file system that is not there yet at the first look.
fn later(error: Error) -> Result<()> {
    match error {
        Error::UnknownUser { .. } => Ok(()),
        other => Err(other),
    }
}

impl Prepared {
    fn run<T>(
        self,
        launch: impl FnOnce(&Plan, launch::Io) -> Result<(launch::Running, T)>,
    ) -> Result<(Container, T)> {
        let Self { description, plan, ends, mut resources, bounds, stop_signal } = self;
        let Description { spec, extras, left_out } = description;
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let own =
            |kind| namespaces.is_some_and(|list| list.iter().any(|n| n.typ() == kind && n.path().is_none()));
        let (own_pids, own_users) = (own(NamespaceKind::Pid), own(NamespaceKind::User));
        let (running, extra) = match launch(&plan, ends.io) {
            Ok(started) => started,
            Err(error) => {
                let _ = resources.remove();
                return Err(if own_users { host::explain_user_namespaces(error) } else { error });
            }
        };
        let launch::Running { pid, pidfd, cgroup, terminal, skipped, status, root_mount, .. } = running;
        resources.root_mount = root_mount;
        let in_memory =
            matches!(&extras.rootfs, Some(Rootfs::Overlay { upper: Some(UpperLayer::Memory { .. }), .. }));
        let core = Core {
            id: extras.id,
            process: Process::new(pid, pidfd).told_by(status),
            cgroup,
            spec,
            stop_signal,
            own_pids,
            sized_layer: resources.disk.is_some() || in_memory,
            skipped_limits: left_out.into_iter().chain(skipped).collect(),
            lower: match extras.rootfs {
                Some(Rootfs::Overlay { lower, .. }) => Some(lower),
                _ => None,
            },
        };
        let Streams { stdin, stdout, stderr } = ends.streams;
        let container =
            Container { stdin, stdout, stderr, core: Arc::new(core), terminal, bounds, resources };
        container.keep_root();
        // From here on dropping the container takes everything down.
        container.record()?;
        Ok((container, extra))
    }
}
