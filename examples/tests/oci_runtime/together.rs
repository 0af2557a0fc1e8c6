//! Several commands on one container at once.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Mutex;

use serde_json::Value;

use crate::support::{Sandbox, eventually, is_root};

/// Whatever order they come in: each command either does its work or says in one line why not, what is read is whole, and in the
/// end nothing is left.
#[test]
fn commands_on_one_id_do_not_disturb_each_other() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut commands: Vec<&[&str]> = vec![
        &["create", "c"],
        &["run", "--detach", "c"],
        &["start", "c"],
        &["state", "c"],
        &["kill", "c", "KILL"],
        &["delete", "c"],
        &["delete", "--force", "c"],
        &["exec", "c", "true"],
        &["list", "--format", "json"],
        &["ps", "--format", "json", "c"],
    ];
    if is_root() {
        commands.extend::<[&[&str]; 3]>([
            &["pause", "c"],
            &["resume", "c"],
            &["update", "--pids-limit", "100", "c"],
        ]);
    }
    let complaints = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for worker in 0..4_usize {
            let (sandbox, commands, complaints) = (&sandbox, &commands, &complaints);
            scope.spawn(move || {
                // Every worker goes through the commands in another order.
                let mut at = worker * 3;
                for round in 0..60 {
                    at = (at * 5 + worker * 2 + round * 7 + 3) % commands.len();
                    let args = commands[at];
                    let output = sandbox.call(args);
                    let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
                    let (out, err) = (out.unwrap(), err.unwrap());
                    if output.status.success() {
                        assert!(err.is_empty(), "{args:?}: {err}");
                    } else {
                        assert!(err.starts_with("error: ") && err.lines().count() == 1, "{args:?}: {err:?}");
                        complaints.lock().unwrap().insert(format!("{}: {}", args[0], err.trim_end()));
                    }
                    if output.status.success() && ["state", "list", "ps"].contains(&args[0]) {
                        let document: Result<Value, _> = serde_json::from_str(&out);
                        assert!(document.is_ok(), "{args:?}: {out:?}");
                    }
                }
            });
        }
    });
    println!("{:#?}", complaints.lock().unwrap());
    for complaint in complaints.lock().unwrap().iter() {
        for wrong in ["JSON", "parse", "panicked", "EOF", "state.json", "config.json"] {
            assert!(!complaint.contains(wrong), "{complaint}");
        }
    }
    sandbox.ok(&["delete", "--force", "c"]);
    sandbox.assert_clean("in the end");
}

/// A container in the foreground is deleted and its name given to another: the end of the first is nothing to the second.
#[test]
fn the_end_of_one_is_nothing_to_the_next_of_its_name() {
    let Some(sandbox) = Sandbox::new() else { return };
    for round in 0..15 {
        let mut first =
            sandbox.command(["run", "c"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = eventually(|| {
            let output = sandbox.call(&["state", "c"]);
            String::from_utf8_lossy(&output.stdout).contains("\"running\"")
        });
        assert!(running, "round {round}");
        sandbox.ok(&["delete", "--force", "c"]);
        sandbox.ok(&["run", "--detach", "c"]);
        first.wait().unwrap();
        assert_eq!(sandbox.status("c"), "running", "round {round}");
        sandbox.ok(&["delete", "--force", "c"]);
    }
    sandbox.assert_clean("in the end");
}
