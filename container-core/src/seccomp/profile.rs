//! The default profile: the allow list that Docker, containerd and Podman agree on, as of 2025.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::Architecture;

/// The profile a container gets unless it is told otherwise.
///
/// What ordinary programs need is allowed; what reaches the kernel's own workings (modules, kexec, bpf, perf, mount, clocks,
/// keyrings, io_uring, userfaultfd, other processes) is refused with EPERM, unless the process has the capability which the
/// call asks for anyway. New namespaces are refused by `clone`'s flags; `clone3`, whose flags a filter cannot see, gives
/// ENOSYS, and so do calls newer than this list.
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let allowed = LinuxSeccompAction::ScmpActAllow;
    let mut rules = vec![rule(allowed, ALWAYS, vec![])];
    // All but virtual machine sockets (40), which would reach the host of this machine past every network namespace. The kernel
    // looks at the low half of the argument only, so that "not 40" would let 40 pass with anything in the high half: what is
    // allowed is listed, as blocks of the families up to 63, of which the kernel has 46.
    for (low_bits, family) in [(5, 0), (3, 32), (0, 41), (1, 42), (2, 44), (4, 48)] {
        let block = u64::from(u32::MAX << low_bits);
        rules.push(rule(
            allowed,
            &["socket"],
            vec![test(0, LinuxSeccompOperator::ScmpCmpMaskedEq, block, Some(family))],
        ));
    }
    // Execution domains without effect on security: Linux, with UNAME26 or a 32-bit machine name or both, and the query.
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(rule(
            allowed,
            &["personality"],
            vec![test(0, LinuxSeccompOperator::ScmpCmpEq, persona, None)],
        ));
    }
    if Architecture::native() == Some(Architecture::Aarch64) {
        rules.push(rule(allowed, ARM, vec![]));
    } else {
        rules.push(rule(allowed, X86, vec![]));
    }
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(rule(allowed, names, vec![]));
        }
    }
    if capabilities.contains(&Capability::SysAdmin) {
        rules.push(rule(allowed, &["clone", "clone3"], vec![]));
    } else {
        // CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET must all be off.
        let no_namespaces = test(0, LinuxSeccompOperator::ScmpCmpMaskedEq, 0x7e02_0000, Some(0));
        rules.push(rule(allowed, &["clone"], vec![no_namespaces]));
        rules.push(refuse(&["clone3"], libc::ENOSYS));
    }
    let architectures = if Architecture::native() == Some(Architecture::Aarch64) {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(architectures)
        .syscalls(rules)
        .build()
        .expect("every required field is set")
}

fn rule(action: LinuxSeccompAction, names: &[&str], args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(action)
        .build()
        .expect("every required field is set");
    rule.set_args(Some(args).filter(|args| !args.is_empty()));
    rule
}

fn refuse(names: &[&str], errno: i32) -> LinuxSyscall {
    let mut rule = rule(LinuxSeccompAction::ScmpActErrno, names, vec![]);
    rule.set_errno_ret(Some(errno as u32));
    rule
}

fn test(index: usize, op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    match value_two {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
    .expect("every required field is set")
}

#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    // Files and directories.
    "access", "cachestat", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range", "creat", "dup", "dup2",
    "dup3", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2",
    "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "file_getattr", "file_setattr", "flistxattr",
    "flock", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate",
    "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "getxattrat", "ioctl", "lchown", "lchown32",
    "lgetxattr", "link", "linkat", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2",
    "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "removexattr", "removexattrat", "rename", "renameat", "renameat2", "rmdir", "sendfile", "sendfile64", "setxattr",
    "setxattrat", "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
    "syncfs", "tee", "truncate", "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    "vmsplice", "write", "writev",
    // Events and asynchronous work.
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
    "io_submit", "_newselect", "pipe", "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select",
    "signalfd", "signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    // Memory.
    "brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore",
    "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "process_madvise", "process_mrelease", "remap_file_pages",
    // Processes and threads.
    "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue", "futex_time64",
    "futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "get_thread_area", "getcpu", "getegid", "getegid32", "geteuid",
    "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "getrusage", "getsid", "gettid", "getuid", "getuid32",
    "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
    "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "pause", "pidfd_open", "pidfd_send_signal", "prctl",
    "prlimit64", "process_vm_readv", "process_vm_writev", "ptrace", "restart_syscall", "rseq", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setpgid", "setpriority",
    "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit",
    "setsid", "setuid", "setuid32", "tgkill", "times", "tkill", "ugetrlimit", "uretprobe", "vfork", "wait4", "waitid", "waitpid",
    // Signals.
    "alarm", "getitimer", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "setitimer", "sigaltstack", "sigprocmask", "sigreturn",
    // Time.
    "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64",
    "clock_nanosleep", "clock_nanosleep_time64", "gettimeofday", "nanosleep", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    // Sockets; `socket` itself is a rule of its own.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom", "recvmmsg",
    "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketcall", "socketpair",
    // System V and POSIX inter-process communication.
    "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
    // The system.
    "getrandom", "sysinfo", "uname",
];

#[rustfmt::skip]
const X86: &[&str] = &["arch_prctl", "modify_ldt"];

#[rustfmt::skip]
const ARM: &[&str] = &["arm_fadvise64_64", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"];

/// Calls that do their own check of a capability, allowed to processes that have it.
#[rustfmt::skip]
const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, &[
        "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount", "lookup_dcookie", "mount",
        "mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "statmount", "syslog", "umount", "umount2", "unshare",
    ]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::syscalls;

    #[test]
    fn every_name_is_a_system_call() {
        let known: Vec<_> = syscalls::names().collect();
        let lists = [ALWAYS, X86, ARM].into_iter().chain(WITH_CAPABILITY.iter().map(|(_, names)| *names));
        for name in lists.flatten() {
            let private = ["breakpoint", "cacheflush", "set_tls"];
            assert!(known.contains(name) || private.contains(name), "{name}");
        }
    }
}
