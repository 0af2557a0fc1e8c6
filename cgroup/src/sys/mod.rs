//! System calls that no safe crate wraps: the only unsafe code of this crate.
#![allow(unsafe_code)]

pub(crate) mod bpf;
