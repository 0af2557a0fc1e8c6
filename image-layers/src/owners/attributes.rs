//! Extended attributes that hold ids: file capabilities name the root they are for, access lists name users and groups.

use super::maps::IdMaps;

const CAPABILITY: &[u8] = b"security.capability";

/// `VFS_CAP_REVISION_MASK` and what it selects (`capabilities(7)`).
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// An attribute of an image as it has to be on the disk to mean the same in a user namespace with these maps; `None` when
/// that cannot be said there.
pub(crate) fn to_disk(maps: &IdMaps, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    match name {
        CAPABILITY => rooted(value, |root| maps.uid_to_outside(root)),
        _ if is_access_list(name) => {
            access_list(value, |uid| maps.uid_to_outside(uid), |gid| maps.gid_to_outside(gid))
        }
        _ => Some(value.to_vec()),
    }
}

/// The way back. What names ids outside of the maps stays as it is.
pub(crate) fn from_disk(maps: &IdMaps, name: &[u8], value: Vec<u8>) -> Vec<u8> {
    let inside = match name {
        CAPABILITY => rooted(&value, |root| maps.uid_to_inside(root)).map(plain),
        _ if is_access_list(name) => {
            access_list(&value, |uid| maps.uid_to_inside(uid), |gid| maps.gid_to_inside(gid))
        }
        _ => None,
    };
    inside.unwrap_or(value)
}

fn is_access_list(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Capabilities of revision 3, which name the root they are for, or of revision 2, which are root's of everywhere.
fn rooted(value: &[u8], root: impl Fn(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let magic = number(value, 0)?;
    let named = match (magic & REVISION, value.len()) {
        (REVISION_2, 20) => 0,
        (REVISION_3, 24) => number(value, 20)?,
        _ => return None,
    };
    let magic = magic & !REVISION | REVISION_3;
    Some([&magic.to_le_bytes()[..], &value[4..20], &root(named)?.to_le_bytes()].concat())
}

/// Capabilities for the root of everywhere in the form that images have.
fn plain(value: Vec<u8>) -> Vec<u8> {
    match (number(&value, 0), number(&value, 20)) {
        (Some(magic), Some(0)) => {
            [&(magic & !REVISION | REVISION_2).to_le_bytes()[..], &value[4..20]].concat()
        }
        _ => value,
    }
}

/// A version and entries of tag, permissions and id, the last of which means something for users and groups with a name.
fn access_list(
    value: &[u8],
    uid: impl Fn(u32) -> Option<u32>,
    gid: impl Fn(u32) -> Option<u32>,
) -> Option<Vec<u8>> {
    const USER: u8 = 0x02;
    const GROUP: u8 = 0x08;
    let mut value = value.to_vec();
    for entry in value.get_mut(4..)?.chunks_exact_mut(8) {
        let id = number(entry, 4)?;
        let id = match entry[0] {
            USER => uid(id)?,
            GROUP => gid(id)?,
            _ => continue,
        };
        entry[4..].copy_from_slice(&id.to_le_bytes());
    }
    Some(value)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::maps::IdRange;
    use super::*;

    #[test]
    fn ids_in_attributes_go_there_and_back() {
        let ranges = [IdRange::new(0, 1500, 1), IdRange::new(1, 100_000, 1000)];
        let maps = IdMaps::new(ranges, ranges);
        // cap_net_raw=ep, as images have it.
        let capability = [&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
        let disk = to_disk(&maps, CAPABILITY, &capability).unwrap();
        assert_eq!(disk.len(), 24);
        assert_eq!((disk[3], number(&disk, 20)), (3, Some(1500)));
        assert_eq!(from_disk(&maps, CAPABILITY, disk), capability);
        assert_eq!(to_disk(&maps, CAPABILITY, b"nonsense"), None);

        let entry = |tag: u8, id: u32| [&[tag, 0, 6, 0][..], &id.to_le_bytes()].concat();
        let list = |user, group| {
            [&[2, 0, 0, 0][..], &entry(1, u32::MAX), &entry(2, user), &entry(8, group), &entry(16, u32::MAX)]
                .concat()
        };
        let name = b"system.posix_acl_access";
        assert_eq!(to_disk(&maps, name, &list(999, 0)), Some(list(100_998, 1500)));
        assert_eq!(from_disk(&maps, name, list(100_998, 1500)), list(999, 0));
        assert_eq!(to_disk(&maps, name, &list(5000, 0)), None);
        assert_eq!(from_disk(&maps, b"user.x", b"y".to_vec()), b"y");
    }
}
