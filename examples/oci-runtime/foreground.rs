//! Staying in the foreground: signals are passed on, a terminal is relayed, and the process's end is ours.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::failure::Failure;

/// The signals that are passed on, blocked from here on and read from a descriptor. Made before the process is started, so
/// that none is lost in between.
pub struct Signals(SignalFd);

impl Signals {
    pub fn block() -> Result<Self, Failure> {
        let mut set = SigSet::all();
        // Faults of our own, job control of the shell that started us, and what tells of children.
        for own in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
            Signal::SIGABRT,
            Signal::SIGSYS,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGCHLD,
            Signal::SIGURG,
            Signal::SIGPIPE,
        ] {
            set.remove(own);
        }
        set.thread_block().map_err(|errno| Failure::because("block signals", errno))?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .map_err(|errno| Failure::because("wait for signals", errno))
    }
}

/// Until the process behind `pidfd` has ended: signals are passed on to it and `terminal` is relayed.
pub fn attend(pidfd: BorrowedFd<'_>, signals: &Signals, mut terminal: Option<Relay>) -> Result<(), Failure> {
    loop {
        let mut polled =
            vec![PollFd::new(pidfd, PollFlags::POLLIN), PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        // A terminal that nobody has open any more always has something to tell: it is not asked again.
        if let Some(relay) = terminal.as_ref().filter(|relay| relay.open) {
            polled.push(PollFd::new(relay.master.as_fd(), relay.wanted()));
            if relay.takes_input() {
                polled.push(PollFd::new(relay.input.as_fd(), PollFlags::POLLIN));
            }
        }
        match nix::poll::poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Failure::because("wait for the container", errno)),
        }
        let ready = |at: usize| polled.get(at).and_then(PollFd::any).unwrap_or(false);
        let (ended, signalled, master, input) = (ready(0), ready(1), ready(2), ready(3));
        if signalled {
            while let Ok(Some(info)) = signals.0.read_signal() {
                let number = info.ssi_signo as i32;
                if number == Signal::SIGWINCH as i32
                    && let Some(relay) = &terminal
                {
                    relay.resize();
                } else {
                    // The process may have ended meanwhile; the next round sees it.
                    let _ = container_core::signal(pidfd, number);
                }
            }
        }
        if let Some(relay) = &mut terminal {
            relay.turn(master, input);
        }
        if ended {
            if let Some(relay) = &mut terminal {
                relay.drain();
            }
            return Ok(());
        }
    }
}

/// Our own terminal, in raw mode, at one end and a container's at the other.
pub struct Relay {
    master: File,
    input: File,
    before: Option<Termios>,
    /// Typed, and not yet taken by the container.
    pending: Vec<u8>,
    input_open: bool,
    open: bool,
}

impl Relay {
    pub fn new(master: OwnedFd) -> Result<Self, Failure> {
        let because = |errno: rustix::io::Errno| Failure::because("set up the terminal", errno);
        let input = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(because)?;
        // A container that does not read must not keep its own output from being shown.
        let flags = rustix::fs::fcntl_getfl(&master).map_err(because)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK).map_err(because)?;
        let before = rustix::termios::tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // Our terminal goes on making a line feed a new line, and the container's does not any more: what is relayed into
            // a file or a pipe then has no carriage returns.
            raw.output_modes |= OutputModes::OPOST;
            rustix::termios::tcsetattr(&input, OptionalActions::Now, &raw).map_err(because)?;
        }
        let relay = Self {
            master: File::from(master),
            input: File::from(input),
            before,
            pending: Vec::new(),
            input_open: true,
            open: true,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal the size of ours.
    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(&self.input) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn takes_input(&self) -> bool {
        self.open && self.input_open && self.pending.is_empty()
    }

    fn wanted(&self) -> PollFlags {
        if self.pending.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    fn turn(&mut self, master: bool, input: bool) {
        if input && self.takes_input() {
            let mut buffer = [0; 4096];
            match self.input.read(&mut buffer) {
                Ok(0) | Err(_) => self.input_open = false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            }
        }
        if !self.pending.is_empty()
            && let Ok(length) = self.master.write(&self.pending)
        {
            self.pending.drain(..length);
        }
        if master && self.open {
            self.show();
        }
    }

    /// Shows what there is; false when there is no more.
    fn show(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.master.read(&mut buffer) {
            Ok(length) if length > 0 => {
                let mut out = std::io::stdout().lock();
                // Nobody left to read the output is no reason to stop the container.
                let _ = out.write_all(&buffer[..length]).and_then(|()| out.flush());
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            // EIO: no process has the other end open any more.
            _ => {
                self.open = false;
                false
            }
        }
    }

    /// Shows what the container wrote before it ended.
    fn drain(&mut self) {
        while self.open && self.show() {}
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(&self.input, OptionalActions::Now, before);
        }
    }
}

/// The exit status of our own child as a shell would tell it: 128 and the signal's number when it was killed.
pub fn status(pidfd: BorrowedFd<'_>) -> Result<u8, Failure> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let code =
                    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255));
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Err(Failure::new("the process has no status")),
            Err(errno) => return Err(Failure::because("wait for the process", errno)),
        }
    }
}
