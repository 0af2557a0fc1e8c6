//! What the program does when it runs inside a container: it tells what it sees, and changes its own files.

use std::error::Error;
use std::io::{Read, Write};
use std::{fs, io, process};

use crate::image::GREETING;

/// A file that only the container that wrote it can see.
const NOTE: &str = "/note";

/// The line after which nothing more comes.
pub const END: &str = "that is all";

pub fn main(change: bool) -> Result<(), Box<dyn Error>> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let mut root: Vec<_> = fs::read_dir("/")?
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    root.sort();
    let processes = fs::read_dir("/proc")?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok())
        .count();

    say(&host, &format!("I am pid {} of {processes} process(es) here", process::id()))?;
    say(&host, &format!("my root directory holds: {}", root.join(" ")))?;
    say(&host, &format!("limits: {}", limits()))?;
    if change {
        fs::write(NOTE, "written by a container\n")?;
        fs::remove_file(GREETING)?;
        say(&host, &format!("I wrote {NOTE} and deleted {GREETING}"))?;
    }
    say(&host, &format!("{NOTE} is {}, {GREETING} is {}", presence(NOTE), presence(GREETING)))?;

    println!("{END}");

    // Stay until the host closes our input, so that both containers are there at the same time.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn say(host: &str, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "  [{}] {text}", host.trim())?;
    out.flush()
}

fn presence(path: &str) -> &'static str {
    if fs::exists(path).unwrap_or(false) { "there" } else { "not there" }
}

/// The limits as the control groups say them from inside, whichever version the host has.
fn limits() -> String {
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok())
            .map(|text| text.trim().to_owned())
    };
    let memory =
        first(&["memory.max", "memory/memory.limit_in_bytes"]).and_then(|bytes| bytes.parse::<u64>().ok());
    let pids = first(&["pids.max", "pids/pids.max"]);
    let cpu = first(&["cpu.max"]).or_else(|| {
        let quota = first(&["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us"])?;
        Some(format!("{quota} {}", first(&["cpu/cpu.cfs_period_us", "cpu,cpuacct/cpu.cfs_period_us"])?))
    });
    let cpus = cpu.and_then(|text| {
        // "max" on v2 and -1 on v1: no limit.
        let (quota, period) = text.split_once(' ')?;
        let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
        (quota > 0.0).then_some(quota / period)
    });
    let mut parts = Vec::new();
    parts.extend(
        memory.filter(|bytes| *bytes < 1 << 50).map(|bytes| format!("{} MiB of memory", bytes >> 20)),
    );
    parts.extend(cpus.map(|cpus| format!("{cpus} CPUs")));
    parts.extend(pids.filter(|n| n != "max").map(|n| format!("{n} tasks")));
    if parts.is_empty() { "none that I can see".to_owned() } else { parts.join(", ") }
}
