//! The interpreter of a plan: what runs between clone and exec.
//!
//! # Rules
//! The process may share the host program's memory, thread-locals and all, while other threads of the host program hold whatever
//! locks they hold. So everything in here and below works on memory that was prepared before the clone, and does nothing but raw
//! system calls: no allocation, no lock, no formatting, no environment, no unwinding, `exit_group` at the end. The same
//! code also runs the plan's outside part, on the calling thread.

use crate::plan::operation::{Masks, Operation, PROC, Request};
use crate::sys::fd;
use crate::sys::raw::{Errno, Sys};
use crate::sys::{cred, mount, socket, thread};

use super::{identity, init, path, program, protocol, rootfs, terminal};

/// Why an operation failed: the kernel's answer, and which part of the operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) errno: i32,
    /// 0: the operation as such. Its meaning else depends on the operation.
    pub(crate) detail: u32,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno: errno.0, detail: 0 }
    }
}

pub(crate) type Done = Result<(), Failure>;

/// How a process waits for the order to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateKind {
    /// Not at all.
    Open,
    /// The parent gives it on the channel.
    Held,
    /// Whoever connects to this listening socket gives it.
    Socket(i32),
}

/// Everything an interpreter works with that is not in the plan. Prepared by the parent.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) slots: Vec<i32>,
    pub(crate) channel: i32,
    /// The parent's end, of which the process has a copy that it must not keep.
    pub(crate) parent_end: i32,
    /// The parent may mount: it can also look into processes that hide from others.
    pub(crate) privileged: bool,
    pub(crate) gate: GateKind,
    /// This task's mount namespace is its own: mounts may be attached for a moment.
    pub(crate) own_mounts: bool,
    /// Control files to write `0` to.
    pub(crate) cgroup_entries: Vec<i32>,
    /// Standard input, output, error; -1 leaves what is there.
    pub(crate) stdio: [i32; 3],
    /// Descriptors and the numbers they get. The sources lie above all the targets.
    pub(crate) inherited: Vec<(i32, i32)>,
    /// The first number that is closed at exec.
    pub(crate) first_closed: i32,
    /// Above all numbers that descriptors are given: what must survive that lies there.
    pub(crate) above: i32,
    /// Memory is shared with the parent, which sees `executing` there.
    pub(crate) shares_memory: bool,
    pub(crate) executing: bool,
    /// The container's init, for a process that joins.
    pub(crate) init_pidfd: i32,
    /// Words for failures of each step, where another process than the parent may have to print them.
    pub(crate) phrases: Vec<String>,
    pub(crate) command: program::Command,
    /// What is executed in the command's place, and starts it.
    pub(crate) init: Option<init::Init>,
    pub(crate) identity: identity::Identity,
    pub(crate) scratch: Scratch,
}

/// What operations leave for later ones.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) root: i32,
    pub(crate) parent: path::Parent,
    pub(crate) null_attached: bool,
    pub(crate) empty_attached: bool,
    pub(crate) refused: u64,
    pub(crate) in_working_directory: bool,
    pub(crate) text: [u8; protocol::TEXT],
}

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self {
            root: -1,
            parent: path::Parent::none(),
            null_attached: false,
            empty_attached: false,
            refused: 0,
            in_working_directory: false,
            text: [0; protocol::TEXT],
        }
    }
}

impl Context {
    /// Leaves words for the failure record.
    pub(crate) fn note(&mut self, words: &[u8]) {
        self.scratch.text = [0; protocol::TEXT];
        for (to, from) in self.scratch.text.iter_mut().zip(words) {
            *to = *from;
        }
    }
}

/// Runs operations in order; the index of the one that failed comes with the failure.
pub(crate) fn run(operations: &[Operation], context: &mut Context) -> Result<(), (usize, Failure)> {
    for (index, operation) in operations.iter().enumerate() {
        perform(operation, context).map_err(|failure| (index, failure))?;
    }
    Ok(())
}

/// One operation of the outside part, on a thread with a copy of the caller's mounts for as long as that takes.
pub(crate) fn perform_aside(operation: &Operation, context: &mut Context) -> Done {
    context.own_mounts = true;
    let done = std::thread::scope(|scope| {
        let aside = scope.spawn(|| {
            thread::unshare((libc::CLONE_NEWNS | libc::CLONE_FS) as u64)?;
            mount::root_propagation((libc::MS_REC | libc::MS_PRIVATE) as u64)?;
            perform(operation, context)
        });
        aside.join().unwrap_or(Err(Failure { errno: libc::ENOMEM, detail: 0 }))
    });
    context.own_mounts = false;
    done
}

/// The whole life of the process until exec.
pub(crate) fn main(operations: &[Operation], context: &mut Context) -> ! {
    thread::reset_signals();
    // Else the channel would never end for us when the parent does.
    fd::close(context.parent_end);
    if let Err((index, failure)) = run(operations, context) {
        let text = match context.phrases.get(index) {
            Some(phrase) if context.scratch.text[0] == 0 => phrase.as_bytes(),
            _ => &context.scratch.text,
        };
        let record = protocol::failure(index, failure.errno, failure.detail, text);
        let _ = socket::send(context.channel, &record, None);
    }
    thread::exit(127)
}

fn perform(operation: &Operation, context: &mut Context) -> Done {
    match operation {
        Operation::OpenNamespace { slot, path, .. } => {
            set_slot(context, *slot, fd::openat(fd::CWD, path, libc::O_RDONLY, 0)?);
        }
        Operation::Join { slot, kind, retry, .. } => {
            match thread::set_namespace(slot_of(context, *slot), *kind) {
                Err(Errno(libc::EPERM)) if *retry => context.scratch.refused |= 1 << *slot,
                other => other?,
            }
        }
        Operation::JoinRetried => {
            for slot in 0..context.slots.len().min(64) {
                if context.scratch.refused & 1 << slot != 0 {
                    thread::set_namespace(slot_of(context, slot), 0)?;
                }
            }
        }
        Operation::JoinAll { kinds } => join_all(context, *kinds)?,
        Operation::Shield => shield(context, true)?,
        Operation::CloseOthers { keep } => close_others(context, keep)?,
        Operation::Unshare { kinds } => thread::unshare(*kinds)?,
        Operation::Succeed { flags } => succeed(context, *flags)?,
        Operation::Await(request) => {
            ask(context, *request)?;
        }
        Operation::BecomeRoot => {
            // The groups are the caller's: gone where the map allows it; where it does not, they are nobody's.
            let _ = cred::set_groups(&[]);
            cred::set_group(0)?;
            cred::set_user(0)?;
        }
        Operation::EnterCgroup => {
            for &entry in &context.cgroup_entries {
                fd::write(entry, b"0")?;
            }
        }
        Operation::FromHost { sources } => from_host(context, sources)?,
        Operation::OpenInside { slot, path, recursive } => {
            let place = path::open(context.scratch.root, path)?;
            let tree = mount::clone_tree(place, c"", *recursive, true);
            fd::close(place);
            set_slot(context, *slot, tree?);
        }
        Operation::OpenTree { .. }
        | Operation::OpenNull
        | Operation::OpenEmpty
        | Operation::Overlay { .. }
        | Operation::SetAttributes { .. }
        | Operation::Idmap { .. }
        | Operation::AttachRoot { .. }
        | Operation::OpenRoot { .. }
        | Operation::Mount(_)
        | Operation::MakeMount { .. }
        | Operation::Attach { .. }
        | Operation::Remount { .. }
        | Operation::Device(_)
        | Operation::Link { .. }
        | Operation::Mask { .. }
        | Operation::ReadOnly { .. }
        | Operation::RootPropagation { .. }
        | Operation::RootReadOnly
        | Operation::MoveRoot
        | Operation::PivotRoot
        | Operation::ChangeRoot
        | Operation::Isolate { .. } => rootfs::perform(operation, context)?,
        Operation::HostName { name } => thread::set_host_name(name)?,
        Operation::DomainName { name } => thread::set_domain_name(name)?,
        Operation::Loopback => thread::raise_loopback()?,
        Operation::Sysctl { path, value } => {
            write_proc(context, path, value.to_bytes(), fd::RESOLVE_NO_SYMLINKS)?
        }
        Operation::OomScore { value } => write_proc(context, c"self/oom_score_adj", value.to_bytes(), 0)?,
        Operation::AppArmor { profile } => {
            let apparmor = write_proc(context, c"self/attr/apparmor/exec", profile.to_bytes(), 0);
            if apparmor.is_err() {
                write_proc(context, c"self/attr/exec", profile.to_bytes(), 0)?;
            }
        }
        Operation::SeLinux { label } => write_proc(context, c"self/attr/exec", label.to_bytes(), 0)?,
        Operation::Keyring { name } => new_keyring(name.as_deref()),
        Operation::Session => {
            // EPERM: it leads a session already.
            let _ = thread::set_session();
        }
        Operation::ParentDeath => {
            cred::set_parent_death_signal(libc::SIGKILL)?;
            // It may have died before that.
            if fd::is_hung_up(context.channel) {
                thread::exit(127);
            }
        }
        Operation::Terminal { rows, columns, uid, console, onlcr } => {
            terminal::open(context, (*rows, *columns), *uid, *console, *onlcr)?;
        }
        Operation::GiveStreams { ids } => {
            give_streams(context, ids.unwrap_or((context.identity.uid, context.identity.gid)));
        }
        Operation::Descriptors => descriptors(context)?,
        Operation::Limit { resource, soft, hard, .. } => cred::set_limit(*resource, *soft, *hard)?,
        Operation::Scheduler(attr) => thread::set_scheduler(attr)?,
        Operation::IoPriority { value } => thread::set_io_priority(*value)?,
        Operation::CpuAffinity { mask, .. } => thread::set_affinity(mask)?,
        Operation::MemoryPolicy { mode, nodes } => thread::set_memory_policy(*mode, nodes)?,
        Operation::Personality { value } => thread::set_personality(*value)?,
        Operation::Gate => gate(context)?,
        Operation::BoundingSet { keep, last } => {
            for capability in (0..=*last).filter(|bit| keep & 1 << bit == 0) {
                match cred::drop_bounding(capability) {
                    // Without CAP_SETPCAP: fine when there is nothing to drop.
                    Err(Errno(libc::EPERM)) if !cred::in_bounding(capability) => {}
                    other => other?,
                }
            }
        }
        Operation::KeepCapabilities => cred::set_keep_capabilities(true)?,
        Operation::Groups { groups } => cred::set_groups(groups)?,
        Operation::Group { gid } => cred::set_group(*gid)?,
        Operation::User { uid } => cred::set_user(*uid)?,
        Operation::Identity => identity::assume(context)?,
        Operation::RaiseEffective => {
            // Inheritable may hold nothing that the bounding set has lost already.
            let (_, permitted) = cred::capabilities()?;
            cred::set_capabilities(permitted, permitted, 0)?;
        }
        Operation::Capabilities(Masks { effective, permitted, inheritable }) => {
            cred::set_capabilities(*effective, *permitted, *inheritable)?;
        }
        Operation::AmbientSet { set } => {
            cred::clear_ambient()?;
            for bit in (0..64).filter(|bit| set & 1 << bit != 0) {
                cred::raise_ambient(bit)?;
            }
        }
        Operation::NoNewPrivileges => cred::set_no_new_privileges()?,
        Operation::Seccomp { program, listener } => seccomp(context, program, *listener)?,
        Operation::Umask { mask } => cred::set_umask(*mask),
        Operation::MakeWorkingDirectory { path } => identity::make_working_directory(context, path),
        Operation::MakeOwnWorkingDirectory { path, ids } => {
            identity::make_own_working_directory(context, path, *ids)?
        }
        Operation::WorkingDirectory { path, last } => {
            identity::enter_working_directory(context, path, *last)?
        }
        Operation::Home { uid } => identity::find_home(context, *uid),
        Operation::Locate => program::locate(context)?,
        Operation::Init { .. } => init::prepare(context)?,
        Operation::Exec => return Err(program::exec(context)),
    }
    Ok(())
}

pub(super) fn slot_of(context: &Context, slot: usize) -> i32 {
    context.slots.get(slot).copied().unwrap_or(-1)
}

pub(super) fn set_slot(context: &mut Context, slot: usize, fd: i32) {
    if let Some(place) = context.slots.get_mut(slot) {
        *place = fd;
    }
}

/// Sends a request and waits for its answer. No answer means that the parent has given up, or is gone.
pub(super) fn ask(context: &mut Context, request: Request) -> Sys<()> {
    ask_with(context, request, None)
}

/// Keeps others from looking into this process: it has the host program's memory, or a copy of it, until exec. Memory that is
/// shared is the parent's to mark, where that has rights; an ordinary user's parent would lose its own files in /proc.
fn shield(context: &Context, on: bool) -> Sys<()> {
    if context.shares_memory && !context.privileged {
        return Ok(());
    }
    cred::set_dumpable(usize::from(!on))
}

/// The same with a descriptor alongside.
pub(super) fn ask_with(context: &mut Context, request: Request, fd: Option<i32>) -> Sys<()> {
    let fd = match request {
        Request::Identify => Some(context.scratch.root),
        _ => fd,
    };
    // An ordinary user's hooks get into the namespaces of a process only while it shows itself.
    let shows = matches!(request, Request::CreateHooks | Request::StartHooks) && !context.privileged;
    if shows {
        shield(context, false)?;
    }
    socket::send(context.channel, &protocol::request(request), fd)?;
    if request == Request::Identify {
        return identity::receive(context);
    }
    let mut answer = [0; protocol::SIZE];
    if socket::receive(context.channel, &mut answer)?.0 == 0 {
        thread::exit(127);
    }
    if shows { shield(context, true) } else { Ok(()) }
}

/// Takes over what the parent opens of the host.
fn from_host(context: &mut Context, sources: &[Operation]) -> Sys<()> {
    socket::send(context.channel, &protocol::request(Request::FromHost), None)?;
    for slot in sources.iter().filter_map(Operation::opens) {
        let mut answer = [0; protocol::SIZE];
        match socket::receive(context.channel, &mut answer)? {
            (0, _) => thread::exit(127),
            (_, Some(fd)) => set_slot(context, slot, fd),
            (_, None) => return Err(Errno(libc::EMFILE)),
        }
    }
    Ok(())
}

/// All namespaces of init in one call, which checks rights once for all of them. Where init has some in common with us that a
/// user namespace would not let us join again, those are left out.
fn join_all(context: &mut Context, kinds: u64) -> Done {
    let pidfd = context.init_pidfd;
    let user = kinds & libc::CLONE_NEWUSER as u64;
    match thread::set_namespace(pidfd, kinds) {
        // Kernels give EINVAL for joining the user namespace one is in already.
        Err(Errno(libc::EINVAL)) if user != 0 => thread::set_namespace(pidfd, kinds & !user)?,
        other => other?,
    }
    Ok(())
}

/// A second process beside this one, in new namespaces and in those only children enter; this one ends.
fn succeed(context: &mut Context, flags: u64) -> Done {
    // By this the parent finds the other one if both of us are killed before it hears of that.
    thread::set_process_group()?;
    match crate::sys::clone::fork_beside(flags)? {
        None => {
            // The parent has to know of us, or could not clean up after us: both of us tell it, for either may be killed now.
            if let Ok(pidfd) = crate::sys::clone::pidfd_of_self() {
                socket::send(context.channel, &protocol::request(Request::Successor), Some(pidfd))?;
                fd::close(pidfd);
            }
            let mut answer = [0; protocol::SIZE];
            if socket::receive(context.channel, &mut answer)?.0 == 0 {
                thread::exit(127);
            }
            Ok(())
        }
        Some(pidfd) => {
            // The parent reaps this process when it hears of the other; it must be gone by then, or nearly.
            let message = protocol::request(Request::Successor);
            let sent = socket::send(context.channel, &message, Some(pidfd));
            thread::exit(if sent.is_ok() { 0 } else { 127 })
        }
    }
}

fn write_proc(context: &Context, path: &std::ffi::CStr, value: &[u8], resolve: u64) -> Sys<()> {
    // Through the descriptor of the host's procfs: what is mounted on /proc inside cannot redirect it.
    let resolve = resolve | fd::RESOLVE_BENEATH | fd::RESOLVE_NO_XDEV | fd::RESOLVE_NO_MAGICLINKS;
    let file = fd::openat2(slot_of(context, PROC), path, libc::O_WRONLY, 0, resolve)?;
    let result = fd::write(file, value);
    fd::close(file);
    result
}

fn new_keyring(name: Option<&std::ffi::CStr>) {
    // Best effort, as all runtimes have it: kernels without keyrings, quotas of ordinary users, seccomp filters around us.
    const POSSESSOR_ALL_USER_SEARCH: u32 = 0x3f00_0000 | 0x0008_0000;
    if let Ok(serial) = cred::join_session_keyring(name) {
        let _ = cred::set_keyring_permission(serial, POSSESSOR_ALL_USER_SEARCH);
    }
}

fn give_streams(context: &Context, (uid, gid): (u32, u32)) {
    for (number, &source) in context.stdio.iter().enumerate() {
        let stream = if source >= 0 { source } else { number as i32 };
        if fd::stat(stream).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO) {
            // Where it is not ours to give, or the user is not mapped, it stays whose it is.
            let _ = fd::chown(stream, uid, gid);
        }
    }
}

fn install_streams(context: &Context) -> Sys<()> {
    for (target, &source) in context.stdio.iter().enumerate() {
        if source >= 0 {
            fd::install(source, target as i32)?;
        }
    }
    Ok(())
}

/// Everything goes at exec, but for the standard streams and what is passed on: those get their numbers.
fn descriptors(context: &mut Context) -> Done {
    fd::close_on_exec_from(context.first_closed as u32)?;
    install_streams(context)?;
    for &(source, target) in &context.inherited {
        fd::install(source, target)?;
    }
    Ok(())
}

/// Closes every descriptor that no later operation uses, known to us or inherited from the host program: its locks must not live
/// on in a container that waits, and whoever joins it before its start must find nothing of the host.
fn close_all_but_needed(context: &mut Context, kept: &[i32]) -> Sys<()> {
    // Of those that are to be passed on, the ones that exec would close are ours: the host program passes on others.
    for number in 3..context.first_closed {
        if next_needed(context, kept, number) != Some(number) && fd::is_close_on_exec(number) {
            fd::close(number);
        }
    }
    let mut from = context.first_closed;
    while let Some(needed) = next_needed(context, kept, from) {
        if needed > from {
            fd::close_range(from as u32, needed as u32 - 1)?;
        }
        from = needed + 1;
    }
    fd::close_range(from as u32, u32::MAX)?;
    for slot in 0..context.slots.len() {
        if !kept.contains(&slot_of(context, slot)) {
            set_slot(context, slot, -1);
        }
    }
    context.cgroup_entries.truncate(0);
    Ok(())
}

/// The lowest descriptor from `from` on that is still needed.
fn next_needed(context: &Context, kept: &[i32], from: i32) -> Option<i32> {
    let listener = if let GateKind::Socket(listener) = context.gate { listener } else { -1 };
    let init = context.init.as_ref().map_or([-1; 2], |init| [init.file, init.status]);
    let single = [context.channel, listener, context.command.file];
    let inherited = context.inherited.iter().map(|&(source, _)| source);
    let all =
        single.into_iter().chain(init).chain(context.stdio).chain(inherited).chain(kept.iter().copied());
    all.filter(|&fd| fd >= from).min()
}

/// Before joining others: the host program's descriptors close at exec only, and somebody with the right to trace could take
/// them out of this process until then.
fn close_others(context: &mut Context, keep: &[usize]) -> Sys<()> {
    let mut kept = [context.init_pidfd, -1, -1, -1];
    for (place, slot) in kept.iter_mut().skip(1).zip(keep) {
        *place = slot_of(context, *slot);
    }
    close_all_but_needed(context, &kept)
}

/// Waits for the order to start. What is no longer needed is closed before: the wait may be long.
fn gate(context: &mut Context) -> Done {
    if context.gate == GateKind::Open {
        return Ok(());
    }
    close_all_but_needed(context, &[])?;
    // The creator's own streams are not the container's to hold: whoever reads them waits for their end.
    install_streams(context)?;
    match context.gate {
        GateKind::Open => {}
        GateKind::Held => ask(context, Request::Ready)?,
        GateKind::Socket(listener) => {
            // Until the creator says that others can find this process. It ends when the creator does before.
            ask(context, Request::Ready)?;
            fd::close(context.channel);
            // Without such a descriptor (a filter that is in force may forbid it) only KILL ends the wait.
            let ending = thread::ending_signals().unwrap_or(-1);
            // From here on whoever connects and gives the order is the parent.
            context.channel = loop {
                if ending >= 0 && fd::wait_for_either(ending, listener)? {
                    thread::exit(127);
                }
                let connection = socket::accept(listener)?;
                let mut order = [0; protocol::SIZE];
                match socket::receive(connection, &mut order) {
                    Ok((0, _)) | Err(_) => fd::close(connection),
                    Ok(_) => break connection,
                }
            };
            fd::close(listener);
            fd::close(ending);
            thread::unblock_signals();
        }
    }
    Ok(())
}

fn seccomp(context: &mut Context, program: &crate::seccomp::Program, listener: bool) -> Done {
    announce(context)?;
    let mut flags = program.flags;
    const NEW_LISTENER: u32 = 1 << 3;
    if listener {
        flags |= NEW_LISTENER;
    }
    let fd = cred::set_seccomp_filter(&program.filter, flags)?;
    if listener {
        ask_with(context, Request::Listener, Some(fd as i32))?;
        fd::close(fd as i32);
    }
    Ok(())
}

/// Tells the parent that nothing but exec is left. Before the filter: it need not allow this.
pub(super) fn announce(context: &mut Context) -> Sys<()> {
    if context.executing {
        return Ok(());
    }
    context.executing = true;
    if context.shares_memory {
        return Ok(());
    }
    socket::send(context.channel, &protocol::request(Request::Executing), None)
}

/// Applies changes to a detached or attached mount.
pub(super) fn change(mount_fd: i32, changes: &[(mount::MountAttr, bool)]) -> Sys<()> {
    for (attr, recursive) in changes {
        mount::set_attributes(mount_fd, attr, *recursive)?;
    }
    Ok(())
}
