//! Starts per second from a pool of prepared containers, beside starts from nothing.
//!
//! ```sh
//! cargo run --release --example pool [STARTS]
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use container_core::{Pool, Stdio};
use examples::host_root::HostRoot;
use examples::with_causes;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pool: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let starts: u32 = match std::env::args().nth(1) {
        Some(word) => word.parse().map_err(|_| format!("{word:?} is no number of starts"))?,
        None => 50,
    };
    let root = HostRoot::new()?;
    let builder = root.container().command(["true"]).stdin(Stdio::null());

    // One start at a time with a pause in between: what somebody who asks for a container waits for.
    let fresh = median(starts, Duration::from_millis(30), || builder.spawn()?.finish())?;
    println!("from nothing, with pauses:  {fresh:>9.2?} until its end (median of {starts})");
    let pool = Pool::new(builder.clone(), 4)?;
    let pooled = median(starts, Duration::from_millis(30), || pool.run())?;
    println!(
        "from the pool, with pauses: {pooled:>9.2?} ({:.1} times faster)",
        fresh.as_secs_f64() / pooled.as_secs_f64()
    );

    // As fast as it goes: making them costs the same, so a pool helps latency and not this.
    let before = Instant::now();
    for _ in 0..starts {
        pool.run()?;
    }
    println!(
        "back to back from the pool: {:>9.0} starts a second",
        f64::from(starts) / before.elapsed().as_secs_f64()
    );
    Ok(())
}

fn median(
    times: u32,
    pause: Duration,
    run: impl Fn() -> container_core::Result<container_core::Outcome>,
) -> container_core::Result<Duration> {
    let mut all = Vec::new();
    for _ in 0..times.max(1) {
        std::thread::sleep(pause);
        let before = Instant::now();
        run()?;
        all.push(before.elapsed());
    }
    all.sort();
    Ok(all[all.len() / 2])
}
