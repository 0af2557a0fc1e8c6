//! `ps`: the processes of a container, by their pids on the host.

use std::collections::HashSet;
use std::ffi::OsString;

use container_core::state::Record;

use crate::context::Context;
use crate::failure::Failure;

pub fn ps(context: &Context, id: &str, json: bool, options: &[OsString]) -> Result<(), Failure> {
    let found = context.find(id)?;
    let pids: Vec<i32> = match found.cgroup()? {
        Some(cgroup) => {
            let mut pids: Vec<i32> = cgroup
                .processes()
                .map_err(|error| Failure::because(format!("list the processes of {id}"), error))?
                .into_iter()
                .map(|pid| pid as i32)
                .collect();
            pids.sort_unstable();
            pids
        }
        None if found.record.is_alive() => without_group(&found.record)?,
        None => Vec::new(),
    };
    if json {
        println!("{}", serde_json::json!(pids));
        return Ok(());
    }
    let mut command = std::process::Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().map_err(|error| Failure::because("run ps", error))?;
    if !output.status.success() {
        return Err(Failure::new(format!("ps: {}", String::from_utf8_lossy(&output.stderr))));
    }
    print!("{}", select(&String::from_utf8_lossy(&output.stdout), &pids)?);
    Ok(())
}

/// The processes of a container without a control group: who is in its pid namespace. Of one that shares the host's only the first
/// process is known.
fn without_group(record: &Record) -> Result<Vec<i32>, Failure> {
    if !crate::record::has_pid_namespace(record) {
        return Ok(vec![record.pid]);
    }
    let because = |error| Failure::because(format!("list the processes of {}", record.id), error);
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let own = namespace(record.pid).map_err(because)?;
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")
        .map_err(because)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // One that ended meanwhile, or is another user's, is none of them.
        .filter(|&pid| namespace(pid).is_ok_and(|namespace| namespace == own))
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The lines of `table` that are about `pids`, and its title.
fn select(table: &str, pids: &[i32]) -> Result<String, Failure> {
    let wanted: HashSet<String> = pids.iter().map(ToString::to_string).collect();
    let title = table.lines().next().unwrap_or_default();
    let column = title
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Failure::new("couldn't find PID field in ps output"))?;
    let mut text = format!("{title}\n");
    for line in table.lines().skip(1) {
        if line.split_whitespace().nth(column).is_some_and(|pid| wanted.contains(pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let table = "UID   PID  PPID CMD\nroot  1    0    init\nroot  42   1    sh 43\nroot  43   42   ls\n";
        assert_eq!(select(table, &[42]).unwrap(), "UID   PID  PPID CMD\nroot  42   1    sh 43\n");
        assert!(select("A B\n1 2\n", &[1]).is_err());
    }
}
