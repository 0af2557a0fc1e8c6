//! The comfortable way to describe a container: setters only, nothing happens before a verb such as `spawn`.

mod isolation;
mod limits;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{Capability, LinuxSeccomp, Spec};

use crate::id_map::IdMapping;
use crate::mount::Mount;
use crate::namespace::{Namespace, NamespaceKind};
use crate::rlimit::Resource;
use crate::stdio::{Stdio, WindowSize};

/// Describes a container and starts it, any number of times. Made by [`Container::builder`](crate::Container::builder); shaped
/// as [`std::process::Command`].
///
/// A container is safe without being asked: namespaces of its own (mount, pid, ipc, uts, cgroup, network, and user when the
/// caller is not privileged), 14 capabilities at most, no new privileges, the default seccomp profile, masked and read-only
/// kernel paths, a `/dev` of its own, and a limit of [`DEFAULT_PIDS`] tasks.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until a verb such as `spawn` is called"]
pub struct ContainerBuilder {
    pub(crate) id: Option<String>,
    pub(crate) root: Root,
    pub(crate) entrypoint: Option<Vec<OsString>>,
    pub(crate) command: Option<Vec<OsString>>,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) clear_env: bool,
    pub(crate) inherit_env: bool,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) umask: Option<u32>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) limits: cgroup::Limits,
    pub(crate) limits_best_effort: bool,
    pub(crate) cgroup: Option<String>,
    pub(crate) no_cgroup: bool,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) read_only: bool,
    pub(crate) layer: Layer,
    pub(crate) capabilities: Option<Vec<Capability>>,
    pub(crate) add_capabilities: Vec<Capability>,
    pub(crate) drop_capabilities: Vec<Capability>,
    pub(crate) seccomp: Seccomp,
    pub(crate) no_new_privileges: bool,
    pub(crate) unmask: bool,
    pub(crate) namespaces: Vec<(NamespaceKind, Namespace)>,
    pub(crate) uid_mappings: Vec<IdMapping>,
    pub(crate) gid_mappings: Vec<IdMapping>,
    pub(crate) rlimits: Vec<(Resource, u64, u64)>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) oom_score: Option<i32>,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) init: bool,
    pub(crate) stdin: Option<Stdio>,
    pub(crate) stdout: Option<Stdio>,
    pub(crate) stderr: Option<Stdio>,
    pub(crate) terminal: Option<WindowSize>,
    pub(crate) input: Option<Arc<[u8]>>,
    pub(crate) output_limit: Option<OutputLimit>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) die_with_host: Option<bool>,
    pub(crate) state_directory: Option<PathBuf>,
    pub(crate) edits: Vec<Edit>,
}

/// Tasks (processes and threads) a container may have unless told otherwise.
pub const DEFAULT_PIDS: u64 = 4096;

/// Where the root file system comes from.
#[derive(Clone, Debug)]
pub(crate) enum Root {
    Missing,
    Directory(PathBuf),
    /// Plain mount data, as of a snapshot.
    Mount(crate::plan::Rootfs),
    Bundle(PathBuf),
    #[cfg(feature = "images")]
    Image(image_layers::Store, Box<image_layers::Image>),
}

/// Where changes to the root file system go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// To the root directory itself, or to a writable layer of the image's store.
    Store,
    /// To memory, up to so many bytes.
    Memory(u64),
    /// To a file system of this size in a file without a name.
    Disk(u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Seccomp {
    Default,
    Unconfined,
    Profile(LinuxSeccomp),
}

/// How much output is collected, and what happens beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputLimit {
    pub(crate) bytes: usize,
    pub(crate) kill: bool,
}

/// A last change to the finished specification.
#[derive(Clone)]
pub(crate) struct Edit(pub(crate) Arc<dyn Fn(&mut Spec) + Send + Sync>);

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Edit")
    }
}

impl Default for ContainerBuilder {
    fn default() -> Self {
        Self {
            id: None,
            root: Root::Missing,
            entrypoint: None,
            command: None,
            env: Vec::new(),
            clear_env: false,
            inherit_env: false,
            current_dir: None,
            user: None,
            umask: None,
            hostname: None,
            domainname: None,
            limits: cgroup::Limits::new(),
            limits_best_effort: false,
            cgroup: None,
            no_cgroup: false,
            mounts: Vec::new(),
            read_only: false,
            layer: Layer::Store,
            capabilities: None,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            seccomp: Seccomp::Default,
            no_new_privileges: true,
            unmask: false,
            namespaces: Vec::new(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            rlimits: Vec::new(),
            sysctls: Vec::new(),
            oom_score: None,
            annotations: Vec::new(),
            init: false,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
            input: None,
            output_limit: None,
            timeout: None,
            cpu_time: None,
            die_with_host: None,
            state_directory: None,
            edits: Vec::new(),
        }
    }
}

/// What runs, and where.
impl ContainerBuilder {
    /// The name of the container: 1 to 255 letters, digits, `_`, `+`, `-` or `.`. Default: 16 random hexadecimal digits.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// An image of a store, with a writable layer of its own for this container. The image's configuration says what is run
    /// where nothing else does: entry point, command, environment, user and working directory.
    #[cfg(feature = "images")]
    pub fn image(mut self, store: &image_layers::Store, image: &image_layers::Image) -> Self {
        self.root = Root::Image(store.clone(), Box::new(image.clone()));
        self
    }

    /// A directory of the host as the root file system. What the container writes goes there, unless it is
    /// [read-only](Self::read_only) or has a [layer in memory](Self::writable_memory).
    pub fn rootfs(mut self, directory: impl AsRef<Path>) -> Self {
        self.root = Root::Directory(directory.as_ref().to_owned());
        self
    }

    /// A root file system as mount data.
    pub fn rootfs_mount(mut self, mount: crate::plan::Rootfs) -> Self {
        self.root = Root::Mount(mount);
        self
    }

    /// An OCI bundle: a directory with `config.json`, which is then the description of the container. Setters for the
    /// command, the environment, streams, limits on time and output and the state directory still apply; those for what
    /// `config.json` describes otherwise do not.
    pub fn bundle(mut self, directory: impl AsRef<Path>) -> Self {
        self.root = Root::Bundle(directory.as_ref().to_owned());
        self
    }

    /// The program and its arguments. Replaces an image's command; put after an image's entry point. A program without `/` is
    /// looked up in the container's `PATH`.
    pub fn command<S: AsRef<OsStr>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.command = Some(command.into_iter().map(|word| word.as_ref().to_owned()).collect());
        self
    }

    /// Adds an argument to the command.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.get_or_insert_default().push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments to the command.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command
            .get_or_insert_default()
            .extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Replaces the image's entry point (and drops its command); empty for none.
    pub fn entrypoint<S: AsRef<OsStr>>(mut self, entrypoint: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = Some(entrypoint.into_iter().map(|word| word.as_ref().to_owned()).collect());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Sets environment variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Leaves out an environment variable that the image sets.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Starts from an empty environment instead of the image's and the default `PATH`.
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self.env.clear();
        self
    }

    /// Hands on the host program's environment, as it is when the container is started. Default: nothing of it.
    pub fn inherit_env(mut self, inherit: bool) -> Self {
        self.inherit_env = inherit;
        self
    }

    /// The working directory. A missing one is made, owned by the user of the command; in a root that is
    /// [read-only](Self::read_only) that is an error (EROFS). Default: the image's, else `/`.
    #[doc(alias = "workdir")]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.current_dir = Some(directory.as_ref().to_owned());
        self
    }

    /// Who runs it: `user`, `user:group`, names or numbers, looked up in the container's own files. Default: the image's user,
    /// else root.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The file mode creation mask. Default: 022.
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = Some(umask);
        self
    }

    /// The host name. Default: the first 12 characters of the id.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The NIS domain name.
    pub fn domainname(mut self, name: impl Into<String>) -> Self {
        self.domainname = Some(name.into());
        self
    }

    /// Process 1 is a tiny init that collects orphans and passes signals on, and the command is its child. Default: false, the
    /// command is process 1 itself.
    ///
    /// For process 1 the kernel ignores every signal that it has no handler for, unless it is SIGKILL or SIGSTOP from the host (see
    /// pid_namespaces(7)). So without an init a plain `sleep` does not end by SIGTERM and [`stop`](crate::Container::stop) waits out
    /// its grace, abort(3) shows as another signal than SIGABRT, and processes that lose their parent stay as zombies until the end,
    /// if the command does not wait for children that it never started. With one:
    ///
    /// - Every signal that a process sends to process 1 goes to the command, and SIGHUP of a terminal that hangs up; what a terminal
    ///   sends otherwise goes to its foreground processes as ever. SIGKILL and SIGSTOP are for process 1 itself.
    /// - The container ends when the command does, with the rest of its processes, and [`End`](crate::End) and status are those
    ///   of the command, signals included. Who has not started the container (after [`detach`](crate::Container::detach)) sees
    ///   the exit code, or 128 and the number of the signal that killed the command, as other inits have it.
    /// - The command is usually process 2 and counts as one more for [`pids`](Self::pids).
    /// - The init is no file of the image: it is some hundred bytes in memory, of the host program it has nothing. It has the user,
    ///   the capabilities and the system call filter of the command, and as open file only the pipe for its status. Its arguments
    ///   and environment show those of the command.
    ///
    /// It takes a pid namespace of the container's own, or the start is [`Error::Invalid`](crate::Error::Invalid); a seccomp profile
    /// that refuses what an init does (`execveat`, `clone`, `kill`, `wait4`, `rt_sigtimedwait`, ...) makes it
    /// [`Error::Unsupported`](crate::Error::Unsupported).
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # fn main() -> container_core::Result<()> {
    /// let builder = container_core::Container::builder().rootfs("/srv/root").command(["sleep", "1000"]).init(true);
    /// let mut container = builder.spawn()?;
    /// // At once: by SIGTERM, which would be ignored without the init.
    /// container.stop(Duration::from_secs(10))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn init(mut self, init: bool) -> Self {
        self.init = init;
        self
    }
}

/// Files.
impl ContainerBuilder {
    /// Adds a mount.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Shows a directory or file of the host inside, with what is mounted below it, writable. See [`Mount::bind`].
    #[doc(alias = "volume")]
    pub fn bind(self, source: impl AsRef<Path>, destination: impl AsRef<Path>) -> Self {
        self.mount(Mount::bind(source, destination))
    }

    /// Shows a directory or file of the host inside, read-only.
    pub fn bind_read_only(self, source: impl AsRef<Path>, destination: impl AsRef<Path>) -> Self {
        self.mount(Mount::bind(source, destination).read_only())
    }

    /// An empty file system of at most `bytes` in memory.
    pub fn tmpfs(self, destination: impl AsRef<Path>, bytes: u64) -> Self {
        self.mount(Mount::tmpfs(destination).size(bytes))
    }

    /// The root file system cannot be written. Default: false.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Changes to the root file system go to memory and are gone at the end; beyond `bytes` writes fail with ENOSPC. They
    /// count towards the memory limit. Works for ordinary users too. Takes back [`read_only`](Self::read_only) and that of
    /// [`sandbox`](Self::sandbox).
    pub fn writable_memory(mut self, bytes: u64) -> Self {
        self.read_only = false;
        self.layer = Layer::Memory(bytes);
        self
    }

    /// Changes to the root file system go to a file system of this size of their own, on disk, and are gone at the end; beyond
    /// `bytes` writes fail with ENOSPC. Takes space only as it fills. Needs privilege (a loop device) and `mke2fs`.
    /// Takes back [`read_only`](Self::read_only) and that of [`sandbox`](Self::sandbox).
    pub fn disk_limit(mut self, bytes: u64) -> Self {
        self.read_only = false;
        self.layer = Layer::Disk(bytes);
        self
    }

    /// Shows the kernel paths that are masked and read-only by default (`/proc/kcore`, `/proc/sys` ...) as they are.
    pub fn unmask(mut self, unmask: bool) -> Self {
        self.unmask = unmask;
        self
    }
}
