//! A hand: a process that makes single system calls with credentials this program does not have.
//!
//! Files of an ordinary user's subordinate ids can be reached, and given away, only from inside a user namespace that maps these
//! ids, and a program with several threads can enter none. So a process is cloned that shares everything else with this program,
//! memory and descriptors, sleeps until it is handed a call, makes it and goes on sleeping. It runs nothing but the loop in
//! [`serve`]: no allocation, no lock, nothing thread-local, no C library. Descriptors and pointers in a call mean to it what they
//! mean here.
//!
//! It belongs to a thread that does nothing but wait for it, and dies with that thread, however this program ends.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::thread::futex;

use super::call::{Call, invoke};

/// Nothing to do.
const IDLE: u32 = 0;
/// Calls are there.
const POSTED: u32 = 1;
/// They are made.
const DONE: u32 = 2;
/// Nothing more will come.
const QUIT: u32 = 3;
/// Nobody is there any more.
const DEAD: u32 = 4;

/// Where calls are handed over.
#[derive(Debug)]
struct Desk {
    state: AtomicU32,
    calls: AtomicPtr<Call<'static>>,
    count: AtomicUsize,
    /// The user namespace to enter first; -1 when the process was born in its own.
    namespace: i32,
    /// The error that kept it from beginning.
    failed: AtomicI32,
    /// This program.
    parent: i32,
}

/// A running hand. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Hand {
    desk: Arc<Desk>,
    /// One caller at a time.
    turn: Mutex<()>,
    pid: i32,
    keeper: Option<JoinHandle<()>>,
}

/// Far more than the loop needs, without optimisation too.
const STACK: usize = 64 << 10;

impl Hand {
    /// Starts one in `namespace`, or in a new user namespace that nobody is mapped into yet.
    pub(crate) fn start(namespace: Option<BorrowedFd<'_>>) -> std::io::Result<Hand> {
        if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let desk = Arc::new(Desk {
            // Its first sign of life is that the state changes.
            state: AtomicU32::new(POSTED),
            calls: AtomicPtr::new(std::ptr::null_mut()),
            count: AtomicUsize::new(0),
            namespace: namespace.map_or(-1, |fd| fd.as_raw_fd()),
            failed: AtomicI32::new(0),
            parent: std::process::id() as i32,
        });
        let flags = if namespace.is_none() { libc::CLONE_NEWUSER } else { 0 };
        let (tell, told) = channel();
        let shared = desk.clone();
        let keeper = std::thread::Builder::new().name("hand".to_owned()).spawn(move || {
            keep(&shared, flags, |born| {
                let _ = tell.send(born);
            });
        })?;
        let born = told.recv().unwrap_or_else(|_| Err(Errno::CHILD.into()));
        let mut hand = Hand { desk, turn: Mutex::new(()), pid: 0, keeper: Some(keeper) };
        hand.pid = born?;
        hand.wait_while(POSTED);
        match hand.desk.failed.load(Ordering::Acquire) {
            0 if hand.desk.state.load(Ordering::Acquire) == DONE => {
                hand.rest();
                Ok(hand)
            }
            0 => Err(Errno::CHILD.into()),
            errno => Err(std::io::Error::from_raw_os_error(errno)),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Makes calls, one after the other, whatever comes of each.
    ///
    /// # Errors
    /// `ESRCH` when the process was killed; the calls were made or not.
    pub(crate) fn perform(&self, calls: &mut [Call<'_>]) -> rustix::io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.desk.calls.store(calls.as_mut_ptr().cast(), Ordering::Relaxed);
        self.desk.count.store(calls.len(), Ordering::Relaxed);
        let state = &self.desk.state;
        if state.compare_exchange(IDLE, POSTED, Ordering::Release, Ordering::Relaxed).is_err() {
            return Err(Errno::SRCH);
        }
        let _ = futex::wake(state, futex::Flags::PRIVATE, 1);
        self.wait_while(POSTED);
        // The calls are not touched any more, by whomever: the process is done with them, or dead.
        if self.rest() { Ok(()) } else { Err(Errno::SRCH) }
    }

    fn wait_while(&self, unwanted: u32) {
        let state = &self.desk.state;
        while state.load(Ordering::Acquire) == unwanted {
            let _ = futex::wait(state, futex::Flags::PRIVATE, unwanted, None);
        }
    }

    fn rest(&self) -> bool {
        self.desk.state.compare_exchange(DONE, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let state = &self.desk.state;
        if state.compare_exchange(IDLE, QUIT, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let _ = futex::wake(state, futex::Flags::PRIVATE, 1);
        }
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// The life of the thread that a hand belongs to.
fn keep(desk: &Desk, flags: c_int, tell: impl FnOnce(std::io::Result<i32>)) {
    // What is meant for this program's signal handlers is not for a process that has none.
    // SAFETY: a signal set is plain memory; the mask is that of this thread, which is ours.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    // No signal at its end: the host program's handling of its own children is none of our business.
    let flags = libc::CLONE_VM | libc::CLONE_FILES | flags;
    // SAFETY: the new process runs `serve` on a stack of its own, which lives until the process was waited for below, as
    // does the desk. `serve` uses nothing of the C library and nothing thread-local.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end;
        libc::clone(serve, top.cast(), flags, std::ptr::from_ref(desk).cast_mut().cast())
    };
    if pid < 0 {
        return tell(Err(std::io::Error::last_os_error()));
    }
    tell(Ok(pid));
    loop {
        let mut status = 0;
        // SAFETY: the status is written to a place of ours.
        let waited = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        if waited == pid || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            break;
        }
    }
    desk.state.store(DEAD, Ordering::Release);
    let _ = futex::wake(&desk.state, futex::Flags::PRIVATE, i32::MAX as u32);
}

/// The process: system calls and nothing else.
extern "C" fn serve(desk: *mut c_void) -> c_int {
    // SAFETY: the desk outlives this process, see `keep`. All calls take plain numbers or memory of the desk; those that are
    // handed over point to what is borrowed until they are answered.
    unsafe {
        let desk = &*desk.cast_const().cast::<Desk>();
        if desk.namespace >= 0 {
            let entered =
                invoke(libc::SYS_setns, [desk.namespace as usize, libc::CLONE_NEWUSER as usize, 0, 0, 0, 0]);
            if entered < 0 {
                desk.failed.store(-entered as i32, Ordering::Release);
                leave();
            }
        }
        // After the change of credentials, which clears it.
        invoke(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0]);
        if invoke(libc::SYS_getppid, [0; 6]) != desk.parent as isize {
            leave();
        }
        // Of this process alone: its working directory, root and mask are copies.
        invoke(libc::SYS_umask, [0; 6]);
        let state = std::ptr::from_ref(&desk.state) as usize;
        let mut now = DONE;
        desk.state.store(now, Ordering::Release);
        let (wait, wake) =
            (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG);
        invoke(libc::SYS_futex, [state, wake as usize, 1, 0, 0, 0]);
        loop {
            match now {
                POSTED => {
                    let mut call = desk.calls.load(Ordering::Relaxed);
                    let mut left = desk.count.load(Ordering::Relaxed);
                    while left > 0 {
                        (*call).answer = invoke((*call).number, (*call).args);
                        call = call.wrapping_add(1);
                        left = left.wrapping_sub(1);
                    }
                    desk.state.store(DONE, Ordering::Release);
                    invoke(libc::SYS_futex, [state, wake as usize, 1, 0, 0, 0]);
                }
                QUIT | DEAD => leave(),
                _ => {
                    invoke(libc::SYS_futex, [state, wait as usize, now as usize, 0, 0, 0]);
                }
            }
            now = desk.state.load(Ordering::Acquire);
        }
    }
}

/// Ends the process.
///
/// # Safety
/// Only in a process of its own.
unsafe fn leave() -> ! {
    loop {
        // SAFETY: it takes a number.
        unsafe { invoke(libc::SYS_exit, [0; 6]) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{AtFlags, Mode, OFlags};

    use super::*;

    fn open_here(hand: &Hand) -> rustix::io::Result<std::os::fd::OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut call = Call::openat(rustix::fs::CWD, c".", flags, Mode::empty());
        hand.perform(std::slice::from_mut(&mut call))?;
        call.opened()
    }

    /// One in a namespace of its own, where that is allowed; said visibly where it is not.
    fn start() -> Option<Hand> {
        let started = Hand::start(None);
        if let Err(error) = &started {
            crate::erofs::tests::skip("userns", &format!("no user namespace: {error}"));
        }
        started.ok()
    }

    #[test]
    fn what_it_opens_is_ours_whichever_thread_asks() {
        let Some(hand) = start() else { return };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let opened = open_here(&hand).unwrap();
                        assert!(rustix::fs::fstat(&opened).unwrap().st_ino > 0);
                    }
                });
            }
        });
        let mut calls = [
            Call::unlinkat(rustix::fs::CWD, c"/nowhere/at all", AtFlags::empty()),
            Call::openat(rustix::fs::CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()),
        ];
        hand.perform(&mut calls).unwrap();
        assert_eq!(calls[0].answer(), Err(Errno::NOENT));
        assert!(calls[1].opened().is_ok(), "one that fails keeps none from being made");
    }

    #[test]
    fn a_killed_one_is_an_error_and_leaves_no_child() {
        let Some(hand) = start() else { return };
        let pid = rustix::process::Pid::from_raw(hand.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // It may have been asleep still when it was asked.
        while open_here(&hand).is_ok() {}
        assert_eq!(open_here(&hand).unwrap_err(), Errno::SRCH);
        drop(hand);
        assert!(rustix::process::test_kill_process(pid).is_err(), "it was waited for");
    }
}
