//! The tiny init in front of the command: what it has to know, and becoming it.

use crate::sys::fd;
use crate::sys::init_program::{self, SharedParameters};
use crate::sys::raw::Sys;
use crate::sys::thread;

use super::child::{Context, Done, Failure};
use super::{program, protocol};

/// In [`Failure::detail`]: the init itself cannot be executed.
pub(crate) const INIT: u32 = 4;

/// The init of a launch, prepared by the parent.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) file: i32,
    /// Where it writes the command's status.
    pub(crate) status: i32,
    pub(crate) parameters: SharedParameters,
    /// Places in the plan: of making the init, and of the command's execution.
    pub(crate) own_step: usize,
    pub(crate) exec_step: usize,
    pub(crate) close_all: bool,
}

/// Writes down what the init has to know. The command was found, the filter is not in force yet.
pub(super) fn prepare(context: &mut Context) -> Done {
    let phrases = &context.phrases;
    let Some(init) = &mut context.init else { return Ok(()) };
    let command = &context.command;
    let parameters = init.parameters.get();
    parameters.channel = context.channel;
    parameters.file = command.file;
    parameters.status = init.status;
    parameters.close_all = i32::from(init.close_all);
    parameters.retry = i32::from(command.may_need_its_file());
    let path = command.path();
    if command.by_descriptor {
        parameters.directory = command.file;
        parameters.flags = libc::AT_EMPTY_PATH;
    } else {
        parameters.directory = fd::CWD;
        for (to, from) in parameters.path.iter_mut().zip(path.to_bytes_with_nul()) {
            *to = *from;
        }
    }
    parameters.refused = protocol::failure(init.exec_step, 0, program::EXEC, path.to_bytes());
    let own = phrases.get(init.own_step).map(String::as_bytes).unwrap_or_default();
    parameters.no_process = protocol::failure(init.own_step, 0, 0, own);
    let mut header = [0u8; program::LOADER_HEADER];
    if let Some(loader) = program::loader_of(path, &mut header) {
        parameters.names_loader = 1;
        parameters.no_loader = protocol::failure(init.exec_step, 0, program::INTERPRETER, loader);
    }
    hand_over(context)?;
    Ok(())
}

fn hand_over(context: &Context) -> Sys<()> {
    let Some(init) = &context.init else { return Ok(()) };
    init_program::seal(init.file)?;
    for kept in [context.channel, context.command.file, init.status] {
        fd::install(kept, kept)?;
    }
    thread::block_all_signals()
}

/// Becomes the init. Returns only on failure.
pub(super) fn exec(context: &mut Context, file: i32) -> Failure {
    let errno = context.command.vectors.exec_behind(c"init", file);
    // Arguments that are too long are the command's.
    let detail = if errno.0 == libc::E2BIG { 0 } else { INIT };
    Failure { errno: errno.0, detail }
}
