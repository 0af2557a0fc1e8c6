//! Blocks that are filled side by side with inodes and the ends of files.

use super::format::{BLOCK, SLOT};

/// Blocks of a shelf. All of them stay open, so that a large item that does not fit behind the last one does not waste the
/// rest of its block.
const BLOCKS: usize = 64;

/// Bytes of a shelf.
pub(super) const LEN: u64 = BLOCKS as u64 * BLOCK;

#[derive(Debug)]
pub(super) struct Shelf {
    /// Where it is in the image.
    start: u64,
    bytes: Vec<u8>,
    used: [u16; BLOCKS],
    /// Blocks before this one are full.
    first: usize,
}

impl Shelf {
    pub(super) fn new(start: u64) -> Shelf {
        Shelf { start, bytes: vec![0; LEN as usize], used: [0; BLOCKS], first: 0 }
    }

    /// The same memory at another place.
    pub(super) fn reuse(&mut self, start: u64) {
        self.start = start;
        self.bytes.fill(0);
        self.used = [0; BLOCKS];
        self.first = 0;
    }

    /// Finds room for `len` bytes within one block, at most a block; the offset in the image.
    pub(super) fn place(&mut self, len: u64) -> Option<u64> {
        let fits = |&used: &u16| u64::from(used) + len <= BLOCK;
        let block = self.first + self.used[self.first..].iter().position(fits)?;
        let used = u64::from(self.used[block]);
        self.used[block] = (used + len).next_multiple_of(SLOT) as u16;
        while self.first < BLOCKS - 1 && u64::from(self.used[self.first]) + SLOT > BLOCK {
            self.first += 1;
        }
        Some(self.start + block as u64 * BLOCK + used)
    }

    /// The bytes from an offset in the image on.
    pub(super) fn at(&mut self, offset: u64) -> &mut [u8] {
        &mut self.bytes[(offset - self.start) as usize..]
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The blocks that hold something; those behind them are empty.
    pub(super) fn filled(&self) -> &[u8] {
        let blocks = self.used.iter().position(|&used| used == 0).unwrap_or(BLOCKS);
        &self.bytes[..blocks * BLOCK as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_fit_within_blocks() {
        let mut shelf = Shelf::new(BLOCK);
        assert_eq!(shelf.place(3000), Some(4096));
        assert_eq!(shelf.place(3000), Some(8192));
        assert_eq!(shelf.place(1000), Some(4096 + 3008));
        assert_eq!(shelf.place(100), Some(8192 + 3008));
        assert_eq!(shelf.place(64), Some(4096 + 4032));
        assert_eq!(shelf.first, 1);
        assert_eq!(shelf.filled().len(), 2 * 4096);
        for block in 2..BLOCKS as u64 {
            assert_eq!(shelf.place(BLOCK), Some(BLOCK + block * BLOCK));
        }
        assert_eq!(shelf.place(2000), None);
        assert_eq!(shelf.place(960), Some(8192 + 3136));
        assert_eq!(shelf.place(32), None);
        assert_eq!(shelf.filled().len() as u64, LEN);
        shelf.reuse(0);
        assert_eq!(shelf.place(32), Some(0));
    }
}
