//! The command line: the union of what runc, crun and youki accept, so that every client finds the options it uses.
//!
//! Options may stand before and after the id (`create ID --bundle DIR`), as `--opt V` and as `--opt=V`. A value may begin
//! with a dash (`--memory -1`). Everything after the id of `exec` belongs to the command.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::failure::Failure;
use crate::values::{choice, duration, flag, non_empty, number, path, text, utf8};

/// A whole command line.
#[derive(Debug)]
pub struct Invocation {
    pub global: Global,
    pub command: Command,
}

/// Options before the subcommand.
#[derive(Debug, Default)]
pub struct Global {
    pub root: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub log_json: bool,
    pub debug: bool,
    /// Control groups are left alone (`--cgroup-manager disabled`).
    pub no_cgroups: bool,
}

#[derive(Debug)]
pub enum Command {
    Create(Create),
    Run { create: Create, detach: bool, keep: bool },
    Start { id: String },
    State { id: String },
    Kill { id: String, signal: String, all: bool },
    Delete { id: String, force: bool, regex: bool },
    Exec(Exec),
    Ps { id: String, json: bool, options: Vec<OsString> },
    List { quiet: bool, json: bool },
    Pause { id: String },
    Resume { id: String },
    Update { id: String, resources: Option<PathBuf>, changes: Vec<(&'static str, String)> },
    Events { id: String, stats: bool, interval: Duration },
    Features,
    Spec { bundle: Option<PathBuf>, rootless: bool },
    Checkpoint { verb: &'static str },
    Help { topic: Option<&'static str> },
    Version,
}

/// What `create` and `run` share.
#[derive(Debug, Default)]
pub struct Create {
    pub id: String,
    pub bundle: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub preserve_fds: u32,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
}

#[derive(Debug, Default)]
pub struct Exec {
    pub id: String,
    pub command: Vec<OsString>,
    pub process: Option<PathBuf>,
    pub detach: bool,
    pub tty: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub user: Option<String>,
    pub additional_gids: Vec<u32>,
    pub cwd: Option<PathBuf>,
    pub env: Vec<OsString>,
    pub caps: Vec<String>,
    pub no_new_privs: bool,
    pub preserve_fds: u32,
    pub ignore_paused: bool,
    pub cgroup: Vec<String>,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
}

/// The options of `update` that take a value; what each means is for [`update`](crate::update) to say.
const UPDATE: [&str; 15] = [
    "memory",
    "memory-swap",
    "memory-reservation",
    "cpu-period",
    "cpu-quota",
    "cpu-burst",
    "cpu-idle",
    "cpu-share",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpuset-cpus",
    "cpuset-mems",
    "blkio-weight",
    "pids-limit",
    "kernel-memory",
];

/// The command line in `args`, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Failure> {
    let mut parser = lexopt::Parser::from_iter(args);
    let mut global = Global::default();
    let command = loop {
        let Some(arg) = parser.next()? else { break Command::Help { topic: None } };
        match arg {
            Long("root") => global.root = Some(path(&mut parser)?),
            Long("log") => global.log = Some(path(&mut parser)?),
            Long("log-format") => global.log_json = choice(&mut parser, "log format", "text", "json")?,
            Long("debug") => global.debug = flag(&mut parser)?,
            Long("cgroup-manager") => match text(&mut parser)?.as_str() {
                "cgroupfs" => {}
                "disabled" => global.no_cgroups = true,
                "systemd" => return Err(no_systemd()),
                other => return Err(Failure::usage(format!("unknown cgroup manager {other:?}"))),
            },
            Long("systemd-cgroup") => {
                if flag(&mut parser)? {
                    return Err(no_systemd());
                }
            }
            // Whether this is a rootless run is seen from the ids of the process and of the container.
            Long("rootless") => drop(parser.optional_value().map_or_else(|| parser.value(), Ok)?),
            Short('v') | Long("version") => break Command::Version,
            Short('h') | Long("help") => break Command::Help { topic: None },
            Value(name) => break command(&name, &mut parser)?,
            other => return Err(other.unexpected().into()),
        }
    };
    Ok(Invocation { global, command })
}

fn command(name: &OsStr, p: &mut lexopt::Parser) -> Result<Command, Failure> {
    let Some(&topic) = crate::help::COMMANDS.iter().find(|known| name == **known) else {
        let name = name.to_string_lossy();
        return Err(Failure::usage(format!("No help topic for '{name}': unknown command {name:?}")));
    };
    let parsed = match topic {
        "create" => create(p)?,
        "run" => create_with(p, true)?,
        "exec" => exec(p)?,
        "kill" => kill(p)?,
        "delete" => delete(p)?,
        "ps" => ps(p)?,
        "list" => list(p)?,
        "update" => update(p)?,
        "events" => events(p)?,
        "spec" => spec(p)?,
        "features" => nothing(p)?.map(|()| Command::Features),
        "start" => id_only(p)?.map(|id| Command::Start { id }),
        "state" => id_only(p)?.map(|id| Command::State { id }),
        "pause" => id_only(p)?.map(|id| Command::Pause { id }),
        "resume" => id_only(p)?.map(|id| Command::Resume { id }),
        "checkpoint" | "restore" => checkpoint(p, topic)?,
        _ => None,
    };
    // `None`: help was asked for.
    Ok(parsed.unwrap_or(Command::Help { topic: Some(topic) }))
}

type Parsed<T> = Result<Option<T>, Failure>;

fn create(p: &mut lexopt::Parser) -> Parsed<Command> {
    create_with(p, false)
}

fn create_with(p: &mut lexopt::Parser, run: bool) -> Parsed<Command> {
    let (mut o, mut id, mut detach, mut keep) = (Create::default(), None, false, false);
    while let Some(arg) = p.next()? {
        match arg {
            Short('b') | Long("bundle") => o.bundle = Some(path(p)?),
            Short('f') | Long("config") => o.config = Some(path(p)?),
            Long("console-socket") => o.console_socket = non_empty(path(p)?),
            Long("pid-file") => o.pid_file = non_empty(path(p)?),
            Long("pidfd-socket") => o.pidfd_socket = non_empty(path(p)?),
            Long("preserve-fds") => o.preserve_fds = number(p, "preserve-fds")?,
            Long("no-pivot") => o.no_pivot = flag(p)?,
            Long("no-new-keyring") => o.no_new_keyring = flag(p)?,
            // The container is never a subreaper's business of ours.
            Long("no-subreaper") => drop(flag(p)?),
            Short('d') | Long("detach") if run => detach = flag(p)?,
            Long("keep") if run => keep = flag(p)?,
            Short('h') | Long("help") => return Ok(None),
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    o.id = need_id(id)?;
    Ok(Some(if run { Command::Run { create: o, detach, keep } } else { Command::Create(o) }))
}

fn exec(p: &mut lexopt::Parser) -> Parsed<Command> {
    let mut o = Exec::default();
    while let Some(arg) = p.next()? {
        match arg {
            Short('p') | Long("process") => o.process = Some(path(p)?),
            Short('d') | Long("detach") => o.detach = flag(p)?,
            Short('t') | Long("tty") => o.tty = flag(p)?,
            Long("console-socket") => o.console_socket = non_empty(path(p)?),
            Long("pid-file") => o.pid_file = non_empty(path(p)?),
            Long("pidfd-socket") => o.pidfd_socket = non_empty(path(p)?),
            Short('u') | Long("user") => o.user = Some(text(p)?),
            Short('g') | Long("additional-gids") => {
                for gid in text(p)?.split(',') {
                    let gid = gid.parse().map_err(|_| Failure::usage(format!("invalid gid {gid:?}")))?;
                    o.additional_gids.push(gid);
                }
            }
            Long("cwd") => o.cwd = Some(path(p)?),
            Short('e') | Long("env") => o.env.push(p.value()?),
            Short('c') | Long("cap") => o.caps.push(text(p)?),
            Long("no-new-privs") => o.no_new_privs = flag(p)?,
            Long("preserve-fds") => o.preserve_fds = number(p, "preserve-fds")?,
            Long("ignore-paused") => o.ignore_paused = flag(p)?,
            Long("cgroup") => o.cgroup.push(text(p)?),
            Long("apparmor") => o.apparmor = Some(text(p)?),
            Long("process-label") => o.process_label = Some(text(p)?),
            Long("no-subreaper") => drop(flag(p)?),
            Short('h') | Long("help") => return Ok(None),
            Value(id) => {
                o.id = utf8(id)?;
                o.command = p.raw_args()?.collect();
                return Ok(Some(Command::Exec(o)));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    need_id(None).map(|_| None)
}

fn kill(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut id, mut signal, mut all) = (None, None, false);
    while let Some(arg) = p.next()? {
        match arg {
            Short('a') | Long("all") => all = flag(p)?,
            Short('h') | Long("help") => return Ok(None),
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            Value(value) if signal.is_none() => signal = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    let signal = signal.unwrap_or_else(|| "TERM".to_owned());
    Ok(Some(Command::Kill { id: need_id(id)?, signal, all }))
}

fn delete(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut id, mut force, mut regex) = (None, false, false);
    while let Some(arg) = p.next()? {
        match arg {
            Short('f') | Long("force") => force = flag(p)?,
            Long("regex") => regex = flag(p)?,
            Short('h') | Long("help") => return Ok(None),
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Command::Delete { id: need_id(id)?, force, regex }))
}

fn ps(p: &mut lexopt::Parser) -> Parsed<Command> {
    let mut json = false;
    while let Some(arg) = p.next()? {
        match arg {
            Short('f') | Long("format") => json = choice(p, "format", "table", "json")?,
            Short('h') | Long("help") => return Ok(None),
            Value(id) => {
                let id = utf8(id)?;
                let mut options = Vec::new();
                let mut rest = p.raw_args()?;
                while let Some(option) = rest.next() {
                    // ps(1) has a `--format` too, but with other values than these.
                    match option.to_str() {
                        Some("--format=json") => json = true,
                        Some("--format=table") => json = false,
                        Some("--format") if rest.peek().is_some_and(|v| v == "json" || v == "table") => {
                            json = rest.next().is_some_and(|v| v == "json");
                        }
                        _ => options.push(option),
                    }
                }
                return Ok(Some(Command::Ps { id, json, options }));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    need_id(None).map(|_| None)
}

fn list(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut quiet, mut json) = (false, false);
    while let Some(arg) = p.next()? {
        match arg {
            Short('q') | Long("quiet") => quiet = flag(p)?,
            Short('f') | Long("format") => json = choice(p, "format", "table", "json")?,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Command::List { quiet, json }))
}

fn update(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut id, mut resources, mut changes) = (None, None, Vec::new());
    while let Some(arg) = p.next()? {
        match arg {
            Short('r') | Long("resources") => resources = Some(path(p)?),
            Short('h') | Long("help") => return Ok(None),
            Long(name) => {
                let Some(&known) = UPDATE.iter().find(|known| **known == name) else {
                    return Err(arg.unexpected().into());
                };
                changes.push((known, text(p)?));
            }
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Command::Update { id: need_id(id)?, resources, changes }))
}

fn events(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut id, mut stats, mut interval) = (None, false, Duration::from_secs(5));
    while let Some(arg) = p.next()? {
        match arg {
            Long("stats") => stats = flag(p)?,
            Long("interval") => interval = duration(&text(p)?)?,
            Short('h') | Long("help") => return Ok(None),
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Command::Events { id: need_id(id)?, stats, interval }))
}

fn spec(p: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut bundle, mut rootless) = (None, false);
    while let Some(arg) = p.next()? {
        match arg {
            Short('b') | Long("bundle") => bundle = Some(path(p)?),
            Long("rootless") => rootless = flag(p)?,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(Command::Spec { bundle, rootless }))
}

/// Checkpoint and restore are refused whatever their options say.
fn checkpoint(p: &mut lexopt::Parser, verb: &'static str) -> Parsed<Command> {
    let help = p.raw_args()?.any(|arg| arg == "-h" || arg == "--help");
    Ok((!help).then_some(Command::Checkpoint { verb }))
}

fn id_only(p: &mut lexopt::Parser) -> Parsed<String> {
    let mut id = None;
    while let Some(arg) = p.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(None),
            Value(value) if id.is_none() => id = Some(utf8(value)?),
            other => return Err(other.unexpected().into()),
        }
    }
    need_id(id).map(Some)
}

fn nothing(p: &mut lexopt::Parser) -> Parsed<()> {
    match p.next()? {
        None => Ok(Some(())),
        Some(Short('h') | Long("help")) => Ok(None),
        Some(other) => Err(other.unexpected().into()),
    }
}

fn need_id(id: Option<String>) -> Result<String, Failure> {
    id.ok_or_else(|| Failure::usage("container id is missing"))
}

fn no_systemd() -> Failure {
    Failure::usage("the systemd cgroup driver is not supported: use cgroup paths (--cgroup-manager cgroupfs)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Invocation {
        parse(std::iter::once("rt").chain(line.split(' ')).map(OsString::from)).unwrap()
    }

    #[test]
    fn options_stand_before_and_after_the_id() {
        for line in [
            "--root=/r create --bundle /b --pid-file=/p c1",
            "--root /r create c1 --bundle=/b --pid-file /p",
            "--root /r create -b /b c1 --pid-file /p",
        ] {
            let Invocation { global, command: Command::Create(create) } = parsed(line) else {
                panic!("{line}")
            };
            assert_eq!(global.root, Some("/r".into()), "{line}");
            assert_eq!(create.id, "c1", "{line}");
            assert_eq!(create.bundle, Some("/b".into()), "{line}");
            assert_eq!(create.pid_file, Some("/p".into()), "{line}");
        }
    }

    #[test]
    fn a_negative_number_is_a_value() {
        let Command::Update { id, changes, .. } = parsed("update --memory -1 c1 --pids-limit=-1").command
        else {
            panic!()
        };
        assert_eq!(id, "c1");
        assert_eq!(changes, [("memory", "-1".to_owned()), ("pids-limit", "-1".to_owned())]);
    }

    #[test]
    fn what_follows_the_id_of_exec_is_the_command() {
        let Command::Exec(exec) = parsed("exec -d --env A=b c1 ls --all -d -- x").command else { panic!() };
        assert!(exec.detach);
        assert_eq!(exec.env, ["A=b"]);
        assert_eq!(exec.id, "c1");
        assert_eq!(exec.command, ["ls", "--all", "-d", "--", "x"]);
    }

    #[test]
    fn the_options_of_ps_are_not_ours() {
        let Command::Ps { json, options, .. } = parsed("ps --format json c1").command else { panic!() };
        assert!(json && options.is_empty());
        let Command::Ps { json, options, .. } = parsed("ps c1 -e -x").command else { panic!() };
        assert!(!json);
        assert_eq!(options, ["-e", "-x"]);
    }

    #[test]
    fn wrong_usage_is_told() {
        for line in ["create", "frobnicate", "kill", "create a b", "state --frob a", "exec", "list x"] {
            let args = std::iter::once("rt").chain(line.split(' ')).map(OsString::from);
            assert!(parse(args).is_err(), "{line}");
        }
    }
}
