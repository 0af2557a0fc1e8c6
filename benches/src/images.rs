//! Images to unpack, made in code: the same bytes on every host, compressing about as well as real ones.

use std::error::Error;

use image_layers::{Compression, Image, ImageBuilder, LayerBuilder, Store};

/// What is built, by name: a system of 9,000 files and 150 MB, 50,000 small files, and five layers.
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
            "system" => tree(&mut random, layer, 9_000, 34_000),
            "small" => tree(&mut random, layer, 50_000, 9_000),
            _ => tree(&mut random, layer, 8_000, 13_000),
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

/// Three quarters words, one quarter noise.
fn content(random: &mut Random, size: u64) -> Vec<u8> {
    let size = size as usize;
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        let word = random.next();
        if word & 31 == 0 {
            (0..6).for_each(|_| bytes.extend_from_slice(&random.next().to_le_bytes()));
        } else {
            // Common words are short and come often.
            let rank = ((word >> 8 & 0xfff) * (word >> 20 & 0xfff)) >> 12;
            bytes.extend_from_slice(format!("{:x} ", (rank * 2_654_435) >> 3).as_bytes());
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
