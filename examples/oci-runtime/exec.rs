//! `exec`: another process in a running container.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use cgroup::{Cgroup, Hierarchy};
use container_core::launch::{self, Io, Target};
use container_core::oci_spec::runtime::{Capability, LinuxCapabilities, Process as Description, Spec};
use container_core::plan::{Extras, Facts, Plan};
use container_core::state::Status;

use crate::args::Exec;
use crate::context::Context;
use crate::create::{Process, connect_console};
use crate::failure::Failure;
use crate::foreground::{self, Relay, Signals};

pub fn exec(context: &Context, options: Exec) -> Result<ExitCode, Failure> {
    // runc's clients tell a failure of exec itself from the command's own status by this number.
    run(context, options).map_err(|failure| failure.with_status(255))
}

/// The process to run: the document of `--process`, or the container's own with what the command line changes.
fn process(context: &Context, options: &Exec, spec: &Spec) -> Result<Description, Failure> {
    if let Some(file) = &options.process {
        let mut process = crate::bundle::process(file, &context.log)?;
        if options.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    if options.command.is_empty() {
        return Err(Failure::usage("exec needs a command, or --process"));
    }
    let mut process =
        spec.process().clone().ok_or_else(|| Failure::new("the container's configuration has no process"))?;
    let args = options.command.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>()?;
    process.set_args(Some(args));
    process.set_terminal(Some(options.tty));
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !options.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &options.env {
            env.push(text(entry)?);
        }
        process.set_env(Some(env));
    }
    if !options.caps.is_empty() {
        let capabilities = process.capabilities().clone().unwrap_or_default();
        process.set_capabilities(Some(with(capabilities, &options.caps)?));
    }
    set_user(&mut process, options)?;
    Ok(process)
}

fn text(word: &std::ffi::OsStr) -> Result<String, Failure> {
    word.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("not UTF-8: {}", word.to_string_lossy())))
}

/// `capabilities` and `more`. Ambient needs inheritable, which is left to the configuration.
fn with(mut capabilities: LinuxCapabilities, more: &[String]) -> Result<LinuxCapabilities, Failure> {
    for name in more {
        let capability: Capability = name
            .to_ascii_uppercase()
            .trim_start_matches("CAP_")
            .parse()
            .map_err(|_| Failure::usage(format!("unknown capability {name:?}")))?;
        let with = |set: &Option<HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let bounding = with(capabilities.bounding());
        let effective = with(capabilities.effective());
        let permitted = with(capabilities.permitted());
        let inheritable = capabilities.inheritable().as_ref().is_some_and(|set| !set.is_empty());
        let ambient = if inheritable { with(capabilities.ambient()) } else { capabilities.ambient().clone() };
        capabilities
            .set_bounding(bounding)
            .set_effective(effective)
            .set_permitted(permitted)
            .set_ambient(ambient);
    }
    Ok(capabilities)
}

/// `--user U[:G]` in numbers and `--additional-gids`; names are looked up in the container by the launch.
fn set_user(process: &mut Description, options: &Exec) -> Result<(), Failure> {
    let mut user = process.user().clone();
    if let Some((uid, gid)) = options.user.as_deref().and_then(numbers) {
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&options.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    Ok(())
}

/// `1000` or `1000:100`; `None` for names.
fn numbers(user: &str) -> Option<(u32, Option<u32>)> {
    match user.split_once(':') {
        None => Some((user.parse().ok()?, None)),
        Some((uid, gid)) => Some((uid.parse().ok()?, Some(gid.parse().ok()?))),
    }
}
fn run(context: &Context, options: Exec) -> Result<ExitCode, Failure> {
    let found = context.find(&options.id)?;
    match found.status() {
        Status::Stopped => {
            return Err(Failure::new(format!(
                "cannot exec in {}: cannot exec in a stopped container",
                options.id
            )));
        }
        Status::Paused if !options.ignore_paused => {
            return Err(Failure::new(format!(
                "cannot exec in {}: cannot exec in a paused container (use --ignore-paused to override)",
                options.id
            )));
        }
        _ => {}
    }
    let spec = found.entry.spec()?;
    let process = process(context, &options, &spec)?;
    let Some(init) = found.record.pidfd()? else { return Err(Failure::not_running("exec in", &options.id)) };
    let cgroup = subgroup(found.cgroup()?, &options.cgroup)?;

    let mut extras = Extras::new(&options.id);
    extras.bundle.clone_from(&found.record.bundle);
    extras.no_cgroup = cgroup.is_none();
    extras.all_cpus = true;
    extras.keep_groups = crate::bundle::keeps_groups(&spec);
    extras.terminal_onlcr = options.detach || options.console_socket.is_some();
    // By name: in the container's own files, which only the launch can see.
    extras.user = options.user.clone().filter(|user| numbers(user).is_none());
    let plan = Plan::exec(&process, &spec, &extras, &Facts::gather()?)?;
    context.log.debug_plan(&plan, spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()));
    if let Some(affinity) = process.exec_cpu_affinity() {
        for cpus in [affinity.initial(), affinity.cpu_affinity_final()].into_iter().flatten() {
            context.log.debug_lines(|| format!("nsexec: affinity: {}", mask(cpus)));
        }
    }
    let console = connect_console(
        process.terminal().unwrap_or(false),
        options.console_socket.as_deref(),
        options.detach,
    )?;
    let signals = if options.detach { None } else { Some(Signals::block()?) };

    let target = Target { pidfd: init.as_fd(), pid: found.record.pid, cgroup: cgroup.as_ref() };
    let io = Io { preserve: options.preserve_fds, console, ..Io::default() };
    context.log.debug("setns_init: about to exec");
    let running = launch::exec(&target, &plan, io).map_err(|error| match Failure::from(error) {
        // It ended in the middle: whatever failed first, failed for that.
        failure if !found.record.is_alive() => {
            Failure::new(format!("{}: container not running", failure.message))
        }
        failure => failure,
    })?;
    let announced = Process { pid: running.pid, pidfd: &running.pidfd, cgroup: None, root_mount: None }
        .announce(options.pid_file.as_deref(), options.pidfd_socket.as_deref());
    if let Err(failure) = announced {
        let _ = container_core::signal(&running.pidfd, nix::sys::signal::Signal::SIGKILL as i32);
        let _ = foreground::status(running.pidfd.as_fd());
        return Err(failure);
    }
    let Some(signals) = signals else { return Ok(ExitCode::SUCCESS) };
    let terminal = running.terminal.map(Relay::new).transpose()?;
    foreground::attend(running.pidfd.as_fd(), &signals, terminal)?;
    foreground::status(running.pidfd.as_fd()).map(ExitCode::from)
}

/// A list of CPUs as the mask that sched_setaffinity(2) gets, for who looks for it in the log.
fn mask(cpus: &str) -> String {
    let mut mask: u128 = 0;
    for part in cpus.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            (first..=last.min(127)).for_each(|cpu| mask |= 1 << cpu);
        }
    }
    format!("{mask:#x}")
}

/// The control group to enter: the container's, or one below it for all controllers (`PATH`) or some (`CTRL[,CTRL]:PATH`).
fn subgroup(cgroup: Option<Cgroup>, wanted: &[String]) -> Result<Option<Cgroup>, Failure> {
    let Some(cgroup) = cgroup else {
        return if wanted.is_empty() {
            Ok(None)
        } else {
            Err(Failure::new("the container has no control group"))
        };
    };
    if wanted.is_empty() {
        return Ok(Some(cgroup));
    }
    let mut directories: Vec<(String, PathBuf)> =
        cgroup.directories().map(|(mount, path)| (mount.options().to_owned(), path.to_owned())).collect();
    for option in wanted {
        let (controllers, path) =
            option.split_once(':').map_or((None, option.as_str()), |(c, p)| (Some(c), p));
        let relative = Path::new(path.trim_start_matches('/'));
        if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Failure::new(format!(
                "bad sub cgroup path: {path}: `..` components are not allowed"
            )));
        }
        let (mut known, mut entered, mut missing) = (false, false, None);
        for (names, directory) in &mut directories {
            let serves = |name: &str| names.split(',').any(|own| own == name);
            if controllers.is_some_and(|wanted| !wanted.split(',').any(serves)) {
                continue;
            }
            known = true;
            let below = directory.join(relative);
            if below.is_dir() {
                entered = true;
                *directory = below;
            } else {
                missing = Some(below);
            }
        }
        // A path for all controllers need not exist for each of them, one for some must.
        if let Some(missing) = missing.filter(|_| controllers.is_some() || !entered) {
            return Err(Failure::new(format!(
                "cgroup: error adding pid to {}: no such file or directory",
                missing.display()
            )));
        }
        if !known {
            return Err(Failure::new(format!(
                "unknown controller {} in {option:?}",
                controllers.unwrap_or_default()
            )));
        }
    }
    let hierarchy = Hierarchy::discover().map_err(|error| Failure::because("find control groups", error))?;
    Cgroup::adopt_directories(&hierarchy, directories.iter().map(|(_, path)| path))
        .map(Some)
        .map_err(|error| Failure::because("open the control group", error))
}
