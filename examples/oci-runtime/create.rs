//! `create` and `run`.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use cgroup::Cgroup;
use container_core::launch::{self, Gate, Io, RootMount};
use container_core::oci_spec::runtime::{BoxBuilder as ConsoleSizeBuilder, Hooks, Spec};
use container_core::plan::{Extras, Facts, Plan};
use container_core::state::{Entry, Record, Status};
use container_core::{HookKind, HookState, Step, run_hooks};

use crate::args::Create;
use crate::bundle::Bundle;
use crate::context::{Context, Found};
use crate::failure::Failure;
use crate::foreground::{self, Relay, Signals};
use crate::{record, sockets};

/// The last heading in the debug log of a launch.
const SET_UP: &str = "init: closing the pipe to signal completion";

/// Sets a container up to where only its start is missing.
pub fn create(context: &Context, options: &Create) -> Result<(), Failure> {
    let mut bundle = Bundle::load(options.bundle.as_deref(), options.config.as_deref(), &context.log)?;
    give_activation(&mut bundle.spec);
    let console = console(&bundle.spec, options, true)?;
    let facts = Facts::gather()?;
    let entry = reserve(context, options, &bundle)?;
    let made = plan(context, options, &bundle, &facts, false).and_then(|plan| {
        let creating = intend(&entry, &bundle, &plan, &facts)?;
        let mut created = launch::create(&plan, io(options, console), Gate::Socket(entry.gate()))
            .map_err(|error| explain(error, &bundle.spec))?;
        context.log.debug(SET_UP);
        publish(options, &entry, &creating, Process::created(&created))?;
        // One that was killed already, by a hook or from outside, is there to be asked for and deleted all the same.
        let _ = created.detach();
        Ok(())
    });
    made.inspect_err(|_| forget(entry))
}

/// Sets a container up, runs it, and unless it is detached stays until it ends.
pub fn run(context: &Context, options: &Create, detach: bool, keep: bool) -> Result<ExitCode, Failure> {
    let mut bundle = Bundle::load(options.bundle.as_deref(), options.config.as_deref(), &context.log)?;
    give_activation(&mut bundle.spec);
    let console = console(&bundle.spec, options, detach)?;
    if !detach && console.is_none() {
        give_size(&mut bundle.spec);
    }
    let facts = Facts::gather()?;
    let entry = reserve(context, options, &bundle)?;
    let relayed = !detach && console.is_none();
    // Before the start, so that no signal is lost.
    let signals = if detach { None } else { Some(Signals::block()?) };
    let started = plan(context, options, &bundle, &facts, relayed).and_then(|plan| {
        let creating = intend(&entry, &bundle, &plan, &facts)?;
        let io = io(options, console);
        if plan.cgroup_path().is_none() {
            // Without a control group nobody could find the process if this program were killed before the record is written: so
            // the record comes first.
            let created =
                launch::create(&plan, io, Gate::Held).map_err(|error| explain(error, &bundle.spec))?;
            let record = publish(options, &entry, &creating, Process::created(&created))?;
            return Ok((created.start()?, record));
        }
        let running = launch::spawn(&plan, io).map_err(|error| explain(error, &bundle.spec))?;
        context.log.debug(SET_UP);
        let record = publish(options, &entry, &creating, Process::running(&running))?;
        Ok((running, record))
    });
    let (running, record) = match started {
        Ok(started) => started,
        Err(failure) => {
            forget(entry);
            return Err(failure);
        }
    };
    let found = Found { entry, record };
    let found = poststart(context, found, bundle.spec.hooks().as_ref())?;
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };

    // From here on others may change the container.
    found.entry.unlock();
    let terminal = running.terminal.map(Relay::new).transpose()?;
    foreground::attend(running.pidfd.as_fd(), &signals, terminal)?;
    let status = foreground::status(running.pidfd.as_fd())?;
    if !keep {
        finish(context, &found.record, running.cgroup.as_ref(), bundle.spec.hooks().as_ref())?;
    }
    Ok(ExitCode::from(status))
}

/// Takes the name, and keeps the configuration.
fn reserve(context: &Context, options: &Create, bundle: &Bundle) -> Result<Entry, Failure> {
    let entry = context.state.reserve(&options.id)?;
    match entry.save_spec(&bundle.json) {
        Ok(()) => Ok(entry),
        Err(error) => {
            forget(entry);
            Err(error.into())
        }
    }
}

/// Writes down what is going to be made: hooks may ask for the state of the container that is being created, and whoever deletes
/// it after this program was killed in the middle has to know what there may be.
fn intend(entry: &Entry, bundle: &Bundle, plan: &Plan, facts: &Facts) -> Result<Record, Failure> {
    let creating = record::creating(entry.id(), bundle, plan, facts.cgroups.as_ref());
    entry.save(&creating)?;
    Ok(creating)
}

fn plan(
    context: &Context,
    options: &Create,
    bundle: &Bundle,
    facts: &Facts,
    relayed: bool,
) -> Result<Plan, Failure> {
    let mut extras = Extras::new(&options.id);
    extras.bundle.clone_from(&bundle.path);
    extras.new_keyring = !options.no_new_keyring;
    extras.no_cgroup = context.no_cgroups;
    extras.take_cgroup = true;
    extras.all_cpus = true;
    extras.keep_groups = crate::bundle::keeps_groups(&bundle.spec);
    extras.terminal_onlcr = !relayed;
    check_unified(&bundle.spec, facts)?;
    let plan = Plan::new(&bundle.spec, &extras, facts)?;
    context.log.debug_plan(&plan, bundle.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()));
    Ok(plan)
}

/// Why a launch failed, with what the configuration has to do with it where the kernel's word alone says little.
fn explain(error: container_core::Error, spec: &Spec) -> Failure {
    let cpu = |spec: &Spec| spec.linux().as_ref()?.resources().as_ref()?.cpu().clone();
    let scheduler = error.step() == Some(Step::Scheduler);
    let cpus = cpu(spec).is_some_and(|cpu| cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty()));
    let failure = Failure::from(error);
    if scheduler && cpus {
        return Failure::new(format!(
            "{} (process scheduler can't be used together with AllowedCPUs)",
            failure.message
        ));
    }
    failure
}

/// Files of version 2 have no meaning for hierarchies of version 1.
fn check_unified(spec: &Spec, facts: &Facts) -> Result<(), Failure> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let unified =
        resources.and_then(|resources| resources.unified().as_ref()).is_some_and(|all| !all.is_empty());
    let version_2 = facts.cgroups.as_ref().is_none_or(|hierarchy| hierarchy.mode() == cgroup::Mode::V2);
    if unified && !version_2 {
        return Err(Failure::new(
            "invalid configuration: linux.resources.unified needs a host with cgroup v2 only",
        ));
    }
    Ok(())
}

fn io(options: &Create, console: Option<OwnedFd>) -> Io {
    Io { preserve: options.preserve_fds + activation_fds(), console, ..Io::default() }
}

/// How many sockets systemd (sd_listen_fds(3)) gave us to pass on.
fn activation_fds() -> u32 {
    std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Tells the container's first process of the sockets that are passed on to it.
fn give_activation(spec: &mut Spec) {
    let count = activation_fds();
    if let Some(process) = spec.process_mut().as_mut().filter(|_| count > 0) {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
    }
}

/// The connection to the console socket, for a container that has a terminal.
fn console(spec: &Spec, options: &Create, detached: bool) -> Result<Option<OwnedFd>, Failure> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    connect_console(terminal, options.console_socket.as_deref(), detached)
}

/// The connection to `socket` where there is a `terminal` to send. A socket that is not needed is passed over: clients give
/// one without looking.
pub fn connect_console(
    terminal: bool,
    socket: Option<&Path>,
    detached: bool,
) -> Result<Option<OwnedFd>, Failure> {
    match (terminal, socket) {
        (true, Some(socket)) => {
            UnixStream::connect(socket).map(|stream| Some(stream.into())).map_err(|error| {
                Failure::because(format!("connect to console socket {}", socket.display()), error)
            })
        }
        (true, None) if detached => Err(Failure::new(
            "process.terminal is true: a detached container needs --console-socket to send its terminal to",
        )),
        _ => Ok(None),
    }
}

/// A terminal of the container that we relay starts with the size of our own.
fn give_size(spec: &mut Spec) {
    let Some(process) = spec.process_mut() else { return };
    if process.terminal() != Some(true) || process.console_size().is_some() || !std::io::stdin().is_terminal()
    {
        return;
    }
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
        let own = ConsoleSizeBuilder::default().height(size.ws_row).width(size.ws_col).build();
        process.set_console_size(own.ok());
    }
}

/// A process that was started, as far as clients are told of it.
pub struct Process<'a> {
    pub pid: i32,
    pub pidfd: &'a OwnedFd,
    pub cgroup: Option<&'a Cgroup>,
    pub root_mount: Option<&'a RootMount>,
}

impl<'a> Process<'a> {
    fn created(created: &'a launch::Created) -> Self {
        let launch::Created { pid, pidfd, cgroup, root_mount, .. } = created;
        Self { pid: *pid, pidfd, cgroup: cgroup.as_ref(), root_mount: root_mount.as_ref() }
    }

    fn running(running: &'a launch::Running) -> Self {
        let launch::Running { pid, pidfd, cgroup, root_mount, .. } = running;
        Self { pid: *pid, pidfd, cgroup: cgroup.as_ref(), root_mount: root_mount.as_ref() }
    }

    /// Its pid and its descriptor, to where the client wants them.
    pub fn announce(&self, pid_file: Option<&Path>, pidfd_socket: Option<&Path>) -> Result<(), Failure> {
        if let Some(file) = pid_file {
            sockets::write_pid(file, self.pid)?;
        }
        if let Some(socket) = pidfd_socket {
            sockets::send(socket, self.pidfd, "pidfd")?;
        }
        Ok(())
    }
}

/// Keeps what is known of the new container and tells the client; the container does not outlive a failure.
fn publish(
    options: &Create,
    entry: &Entry,
    creating: &Record,
    process: Process<'_>,
) -> Result<Record, Failure> {
    let published = record::with_process(creating.clone(), &process).and_then(|record| {
        entry.save(&record)?;
        process.announce(options.pid_file.as_deref(), options.pidfd_socket.as_deref())?;
        Ok(record)
    });
    if published.is_err() {
        // The failure that led here is the one to report.
        let _ = container_core::signal(process.pidfd, nix::sys::signal::Signal::SIGKILL as i32);
        let _ = foreground::status(process.pidfd.as_fd());
        if let Some(cgroup) = process.cgroup {
            let _ = cgroup.kill();
            let _ = cgroup.remove();
        }
        if let Some(mount) = process.root_mount {
            let _ = mount.unmount();
        }
    }
    published
}

/// Gives the name back after a failure, which is the one to report.
fn forget(entry: Entry) {
    let _ = entry.remove();
}

/// Takes down what a container in the foreground left, unless somebody deleted it meanwhile.
fn finish(
    context: &Context,
    record: &Record,
    cgroup: Option<&Cgroup>,
    hooks: Option<&Hooks>,
) -> Result<(), Failure> {
    let id = &record.id;
    let found = match context.lock(id) {
        Ok(found) => found,
        Err(_) if !context.state.path().join(id).exists() => return Ok(()),
        Err(failure) => return Err(failure),
    };
    if found.record != *record {
        // Deleted meanwhile, and the name is another container's now: it has the control group of that name, too.
        return Ok(());
    }
    if let Some(cgroup) = cgroup {
        // Without a pid namespace of the container's own there may be processes left.
        cgroup
            .kill()
            .and_then(|()| cgroup.remove())
            .map_err(|error| Failure::because(format!("remove the control group of {id}"), error))?;
    }
    record::unmount(record)?;
    found.entry.remove()?;
    if let Some(hooks) = hooks {
        poststop(context, hooks, record);
    }
    Ok(())
}

/// Runs the poststart hooks. One that fails ends the container and takes it down, as the runtime specification has it since 1.2.
pub fn poststart(context: &Context, found: Found, hooks: Option<&Hooks>) -> Result<Found, Failure> {
    let Some(hooks) = hooks.and_then(|hooks| hooks.poststart().as_ref()) else { return Ok(found) };
    let mut state = state(&found.record, Status::Running);
    state.pid = found.record.pid;
    match run_hooks(HookKind::Poststart, hooks, &state) {
        Ok(()) => Ok(found),
        Err(error) => {
            // The hook's failure is the one to report.
            let _ = crate::delete::destroy(context, found);
            Err(error.into())
        }
    }
}

/// Runs the poststop hooks. The container is gone: a hook that fails is only warned about.
pub fn poststop(context: &Context, hooks: &Hooks, record: &Record) {
    for hook in hooks.poststop().iter().flatten() {
        let run = run_hooks(HookKind::Poststop, std::slice::from_ref(hook), &state(record, Status::Stopped));
        if let Err(container_core::Error::Hook { path, reason, .. }) = run {
            let reason = reason.replacen("exit status", "exit code", 1);
            context.log.warn(&format!("poststop hook failed with {reason}: {}", path.display()));
        }
    }
}

/// What hooks are told.
pub fn state(record: &Record, status: Status) -> HookState {
    let mut state = HookState::new(&record.oci_version, &record.id, status, &record.bundle);
    let annotations: std::collections::HashMap<_, _> = record.annotations.clone().into_iter().collect();
    state.annotations = (!annotations.is_empty()).then_some(annotations);
    state
}
