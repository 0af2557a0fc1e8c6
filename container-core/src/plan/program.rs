//! The command: what execve takes, and where it is looked for.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, Process, Spec};

use super::{Extras, Program, c_string};
use crate::error::{Error, Result};

/// The profile lets execveat through, so that the command can be run by descriptor.
pub(super) fn allows_execveat(profile: Option<&LinuxSeccomp>) -> bool {
    let Some(profile) = profile else { return true };
    let harmless =
        |action| matches!(action, LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog);
    let mut named = profile
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.names().iter().any(|n| n == "execveat"))
        .peekable();
    match named.peek() {
        None => harmless(profile.default_action()),
        Some(_) => {
            named.all(|rule| harmless(rule.action()) && rule.args().as_ref().is_none_or(Vec::is_empty))
        }
    }
}

/// The command with everything execve takes.
pub(super) fn command(process: &Process, spec: &Spec, extras: &Extras) -> Result<Program> {
    let args = extras.args.clone().unwrap_or_else(|| strings(process.args()));
    let Some(command) = args.first().filter(|command| !command.is_empty()).cloned() else {
        return Err(Error::invalid("process.args", "there is no command"));
    };
    let env = environment(process, extras)?;
    let path = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    Ok(Program {
        candidates: candidates(&command, path)?,
        argv: args.iter().map(|arg| c_string("process.args", arg)).collect::<Result<_>>()?,
        env,
        by_descriptor: allows_execveat(spec.linux().as_ref().and_then(|l| l.seccomp().as_ref())),
        keeps_name: true,
    })
}

fn strings(list: &Option<Vec<String>>) -> Vec<OsString> {
    list.iter().flatten().map(OsString::from).collect()
}

/// The environment: every name once, the last one wins.
fn environment(process: &Process, extras: &Extras) -> Result<Vec<CString>> {
    let given = extras.env.clone().unwrap_or_else(|| strings(process.env()));
    let mut env: Vec<CString> = Vec::new();
    for entry in &given {
        let name = entry.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        if name.is_empty() || !entry.as_bytes().contains(&b'=') {
            return Err(Error::invalid(format!("process.env {entry:?}"), "it is not NAME=value"));
        }
        // An empty HOME counts as none, also after another one: it is looked up, and one name must not come twice.
        if entry.as_bytes() == b"HOME=" {
            env.retain(|known| !known.to_bytes().starts_with(b"HOME="));
            continue;
        }
        let entry = c_string("process.env", entry)?;
        let same =
            |known: &CString| known.to_bytes().strip_prefix(name).is_some_and(|rest| rest.starts_with(b"="));
        match env.iter().position(same) {
            Some(at) => env[at] = entry,
            None => env.push(entry),
        }
    }
    Ok(env)
}

/// Where the command may be: itself when it has a slash, else in the directories of PATH.
fn candidates(command: &OsStr, path: Option<&[u8]>) -> Result<Vec<CString>> {
    if command.as_bytes().contains(&b'/') {
        return Ok(vec![c_string("process.args", command)?]);
    }
    let path = path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path.split(|byte| *byte == b':')
        .map(|dir| {
            let dir = if dir.is_empty() { OsString::from(".") } else { OsString::from_vec(dir.to_vec()) };
            c_string("process.env PATH", Path::new(&dir).join(command).as_os_str())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_up_in_path() {
        let find = |command: &str, path: Option<&str>| {
            candidates(OsStr::new(command), path.map(str::as_bytes))
                .unwrap()
                .into_iter()
                .map(|c| c.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(find("sh", Some("/a:/b/:")), ["/a/sh", "/b/sh", "./sh"]);
        assert_eq!(find("./sh", Some("/a")), ["./sh"]);
        assert_eq!(find("/bin/sh", None), ["/bin/sh"]);
    }
}
