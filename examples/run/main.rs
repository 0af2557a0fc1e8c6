//! What a newcomer expects of `docker run`, from an image file and without a daemon.
//!
//! ```sh
//! cargo run --release --example run -- alpine.tar.gz cat /etc/alpine-release
//! ```

mod arguments;
mod progress;

use std::error::Error;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, process};

use arguments::{Arguments, USAGE};
use container_core::{Container, ContainerBuilder};
use examples::with_causes;
use image_layers::{Image, ImportOptions, Store, UnpackOptions};
use progress::Bars;

/// As Docker has them.
const CANNOT_BE_MADE: u8 = 125;
const CANNOT_BE_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("run: {error}");
            return ExitCode::from(CANNOT_BE_MADE);
        }
    };
    if arguments.help {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("run: {}", with_causes(&*error));
        ExitCode::from(status_of(&*error))
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let directory = store_directory(arguments)?;
    let store = Store::open_or_create(&directory)?;
    let image = import(arguments, &store)?;
    let builder = describe(arguments, &store, &image);
    if arguments.plan {
        println!("{}", builder.plan()?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut container = builder.spawn()?;
    for limit in container.skipped_limits() {
        eprintln!("run: a limit was left out: {limit}");
    }
    let status = container.wait()?;
    container.remove()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Brings the image into the store and unpacks what is not there yet.
fn import(arguments: &Arguments, store: &Store) -> Result<Image, Box<dyn Error>> {
    let bars = Bars::new(arguments.quiet);
    let mut options = ImportOptions::new().any_platform(arguments.any_platform).progress(bars.progress());
    if let Some(reference) = &arguments.reference {
        options = options.reference(reference);
    }
    let image = store.import(&arguments.image, &options)?.pop().ok_or("the archive holds no image")?;
    if !arguments.plan {
        store.unpack(&image, &UnpackOptions::new().progress(bars.progress()))?;
    }
    Ok(image)
}

fn describe(arguments: &Arguments, store: &Store, image: &Image) -> ContainerBuilder {
    let mut builder = Container::builder()
        .id(format!("run-{}", process::id()))
        .image(store, image)
        .read_only(arguments.read_only)
        .limits_best_effort(arguments.best_effort);
    if !arguments.command.is_empty() {
        builder = builder.command(&arguments.command);
    }
    if let Some(bytes) = arguments.memory {
        builder = builder.memory(bytes);
    }
    if let Some(cpus) = arguments.cpus {
        builder = builder.cpus(cpus);
    }
    if let Some(tasks) = arguments.pids {
        builder = builder.pids(tasks);
    }
    for (name, value) in &arguments.env {
        if let Some(value) = value.clone().or_else(|| env::var_os(name)) {
            builder = builder.env(name, value);
        }
    }
    if let Some(directory) = &arguments.workdir {
        builder = builder.current_dir(directory);
    }
    if let Some(user) = &arguments.user {
        builder = builder.user(user);
    }
    for volume in &arguments.volumes {
        builder = if volume.read_only {
            builder.bind_read_only(&volume.host, &volume.container)
        } else {
            builder.bind(&volume.host, &volume.container)
        };
    }
    for directory in &arguments.tmpfs {
        builder = builder.tmpfs(directory, 64 << 20);
    }
    if let Some(name) = &arguments.hostname {
        builder = builder.hostname(name);
    }
    builder
}

/// Images stay for the next run, in the user's own cache.
fn store_directory(arguments: &Arguments) -> Result<PathBuf, Box<dyn Error>> {
    if let Some(directory) = &arguments.store {
        return Ok(directory.clone());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(env::home_dir()?.join(".cache")))
        .ok_or("no home directory: say where images are to be kept, with --store")?;
    let directory = cache.join("container-run");
    fs::create_dir_all(&cache).map_err(|e| format!("cannot make {}: {e}", cache.display()))?;
    Ok(directory)
}

fn status_of(error: &(dyn Error + 'static)) -> u8 {
    match error.downcast_ref() {
        Some(container_core::Error::Exec { source, .. }) if source.kind() == ErrorKind::NotFound => NOT_FOUND,
        Some(container_core::Error::Exec { .. }) => CANNOT_BE_RUN,
        _ => CANNOT_BE_MADE,
    }
}
