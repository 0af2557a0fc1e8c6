//! Why a command failed, in the words that clients look for.
//!
//! One line, which `main` prints behind `error: `: containerd and the conformance suites read the text, not only the status.

use std::fmt::Write as _;

use container_core::Error;

/// The one error of the command line: its message and the exit status.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub status: u8,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: one_line(&message.into()), status: 1 }
    }

    /// The command line itself was wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message)
    }

    /// `action` failed because of `cause`.
    pub fn because(action: impl std::fmt::Display, cause: impl std::error::Error) -> Self {
        Self::new(format!("{action}: {}", chain(&cause)))
    }

    /// Container `id` cannot be used this way, being in the state that it is in.
    pub fn not_running(action: &str, id: &str) -> Self {
        // containerd looks for the last three words.
        Self::new(format!("cannot {action} {id}: container not running"))
    }

    /// The same failure with another exit status.
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(match &error {
            Error::NotFound { id } => format!("container {id:?} does not exist"),
            Error::InUse { id, .. } => format!("container with given ID {id:?} already exists"),
            Error::Cgroup(source)
                if matches!(source.downcast_ref(), Some(cgroup::Error::NotEmpty { .. })) =>
            {
                format!("container's cgroup is not empty: {source}")
            }
            Error::Exec { path, interpreter: Some(interpreter), source } => {
                let source = plain(&source.to_string());
                format!(
                    "exec {}: {source} (its interpreter {} is missing)",
                    path.display(),
                    interpreter.display()
                )
            }
            Error::NotRunning { id } => format!("container {id:?}: container not running"),
            _ => chain(&error),
        })
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::usage(error.to_string())
    }
}

/// `error` and its causes: `a: b: c`, with the kernel's answers spelt as every other runtime spells them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = plain(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = plain(&error.to_string());
        // A wrapper that shows its source itself would say it twice.
        if !text.ends_with(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// `No such file or directory (os error 2)` becomes `no such file or directory`.
fn plain(message: &str) -> String {
    let Some(at) = message.rfind(" (os error ").filter(|_| message.ends_with(')')) else {
        return message.to_owned();
    };
    let mut text = message[..at].to_owned();
    let start = text.rfind(": ").map_or(0, |at| at + 2);
    if let Some(first) = text.get(start..=start) {
        let lower = first.to_ascii_lowercase();
        // Not `I/O error`.
        if !text[start + 1..].starts_with('/') {
            text.replace_range(start..=start, &lower);
        }
    }
    text
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_kernels_answer_is_spelt_as_elsewhere() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(Failure::because("open /x", error).message, "open /x: no such file or directory");
        assert_eq!(plain("a: Permission denied (os error 13)"), "a: permission denied");
        assert_eq!(plain("Input/output error (os error 5)"), "input/output error");
        assert_eq!(plain("nothing to do here"), "nothing to do here");
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(Failure::new("first\nsecond\n").message, "first; second");
    }
}
