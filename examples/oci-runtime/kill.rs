//! `kill`: a signal to the first process of a container, or to all of them.

use std::str::FromStr;

use container_core::state::Status;
use nix::sys::signal::Signal;

use crate::context::{Context, Found};
use crate::failure::Failure;

pub fn kill(context: &Context, id: &str, signal: &str, all: bool) -> Result<(), Failure> {
    let number = parse(signal)?;
    // Reading only: a hook may kill the container that is being created, while its creator holds the lock.
    let found = context.find(id)?;
    let status = found.status();
    let fatal = number == Signal::SIGKILL as i32;
    // Without a pid namespace of its own the first process takes nobody along.
    if fatal && (all || !crate::record::has_pid_namespace(&found.record)) {
        return kill_everything(&found);
    }
    if status == Status::Stopped {
        return if all { Ok(()) } else { Err(Failure::not_running("kill", id)) };
    }
    if all {
        return signal_everything(&found, number);
    }
    let Some(pidfd) = found.record.pidfd()? else { return Err(Failure::not_running("kill", id)) };
    container_core::signal(&pidfd, number).map_err(|error| match error.raw_os_error() {
        Some(errno) if errno == nix::errno::Errno::ESRCH as i32 => Failure::not_running("kill", id),
        _ => Failure::because(format!("kill {id}"), error),
    })?;
    // A frozen process takes no signal on version 1 before it is thawed, not even this one.
    if fatal && status == Status::Paused {
        thaw(&found)?;
    }
    Ok(())
}

/// Kills every process of the container, the first one included.
pub fn kill_everything(found: &Found) -> Result<(), Failure> {
    if let Some(pidfd) = found.record.pidfd()? {
        // Gone meanwhile is as good.
        let _ = container_core::signal(&pidfd, Signal::SIGKILL as i32);
    }
    match found.cgroup()? {
        Some(cgroup) => {
            cgroup.kill().map_err(|error| Failure::because(format!("kill {}", found.record.id), error))
        }
        None => Ok(()),
    }
}

fn signal_everything(found: &Found, number: i32) -> Result<(), Failure> {
    let because =
        |error: &dyn std::fmt::Display| Failure::new(format!("signal {}: {error}", found.record.id));
    let Some(cgroup) = found.cgroup()? else { return Ok(()) };
    for pid in cgroup.processes().map_err(|error| because(&error))? {
        let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { continue };
        // One that ended meanwhile needs no signal any more.
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        match container_core::signal(&pidfd, number) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32) => {
                return Err(because(&error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn thaw(found: &Found) -> Result<(), Failure> {
    match found.cgroup()? {
        Some(cgroup) => {
            cgroup.thaw().map_err(|error| Failure::because(format!("thaw {}", found.record.id), error))
        }
        None => Ok(()),
    }
}

/// `9`, `KILL`, `SIGKILL`, `kill`; real-time signals as `RTMIN+N` and `RTMAX-N`; 0 only asks.
pub fn parse(text: &str) -> Result<i32, Failure> {
    let unknown = || Failure::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The C library keeps two real-time signals for itself: what programs call RTMIN is 34.
    for (base, first, sign) in [("RTMIN", 34, 1), ("RTMAX", 64, -1)] {
        if let Some(rest) = name.strip_prefix(base) {
            let offset = if rest.is_empty() { 0 } else { rest[1..].parse::<i32>().map_err(|_| unknown())? };
            let number = first + sign * offset;
            return if (34..=64).contains(&number)
                && (rest.is_empty() || rest.starts_with(if sign > 0 { '+' } else { '-' }))
            {
                Ok(number)
            } else {
                Err(unknown())
            };
        }
    }
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn every_spelling_of_a_signal() {
        for spelling in ["USR1", "SIGUSR1", "usr1", "10"] {
            assert_eq!(parse(spelling).unwrap(), 10, "{spelling}");
        }
        assert_eq!(parse("RTMIN+2").unwrap(), 36);
        assert_eq!(parse("SIGRTMAX-1").unwrap(), 63);
        assert_eq!(parse("0").unwrap(), 0);
        for wrong in ["", "SIG", "FROB", "65", "-1", "RTMIN+99", "RTMIN-1", "9x"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
