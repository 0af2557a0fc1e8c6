//! Containers prepared ahead, so that handing one out costs about an exec.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::builder::ContainerBuilder;
use crate::error::{Error, Result};
use crate::handle::{Container, Created, Outcome};

/// A number of containers with everything set up but the command, made again in the background as they are taken. Each is used
/// once.
///
/// What differs from one use to the next goes in through standard input ([`Created::input`]) or as a file
/// ([`Container::write_file`]) before the start. Dropping the pool takes down what is still in it; what was taken lives on.
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
    refill: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    builder: ContainerBuilder,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Created>,
    /// Why the last one could not be made; the next to ask is told, and it is tried again.
    failed: Option<Error>,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the pool full until it is closed.
    fn refill(&self) {
        loop {
            {
                let full = |state: &mut State| {
                    !state.closed && (state.failed.is_some() || state.ready.len() >= self.size)
                };
                let state =
                    self.changed.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner);
                if state.closed {
                    return;
                }
            }
            let made = self.builder.create();
            let mut state = self.state();
            match made {
                Ok(created) => state.ready.push_back(created),
                Err(error) => state.failed = Some(error),
            }
            drop(state);
            self.changed.notify_all();
        }
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
        // What is wrong with the description shows here and not in the background.
        let first = builder.create()?;
        let state = State { ready: VecDeque::from([first]), ..State::default() };
        let shared = Arc::new(Shared { builder, size, state: Mutex::new(state), changed: Condvar::new() });
        let refill = std::thread::Builder::new().name("container-pool".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.refill()
        });
        let refill = refill.map_err(|e| Error::io("start thread of", "pool", e))?;
        Ok(Self { shared, refill: Some(refill) })
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
        self.shared.changed.notify_all();
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
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        if let Some(refill) = self.refill.take() {
            // It makes one more at most, which goes with the others.
            let _ = refill.join();
        }
        self.shared.state().ready.clear();
    }
}
