//! What this host and file system can do.

use std::path::Path;

use super::SnapshotKind;

/// Whether a [`SnapshotKind`] can be used, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotProbe {
    /// The kind.
    pub kind: SnapshotKind,
    /// Why it cannot be used here; `None` if it can.
    pub refused: Option<String>,
}

/// Finds out which kinds can be used with a store in the directory `dir`, which must exist.
pub fn probe_snapshots(dir: &Path) -> Vec<SnapshotProbe> {
    SnapshotKind::ALL.into_iter().map(|kind| SnapshotProbe { kind, refused: refusal(kind, dir) }).collect()
}

fn refusal(kind: SnapshotKind, dir: &Path) -> Option<String> {
    match kind {
        SnapshotKind::Overlay => None,
        SnapshotKind::Copy => Some("not yet".to_owned()),
        SnapshotKind::Erofs => super::erofs::refusal(dir),
    }
}
