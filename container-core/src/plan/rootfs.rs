//! The root: where it is attached, what is hidden in it, how it becomes `/`.

use std::ffi::CString;
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::namespaces::{IPC, MOUNT, NET, Namespaces, USER, UTS};
use super::operation::Operation;
use super::{Extras, Rootfs, c_string};
use crate::error::{Error, Result};
use crate::mount_options::MountOptions;

/// Where the launcher's empty mount has its one directory.
pub(crate) const LAUNCHER_ROOT: &std::ffi::CStr = c"/root";

/// Puts the root somewhere below the present one: on the launcher's own directory, or on the root directory's own place in the
/// host's tree, so that createContainer hooks find it there.
pub(super) fn attach(spec: &Spec, extras: &Extras, isolated: bool) -> Result<Operation> {
    if isolated {
        return Ok(Operation::AttachRoot { path: LAUNCHER_ROOT.to_owned() });
    }
    Ok(Operation::AttachRoot { path: c_string("root.path", place(spec, extras).as_os_str())? })
}

/// The root directory on the host.
pub(super) fn place(spec: &Spec, extras: &Extras) -> PathBuf {
    match (&extras.rootfs, spec.root()) {
        (Some(Rootfs::Directory { source, .. }), _) => source.clone(),
        (None, Some(root)) => extras.bundle.join(root.path()),
        _ => PathBuf::from("/"),
    }
}

/// Where the root stays mounted in the caller's mount namespace when the container is gone: it had none of its own.
pub(super) fn stays_at(spec: &Spec, extras: &Extras, namespaces: &Namespaces) -> Option<PathBuf> {
    (!namespaces.contains(MOUNT)).then(|| place(spec, extras))
}

/// Hides, freezes and enters the root. Paths are hidden after the mounts they may lie in, and before the root is entered, so
/// that the descriptors they are covered with are still at hand.
pub(super) fn finish(
    spec: &Spec,
    extras: &Extras,
    isolated: bool,
    namespaces: &Namespaces,
    inside: &mut Vec<Operation>,
) -> Result<()> {
    let linux = spec.linux().as_ref();
    let paths = |list: Option<&Vec<String>>, field: &str| -> Result<Vec<CString>> {
        let mut out: Vec<CString> = Vec::new();
        for path in list.into_iter().flatten() {
            if path.split('/').any(|part| part == "..") {
                return Err(Error::invalid(format!("{field} {path:?}"), "it has to be absolute, without .."));
            }
            // The specification wants them absolute; a relative one can only be meant from the root.
            let path = c_string(field, format!("/{}", path.trim_start_matches('/')))?;
            if !out.contains(&path) {
                out.push(path);
            }
        }
        Ok(out)
    };
    for path in paths(linux.and_then(|l| l.readonly_paths().as_ref()), "linux.readonlyPaths")? {
        inside.push(Operation::ReadOnly { path });
    }
    for path in paths(linux.and_then(|l| l.masked_paths().as_ref()), "linux.maskedPaths")? {
        inside.push(Operation::Mask { path });
    }
    if read_only(spec, extras) {
        inside.push(Operation::RootReadOnly);
    }
    if let Some(word) = linux.and_then(|l| l.rootfs_propagation().as_ref()).filter(|word| !word.is_empty()) {
        let options = MountOptions::parse([word.as_str()])?;
        let [propagation] = options.propagation[..] else {
            return Err(Error::invalid(
                format!("linux.rootfsPropagation {word:?}"),
                "it is one of shared, slave, private, unbindable, with r in front for all below",
            ));
        };
        inside.push(Operation::RootPropagation {
            propagation: propagation.kind,
            recursive: propagation.recursive,
        });
    }
    // The launcher's mount namespace has nothing but an empty read-only directory: the root can simply cover it. With a user
    // namespace there is a procfs beside it (the kernel wants to see one before it mounts another), so everything old goes.
    inside.push(if !namespaces.makes(MOUNT) {
        Operation::ChangeRoot
    } else if isolated && !namespaces.contains(USER) {
        Operation::MoveRoot
    } else {
        Operation::PivotRoot
    });
    Ok(())
}

pub(super) fn read_only(spec: &Spec, extras: &Extras) -> bool {
    let by_rootfs = matches!(
        extras.rootfs,
        Some(Rootfs::Directory { read_only: true, .. } | Rootfs::Overlay { upper: None, .. })
    );
    by_rootfs || spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false))
}

/// Kernel parameters. Only those a namespace of the container owns: the others are the host's.
pub(super) fn sysctls(spec: &Spec, namespaces: &Namespaces, inside: &mut Vec<Operation>) -> Result<()> {
    let sysctls = spec.linux().as_ref().and_then(|l| l.sysctl().as_ref());
    let mut sorted: Vec<_> = sysctls.into_iter().flatten().collect();
    sorted.sort();
    for (name, value) in sorted {
        let path = path_of(name);
        let ipc = [
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/msgmni",
            "kernel/sem",
            "kernel/shmall",
            "kernel/shmmax",
            "kernel/shmmni",
            "kernel/shm_rmid_forced",
        ];
        let wanted = if ipc.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            Some((IPC, "ipc"))
        } else if path.starts_with("net/") {
            Some((NET, "network"))
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            Some((UTS, "uts"))
        } else if path.starts_with("user/") {
            Some((USER, "user"))
        } else {
            None
        };
        let Some((kind, word)) = wanted else {
            return Err(Error::invalid(
                format!("linux.sysctl {name}"),
                "it does not belong to a namespace, so setting it would change the host",
            ));
        };
        let refused = match path.as_str() {
            "kernel/hostname" => Some("use the field hostname"),
            "kernel/domainname" if spec.domainname().as_ref().is_some_and(|field| field != value) => {
                Some("it contradicts the field domainname")
            }
            _ => None,
        };
        if let Some(reason) = refused {
            return Err(Error::invalid(format!("linux.sysctl {name}"), reason));
        }
        if !namespaces.contains(kind) {
            return Err(Error::invalid(
                format!("linux.sysctl {name}"),
                format!("it needs a {word} namespace in linux.namespaces, or it would change the host"),
            ));
        }
        if path.split('/').any(|part| part == ".." || part.is_empty()) {
            return Err(Error::invalid(format!("linux.sysctl {name}"), "it is no parameter name"));
        }
        inside.push(Operation::Sysctl {
            path: c_string("linux.sysctl", format!("sys/{path}"))?,
            value: c_string("linux.sysctl", value)?,
        });
    }
    Ok(())
}

/// `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.1/forwarding`: whichever separator comes first separates.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn sysctl_names_in_both_spellings() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
