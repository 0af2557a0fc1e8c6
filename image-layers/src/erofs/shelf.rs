//! Blocks that are filled side by side with inodes and the ends of files.

use super::format::{BLOCK, SLOT};

/// Blocks of a shelf. All of them stay open, so that a large item that does not fit behind the last one does not waste the
/// rest of its block.
const BLOCKS: usize = 64;

/// Bytes of a shelf.
pub(super) const LEN: u64 = BLOCKS as u64 * BLOCK;

#[derive(Debug)]
pub(super) struct Shelf {
    bytes: Vec<u8>,
    used: [u16; BLOCKS],
    /// Blocks before this one are full.
    first: usize,
}

impl Shelf {
    /// One that has no room until it is [emptied](Shelf::empty).
    pub(super) fn full() -> Shelf {
        Shelf { bytes: vec![0; LEN as usize], used: [0; BLOCKS], first: BLOCKS }
    }

    pub(super) fn empty(&mut self) {
        self.filled_mut().fill(0);
        self.used = [0; BLOCKS];
        self.first = 0;
    }

    /// Finds room for `len` bytes within one block, at most a block; the offset on the shelf.
    pub(super) fn place(&mut self, len: u64) -> Option<u64> {
        let fits = |&used: &u16| u64::from(used) + len <= BLOCK;
        let block = self.first + self.used[self.first..].iter().position(fits)?;
        let used = u64::from(self.used[block]);
        self.used[block] = (used + len).next_multiple_of(SLOT) as u16;
        while self.first < BLOCKS - 1 && u64::from(self.used[self.first]) + SLOT > BLOCK {
            self.first += 1;
        }
        Some(block as u64 * BLOCK + used)
    }

    /// The bytes from an offset on.
    pub(super) fn at(&mut self, offset: u64) -> &mut [u8] {
        &mut self.bytes[offset as usize..]
    }

    /// Hands out the blocks that hold something, once: there is no room any more. Those behind them are empty.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        let full = std::mem::replace(&mut self.first, BLOCKS) == BLOCKS;
        let filled = self.filled_mut();
        (!full && !filled.is_empty()).then_some(filled)
    }

    fn filled_mut(&mut self) -> &mut [u8] {
        let blocks = self.used.iter().position(|&used| used == 0).unwrap_or(BLOCKS);
        &mut self.bytes[..blocks * BLOCK as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fit_within_blocks() {
        let mut shelf = Shelf::full();
        assert_eq!(shelf.place(32), None);
        shelf.empty();
        assert_eq!(shelf.place(3000), Some(0));
        assert_eq!(shelf.place(3000), Some(4096));
        assert_eq!(shelf.place(1000), Some(3008));
        assert_eq!(shelf.place(100), Some(4096 + 3008));
        assert_eq!(shelf.place(64), Some(4032));
        assert_eq!(shelf.first, 1);
        assert_eq!(shelf.filled_mut().len(), 2 * 4096);
        for block in 2..BLOCKS as u64 {
            assert_eq!(shelf.place(BLOCK), Some(block * BLOCK));
        }
        assert_eq!(shelf.place(2000), None);
        assert_eq!(shelf.place(960), Some(4096 + 3136));
        assert_eq!(shelf.place(32), None);
        shelf.at(4096)[0] = 1;
        assert_eq!(shelf.take().map(<[u8]>::len), Some(LEN as usize));
        assert_eq!(shelf.take(), None);
        shelf.empty();
        assert_eq!(shelf.place(32), Some(0));
        shelf.at(0)[0] = 1;
        assert_eq!(shelf.place(BLOCK), Some(4096));
        assert_eq!(shelf.at(4096)[0], 0);
        assert_eq!(shelf.take().map(<[u8]>::len), Some(2 * 4096));
        assert_eq!(shelf.place(32), None);
    }
}
