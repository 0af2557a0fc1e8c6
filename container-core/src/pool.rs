//! Containers prepared ahead, so that handing one out costs about an exec.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::builder::ContainerBuilder;
use crate::error::{Error, Result};
use crate::handle::{Container, Created, Leftovers, Outcome};

/// A number of containers with everything set up but the command, made again in the background as they are taken. Each is used
/// once.
///
/// A new one is made in the pauses between two uses, and what a container leaves (its control group, its mounts) is removed in the
/// background: who asks for one waits for neither. Dropping the pool waits for both.
///
/// What differs from one use to the next goes in through standard input ([`Created::input`]) or as a file
/// ([`Container::write_file`]) before the start. What was taken lives on
/// when the pool is dropped.
///
/// ```no_run
/// use container_core::{Container, Pool, Stdio};
///
/// let python = Container::builder()
///     .rootfs("/srv/python")
///     .command(["python3", "-"])
///     .sandbox()
///     .stdin(Stdio::piped())
///     .stdout(Stdio::piped())
///     .stderr(Stdio::piped());
/// let pool = Pool::new(python, 8)?;
/// let outcome = pool.take()?.input(*b"print(6 * 7)").run()?;
/// assert_eq!(outcome.stdout, b"42\n");
/// # Ok::<(), container_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    events: Sender<Event>,
    keeper: Option<JoinHandle<()>>,
}

/// What the pool's thread is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A container was taken out, or a failure was told.
    Taken,
    /// A container has ended that came of this pool.
    Ended(Box<Leftovers>),
    /// The pool is no longer wanted.
    Closed,
}

/// Making a container and starting one get in each other's way in the kernel. So the next one is made when nothing has been taken
/// for so long, or when half of them are gone.
const LULL: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Created>,
    /// Why the last one could not be made; the next to ask is told, and it is tried again.
    failed: Option<Error>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool's thread: keeps it full, and removes what its containers leave.
struct Keeper {
    builder: ContainerBuilder,
    size: usize,
    shared: Arc<Shared>,
    to_self: Sender<Event>,
}

impl Keeper {
    fn make(&self) -> Result<Created> {
        let mut created = self.builder.create()?;
        created.belongs_to(self.to_self.clone());
        Ok(created)
    }

    fn keep_full(&self, events: &Receiver<Event>) {
        let mut quiet_since = Instant::now();
        loop {
            let (ready, failed) = {
                let state = self.shared.state();
                (state.ready.len(), state.failed.is_some())
            };
            let patience = if failed || ready >= self.size {
                None
            } else if ready < self.size.div_ceil(2) {
                Some(Duration::ZERO)
            } else {
                Some(LULL.saturating_sub(quiet_since.elapsed()))
            };
            let event = match patience {
                None => events.recv().ok(),
                Some(patience) => match events.recv_timeout(patience) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => {
                        self.add();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            match event {
                Some(Event::Taken) => quiet_since = Instant::now(),
                Some(Event::Ended(leftovers)) => drop(leftovers),
                Some(Event::Closed) | None => return,
            }
        }
    }

    fn add(&self) {
        let made = self.make();
        let mut state = self.shared.state();
        match made {
            Ok(created) => state.ready.push_back(created),
            Err(error) => state.failed = Some(error),
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Pool {
    /// Makes a pool of `size` containers, and returns when the first is ready.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size of 0 or a builder with a fixed name; else as [`ContainerBuilder::create`].
    pub fn new(builder: ContainerBuilder, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::invalid("pool size 0", "it holds at least one container"));
        }
        if let Some(id) = &builder.id {
            return Err(Error::invalid(
                format!("id {id:?}"),
                "containers of a pool need names of their own: set none",
            ));
        }
        let (events, received) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let keeper = Keeper { builder, size, shared: Arc::clone(&shared), to_self: events.clone() };
        // What is wrong with the description shows here and not in the background.
        let first = keeper.make()?;
        shared.state().ready.push_back(first);
        let thread = std::thread::Builder::new().name("container-pool".to_owned());
        let keeper = thread
            .spawn(move || keeper.keep_full(&received))
            .map_err(|e| Error::io("start thread of", "pool", e))?;
        Ok(Self { shared, events, keeper: Some(keeper) })
    }

    /// Takes a container out; waits for the next when none is ready.
    ///
    /// # Errors
    /// Why the next one could not be made, as [`ContainerBuilder::create`].
    pub fn take(&self) -> Result<Created> {
        let nothing = |state: &mut State| state.ready.is_empty() && state.failed.is_none();
        let state = self.shared.changed.wait_while(self.shared.state(), nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let taken = match state.ready.pop_front() {
            Some(created) => Ok(created),
            // Cleared, so that it is tried again for the next.
            None => Err(state.failed.take().unwrap_or_else(|| Error::invalid("pool", "it is closed"))),
        };
        drop(state);
        let _ = self.events.send(Event::Taken);
        taken
    }

    /// Takes a container out and starts it.
    ///
    /// # Errors
    /// As [`take`](Self::take) and [`Created::start`].
    pub fn start(&self) -> Result<Container> {
        self.take()?.start()
    }

    /// Takes a container out and runs it to its end.
    ///
    /// # Errors
    /// As [`take`](Self::take) and [`Created::run`].
    pub fn run(&self) -> Result<Outcome> {
        self.take()?.run()
    }

    /// How many are ready now.
    pub fn ready(&self) -> usize {
        self.shared.state().ready.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Closed);
        if let Some(keeper) = self.keeper.take() {
            // It makes one more at most, which goes with the others.
            let _ = keeper.join();
        }
        self.shared.state().ready.clear();
    }
}
