//! The kernel interface of a launch, and the only unsafe code of the crate's launch road.
//!
//! Everything that runs between clone and exec goes through [`raw`], which never touches `errno` or any other thread-local:
//! a child of a memory-sharing clone has the thread-locals of the thread that cloned it. The typed wrappers above it take
//! memory that was prepared before, so what is built on them ([`crate::launch`]'s interpreter) is ordinary safe code.

pub(crate) mod clone;
pub(crate) mod cred;
pub(crate) mod exec;
pub(crate) mod fd;
pub(crate) mod init_program;
pub(crate) mod loop_device;
pub(crate) mod mount;
pub(crate) mod pidfd;
pub(crate) mod pipe;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod socket;
pub(crate) mod thread;
