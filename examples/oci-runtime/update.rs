//! `update`: other limits for a container that runs.

use std::io::Read;
use std::path::Path;

use container_core::oci_spec::runtime::LinuxResources;
use container_core::state::Status;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;

pub fn update(
    context: &Context,
    id: &str,
    resources: Option<&Path>,
    changes: &[(&'static str, String)],
) -> Result<(), Failure> {
    let mut wanted = match resources {
        Some(path) => read(path)?,
        None => json!({}),
    };
    for (option, text) in changes {
        set(&mut wanted, option, text)?;
    }
    let wanted: LinuxResources =
        serde_json::from_value(wanted).map_err(|error| Failure::because("the limits to set", error))?;

    let found = context.lock(id)?;
    if found.status() == Status::Stopped {
        return Err(Failure::not_running("update", id));
    }
    let cgroup = found.cgroup()?.ok_or_else(|| {
        Failure::new(format!("{id} has no control group of its own: nothing can be limited"))
    })?;
    let because = |error: cgroup::Error| Failure::because(format!("update {id}"), error);
    let limits = cgroup::Limits::try_from(&wanted).map_err(because)?;
    cgroup.apply(&limits).map_err(because)
}

/// The limits in a file, or on standard input for `-`.
fn read(path: &Path) -> Result<Value, Failure> {
    let because = |error| Failure::because(format!("read limits from {}", path.display()), error);
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(because)?;
        text
    } else {
        std::fs::read_to_string(path).map_err(because)?
    };
    serde_json::from_str(&text)
        .map_err(|error| Failure::because(format!("limits in {}", path.display()), error))
}

/// Puts the value of one option where the specification has it.
fn set(resources: &mut Value, option: &str, text: &str) -> Result<(), Failure> {
    let wrong = || Failure::usage(format!("invalid value {text:?} for --{option}"));
    let number = || text.trim().parse::<i64>().map(Value::from).map_err(|_| wrong());
    let bytes = || bytes(text).map(Value::from).ok_or_else(wrong);
    let list = || Ok::<_, Failure>(Value::from(text));
    let (section, name, value) = match option {
        "memory" => ("memory", "limit", bytes()?),
        "memory-swap" => ("memory", "swap", bytes()?),
        "memory-reservation" => ("memory", "reservation", bytes()?),
        "cpu-period" => ("cpu", "period", number()?),
        "cpu-quota" => ("cpu", "quota", number()?),
        "cpu-burst" => ("cpu", "burst", number()?),
        "cpu-idle" if !["0", "1"].contains(&text.trim()) => return Err(wrong()),
        "cpu-idle" => ("cpu", "idle", number()?),
        "cpu-share" => ("cpu", "shares", number()?),
        "cpu-rt-period" => ("cpu", "realtimePeriod", number()?),
        "cpu-rt-runtime" => ("cpu", "realtimeRuntime", number()?),
        "cpuset-cpus" => ("cpu", "cpus", list()?),
        "cpuset-mems" => ("cpu", "mems", list()?),
        "blkio-weight" => ("blockIO", "weight", number()?),
        // The kernel would let nothing be forked either way; runc writes 1.
        "pids-limit" if text.trim() == "0" => ("pids", "limit", Value::from(1)),
        "pids-limit" => ("pids", "limit", number()?),
        // The kernel took no limit of its own memory any more since 5.16; clients that still send one mean no harm.
        _ => return Ok(()),
    };
    let object =
        resources.as_object_mut().ok_or_else(|| Failure::usage("the limits must be a JSON object"))?;
    let section = object.entry(section).or_insert_with(|| json!({}));
    if section.is_null() {
        *section = json!({});
    }
    section[name] = value;
    Ok(())
}

/// `64M`, `1.5g`, `512kib`, `1073741824`; -1 is no limit.
fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "-1" {
        return Some(-1);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start().to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let value = number * (1_u64 << shift) as f64;
    (value < i64::MAX as f64).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("50M"), Some(50 << 20));
        assert_eq!(bytes("1.5g"), Some(3 << 29));
        assert_eq!(bytes("512kib"), Some(512 << 10));
        assert_eq!(bytes("67108864"), Some(67_108_864));
        assert_eq!(bytes("-1"), Some(-1));
        for wrong in ["", "M", "1x", "-2", "1..5"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn options_win_over_the_file() {
        let mut resources = json!({ "memory": { "limit": 1, "swap": 2 }, "cpu": null });
        set(&mut resources, "memory", "2k").unwrap();
        set(&mut resources, "cpu-quota", "-1").unwrap();
        assert_eq!(resources, json!({ "memory": { "limit": 2048, "swap": 2 }, "cpu": { "quota": -1 } }));
        assert!(set(&mut resources, "pids-limit", "many").is_err());
    }
}
