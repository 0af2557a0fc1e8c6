//! The examples are the `[[example]]` targets of this package: `cargo run --example NAME`. Here is what several of them need.

pub mod host_root;

use std::error::Error;

/// An error says what failed; what caused it are its sources. Both in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
