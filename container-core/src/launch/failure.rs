//! From a failure record to an error that says what failed, on what, and where it helps, what to do.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::child::Failure;
use super::{init, program, rootfs};
use crate::error::Error;
use crate::plan::Services;
use crate::plan::operation::{Follow, Operation};
use crate::step::Step;

/// What to say about a failed operation where the plan is not at hand.
pub(super) fn phrase(operation: &Operation) -> String {
    format!("{} {}", operation.step(), operation.subject())
}

/// The error for operation `index`.
pub(super) fn explain(
    operations: &[Operation],
    index: usize,
    failure: Failure,
    text: &[u8],
    services: &Services,
) -> Error {
    let source = std::io::Error::from_raw_os_error(failure.errno);
    let Some(operation) = operations.get(index) else {
        // A container that is released by somebody who has no plan at hand: its words have come along.
        if failure.detail == program::INTERPRETER || failure.detail == program::EXEC {
            return exec(failure, text, services);
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        return Error::setup(Step::Gate, String::from_utf8_lossy(&text[..end]), source);
    };
    match operation {
        Operation::Exec if failure.detail == init::INIT => {
            return Error::setup(Step::Init, "", source);
        }
        Operation::Locate | Operation::Exec => return exec(failure, text, services),
        Operation::Mount(mount) if mount.target.follow == Follow::None && failure.errno == libc::ELOOP => {
            return Error::invalid(
                format!("mounts: {}", mount.target.path.to_string_lossy()),
                format!(
                    "{} must be mounted on ordinary directory, and a symbolic link leads there",
                    mount.kind.to_string_lossy()
                ),
            );
        }
        Operation::Mount(mount) if mount.kind.as_c_str() == c"proc" && failure.errno == libc::EPERM => {
            if let Some(remedy) = crate::host::covered_proc() {
                return Error::unsupported("a /proc of the container's own", remedy);
            }
        }
        // setns(2): it takes rights in the user namespace that owns the other one.
        Operation::Join { name, .. } if failure.errno == libc::EPERM => {
            return Error::unsupported(
                format!("joining the namespace {name}"),
                "it belongs to a user namespace in which this program has no rights: join that one too, or let root start the \
                 container",
            );
        }
        Operation::Loopback if failure.errno == libc::EPERM => {
            return Error::unsupported("raising the loopback interface", "it takes CAP_NET_ADMIN");
        }
        _ => {}
    }
    let mut subject = operation.subject();
    match (operation, failure.detail) {
        (Operation::Mount(mount) | Operation::MakeMount { new: mount, .. }, detail)
            if detail >= rootfs::OPTION =>
        {
            if let Some((key, value)) = mount.data.get((detail - rootfs::OPTION) as usize) {
                let value = value.as_ref().map(|v| format!("={}", v.to_string_lossy())).unwrap_or_default();
                subject.push_str(&format!(": option {}{value}", key.to_string_lossy()));
            }
        }
        // mount_namespaces(7): what is mounted there by somebody mightier hides what it covers.
        (Operation::OpenTree { recursive: false, .. }, _) if failure.errno == libc::EINVAL => {
            subject.push_str(
                " (without what is mounted below it, which an ordinary user cannot leave out: use rbind)",
            );
        }
        (Operation::Overlay { .. }, detail) if detail >= rootfs::OPTION => {
            subject.push_str(&format!(": layer {}", detail - rootfs::OPTION + 1));
        }
        (_, rootfs::PLACE) => subject.push_str(": its place in the root cannot be opened or made"),
        (_, rootfs::OTHER_DEVICE) => subject.push_str(": something else is there"),
        _ => {}
    }
    Error::setup(operation.step(), subject, source)
}

fn exec(failure: Failure, text: &[u8], services: &Services) -> Error {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let named = PathBuf::from(OsStr::from_bytes(&text[..end]));
    let command = PathBuf::from(OsStr::from_bytes(services.command.to_bytes()));
    let source = std::io::Error::from_raw_os_error(failure.errno);
    let (path, interpreter) = match failure.detail {
        // The lookup failed: the name that was asked for says more than the last place that was tried.
        program::LOOKUP => (command, None),
        program::INTERPRETER => (command, Some(named)),
        program::EXEC => (named, None),
        _ => (command, None),
    };
    Error::Exec { path, interpreter, source }
}
