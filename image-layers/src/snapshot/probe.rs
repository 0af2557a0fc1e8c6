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
        SnapshotKind::Overlay => super::overlay::refusal(dir),
        SnapshotKind::Copy => None,
        SnapshotKind::Erofs => super::erofs::refusal(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_always_works_and_refusals_say_why() {
        let dir = tempfile::tempdir().unwrap();
        for probe in probe_snapshots(dir.path()) {
            match probe.kind {
                SnapshotKind::Copy => assert_eq!(probe.refused, None),
                _ => assert!(probe.refused.is_none_or(|reason| reason.len() > 10)),
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a probe leaves nothing behind");
        for refused in
            probe_snapshots(Path::new("/proc")).into_iter().filter(|probe| probe.kind != SnapshotKind::Copy)
        {
            assert!(refused.refused.is_some(), "{:?} in /proc", refused.kind);
        }
    }
}
