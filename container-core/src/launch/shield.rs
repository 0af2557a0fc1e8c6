//! While a starting process shares the host program's memory, others must not reach that memory through it.
//!
//! The process gives its rights away before it executes the command; from then on whoever has the same rights could trace it,
//! and with it the host program. So the memory is marked non-dumpable for the time of such launches, which closes ptrace and
//! /proc/PID/mem to everybody without CAP_SYS_PTRACE, and marked as before when the last of them is over. A change of credentials in the
//! process would clear the mark's old value too, since it belongs to the memory and not to the process.

use std::sync::{Mutex, PoisonError};

use crate::sys::cred;

struct Launches {
    running: usize,
    before: usize,
}

static LAUNCHES: Mutex<Launches> = Mutex::new(Launches { running: 0, before: 1 });

/// Held for the time of one launch with shared memory.
#[derive(Debug)]
pub(super) struct Shield(());

impl Shield {
    /// `hide`: mark the memory now, as who rules over its user namespace does. An ordinary user does not: the container's
    /// processes are not the caller's equals, being in a user namespace of their own, and the files of its process in /proc
    /// would become root's.
    pub(super) fn raise(hide: bool) -> Self {
        let mut launches = LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner);
        if launches.running == 0 {
            launches.before = cred::dumpable().unwrap_or(1);
        }
        launches.running += 1;
        if hide {
            let _ = cred::set_dumpable(0);
        }
        Self(())
    }

    /// The mark as it was before any launch, for the moment: files in /proc are the caller's own again.
    pub(super) fn restore_for_now() {
        let launches = LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner);
        if launches.running > 0 && launches.before == 1 {
            let _ = cred::set_dumpable(1);
        }
    }

    /// Is more than one launch under way?
    pub(super) fn is_shared() -> bool {
        LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner).running > 1
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        let mut launches = LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner);
        launches.running -= 1;
        // 2 cannot be set by anybody; it comes from fs.suid_dumpable and means not dumpable by the user.
        if launches.running == 0 && launches.before == 1 {
            let _ = cred::set_dumpable(1);
        }
    }
}
