//! Every kind of namespace, new, the host's, or joined: each works, or the error says what stands in the way.

mod fixture;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use container_core::{ContainerBuilder, Error, Namespace, NamespaceKind};
use fixture::Root;

const KINDS: [(NamespaceKind, &str); 8] = [
    (NamespaceKind::Pid, "pid"),
    (NamespaceKind::Network, "net"),
    (NamespaceKind::Mount, "mnt"),
    (NamespaceKind::Ipc, "ipc"),
    (NamespaceKind::Uts, "uts"),
    (NamespaceKind::User, "user"),
    (NamespaceKind::Cgroup, "cgroup"),
    (NamespaceKind::Time, "time"),
];

fn own(name: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string()
}

/// Says in which namespace of a kind it is, and uses what belongs to it.
fn look(root: &Root, name: &str) -> ContainerBuilder {
    root.shell(&format!(
        "readlink /proc/self/ns/{name}; test -e /proc/self/status && test -e /proc/1/status && test -d /sys/kernel \
         && test -w /dev/null"
    ))
}

fn seen(builder: ContainerBuilder) -> Result<String, Error> {
    let output = builder.output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn new_namespaces() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for (kind, name) in KINDS {
        let inside = seen(look(&root, name).namespace(kind, Namespace::New)).unwrap();
        assert_ne!(inside, own(name), "{name}");
    }
}

#[test]
fn namespaces_of_the_host() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for (kind, name) in KINDS {
        match (kind, seen(look(&root, name).namespace(kind, Namespace::Host))) {
            // The masks and mounts of a container need a place that is not the host's tree.
            (NamespaceKind::Mount, Err(Error::Invalid { subject, reason })) => {
                assert!(
                    subject.contains("masked") && reason.contains("mount namespace"),
                    "{subject}: {reason}"
                );
            }
            (NamespaceKind::User, Err(Error::Unsupported { feature, remedy })) if !fixture::is_root() => {
                assert!(feature.contains("without a user namespace"), "{feature}");
                assert!(remedy.contains("CAP_SYS_ADMIN"), "{remedy}");
            }
            (_, inside) => assert_eq!(inside.unwrap(), own(name), "{name}"),
        }
    }
}

/// All of the host's at once, as a build tool has it that only wants another root.
#[test]
fn all_but_the_tree_of_the_host() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    let mut builder = root.shell("test -e /proc/self/status && test -d /sys/class/net/lo");
    for (kind, _) in KINDS {
        if !matches!(kind, NamespaceKind::Mount | NamespaceKind::User) {
            builder = builder.namespace(kind, Namespace::Host);
        }
    }
    let output = builder.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A process in namespaces of its own, for others to join.
struct Holder(Child);

impl Holder {
    fn new(arguments: &[&str]) -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(arguments).args(["sh", "-c", "echo; exec sleep 60"]);
        let mut child = unshare.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut line = String::new();
        use std::io::BufRead;
        std::io::BufReader::new(child.stdout.take()?).read_line(&mut line).ok()?;
        let holder = Self(child);
        (!line.is_empty()).then_some(holder)
    }

    fn path(&self, name: &str) -> PathBuf {
        // Before Linux 6.3 exec does not take a program over to the clocks that were made for its children.
        let name = if name == "time" { "time_for_children" } else { name };
        format!("/proc/{}/ns/{name}", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const FLAGS: [(NamespaceKind, &str, &str); 5] = [
    (NamespaceKind::Network, "net", "--net"),
    (NamespaceKind::Ipc, "ipc", "--ipc"),
    (NamespaceKind::Uts, "uts", "--uts"),
    (NamespaceKind::Cgroup, "cgroup", "--cgroup"),
    (NamespaceKind::Time, "time", "--time"),
];

#[test]
fn joined_namespaces() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for (kind, name, flag) in FLAGS {
        // An ordinary user's belong to a user namespace, which is joined with them.
        let arguments: &[&str] = if fixture::is_root() { &[flag] } else { &["-U", "-r", flag] };
        let Some(holder) = Holder::new(arguments) else {
            fixture::skip("userns", "unshare makes no namespaces here");
            return;
        };
        let mut builder = look(&root, name).namespace(kind, Namespace::Join(holder.path(name)));
        if !fixture::is_root() {
            builder = builder.namespace(NamespaceKind::User, Namespace::Join(holder.path("user")));
        }
        let joined = std::fs::read_link(holder.path(name)).unwrap().display().to_string();
        assert_eq!(seen(builder).unwrap_or_else(|e| panic!("{name}: {e:?}")), joined, "{name}");
    }
}

/// One that belongs to a user namespace in which this program has no rights.
#[test]
fn a_namespace_of_strangers_is_told_so() {
    if !fixture::containers() || fixture::is_root() {
        return fixture::skip("user", "root has rights everywhere");
    }
    let root = Root::new();
    for (kind, name, _) in FLAGS {
        let builder =
            look(&root, name).namespace(kind, Namespace::Join(format!("/proc/self/ns/{name}").into()));
        match builder.output() {
            Err(Error::Unsupported { feature, remedy }) => {
                assert!(feature.contains(&format!("/proc/self/ns/{name}")), "{feature}");
                assert!(remedy.contains("user namespace"), "{remedy}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_joined_path_that_is_none_is_named() {
    if !fixture::containers() {
        return;
    }
    let root = Root::new();
    for path in ["/nonexistent/ns", "/proc/self/ns/uts"] {
        match look(&root, "net").network(Namespace::Join(path.into())).output() {
            Err(error) => assert!(error.to_string().contains(path), "{error}"),
            Ok(output) => panic!("{output:?}"),
        }
    }
}
