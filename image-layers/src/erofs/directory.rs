//! The content of directories: blocks of sorted entries, each followed by the names of its entries.

use super::format::{BLOCK, DIRENT, put};

/// Bytes of a directory with these names. All blocks but the last count in full.
pub(super) fn size<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for name in names {
        let len = (DIRENT + name.len()) as u64;
        if used + len > BLOCK {
            (full, used) = (full + 1, 0);
        }
        used += len;
    }
    full * BLOCK + used
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) file_type: u8,
}

/// Encodes entries, sorted by name, block by block; the last block is as short as [`size`] says.
pub(super) fn blocks<'a, E>(
    entries: impl Iterator<Item = Result<Dirent<'a>, E>>,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block: Vec<Dirent<'a>> = Vec::new();
    let mut used = 0;
    for entry in entries {
        let entry = entry?;
        let len = DIRENT + entry.name.len();
        if used + len > BLOCK as usize {
            let mut bytes = encode(&block, used);
            bytes.resize(BLOCK as usize, 0);
            each(&bytes)?;
            block.clear();
            used = 0;
        }
        block.push(entry);
        used += len;
    }
    each(&encode(&block, used))
}

fn encode(entries: &[Dirent<'_>], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut name_at = entries.len() * DIRENT;
    for (i, entry) in entries.iter().enumerate() {
        let at = i * DIRENT;
        put(&mut bytes, at, &entry.nid.to_le_bytes());
        put(&mut bytes, at + 8, &(name_at as u16).to_le_bytes());
        bytes[at + 10] = entry.file_type;
        put(&mut bytes, name_at, entry.name);
        name_at += entry.name.len();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_what_is_encoded() {
        // Names that end exactly at the border of a block, one byte before it and one behind it.
        for last in [231, 232, 233, 255] {
            let mut names: Vec<Vec<u8>> = (0..15u8).map(|i| vec![b'a' + i; 245]).collect();
            names.push(vec![b'z'; last]);
            names.push(vec![b'z'; 255]);
            let mut total = 0;
            let entries = names.iter().map(|name| Ok::<_, ()>(Dirent { name, nid: 1, file_type: 1 }));
            blocks(entries, |bytes| {
                assert!(bytes.len() <= 4096);
                total += bytes.len() as u64;
                Ok(())
            })
            .unwrap();
            assert_eq!(total, size(names.iter().map(Vec::as_slice)), "{last}");
        }
    }
}
