//! More processes in a running container, files in and out of it, its figures, a pause, and its end.
//!
//! ```sh
//! cargo run --example exec
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use examples::host_root::HostRoot;
use examples::with_causes;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exec: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let root = HostRoot::new()?;
    let service = "trap 'echo service: ending; exit 0' TERM; while :; do sleep 0.1; done";
    let mut container = root.container().command(["sh", "-c", service]).writable_memory(16 << 20).spawn()?;
    println!("{} runs as process {}", container.id(), container.pid());

    let output = container
        .exec(["sh", "-c", "echo I am process $$ beside:; tr '\\0' ' ' < /proc/1/cmdline"])
        .output()?;
    println!("{}", String::from_utf8_lossy(&output.stdout));

    container.write_file("/tmp/words", 0o644, b"put in from outside\n")?;
    let output = container.exec(["tr", "a-z", "A-Z"]).input(container.read_file("/tmp/words")?).output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let mut archive = Vec::new();
    container.copy_out("/etc", &mut archive)?;
    println!("/etc as a tar archive: {} bytes", archive.len());

    let output = container.exec(["sh", "-c", "exit 42"]).output()?;
    println!("the last one ended with {:?}, the container goes on: {:?}", output.end, container.try_wait()?);

    match container.stats() {
        Ok(stats) => println!("CPU time so far: {:?}, processes: {:?}", stats.cpu.usage, stats.pids.current),
        Err(error) => println!("no figures: {}", with_causes(&error)),
    }
    if container.pause().is_ok() {
        let refused = container.exec(["true"]).output().err();
        println!("paused: {}", refused.map_or("exec went through?".to_owned(), |error| error.to_string()));
        container.resume()?;
    }
    println!("stopped: {}", container.stop(Duration::from_secs(5))?);
    container.remove()?;
    Ok(())
}
