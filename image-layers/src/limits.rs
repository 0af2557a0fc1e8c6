//! Ceilings that keep hostile or broken input from taking all memory, time or space.

/// What an image may ask for at most. The defaults are far above any real image and far below what hurts a host.
///
/// ```
/// let mut limits = image_layers::Limits::default();
/// limits.layer_bytes = 2 << 30; // no layer may unpack to more than 2 GiB
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one JSON document: index, manifest, configuration. Default 4 MiB, as registries have it.
    pub json_bytes: u64,
    /// Levels of indexes within indexes. Default 8.
    pub index_depth: usize,
    /// Images that one input lists, each platform counted. Default 10,000.
    pub images: usize,
    /// Layers of one image. Default 4096.
    pub layers: usize,
    /// Members of an image archive. Default 20,000.
    pub members: u64,
    /// Decoded bytes of a compressed archive of images. Default 1 TiB.
    pub archive_bytes: u64,
    /// Entries of one layer. Default 4 million.
    pub entries: u64,
    /// Memory for names and metadata of one layer, in bytes. Default 512 MiB, enough for about four million entries.
    pub index_bytes: u64,
    /// Bytes of one path or link target. Default 64 KiB.
    pub name_bytes: u64,
    /// Bytes of all extended attributes of one entry. Default 1 MiB.
    pub xattr_bytes: u64,
    /// Bytes of all extended tar headers (PAX records, GNU long names) of one entry. Default 4 MiB.
    pub header_bytes: u64,
    /// Decoded bytes of one layer. Default 256 GiB.
    pub layer_bytes: u64,
    /// Decoded bytes for each compressed byte of a layer, once more than 64 MiB are decoded. Default 2000
    /// (gzip cannot exceed 1032; zstd of zeros can).
    pub ratio: u64,
    /// Window a zstd decoder may allocate, in bytes. Default 128 MiB.
    pub window_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            json_bytes: 4 << 20,
            index_depth: 8,
            images: 10_000,
            layers: 4096,
            members: 20_000,
            archive_bytes: 1 << 40,
            entries: 4_000_000,
            index_bytes: 512 << 20,
            name_bytes: 64 << 10,
            xattr_bytes: 1 << 20,
            header_bytes: 4 << 20,
            layer_bytes: 256 << 30,
            ratio: 2000,
            window_bytes: 128 << 20,
        }
    }
}
