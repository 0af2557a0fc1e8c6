//! The whole road once: an image made in code, two containers of it side by side, and the image as it was at the end.
//!
//! ```sh
//! cargo run --example quickstart
//! ```
//!
//! Needs no network, no image and no arguments, and works as root and as an ordinary user. The program packs itself into an image;
//! inside a container the same program tells what it sees.

mod image;
mod inside;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, process};

use container_core::{Container, Stdio};
use examples::with_causes;
use image_layers::{Image, Store};

fn main() -> ExitCode {
    let result = match env::args().nth(1).as_deref() {
        Some("inside") => inside::main(env::args().nth(2).as_deref() == Some("change")),
        _ => outside(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn outside() -> Result<(), Box<dyn Error>> {
    let scratch = Scratch::new()?;
    let store = Store::open_or_create(scratch.0.join("store"))?;

    let image = image::of_this_program(&store)?;
    let before = image.digest().to_string();
    println!(
        "image quickstart:latest of {} layers, {} KiB, {before}",
        image.layers().len(),
        image.size() >> 10
    );

    println!("container \"one\" starts, writes and deletes:");
    let mut one = start(&store, &image, "one", "change")?;
    show(&mut one)?;

    println!("container \"two\" starts from the same image while \"one\" still runs:");
    let mut two = start(&store, &image, "two", "look")?;
    show(&mut two)?;

    for skipped in one.skipped_limits() {
        println!("  this host could not set a limit: {skipped}");
    }
    for mut container in [one, two] {
        // Closes its input, which is what it waits for.
        let status = container.wait()?;
        println!("container {:?} ended: {status}", container.id());
        container.remove()?;
    }

    let after = store.resolve("quickstart:latest")?.digest().to_string();
    let faults = store.verify()?;
    if after != before || !faults.is_empty() {
        return Err(format!("the image changed: {before} became {after}, {faults:?}").into());
    }
    println!("image digest unchanged: {after}");
    Ok(())
}

fn start(store: &Store, image: &Image, name: &str, what: &str) -> Result<Container, Box<dyn Error>> {
    let container = Container::builder()
        .id(format!("quickstart-{name}-{}", process::id()))
        .image(store, image)
        .hostname(name)
        .arg(what)
        .memory(64 << 20)
        .cpus(0.5)
        .pids(16)
        // An ordinary user may not be allowed to make control groups. That is an error unless we say that we can live with it.
        .limits_best_effort(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(container)
}

/// Prints what a container says until it says that this was all.
fn show(container: &mut Container) -> Result<(), Box<dyn Error>> {
    let stdout = container.stdout.take().ok_or("standard output is not piped")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line == inside::END {
            return Ok(());
        }
        println!("{line}");
    }
    let status = container.wait()?;
    Err(format!("{} ended early: {status}", container.id()).into())
}

/// A directory that goes away with the program.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Box<dyn Error>> {
        let path = env::temp_dir().join(format!("quickstart-{}", process::id()));
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
