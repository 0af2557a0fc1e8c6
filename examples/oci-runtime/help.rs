//! Help: `NAME`, `USAGE`, `OPTIONS`, in the layout that users of runc know.

/// Every subcommand.
pub const COMMANDS: [&str; 17] = [
    "create",
    "run",
    "start",
    "state",
    "kill",
    "delete",
    "exec",
    "ps",
    "list",
    "pause",
    "resume",
    "update",
    "events",
    "features",
    "spec",
    "checkpoint",
    "restore",
];

/// The help text for `topic`, or for the whole program.
pub fn text(program: &str, topic: Option<&str>) -> String {
    let Some(topic) = topic else {
        return format!(
            "NAME:\n   {program} - Open Container Initiative runtime\n\nUSAGE:\n   {program} [global options] command [options] [arguments]\n\n\
             COMMANDS:\n{}\nGLOBAL OPTIONS:\n{GLOBAL}",
            COMMANDS.iter().map(|name| format!("   {name:<12}{}\n", about(name).0)).collect::<String>()
        );
    };
    let (what, arguments, options) = about(topic);
    format!(
        "NAME:\n   {program} {topic} - {what}\n\nUSAGE:\n   {program} {topic} [options] {arguments}\n\nOPTIONS:\n{options}   --help, -h                 show this help\n"
    )
}

const GLOBAL: &str = "   --root DIR                 where the state of containers is kept
   --log FILE                 write messages to FILE too
   --log-format FORMAT        text (default) or json
   --debug                    say what is done
   --cgroup-manager MANAGER   cgroupfs (default) or disabled
   --version, -v              show the version
   --help, -h                 show this help
";

const CREATE: &str = "   --bundle DIR, -b DIR       the bundle (default: the working directory)
   --config FILE, -f FILE     the configuration (default: config.json in the bundle)
   --console-socket SOCKET    send the terminal's master there
   --pid-file FILE            write the first process's pid there
   --pidfd-socket SOCKET      send a descriptor of the first process there
   --preserve-fds N           pass descriptors 3 to N+2 on
   --no-pivot                 change the root without pivot_root (for an initramfs)
   --no-new-keyring           keep the session keyring
";

/// What a command does, its arguments, its options.
fn about(topic: &str) -> (&'static str, &'static str, String) {
    let (what, arguments, options) = match topic {
        "create" => ("create a container", "ID", CREATE),
        "run" => ("create and run a container", "ID", CREATE),
        "start" => ("run the command of a created container", "ID", ""),
        "state" => ("show the state of a container", "ID", ""),
        "kill" => (
            "send a signal to a container's first process",
            "ID [SIGNAL]",
            "   --all, -a                  send it to every process of the container\n",
        ),
        "delete" => (
            "remove what a stopped container left",
            "ID",
            "   --force, -f                kill it first if need be; no such container is no failure
   --regex                    ID is a pattern\n",
        ),
        "exec" => (
            "run another command in a container",
            "ID COMMAND [ARGUMENTS]",
            "   --process FILE, -p FILE    the process as the runtime specification has it
   --detach, -d               do not wait for it
   --tty, -t                  give it a terminal
   --console-socket SOCKET    send the terminal's master there
   --pid-file FILE            write its pid there
   --pidfd-socket SOCKET      send a descriptor of it there
   --user U[:G], -u U[:G]     as this user
   --additional-gids G, -g G  with this group too
   --cwd DIR                  in this directory
   --env K=V, -e K=V          with this in the environment
   --cap CAP, -c CAP          with this capability too
   --no-new-privs             never with more rights than now
   --preserve-fds N           pass descriptors 3 to N+2 on
   --ignore-paused            do not refuse a paused container
   --cgroup [CTRL:]PATH       in this control group below the container's
   --apparmor PROFILE         under this AppArmor profile
   --process-label LABEL      under this SELinux label\n",
        ),
        "ps" => (
            "show the processes of a container",
            "ID [OPTIONS OF PS]",
            "   --format F, -f F           table (default) or json\n",
        ),
        "list" => (
            "list containers",
            "",
            "   --quiet, -q                their ids only
   --format F, -f F           table (default) or json\n",
        ),
        "pause" => ("freeze every process of a container", "ID", ""),
        "resume" => ("thaw a paused container", "ID", ""),
        "update" => (
            "change the limits of a container",
            "ID",
            "   --resources FILE, -r FILE  limits as JSON; - is standard input
   --memory, --memory-swap, --memory-reservation BYTES
   --cpu-period, --cpu-quota, --cpu-burst, --cpu-rt-period, --cpu-rt-runtime MICROSECONDS
   --cpu-share, --cpu-idle, --blkio-weight, --pids-limit NUMBER
   --cpuset-cpus, --cpuset-mems LIST\n",
        ),
        "events" => (
            "show statistics and out-of-memory events of a container",
            "ID",
            "   --stats                    once, and end
   --interval DURATION        how often (default: 5s)\n",
        ),
        "features" => ("show what this runtime can do, as JSON", "", ""),
        "spec" => (
            "write a configuration to start from",
            "",
            "   --bundle DIR, -b DIR       where (default: the working directory)
   --rootless                 for an ordinary user\n",
        ),
        _ => ("save and restore running containers (not supported)", "ID", ""),
    };
    let mut options = options.to_owned();
    if topic == "run" {
        options.push_str("   --detach, -d               do not wait for it\n   --keep                     leave its state when it ends\n");
    }
    (what, arguments, options)
}
