//! A complete OCI runtime over the public API of `container-core`: a drop-in for runc and crun.
//!
//! ```sh
//! cargo build --release --example oci-runtime
//! podman --runtime target/release/examples/oci-runtime run alpine echo hello
//! ```
//!
//! Each subcommand is a module of its own. Which clients and conformance suites it has been through, and with what result,
//! is in `CONFORMANCE.md` beside this file.

mod args;
mod bundle;
mod context;
mod create;
mod delete;
mod events;
mod exec;
mod failure;
mod features;
mod foreground;
mod freeze;
mod help;
mod kill;
mod list;
mod log;
mod ps;
mod record;
mod sockets;
mod spec;
mod start;
mod state;
mod update;
mod values;

use std::path::Path;
use std::process::ExitCode;

use args::Command;
use context::Context;
use failure::Failure;
use log::Log;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let program = arguments
        .first()
        .and_then(|path| Path::new(path).file_name())
        .map_or_else(|| "oci-runtime".into(), |name| name.to_string_lossy().into_owned());

    let invocation = match args::parse(arguments) {
        Ok(invocation) => invocation,
        Err(failure) => return report(&Log::default(), &failure),
    };
    let log = match Log::open(&invocation.global) {
        Ok(log) => log,
        Err(failure) => return report(&Log::default(), &failure),
    };
    let context = Context::new(invocation.global, log);
    match run(&program, invocation.command, &context) {
        Ok(status) => status,
        Err(failure) => report(&context.log, &failure),
    }
}

fn report(log: &Log, failure: &Failure) -> ExitCode {
    log.error(&failure.message);
    ExitCode::from(failure.status)
}

fn run(program: &str, command: Command, context: &Context) -> Result<ExitCode, Failure> {
    match command {
        Command::Create(options) => create::create(context, &options)?,
        Command::Run { create, detach, keep } => return create::run(context, &create, detach, keep),
        Command::Start { id } => start::start(context, &id)?,
        Command::State { id } => state::state(context, &id)?,
        Command::Kill { id, signal, all } => kill::kill(context, &id, &signal, all)?,
        Command::Delete { id, force, regex } => delete::delete(context, &id, force, regex)?,
        Command::Exec(options) => return exec::exec(context, options),
        Command::Ps { id, json, options } => ps::ps(context, &id, json, &options)?,
        Command::List { quiet, json } => list::list(context, quiet, json)?,
        Command::Pause { id } => freeze::pause(context, &id)?,
        Command::Resume { id } => freeze::resume(context, &id)?,
        Command::Update { id, resources, changes } => {
            update::update(context, &id, resources.as_deref(), &changes)?
        }
        Command::Events { id, stats, interval } => events::events(context, &id, stats, interval)?,
        Command::Features => features::features()?,
        Command::Spec { bundle, rootless } => spec::spec(bundle.as_deref(), rootless)?,
        Command::Checkpoint { verb } => {
            return Err(Failure::new(format!(
                "{verb} is not supported: this runtime does not save running containers"
            )));
        }
        Command::Help { topic } => print!("{}", help::text(program, topic)),
        Command::Version => features::version(program),
    }
    Ok(ExitCode::SUCCESS)
}
