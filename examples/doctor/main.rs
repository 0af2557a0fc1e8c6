//! What will work on this host, for this user, and what stands in the way of the rest.
//!
//! ```sh
//! cargo run --example doctor
//! ```

use std::process::ExitCode;

use container_core::{Feature, Host};
use examples::with_causes;

fn main() -> ExitCode {
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("doctor: {}", with_causes(&error));
            return ExitCode::FAILURE;
        }
    };
    print!("{host}");
    match host.verdict(Feature::Containers).obstacle() {
        None => ExitCode::SUCCESS,
        Some(obstacle) => {
            println!("No container can be started here: {obstacle}");
            ExitCode::FAILURE
        }
    }
}
