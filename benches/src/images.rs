//! Images to unpack, made in code: the same bytes on every host, compressing about as well as real ones.

use std::error::Error;

use image_layers::{Compression, Image, ImageBuilder, LayerBuilder, Store};

/// What is built, by name: a system of 9,000 files and 150 MB, 50,000 small files (3 KiB at the mean, 170 MB), and five layers
/// of 8,000 files and 50 MB each.
pub const NAMES: [&str; 3] = ["system", "small", "five"];

/// The compressions, as tags.
pub const TAGS: [&str; 2] = ["gz", "zst"];

/// Builds `name` into the store as `name:tag`.
pub fn build(store: &Store, name: &str, tag: &str) -> Result<Image, Box<dyn Error>> {
    let compression = if tag == "gz" { Compression::Gzip } else { Compression::Zstd };
    let mut image = ImageBuilder::new().compression(compression);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for layer in 0..if name == "five" { 5 } else { 1 } {
        image = image.layer(match name {
            "system" => tree(&mut random, layer, 9_000, 20_000),
            "small" => tree(&mut random, layer, 50_000, 4_000),
            _ => tree(&mut random, layer, 8_000, 7_500),
        });
    }
    Ok(image.build(store, Some(&format!("{name}:{tag}").parse()?))?)
}

/// Files in directories of a dozen. Sizes spread around `mean / 2`, so that most files are small and most bytes are in few
/// large ones, as everywhere.
fn tree(random: &mut Random, layer: u64, files: u64, mean: u64) -> LayerBuilder {
    let mut builder = LayerBuilder::new();
    let mut directory = String::new();
    for file in 0..files {
        if file % 12 == 0 {
            directory = format!("usr/lib/layer{layer}/p{}/d{}/e{}", random.below(40), random.below(60), file);
        }
        let size = match random.below(100) {
            0 => mean * 30,
            1..=9 => mean * 3,
            10..=49 => mean / 2,
            _ => mean / 8,
        };
        let size = random.below(2 * size + 1);
        let mode = if random.below(10) == 0 { 0o755 } else { 0o644 };
        builder = builder.content(format!("{directory}/file{file}"), content(random, size), mode);
        if random.below(20) == 0 {
            builder = builder.symlink(format!("{directory}/link{file}"), format!("file{file}"));
        }
    }
    builder
}

/// Words, repetitions and noise, so that it packs as well and unpacks as fast as what it stands for: 2.9 and 3.3 to 1 for
/// system and small files with gzip, 3.5 and 4.1 with zstd. A Debian root with its packages has 2.8 and 3.3, with a tree
/// of Node modules 3.3 and 3.8.
fn content(random: &mut Random, size: u64) -> Vec<u8> {
    let size = size as usize;
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        let word = random.next();
        match word % 100 {
            0..7 => (0..3).for_each(|_| bytes.extend_from_slice(&random.next().to_le_bytes())),
            7..27 if bytes.len() > 64 => {
                let len = (8 + random.below(60) as usize).min(bytes.len() - 32);
                let back = random.below((bytes.len() - len).min(8_000) as u64) as usize;
                let from = bytes.len() - len - back;
                bytes.extend_from_within(from..from + len);
            }
            _ => {
                // Common words are short and come often.
                let rank = ((word >> 8 & 0xfff) * (word >> 20 & 0xfff)) >> 12;
                bytes.extend_from_slice(format!("{:x} ", (rank * 2_654_435) >> 3).as_bytes());
            }
        }
    }
    bytes.truncate(size);
    bytes
}

/// Numbers that are the same every time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n.max(1)
    }
}
