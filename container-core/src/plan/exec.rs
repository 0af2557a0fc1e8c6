//! One more process of a running container.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{Hook, Process, Spec};

use super::namespaces::Namespaces;
use super::operation::{FIRST_FREE, Operation, PROC, Slot};
use super::{Extras, Facts, Plan, Program, Services, StartHook, c_string, process};
use crate::error::{Error, Result};

/// The slot of the container's init, by which all its namespaces are joined in one call.
pub(crate) const INIT: Slot = FIRST_FREE;

pub(super) fn process(process: &Process, container: &Spec, extras: &Extras, facts: &Facts) -> Result<Plan> {
    let plan = joining(process, container, extras, facts)?;
    if !plan.program.by_descriptor {
        // By its path: somebody inside could make the path lead to the host's binary at the last moment.
        return Err(Error::unsupported(
            "one more process under a seccomp profile that refuses execveat",
            "let the profile allow execveat: the command is executed by its descriptor",
        ));
    }
    Ok(plan)
}

/// The startContainer hooks. They run inside, where nobody is yet but the process that waits for them, with what the command gets:
/// user, capabilities, limits, filter, control group, working directory, and its environment unless they have one of their own.
pub(crate) fn start_hooks(container: &Spec, extras: &Extras, facts: &Facts) -> Result<Vec<StartHook>> {
    let hooks = container.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    let (Some(hooks), Some(command)) = (hooks, container.process()) else { return Ok(Vec::new()) };
    let lowered = hooks.iter().map(|hook| {
        let mut process = command.clone();
        let mut extras = extras.clone();
        process.set_terminal(Some(false));
        if hook.env().is_some() {
            process.set_env(hook.env().clone());
            extras.env = None;
        }
        let mut plan = joining(&process, container, &extras, facts)?;
        plan.program.argv = argv(hook)?;
        plan.program.candidates = vec![c_string("hooks.path", hook.path().as_os_str())?];
        plan.services.command = plan.program.argv[0].clone();
        Ok(StartHook { hook: hook.clone(), plan })
    });
    lowered.collect()
}

fn joining(process: &Process, container: &Spec, extras: &Extras, facts: &Facts) -> Result<Plan> {
    let mut slots = INIT + 1;
    // Whether a namespace was made or joined when the container started: its init is in it, and that is what counts now.
    let namespaces = Namespaces::from_spec(container, &mut slots)?;
    let kinds = namespaces.kinds();

    // The process that joins still has the host program's memory (a copy of it): nobody inside may look at it.
    // Its own files in /proc are the caller's for the last time before that.
    let mut inside = Vec::new();
    if let Some(score) = process.oom_score_adj() {
        inside.push(Operation::OomScore { value: c_string("process.oomScoreAdj", score.to_string())? });
    }
    inside.push(Operation::Shield);
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    let affinity = process.exec_cpu_affinity().as_ref();
    cpu_affinity(affinity.and_then(|a| a.initial().as_ref()), &mut inside)?;
    if !extras.no_cgroup {
        inside.push(Operation::EnterCgroup);
    }
    cpu_affinity(affinity.and_then(|a| a.cpu_affinity_final().as_ref()), &mut inside)?;
    if extras.all_cpus && affinity.is_none() {
        inside.push(all_cpus());
    }
    let labelled = process.apparmor_profile().is_some() || process.selinux_label().is_some();
    inside.push(Operation::CloseOthers { keep: if labelled { vec![PROC] } else { Vec::new() } });
    inside.push(Operation::JoinAll { kinds });
    // Only children enter a pid namespace.
    inside.push(Operation::Succeed { flags: 0 });
    if extras.die_with_parent {
        inside.push(Operation::ParentDeath);
    }
    if namespaces.has_user() {
        inside.push(Operation::BecomeRoot);
    }
    inside.push(Operation::Umask { mask: 0 });
    inside.push(Operation::Session);
    if extras.new_keyring {
        inside.push(Operation::Keyring { name: None });
    }
    // The container's root is the root of the mount namespace just joined.
    inside.push(Operation::OpenRoot { path: c"/".to_owned() });
    let input = process::Input {
        process,
        spec: container,
        extras,
        facts,
        namespaces: &namespaces,
        start_hooks: false,
        gate: false,
    };
    process::lower(&input, &mut inside)?;
    let mut services = Services::of(container, extras, &namespaces)?;
    if namespaces.has_user() {
        services.limits = process::outer_limits(process)?;
    }
    let mut program = super::program::command(process, container, extras)?;
    program.keeps_name = false;
    services.command = program.argv[0].clone();
    Ok(Plan {
        inside,
        slots,
        program,
        services,
        privileged: facts.privileged,
        capable: facts.capable,
        ..Plan::empty()
    })
}

/// What a hook gets as arguments: its own, the first of which is the name; its path where it has none.
fn argv(hook: &Hook) -> Result<Vec<CString>> {
    match hook.args().as_ref().filter(|args| !args.is_empty()) {
        Some(args) => args.iter().map(|word| c_string("hooks", word)).collect(),
        None => Ok(vec![c_string("hooks.path", hook.path().as_os_str())?]),
    }
}

/// A createContainer hook: it runs in the container's namespaces, as their root. The root of the mount namespace is still that of the
/// host's tree, where its path is found, with the container's tree mounted at `root`.
pub(crate) fn hook(hook: &Hook, kinds: u64, root: &Path) -> Result<Plan> {
    let strings = |list: &Vec<String>| list.iter().map(|s| c_string("hooks", s)).collect::<Result<Vec<_>>>();
    let path = c_string("hooks.path", hook.path().as_os_str())?;
    let argv = argv(hook)?;
    let env = hook.env().as_ref().map(strings).transpose()?.unwrap_or_default();
    let user = kinds & super::namespaces::USER != 0;
    let mut inside = vec![
        Operation::Shield,
        Operation::CloseOthers { keep: Vec::new() },
        Operation::JoinAll { kinds },
        Operation::Succeed { flags: 0 },
    ];
    if user {
        inside.push(Operation::BecomeRoot);
    }
    let root = c_string("bundle", root.as_os_str())?;
    inside.push(Operation::WorkingDirectory { path: root, last: true });
    inside.extend([Operation::Session, Operation::Descriptors, Operation::Locate, Operation::Exec]);
    let services = Services { command: path.clone(), ..Services::default() };
    let program = Program { argv, env, candidates: vec![path], by_descriptor: true, keeps_name: false };
    Ok(Plan { inside, slots: INIT + 1, program, services, ..Plan::empty() })
}

/// All CPUs, of which the kernel takes those that the control group allows.
pub(super) fn all_cpus() -> Operation {
    Operation::CpuAffinity { mask: vec![u64::MAX; 128], text: "all".to_owned() }
}

fn cpu_affinity(list: Option<&String>, inside: &mut Vec<Operation>) -> Result<()> {
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        let mask = super::scheduling::list_mask("process.execCPUAffinity", list)?;
        inside.push(Operation::CpuAffinity { mask, text: list.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{HookBuilder, HooksBuilder, ProcessBuilder, SpecBuilder};
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn words_of_the_command_that_are_no_text_are_not_the_hooks() {
        let hook =
            HookBuilder::default().path("/bin/hook").args(["hook".to_owned()]).env(["A=hook".to_owned()]);
        let hooks = HooksBuilder::default().start_container([hook.build().unwrap()]).build().unwrap();
        let process = ProcessBuilder::default().cwd("/").args(["command".to_owned()]).build().unwrap();
        let spec = SpecBuilder::default().process(process).hooks(hooks).build().unwrap();
        let mut extras = Extras::new("test");
        let odd = |bytes: &[u8]| vec![std::ffi::OsString::from_vec(bytes.to_vec())];
        (extras.args, extras.env) = (Some(odd(b"\xff")), Some(odd(b"B=\xff")));
        let hooks = start_hooks(&spec, &extras, &Facts::assumed(true)).unwrap();
        let plan = &hooks[0].plan;
        assert_eq!(plan.program.argv, [c"hook".to_owned()]);
        assert_eq!(plan.program.candidates, [c"/bin/hook".to_owned()]);
        assert_eq!(plan.program.env, [c"A=hook".to_owned()]);
        assert_eq!(plan.services.command, c"hook".to_owned());
    }
}
