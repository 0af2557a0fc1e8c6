//! Entrances for the fuzz targets in `fuzz/`; not part of the crate otherwise.
#![allow(missing_docs, clippy::missing_errors_doc)]

use crate::decode::Decoder;
use crate::tar::{Buffered, Kind, Reader, Writer};
use crate::{Limits, Result};

fn limits() -> Limits {
    Limits {
        layer_bytes: 16 << 20,
        window_bytes: 8 << 20,
        header_bytes: 64 << 10,
        entries: 10_000,
        ..Limits::default()
    }
}

/// Decodes; the output is bounded whatever comes in.
pub fn decode(data: &[u8]) -> Result<()> {
    let mut decoder = Decoder::new(data, &limits());
    let mut buffer = [0; 4096];
    while decoder.decode(&mut buffer)? > 0 {}
    Ok(())
}

/// Reads an archive; what was read is written again and has to come back the same.
pub fn tar(data: &[u8]) -> Result<()> {
    let mut reader = Reader::new(Buffered::new(data), &limits());
    let mut writer = Writer::new(Vec::new());
    let mut entries = Vec::new();
    while let Some(mut entry) = reader.next()? {
        entry.sparse = None;
        if entry.kind == Kind::File {
            entry.size = reader.left();
        }
        if writer.entry(&entry).is_err() {
            break;
        }
        while reader.left() > 0 {
            let bytes = reader.body()?.to_vec();
            reader.consume(bytes.len());
            writer.body(&bytes).expect("exactly the size");
        }
        entries.push(entry);
    }
    let written = writer.finish().expect("written to memory");
    let mut reader = Reader::new(Buffered::new(&written[..]), &Limits::default());
    for mut entry in entries {
        let mut again = reader.next().expect("our own archive").expect("as many entries");
        for entry in [&mut entry, &mut again] {
            entry.xattrs.sort();
            while entry.kind == Kind::Directory && entry.name.len() > 1 && entry.name.ends_with(b"/") {
                entry.name.pop();
            }
        }
        assert_eq!(entry, again);
    }
    Ok(())
}

/// Both: a compressed archive with all its names taken apart.
pub fn layer(data: &[u8]) -> Result<()> {
    let decoder = Decoder::new(data, &limits());
    let mut reader = Reader::new(Buffered::new(decoder), &limits());
    while let Some(entry) = reader.next()? {
        let path = crate::apply::path::EntryPath::parse(&entry.name)?;
        for part in path.parts() {
            assert!(
                !part.is_empty()
                    && *part != b"."
                    && *part != b".."
                    && !part.contains(&b'/')
                    && !part.contains(&0)
            );
            let _ = crate::apply::path::Name::classify(part);
        }
    }
    Ok(())
}
