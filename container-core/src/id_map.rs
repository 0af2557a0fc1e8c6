//! User and group id mappings: what a user namespace shows as which id of the host, and which ids a user may map.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::error::{Error, Result};

/// A range of ids inside a user namespace and the range outside that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdMapping {
    /// First id inside the container.
    pub container_id: u32,
    /// First id on the host.
    pub host_id: u32,
    /// How many ids; at least 1.
    pub size: u32,
}

impl IdMapping {
    /// One id, the usual mapping of a user without subordinate ids.
    pub fn single(container_id: u32, host_id: u32) -> Self {
        Self { container_id, host_id, size: 1 }
    }
}

impl From<&LinuxIdMapping> for IdMapping {
    fn from(mapping: &LinuxIdMapping) -> Self {
        Self { container_id: mapping.container_id(), host_id: mapping.host_id(), size: mapping.size() }
    }
}

impl From<IdMapping> for LinuxIdMapping {
    fn from(mapping: IdMapping) -> Self {
        LinuxIdMappingBuilder::default()
            .container_id(mapping.container_id)
            .host_id(mapping.host_id)
            .size(mapping.size)
            .build()
            .expect("no field of it is required")
    }
}

/// The kernel takes this many lines since 4.15 (`user_namespaces(7)`).
const MOST_LINES: usize = 340;

/// Checks a list of mappings as the kernel will, so that the answer is more than EINVAL.
///
/// # Errors
/// [`Error::Invalid`] for an empty range, one that ends past the last id, ranges that overlap on either side, or too many.
pub(crate) fn validate(field: &str, mappings: &[IdMapping]) -> Result<()> {
    let wrong = |m: &IdMapping, reason: &str| {
        Err(Error::invalid(format!("{field} {}:{}:{}", m.container_id, m.host_id, m.size), reason))
    };
    if mappings.len() > MOST_LINES {
        return Err(Error::invalid(
            field,
            format!("{} ranges, the kernel takes {MOST_LINES}", mappings.len()),
        ));
    }
    for (n, m) in mappings.iter().enumerate() {
        if m.size == 0 {
            return wrong(m, "the range is empty");
        }
        if m.container_id.checked_add(m.size).is_none() || m.host_id.checked_add(m.size).is_none() {
            return wrong(m, "the range ends past 4294967294, the last id");
        }
        let overlap = |a: u32, a_size: u32, b: u32, b_size: u32| a < b + b_size && b < a + a_size;
        for other in &mappings[..n] {
            if overlap(m.container_id, m.size, other.container_id, other.size) {
                return wrong(m, "it overlaps another range inside the container");
            }
            if overlap(m.host_id, m.size, other.host_id, other.size) {
                return wrong(m, "it overlaps another range on the host");
            }
        }
    }
    Ok(())
}

/// The text for `/proc/PID/uid_map`.
pub(crate) fn lines(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, m| {
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
        text
    })
}

/// The mappings in the text of `/proc/PID/uid_map`.
pub(crate) fn parse(text: &str) -> Vec<IdMapping> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
    };
    text.lines().filter_map(line).collect()
}

/// The host id that container id `id` stands for.
pub(crate) fn to_host(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings
        .iter()
        .find(|m| id >= m.container_id && id - m.container_id < m.size)
        .map(|m| m.host_id + (id - m.container_id))
}

/// The container id that host id `id` is seen as.
pub(crate) fn to_container(mappings: &[IdMapping], id: u32) -> Option<u32> {
    mappings
        .iter()
        .find(|m| id >= m.host_id && id - m.host_id < m.size)
        .map(|m| m.container_id + (id - m.host_id))
}

/// A range of subordinate ids granted to a user, one line of `/etc/subuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubordinateRange {
    /// First id of the range on the host.
    pub start: u32,
    /// How many ids.
    pub count: u32,
}

/// Reads the ranges granted to a user from the text of `/etc/subuid` or `/etc/subgid` (`subuid(5)`), by name or by number.
/// Lines that are not of the form `name:start:count` grant nothing, as for newuidmap.
pub(crate) fn subordinate(
    source: impl Read,
    uid: u32,
    name: Option<&str>,
) -> std::io::Result<Vec<SubordinateRange>> {
    let number = uid.to_string();
    let mut ranges = Vec::new();
    for line in BufReader::new(source).split(b'\n') {
        let line = line?;
        let Ok(line) = std::str::from_utf8(&line) else { continue };
        let mut fields = line.trim().split(':');
        let (Some(owner), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if owner != number && Some(owner) != name {
            continue;
        }
        if let (Ok(start), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>())
            && count > 0
            && start.checked_add(count).is_some()
        {
            ranges.push(SubordinateRange { start, count });
        }
    }
    Ok(ranges)
}

/// The mapping of a rootless container: id 0 inside is the caller, the ids from 1 on are the subordinate ranges in order.
///
/// # Errors
/// [`Error::Invalid`] where granted ranges overlap one another or hold the caller's own id: newuidmap would refuse them, and a
/// smaller mapping in their place would be silently another container.
pub(crate) fn with_subordinate(field: &str, own: u32, ranges: &[SubordinateRange]) -> Result<Vec<IdMapping>> {
    let mut mappings = vec![IdMapping::single(0, own)];
    let mut next = 1u32;
    for range in ranges {
        let size = range.count.min(u32::MAX - 1 - next);
        mappings.push(IdMapping { container_id: next, host_id: range.start, size });
        next += size;
    }
    validate(field, &mappings)?;
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn lines_are_as_the_kernel_reads_them() {
        let maps = [map(0, 1000, 1), map(1, 100_000, 65536)];
        assert_eq!(lines(&maps), "0 1000 1\n1 100000 65536\n");
        assert_eq!(parse(&lines(&maps)), maps);
        assert_eq!(parse("         0          0 4294967295\n"), [map(0, 0, u32::MAX)]);
    }

    #[test]
    fn wrong_maps_are_named() {
        let refused = |maps: &[IdMapping], part: &str| match validate("linux.uidMappings", maps) {
            Err(Error::Invalid { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        };
        refused(&[map(0, 0, 0)], "empty");
        refused(&[map(0, u32::MAX, 1)], "ends past");
        refused(&[map(0, 0, 10), map(9, 100, 1)], "inside");
        refused(&[map(0, 0, 10), map(10, 9, 1)], "on the host");
        let many: Vec<_> = (0..341).map(|n| map(n, n, 1)).collect();
        refused(&many, "340");
        assert!(validate("x", &many[..340]).is_ok());
    }

    #[test]
    fn ids_translate() {
        let maps = [map(0, 1000, 1), map(1, 100_000, 10)];
        assert_eq!(to_host(&maps, 0), Some(1000));
        assert_eq!(to_host(&maps, 10), Some(100_009));
        assert_eq!(to_host(&maps, 11), None);
    }

    #[test]
    fn subuid_lines_by_name_and_number() {
        let text = b"root:1:2\ntester:100000:65536\n\n# no\ntester:1:\n1500:300000:1000\ntester:5:0\ntester:4294967295:5\n\xff:1:1\n";
        let ranges = subordinate(&text[..], 1500, Some("tester")).unwrap();
        assert_eq!(
            ranges,
            [
                SubordinateRange { start: 100_000, count: 65536 },
                SubordinateRange { start: 300_000, count: 1000 }
            ]
        );
        assert!(subordinate(&text[..], 7, None).unwrap().is_empty());
    }

    #[test]
    fn subordinate_ids_follow_the_own_one() {
        let ranges =
            [SubordinateRange { start: 100_000, count: 10 }, SubordinateRange { start: 200_000, count: 5 }];
        let maps = with_subordinate("uid", 1500, &ranges).unwrap();
        assert_eq!(maps, [map(0, 1500, 1), map(1, 100_000, 10), map(11, 200_000, 5)]);
        let overlapping =
            [SubordinateRange { start: 100, count: 10 }, SubordinateRange { start: 105, count: 5 }];
        assert!(matches!(with_subordinate("uid", 1500, &overlapping), Err(Error::Invalid { .. })));
        assert!(with_subordinate("uid", 105, &overlapping[..1]).is_err());
    }
}
