//! The command line: `run [options] IMAGE-FILE[:REFERENCE] [COMMAND...]`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser, ValueExt};

pub const USAGE: &str = "\
usage: run [options] IMAGE-FILE[:REFERENCE] [COMMAND [ARGUMENT...]]

Runs a command in a container of an image that lies in a file (docker save archive, OCI archive) or a directory (OCI layout).

  --memory SIZE        memory limit: bytes, or with k, m, g (powers of 1024)
  --cpus NUMBER        processors, such as 1.5
  --pids NUMBER        processes and threads
  --best-effort        run without the limits that this host cannot set, and say which
  --env NAME[=VALUE]   environment variable; without a value, the caller's
  --workdir DIRECTORY  working directory
  --user USER[:GROUP]  names of the image, or numbers
  --volume HOST:CONTAINER[:ro]
                       shows a file or directory of the host in the container
  --tmpfs DIRECTORY    an empty file system in memory
  --read-only          the root file system cannot be changed
  --hostname NAME      host name inside
  --any-platform       take an image for another architecture too
  --plan               print the steps that would run, and stop
  --store DIRECTORY    where images are kept (default: container-run in the user's cache directory)
  --quiet              no progress bar
  --help

The exit status is the command's; 128+N when signal N ended it, 125 when the container could not be made,
126 when the command cannot be run, 127 when it does not exist.
";

#[derive(Debug, Default)]
pub struct Arguments {
    pub memory: Option<u64>,
    pub cpus: Option<f64>,
    pub pids: Option<u64>,
    pub best_effort: bool,
    pub env: Vec<(OsString, Option<OsString>)>,
    pub workdir: Option<PathBuf>,
    pub user: Option<String>,
    pub volumes: Vec<Volume>,
    pub tmpfs: Vec<PathBuf>,
    pub read_only: bool,
    pub hostname: Option<String>,
    pub any_platform: bool,
    pub plan: bool,
    pub store: Option<PathBuf>,
    pub quiet: bool,
    pub help: bool,
    pub image: PathBuf,
    pub reference: Option<String>,
    pub command: Vec<OsString>,
}

#[derive(Debug)]
pub struct Volume {
    pub host: PathBuf,
    pub container: PathBuf,
    pub read_only: bool,
}

impl Arguments {
    pub fn parse() -> Result<Arguments, lexopt::Error> {
        let mut parser = Parser::from_env();
        let mut given = Arguments::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Short('m') | Arg::Long("memory") => {
                    given.memory = Some(parser.value()?.parse_with(size)?)
                }
                Arg::Long("cpus") => given.cpus = Some(parser.value()?.parse()?),
                Arg::Long("pids" | "pids-limit") => given.pids = Some(parser.value()?.parse()?),
                Arg::Long("best-effort") => given.best_effort = true,
                Arg::Short('e') | Arg::Long("env") => given.env.push(variable(parser.value()?)),
                Arg::Short('w') | Arg::Long("workdir") => given.workdir = Some(parser.value()?.into()),
                Arg::Short('u') | Arg::Long("user") => given.user = Some(parser.value()?.string()?),
                Arg::Short('v') | Arg::Long("volume") => given.volumes.push(volume(&parser.value()?)?),
                Arg::Long("tmpfs") => given.tmpfs.push(parser.value()?.into()),
                Arg::Long("read-only") => given.read_only = true,
                Arg::Short('h') | Arg::Long("hostname") => given.hostname = Some(parser.value()?.string()?),
                Arg::Long("any-platform") => given.any_platform = true,
                Arg::Long("plan") => given.plan = true,
                Arg::Long("store") => given.store = Some(parser.value()?.into()),
                Arg::Short('q') | Arg::Long("quiet") => given.quiet = true,
                Arg::Long("help") => {
                    given.help = true;
                    return Ok(given);
                }
                Arg::Value(image) => {
                    (given.image, given.reference) = image_and_reference(&image);
                    // Whatever follows the image belongs to the command, options included.
                    given.command = parser.raw_args()?.collect();
                    return Ok(given);
                }
                _ => return Err(argument.unexpected()),
            }
        }
        Err("no image given (see --help)".into())
    }
}

/// A colon may be part of a file's name: the longest front part that exists is the file.
fn image_and_reference(argument: &OsString) -> (PathBuf, Option<String>) {
    let whole = PathBuf::from(argument);
    if !whole.exists() {
        let bytes = argument.as_bytes();
        for at in (0..bytes.len()).rev().filter(|at| bytes[*at] == b':') {
            let front = Path::new(std::ffi::OsStr::from_bytes(&bytes[..at]));
            if front.exists() {
                return (front.to_owned(), Some(String::from_utf8_lossy(&bytes[at + 1..]).into_owned()));
            }
        }
    }
    (whole, None)
}

fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't', 'b', 'i']);
    let shift = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("not a size such as 512m".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a size such as 512m".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

fn variable(text: OsString) -> (OsString, Option<OsString>) {
    match text.as_bytes().iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let bytes = text.into_vec();
            (OsString::from_vec(bytes[..at].to_vec()), Some(OsString::from_vec(bytes[at + 1..].to_vec())))
        }
        None => (text, None),
    }
}

fn volume(text: &OsString) -> Result<Volume, lexopt::Error> {
    let parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b':').collect();
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    match parts[..] {
        [host, container] | [host, container, b"rw"] if !host.is_empty() && !container.is_empty() => {
            Ok(Volume { host: path(host), container: path(container), read_only: false })
        }
        [host, container, b"ro"] if !host.is_empty() && !container.is_empty() => {
            Ok(Volume { host: path(host), container: path(container), read_only: true })
        }
        _ => {
            Err(format!("--volume {}: give HOST:CONTAINER or HOST:CONTAINER:ro", text.to_string_lossy())
                .into())
        }
    }
}
