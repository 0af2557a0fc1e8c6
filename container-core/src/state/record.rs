//! What is kept about a container, and how its first process is told from a later one with the same number.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Where a container is in its life, as the runtime specification has it, and `Paused` as every runtime has it besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Its environment is being set up.
    Creating,
    /// Everything is set up, and the command waits to be started.
    Created,
    /// The command runs.
    Running,
    /// The command and all its descendants are frozen.
    Paused,
    /// The first process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What is kept about a container: enough to find its processes and control groups again, and to answer `state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the runtime specification that the container's configuration names.
    pub oci_version: String,
    /// Name of the container.
    pub id: String,
    /// First process, in the pid namespace of the program that created the container; 0 until there is one.
    pub pid: i32,
    /// When that process was started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// The boot that `pid` and `start_time` belong to (`/proc/sys/kernel/random/boot_id`), where the state directory may
    /// outlive one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Inode of the pid namespace that `pid` belongs to, where programs in several share the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_namespace: Option<u64>,
    /// Absolute path of the bundle directory.
    pub bundle: PathBuf,
    /// Absolute path of the root file system on the host.
    pub rootfs: PathBuf,
    /// When the container was created: RFC 3339, UTC.
    pub created: String,
    /// Annotations of the configuration.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Directories of the container's control groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<CgroupDirectory>,
    /// What the program that created the container wants to find again.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// One control group of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupDirectory {
    /// Controllers that the directory serves (`memory`, or `cpu,cpuacct`); empty for version 2.
    pub controllers: String,
    /// The directory.
    pub path: PathBuf,
}

impl Record {
    /// Whether the first process is still there: the very process, not a later one with its number, and not a zombie.
    pub fn is_alive(&self) -> bool {
        self.pid > 0
            && self.boot_id.as_ref().is_none_or(|kept| boot_id().is_ok_and(|now| *kept == now))
            && self.pid_namespace.is_none_or(|kept| pid_namespace().is_ok_and(|own| kept == own))
            && process_stat(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && !stat.ended)
    }

    /// A descriptor for the first process that no later process can be confused with; `None` when it has ended.
    ///
    /// # Errors
    /// The kernel's answer when it has no pidfds (before 5.3) or no descriptor is left.
    pub fn pidfd(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid) else { return Ok(None) };
        // The descriptor first: while it is open the number cannot be given away, so the check holds afterwards.
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(Error::io("open process", format!("/proc/{}", self.pid), errno)),
        }
    }
}

/// What identifies a process, and whether it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessStat {
    start_time: u64,
    ended: bool,
}

fn process_stat(pid: i32) -> std::io::Result<ProcessStat> {
    let path = format!("/proc/{pid}/stat");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = [0_u8; 1024];
    let length = rustix::io::read(&file, &mut buffer)?;
    parse_stat(&buffer[..length]).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
}

/// The command name (field 2) may hold blanks and parentheses: fields count from the last parenthesis.
fn parse_stat(stat: &[u8]) -> Option<ProcessStat> {
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // In the middle of its end, and for as long as others of its pid namespace are not reaped, which is not in its hands.
    const PF_EXITING: u64 = 4;
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(ProcessStat { start_time, ended: matches!(state, "Z" | "X" | "x") || flags & PF_EXITING != 0 })
}

/// When process `pid` was started, in clock ticks since boot.
///
/// # Errors
/// When there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    process_stat(pid)
        .map(|stat| stat.start_time)
        .map_err(|error| Error::io("read", format!("/proc/{pid}/stat"), error))
}

/// What tells this boot of the host from every other one.
///
/// # Errors
/// When `/proc` is not there.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    Ok(text.trim_end().to_owned())
}

/// What tells the pid namespace of this process from every other one on this host.
///
/// # Errors
/// When `/proc` is not there.
pub fn pid_namespace() -> Result<u64> {
    let path = "/proc/self/ns/pid";
    rustix::fs::stat(path).map(|stat| stat.st_ino).map_err(|errno| Error::io("stat", path, errno))
}

/// `time` as RFC 3339 in UTC with nanoseconds, as in `2026-11-25T03:14:07.000000000Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a date by eras of 400 years, with years that begin in March, so that the leap day comes last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_rfc_3339() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, 5));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000000005Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000005Z");
    }

    #[test]
    fn a_command_name_cannot_confuse_the_fields() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
        for name in ["sh", "a b", "x) R 1 1", "((", ")"] {
            let parsed = parse_stat(format!("12 ({name}) {tail}").as_bytes());
            assert_eq!(parsed, Some(ProcessStat { start_time: 4711, ended: false }), "{name}");
        }
        assert_eq!(parse_stat(b"12 (sh) Z"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
