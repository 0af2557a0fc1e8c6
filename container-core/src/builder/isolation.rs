//! Setters for isolation, and for streams and life.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Capability, LinuxSeccomp, Spec};

use super::{ContainerBuilder, Edit, Seccomp};
use crate::id_map::IdMapping;
use crate::namespace::{Namespace, NamespaceKind};
use crate::rlimit::Resource;
use crate::stdio::{Stdio, WindowSize};

/// Isolation.
impl ContainerBuilder {
    /// The preset for code nobody has read: no capabilities, a read-only root, user `65534:65534`, 256 tasks, and no core
    /// files. Setters called later change it again. For programs that start others, or that are to be stopped, add
    /// [`init`](Self::init).
    pub fn sandbox(mut self) -> Self {
        self.capabilities = Some(Vec::new());
        self.read_only = true;
        self.user = Some("65534:65534".to_owned());
        self.limits = self.limits.pids(256u64);
        self.rlimit(Resource::Core, 0, 0)
    }

    /// The container's capabilities, in place of the default 14 of Docker.
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        self.capabilities = Some(capabilities.into_iter().collect());
        self
    }

    /// Adds a capability.
    pub fn cap_add(mut self, capability: Capability) -> Self {
        self.add_capabilities.push(capability);
        self
    }

    /// Takes a capability away.
    pub fn cap_drop(mut self, capability: Capability) -> Self {
        self.drop_capabilities.push(capability);
        self
    }

    /// A seccomp profile of your own.
    pub fn seccomp(mut self, profile: LinuxSeccomp) -> Self {
        self.seccomp = Seccomp::Profile(profile);
        self
    }

    /// No system call filter.
    pub fn seccomp_unconfined(mut self) -> Self {
        self.seccomp = Seccomp::Unconfined;
        self
    }

    /// setuid programs and file capabilities give nothing. Default: true.
    pub fn no_new_privileges(mut self, no_new_privileges: bool) -> Self {
        self.no_new_privileges = no_new_privileges;
        self
    }

    /// Where the namespace of a kind comes from; see [`Namespace`] for the defaults.
    pub fn namespace(mut self, kind: NamespaceKind, namespace: Namespace) -> Self {
        self.namespaces.retain(|(known, _)| *known != kind);
        self.namespaces.push((kind, namespace));
        self
    }

    /// The network: [`Namespace::New`] (loopback only), the host's, or an existing one.
    pub fn network(self, network: Namespace) -> Self {
        self.namespace(NamespaceKind::Network, network)
    }

    /// User and group ids in a new user namespace.
    ///
    /// Default: none for a privileged caller. For an ordinary user with subordinate ids (`/etc/subuid`, `/etc/subgid`, newuidmap
    /// and newgidmap), root inside is the caller and the ids from 1 on are the granted ones, so that files have the owners their
    /// image says and processes can be any user. Without them, or for a user whose number is beyond them, the wanted user is
    /// the caller and nobody else exists: `[IdMapping::single(id, own_id)]` asks for that in so many words, which also spares the
    /// milliseconds that the two programs take.
    pub fn id_mappings(
        mut self,
        users: impl IntoIterator<Item = IdMapping>,
        groups: impl IntoIterator<Item = IdMapping>,
    ) -> Self {
        self.uid_mappings = users.into_iter().collect();
        self.gid_mappings = groups.into_iter().collect();
        self
    }

    /// A kernel parameter of the container's namespaces, as in `net.ipv4.ip_forward`.
    pub fn sysctl(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.sysctls.push((name.into(), value.into()));
        self
    }

    /// An annotation: carried along, shown to hooks.
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// A last change to the finished specification, for what has no setter. Called at each start, in the order given.
    pub fn edit_spec(mut self, edit: impl Fn(&mut Spec) + Send + Sync + 'static) -> Self {
        self.edits.push(Edit(Arc::new(edit)));
        self
    }
}

/// Streams and life.
impl ContainerBuilder {
    /// Standard input. Default: inherited for [`spawn`](Self::spawn) and [`status`](Self::status), else null.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdio.into());
        self
    }

    /// Standard output. Default: inherited for [`spawn`](Self::spawn) and [`status`](Self::status), else collected.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdio.into());
        self
    }

    /// Standard error. Default: as standard output.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stderr = Some(stdio.into());
        self
    }

    /// What [`run`](Self::run) and [`output`](Self::output) feed to standard input, while they read the output.
    pub fn input(mut self, input: impl Into<Arc<[u8]>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Gives the container a terminal of this size, whose other end is [`Container::terminal`](crate::Container::terminal).
    /// It takes the place of all three streams.
    pub fn terminal(mut self, size: WindowSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// The container is killed when the host program ends, however it ends. Default: true, unless there is a
    /// [state directory](Self::state_directory): then it could be found again.
    pub fn die_with_host(mut self, die: bool) -> Self {
        self.die_with_host = Some(die);
        self
    }

    /// The directory in which the container is recorded, so that [`Container::detach`](crate::Container::detach) can leave it
    /// to other programs. Default: none, the container lives in its handle only.
    pub fn state_directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.state_directory = Some(directory.as_ref().to_owned());
        self
    }
}
