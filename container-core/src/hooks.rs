//! OCI hooks: programs of the host that are run at fixed points of a container's life and get its state on standard input.
//!
//! A hook gets exactly the arguments and, where the configuration has some, exactly the environment that it names. What it
//! writes is kept for the error message and shown nowhere else. One that takes longer than its timeout is killed with
//! everything in its process group.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{PipeReader, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::state::Status;

/// When a hook is run (runtime specification, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookKind {
    /// Of old: like `CreateRuntime`, and before it.
    Prestart,
    /// During create, in the caller's namespaces, before the root is changed.
    CreateRuntime,
    /// During create, in the container's namespaces, before the root is changed.
    CreateContainer,
    /// During start, inside the container, before the command is executed.
    StartContainer,
    /// After start, in the caller's namespaces.
    Poststart,
    /// After the container was removed, in the caller's namespaces.
    Poststop,
}

impl HookKind {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a hook is told about the container, as JSON on its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HookState {
    /// Version of the runtime specification.
    pub oci_version: String,
    /// Name of the container.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process; left out when that is gone.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Annotations of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<HashMap<String, String>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

impl HookState {
    /// The state of container `id` in `status`.
    pub fn new(
        oci_version: impl Into<String>,
        id: impl Into<String>,
        status: Status,
        bundle: impl Into<PathBuf>,
    ) -> Self {
        Self {
            oci_version: oci_version.into(),
            id: id.into(),
            status,
            pid: 0,
            bundle: bundle.into(),
            annotations: None,
        }
    }
}

/// Runs `hooks` in order, in the caller's namespaces, until one fails.
///
/// # Errors
/// [`Error::Hook`] for the first that cannot be started, ends with another status than 0, is killed, or outlasts its timeout.
pub fn run_hooks(kind: HookKind, hooks: &[Hook], state: &HookState) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state).map_err(|reason| failed(kind, index, hook, reason))?;
    }
    Ok(())
}

/// Takes care of a hook that was started by other means: waits for its end, for as long as its timeout lets it run.
pub(crate) fn supervise(kind: HookKind, index: usize, hook: &Hook, process: HookProcess) -> Result<()> {
    deadline(hook)
        .and_then(|deadline| judge(process, deadline))
        .map_err(|reason| failed(kind, index, hook, reason))
}

/// The error for a hook that could not be started by those other means.
pub(crate) fn not_started(kind: HookKind, index: usize, hook: &Hook, error: &Error) -> Error {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    failed(kind, index, hook, format!("{error}{cause}"))
}

fn failed(kind: HookKind, index: usize, hook: &Hook, reason: String) -> Error {
    Error::Hook { kind: kind.name(), index, path: hook.path().clone(), reason }
}

/// A hook that runs. It ends with this value, with everything in its process group.
#[derive(Debug)]
pub(crate) struct HookProcess {
    /// Leader of its own process group.
    pid: Pid,
    pidfd: OwnedFd,
    /// What it writes.
    output: PipeReader,
    ended: bool,
}

impl HookProcess {
    pub(crate) fn new(pid: Pid, pidfd: OwnedFd, output: PipeReader) -> Self {
        Self { pid, pidfd, output, ended: false }
    }
}

/// What a hook is started with.
#[derive(Debug)]
pub(crate) struct HookStdio {
    /// Standard input: the state.
    pub(crate) input: OwnedFd,
    /// Standard output and error.
    pub(crate) output: OwnedFd,
}

/// Standard input and output for a hook, and the end of the latter to read from.
pub(crate) fn stdio(state: &HookState) -> std::io::Result<(HookStdio, PipeReader)> {
    // A file and not a pipe: a hook need not read the state, and nobody has to wait for it to do so.
    let mut input = File::from(rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(&mut input, state)?;
    input.seek(SeekFrom::Start(0))?;
    let (reader, output) = std::io::pipe()?;
    Ok((HookStdio { input: input.into(), output: output.into() }, reader))
}

/// When a hook's time is over, and how many seconds that is.
type Deadline = Option<(Instant, i64)>;

fn deadline(hook: &Hook) -> std::result::Result<Deadline, String> {
    let Some(seconds) = hook.timeout() else { return Ok(None) };
    match u64::try_from(seconds) {
        Ok(limit) if limit > 0 => Ok(Some((Instant::now() + Duration::from_secs(limit), seconds))),
        _ => Err(format!("timeout {seconds} is not greater than zero")),
    }
}

fn run_one(hook: &Hook, state: &HookState) -> std::result::Result<(), String> {
    let deadline = deadline(hook)?;
    let mut command = command(hook)?;
    // Where the specification's own examples expect to be. By the time of poststop it may be gone.
    if state.bundle.is_dir() {
        command.current_dir(&state.bundle);
    }
    let (stdio, output) = stdio(state).map_err(|error| format!("prepare its input and output: {error}"))?;
    let errors = stdio.output.try_clone().map_err(|error| format!("prepare its output: {error}"))?;
    command.stdin(stdio.input).stdout(stdio.output).stderr(errors).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", hook.path().display()))?;
    // The command holds the writing end; from here on it belongs to the hook alone.
    drop(command);
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw).and_then(|pid| {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(HookProcess::new(pid, pidfd, output))
    });
    match process {
        Some(process) => judge(process, deadline),
        None => {
            let _ = child.kill().and_then(|()| child.wait());
            Err("no descriptor for its process can be had".to_owned())
        }
    }
}

fn command(hook: &Hook) -> std::result::Result<Command, String> {
    if !hook.path().is_absolute() {
        return Err(format!("its path {} is not absolute", hook.path().display()));
    }
    let mut command = Command::new::<&Path>(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env() {
        command.env_clear();
        for entry in env {
            let (name, value) =
                entry.split_once('=').ok_or_else(|| format!("its environment entry {entry:?} has no ="))?;
            command.env(name, value);
        }
    }
    Ok(command)
}

fn judge(process: HookProcess, deadline: Deadline) -> std::result::Result<(), String> {
    let (end, said) =
        process.attend(deadline.map(|(at, _)| at)).map_err(|errno| format!("wait for it: {errno}"))?;
    let reason = match (end, deadline) {
        (End::Status(status), _) => match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("exit status {code}"),
            // What a filter that kills looks like from here.
            (None, Some(signal @ libc::SIGSYS)) => format!("killed by signal {signal} (bad system call)"),
            (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        },
        (End::TimedOut, deadline) => {
            format!("it took longer than its timeout of {} s", deadline.map_or(0, |(_, seconds)| seconds))
        }
        (End::TakenAway, _) => "its status was collected by somebody else in this program".to_owned(),
    };
    Err(with_output(&reason, &said))
}

/// How a hook ended.
#[derive(Debug)]
enum End {
    Status(WaitIdStatus),
    TimedOut,
    /// The host program ignores SIGCHLD or waits for everybody's children.
    TakenAway,
}

/// Longest part of a hook's output that is kept: its end, which says why it failed.
const KEPT: usize = 4096;

/// What a pipe holds at most, unless somebody made it larger.
const PIPE: usize = 64 * 1024;

impl HookProcess {
    /// Waits for the end, and takes the output meanwhile. However it comes back, the process is gone: killed when its time was
    /// over or waiting failed, and reaped.
    fn attend(mut self, deadline: Option<Instant>) -> rustix::io::Result<(End, Vec<u8>)> {
        let mut said = Vec::new();
        let mut open = true;
        let ended = loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            // Whether or not there is output to read: a hook that never stops writing has no more time than others.
            if left.is_some_and(|left| left.is_zero()) {
                break false;
            }
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let mut polled = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if open {
                polled.push(PollFd::new(&self.output, PollFlags::IN));
            }
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let readable = polled.get(1).is_some_and(|output| !output.revents().is_empty());
            if !polled[0].revents().is_empty() {
                break true;
            }
            if readable {
                open = self.listen(&mut said) > 0;
            }
        };
        if !ended {
            // Its children too, which may hold what the hook was waiting for: when this is dropped.
            return Ok((End::TimedOut, said));
        }
        // What it wrote before it ended is in the pipe. That is all to read: somebody else may have the pipe open, and write on.
        let mut taken = 0;
        while open && taken < PIPE {
            let mut output = [PollFd::new(&self.output, PollFlags::IN)];
            match rustix::event::poll(&mut output, Some(&Timespec::default())) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            let length = self.listen(&mut said);
            open = length > 0;
            taken += length;
        }
        self.ended = true;
        let end = reap(&self.pidfd)?.map_or(End::TakenAway, End::Status);
        Ok((end, said))
    }

    /// Takes some of the output and keeps its end. 0: there will be no more.
    fn listen(&mut self, said: &mut Vec<u8>) -> usize {
        let mut buffer = [0; KEPT];
        let length = self.output.read(&mut buffer).unwrap_or(0);
        said.extend_from_slice(&buffer[..length]);
        said.drain(..said.len().saturating_sub(KEPT));
        length
    }
}

impl Drop for HookProcess {
    fn drop(&mut self) {
        if !self.ended {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = reap(&self.pidfd);
        }
    }
}

fn reap(pidfd: &OwnedFd) -> rustix::io::Result<Option<WaitIdStatus>> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(None),
            other => return other,
        }
    }
}

fn with_output(reason: &str, output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let text = text.trim();
    if text.is_empty() { reason.to_owned() } else { format!("{reason}, output: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Hook {
        serde_json::from_str(json).unwrap()
    }

    fn state() -> HookState {
        HookState { pid: 42, ..HookState::new("1.2.0", "c1", Status::Creating, "/bundle") }
    }

    fn run(hooks: &[Hook]) -> Result<()> {
        run_hooks(HookKind::CreateRuntime, hooks, &state())
    }

    #[test]
    fn a_hook_gets_its_arguments_environment_and_the_state() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let script = format!("{{ echo $0 $1; env | grep -v ^_= | sort; cat; }} > {}", out.display());
        let hook = hook(
            &serde_json::json!({
                "path": "/bin/sh", "args": ["zero", "-c", script, "name", "one"], "env": ["A=b=c"],
            })
            .to_string(),
        );
        run(&[hook]).unwrap();
        let said = std::fs::read_to_string(out).unwrap();
        assert!(said.starts_with("name one\nA=b=c\n"), "{said}");
        let json: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": 42, "bundle": "/bundle" })
        );
    }

    #[test]
    fn the_first_failure_ends_the_list_and_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let trace = scratch.path().join("trace");
        let script = |what: &str| {
            hook(&serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", what] }).to_string())
        };
        let hooks = [
            script(&format!("echo first >> {}", trace.display())),
            script("echo no good >&2; exit 3"),
            script(&format!("echo third >> {}", trace.display())),
        ];
        let error = run(&hooks).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("createRuntime hook #1: /bin/sh: exit status 3, output: no good"), "{text}");
        assert_eq!(std::fs::read_to_string(trace).unwrap(), "first\n");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_its_children() {
        let hook = hook(r#"{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 1000 & wait"], "timeout": 1 }"#);
        let started = Instant::now();
        let error = run(&[hook]).unwrap_err();
        assert!(error.to_string().contains("timeout of 1 s"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_daemon_that_a_hook_leaves_is_not_waited_for() {
        let hook = hook(r#"{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 5 & exit 0"] }"#);
        let started = Instant::now();
        run(&[hook]).unwrap();
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn what_cannot_be_run_is_an_error() {
        for json in [
            r#"{ "path": "/no/such/hook" }"#,
            r#"{ "path": "relative" }"#,
            r#"{ "path": "/bin/true", "timeout": 0 }"#,
            r#"{ "path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"] }"#,
        ] {
            assert!(matches!(run(&[hook(json)]), Err(Error::Hook { index: 0, .. })), "{json}");
        }
    }

    #[test]
    fn a_hook_that_never_stops_writing_is_killed_too() {
        let hook = hook(r#"{ "path": "/bin/sh", "args": ["sh", "-c", "exec timeout 8 yes"], "timeout": 1 }"#);
        let error = run(&[hook]).unwrap_err();
        assert!(error.to_string().contains("timeout of 1 s"), "{error}");
    }

    #[test]
    fn a_daemon_that_never_stops_writing_is_not_waited_for() {
        let hook = hook(r#"{ "path": "/bin/sh", "args": ["sh", "-c", "timeout 8 yes & exit 0"] }"#);
        let started = Instant::now();
        run(&[hook]).unwrap();
        assert!(started.elapsed() < Duration::from_secs(6));
    }

    #[test]
    #[allow(clippy::zombie_processes, reason = "that it is reaped all the same is what is tested")]
    fn a_hook_is_gone_whatever_fails_about_it() {
        let child = Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let known = pidfd.try_clone().unwrap();
        let process = HookProcess::new(pid, pidfd, std::io::pipe().unwrap().0);
        let wrong = hook(r#"{ "path": "/bin/sleep", "timeout": 0 }"#);
        supervise(HookKind::StartContainer, 0, &wrong, process).unwrap_err();
        let left = rustix::process::waitid(WaitId::PidFd(known.as_fd()), WaitIdOptions::EXITED);
        assert_eq!(left.err(), Some(Errno::CHILD), "it was reaped");
    }
}
