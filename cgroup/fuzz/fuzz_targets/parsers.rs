//! No text makes a parser of this crate panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| cgroup::fuzzing::parse_all(text));
