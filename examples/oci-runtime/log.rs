//! `--log FILE --log-format text|json`, and what goes to stderr.
//!
//! containerd takes the last line of the JSON log as its error message, so the log is written before the process ends and
//! each line is an object with `level`, `msg` and `time`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::SystemTime;

use container_core::Plan;
use container_core::oci_spec::runtime::LinuxSeccomp;
use container_core::state::rfc3339;

use crate::args::Global;
use crate::failure::Failure;

/// Where messages go.
#[derive(Debug, Default)]
pub struct Log {
    file: Option<File>,
    json: bool,
    debug: bool,
}

impl Log {
    pub fn open(global: &Global) -> Result<Self, Failure> {
        let file =
            match &global.log {
                Some(path) if !path.as_os_str().is_empty() => {
                    Some(OpenOptions::new().append(true).create(true).open(path).map_err(|error| {
                        Failure::because(format!("open log file {}", path.display()), error)
                    })?)
                }
                _ => None,
            };
        Ok(Self { file, json: global.log_json, debug: global.debug })
    }

    /// What only somebody who looks for a fault wants to know.
    pub fn debug(&self, message: &str) {
        if self.debug && !self.to_file("debug", message) {
            eprintln!("{}", self.line("debug", message));
        }
    }

    /// Each line of `text`, which is only made when somebody wants to know.
    pub fn debug_lines(&self, text: impl FnOnce() -> String) {
        if self.debug {
            text().lines().for_each(|line| self.debug(line));
        }
    }

    /// What is going to be done, one step a line, between the headings that people look for in the debug log of runc.
    pub fn debug_plan(&self, plan: &Plan, filter: Option<&LinuxSeccomp>) {
        self.debug_lines(|| {
            let flags =
                filter.and_then(|filter| container_core::seccomp::compile(filter).ok()).map(|filter| {
                    const NEW_LISTENER: u32 = 1 << 3;
                    let flags = filter.flags | if filter.notify { NEW_LISTENER } else { 0 };
                    format!("seccomp filter flags: {flags}\n")
                });
            format!("nsexec container setup\nchild process in init()\n{plan}{}", flags.unwrap_or_default())
        });
    }

    /// Something is not as asked for, and the command goes on. Clients take the word `error` for a failure: not here.
    pub fn warn(&self, message: &str) {
        self.to_file("warning", message);
        eprintln!("warning: {message}");
    }

    /// The command failed.
    pub fn error(&self, message: &str) {
        self.to_file("error", message);
        eprintln!("error: {message}");
    }

    fn to_file(&self, level: &str, message: &str) -> bool {
        let Some(mut file) = self.file.as_ref() else { return false };
        // One write, so that lines of several processes do not mix. A full disk must not hide the failure itself.
        let _ = file.write_all(format!("{}\n", self.line(level, message)).as_bytes());
        true
    }

    fn line(&self, level: &str, message: &str) -> String {
        let time = rfc3339(SystemTime::now());
        if self.json {
            serde_json::json!({ "level": level, "msg": message, "time": time }).to_string()
        } else {
            format!("time={time:?} level={level} msg={message:?}")
        }
    }
}
