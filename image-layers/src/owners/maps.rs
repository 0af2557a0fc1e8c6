//! Maps between the ids inside of a user namespace and those outside.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Ids inside of a user namespace, and as many outside that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside, on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// `count` ids from `inside` on stand for those from `outside` on.
    pub fn new(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }
}

/// The maps of a user namespace, as in `/proc/PID/uid_map` and `gid_map` (`user_namespaces(7)`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMaps {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

impl IdMaps {
    /// Maps of these ranges.
    pub fn new(uids: impl IntoIterator<Item = IdRange>, gids: impl IntoIterator<Item = IdRange>) -> IdMaps {
        IdMaps { uids: uids.into_iter().collect(), gids: gids.into_iter().collect() }
    }

    /// The ranges of user ids.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The ranges of group ids.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// The user id outside that stands for one inside.
    pub(crate) fn uid_to_outside(&self, uid: u32) -> Option<u32> {
        to_outside(&self.uids, uid)
    }

    pub(crate) fn gid_to_outside(&self, gid: u32) -> Option<u32> {
        to_outside(&self.gids, gid)
    }

    /// The user id inside that one outside stands for.
    pub(crate) fn uid_to_inside(&self, uid: u32) -> Option<u32> {
        to_inside(&self.uids, uid)
    }

    pub(crate) fn gid_to_inside(&self, gid: u32) -> Option<u32> {
        to_inside(&self.gids, gid)
    }

    /// A few letters that are the same for the same maps only.
    pub(super) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (kind, ranges) in [("u", &self.uids), ("g", &self.gids)] {
            for IdRange { inside, outside, count } in ranges.iter() {
                text += &format!("{kind} {inside} {outside} {count}\n");
            }
        }
        Digest::sha256(text.as_bytes()).hex()[..12].to_owned()
    }
}

fn to_outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.inside).is_some_and(|offset| offset < r.count))?;
    // The last number is no id (`chown(2)`).
    range.outside.checked_add(id - range.inside).filter(|id| *id != u32::MAX)
}

fn to_inside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|r| id.checked_sub(r.outside).is_some_and(|offset| offset < r.count))?;
    range.inside.checked_add(id - range.outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_there_and_back() {
        let ranges = [IdRange::new(0, 1500, 1), IdRange::new(1, 100_000, 65536)];
        let maps = IdMaps::new(ranges, ranges);
        for (inside, outside) in [(0, 1500), (1, 100_000), (999, 100_998), (65536, 165_535)] {
            assert_eq!(maps.uid_to_outside(inside), Some(outside));
            assert_eq!(maps.gid_to_inside(outside), Some(inside));
        }
        assert_eq!(maps.uid_to_outside(65537), None);
        let last = [IdRange::new(0, u32::MAX, 2)];
        assert_eq!(IdMaps::new(last, last).uid_to_outside(0), None);
        assert_eq!(maps.uid_to_inside(0), None);
        assert_eq!(maps.gid_to_inside(165_536), None);
        let other = IdMaps::new([IdRange::new(0, 1500, 1)], ranges);
        assert_ne!(maps.fingerprint(), other.fingerprint());
        assert_eq!(maps.fingerprint(), IdMaps::new(ranges, ranges).fingerprint());
    }
}
