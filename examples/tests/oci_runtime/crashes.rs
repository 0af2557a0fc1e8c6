//! A runtime that is killed in the middle leaves nothing that `delete --force` does not find.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::Sandbox;

/// Kills the command `args` after ever longer, from at once to some time after it would have ended, and deletes what it left.
fn kill_at_every_moment(args: &[&str]) {
    let Some(sandbox) = Sandbox::new() else { return };
    let line = |id: &str| -> Vec<String> {
        args.iter().map(|arg| if *arg == "ID" { id.to_owned() } else { (*arg).to_owned() }).collect()
    };
    let begin = Instant::now();
    let whole = line("whole");
    sandbox.ok(&whole.iter().map(String::as_str).collect::<Vec<_>>());
    let usual = begin.elapsed();
    sandbox.ok(&["delete", "--force", "whole"]);
    sandbox.assert_clean("after a whole run");

    const STEPS: u32 = 60;
    for step in 0..STEPS {
        let id = format!("c{step}");
        let mut command = sandbox.command(line(&id));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(usual * step / STEPS * 6 / 5);
        child.kill().unwrap();
        child.wait().unwrap();
        sandbox.ok(&["delete", "--force", &id]);
        sandbox.assert_clean(&format!("{args:?} killed after {:?}", usual * step / STEPS * 6 / 5));
    }
}

#[test]
fn create_is_killed() {
    kill_at_every_moment(&["create", "ID"]);
}

#[test]
fn run_is_killed() {
    kill_at_every_moment(&["run", "--detach", "ID"]);
}

#[test]
fn create_is_killed_while_a_hook_runs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mark = sandbox.bundle().join("hook-runs");
    let script = format!("touch {}; exec sleep 1000", mark.display());
    sandbox.configure(&["true"], |config| {
        config["hooks"] =
            serde_json::json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] });
    });
    let mut child =
        sandbox.command(["create", "c"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(crate::support::eventually(|| mark.exists()), "the hook runs");
    assert_eq!(sandbox.status("c"), "creating");
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.ok(&["delete", "--force", "c"]);
    // The hook itself is the host's program: whoever configured it ends it.
    let ours = || sandbox.leftovers().iter().all(|left| is_hook(left));
    assert!(crate::support::eventually(ours), "{:?}", sandbox.leftovers());
    std::thread::sleep(Duration::from_millis(1));
    for left in sandbox.leftovers().iter().filter(|left| is_hook(left)) {
        let pid: i32 = left.rsplit('/').next().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

fn is_hook(process: &str) -> bool {
    std::fs::read(format!("{process}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\x001000"))
}
