//! The examples are the `[[example]]` targets of this package: `cargo run --example NAME`.

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
