//! What runs: arguments, environment, working directory, user numbers, capabilities.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    BoxBuilder, Capabilities, Capability, LinuxCapabilities, Process, ProcessBuilder, UserBuilder,
};

use super::ImageDefaults;
use crate::builder::ContainerBuilder;
use crate::capability;
use crate::error::{Error, Result};
use crate::plan::{Extras, Facts};

/// The `PATH` of a container whose image sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ContainerBuilder {
    pub(super) fn process(
        &self,
        image: &ImageDefaults,
        user: (u32, u32),
        capabilities: &[Capability],
        extras: &mut Extras,
    ) -> Result<Process> {
        let mut args = self.entrypoint.clone().unwrap_or_else(|| image.entrypoint.clone());
        match &self.command {
            Some(command) => args.extend(command.iter().cloned()),
            None if self.entrypoint.is_none() => args.extend(image.command.iter().cloned()),
            None => {}
        }
        if args.is_empty() {
            return Err(Error::invalid("command", "neither the builder nor the image says what to run"));
        }
        let mut env = image.env.clone();
        if !env.iter().any(|variable| variable.as_bytes().starts_with(b"PATH=")) {
            env.push(format!("PATH={DEFAULT_PATH}").into());
        }
        let env = self.environment(env)?;

        let cwd = match &self.current_dir {
            Some(directory) => directory.clone(),
            None if image.working_dir.as_os_str().is_empty() => PathBuf::from("/"),
            None => Path::new("/").join(&image.working_dir),
        };
        if !cwd.is_absolute() {
            return Err(Error::invalid(format!("current_dir {}", cwd.display()), "it must begin with /"));
        }
        let user = UserBuilder::default().uid(user.0).gid(user.1).umask(self.umask.unwrap_or(0o022)).build();
        let mut process = ProcessBuilder::default()
            .user(user.map_err(|e| Error::invalid("user", e.to_string()))?)
            .cwd(cwd)
            .capabilities(capability_sets(capabilities))
            .no_new_privileges(self.no_new_privileges)
            .rlimits(self.rlimits.iter().map(|(r, soft, hard)| r.to_spec(*soft, *hard)).collect::<Vec<_>>())
            .build()
            .map_err(|e| Error::invalid("process", e.to_string()))?;
        process.set_oom_score_adj(self.oom_score);
        self.set_terminal(&mut process);
        set_args(&mut process, args, extras)?;
        set_env(&mut process, env, extras);
        Ok(process)
    }

    pub(super) fn set_terminal(&self, process: &mut Process) {
        process.set_terminal(Some(self.terminal.is_some()));
        process.set_console_size(
            self.terminal
                .and_then(|size| BoxBuilder::default().height(size.rows).width(size.columns).build().ok()),
        );
    }

    /// Applies the builder's changes to `base`, variables as `NAME=value`.
    pub(super) fn environment(&self, base: Vec<OsString>) -> Result<Vec<OsString>> {
        let mut variables: Vec<(OsString, OsString)> = Vec::new();
        let mut put = |name: &OsStr, value: Option<&OsStr>| {
            let known = variables.iter().position(|(known, _)| known == name);
            match (known, value) {
                (Some(at), Some(value)) => variables[at].1 = value.to_owned(),
                (Some(at), None) => drop(variables.remove(at)),
                (None, Some(value)) => variables.push((name.to_owned(), value.to_owned())),
                (None, None) => {}
            }
        };
        if !self.clear_env {
            for variable in &base {
                if let Some((name, value)) = split(variable) {
                    put(name, Some(value));
                }
            }
        }
        if self.inherit_env {
            for (name, value) in std::env::vars_os() {
                put(&name, Some(&value));
            }
        }
        for (name, value) in &self.env {
            check_variable(name, value.as_deref().unwrap_or_default())?;
            put(name, value.as_deref());
        }
        if self.terminal.is_some() && !variables.iter().any(|(name, _)| name == "TERM") {
            variables.push(("TERM".into(), "xterm".into()));
        }
        Ok(variables
            .into_iter()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            })
            .collect())
    }

    pub(super) fn capability_list(&self, own_user_namespace: bool, facts: &Facts) -> Vec<Capability> {
        let mut list = self.capabilities.clone().unwrap_or_else(|| {
            let mut list = capability::DEFAULT.to_vec();
            if facts.cgroups.is_none() || self.goes_without_cgroup(facts) {
                // Nothing would keep its holder from making a node for the host's disk.
                list.retain(|capability| *capability != Capability::Mknod);
            }
            if !own_user_namespace && facts.capable {
                // In a container, this program itself may not have all of them.
                list.retain(|capability| facts.permitted & 1 << capability::number(*capability) != 0);
            }
            list
        });
        list.extend(self.add_capabilities.iter().copied());
        list.retain(|capability| !self.drop_capabilities.contains(capability));
        list
    }
}

/// What could only reach the process as something else is refused.
pub(crate) fn check_variable(name: &OsStr, value: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
        let reason = "a name is not empty and holds neither '=' nor a NUL byte";
        return Err(Error::invalid(format!("environment variable name {name:?}"), reason));
    }
    if value.as_bytes().contains(&0) {
        return Err(Error::invalid(
            format!("environment variable {name:?}"),
            "its value contains a NUL byte",
        ));
    }
    Ok(())
}

fn split(variable: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = variable.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])))
}

/// The spec holds text only: where the bytes are none, they go along beside it and win.
pub(crate) fn set_args(process: &mut Process, args: Vec<OsString>, extras: &mut Extras) -> Result<()> {
    if let Some(bad) = args.iter().find(|word| word.as_bytes().contains(&0)) {
        return Err(Error::invalid(format!("argument {bad:?}"), "it contains a NUL byte"));
    }
    process.set_args(Some(args.iter().map(|word| word.to_string_lossy().into_owned()).collect()));
    extras.args = args.iter().any(|word| word.to_str().is_none()).then_some(args);
    Ok(())
}

pub(crate) fn set_env(process: &mut Process, env: Vec<OsString>, extras: &mut Extras) {
    process.set_env(Some(env.iter().map(|word| word.to_string_lossy().into_owned()).collect()));
    extras.env = env.iter().any(|word| word.to_str().is_none()).then_some(env);
}

fn capability_sets(list: &[Capability]) -> LinuxCapabilities {
    let set: Capabilities = list.iter().copied().collect();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
}
