//! Applying layers: an archive becomes a set of changes, the changes meet what is below, and a snapshot results.
//!
//! - [`path`]: names become components; what a name means
//! - [`tree`]: names and metadata of a layer, or of several merged ([`merge`]); [`index`] is its file
//! - [`stage`]: one layer by itself, contents put in place by a sink ([`place`] for directories)
//! - [`settle`]: the staged layer against the layers below
//! - [`onto`]: the settled layer over a tree that shows the layers below
//! - [`losses`]: what the file system cannot store
//! - [`metadata`], [`writers`], [`remove`]: system calls on open directories

pub(crate) mod index;
pub(crate) mod losses;
pub(crate) mod merge;
pub(crate) mod metadata;
pub(crate) mod onto;
pub(crate) mod path;
pub(crate) mod place;
pub(crate) mod remove;
pub(crate) mod settle;
pub(crate) mod stage;
pub(crate) mod tree;
pub(crate) mod writers;
