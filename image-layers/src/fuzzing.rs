//! Entrances for the fuzz targets in `fuzz/`; not part of the crate otherwise.
#![allow(missing_docs, clippy::missing_errors_doc)]

use std::io::{Cursor, Read};
use std::path::Path;

use crate::apply::index;
use crate::apply::tree::{NodeId, NodeKind, Tree, Visit, Walk};
use crate::decode::{Compression, Decoder};
use crate::document::{ImageConfig, Index, Manifest};
use crate::owners::Owners;
use crate::progress::{Control, Step};
use crate::snapshot::{LayerJob, SnapshotKind, remove_tree, snapshotter, unpack};
use crate::tar::{Buffered, Kind, Reader, Writer};
use crate::{Class, Digest, Limits, Platform, Reference, Result};

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

/// Documents and names, whatever stands in them.
pub fn documents(data: &[u8]) {
    let _ = Index::parse("fuzzed", data);
    let _ = Manifest::parse("fuzzed", data);
    if let Ok(config) = ImageConfig::parse("fuzzed", data) {
        let _ = config.args();
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse::<Reference>().expect("our own form"), reference);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().expect("our own form"), platform);
    }
}

/// One layer as a directory and as an EROFS image: both refuse it, or both hold the same.
pub fn backends(data: &[u8]) {
    if !matches!(Compression::detect(data), Ok(Compression::None)) {
        return;
    }
    let dir = std::env::temp_dir().join(format!("image-layers-fuzz-{}", std::process::id()));
    let unpacked = [SnapshotKind::Copy, SnapshotKind::Erofs].map(|kind| {
        let scratch = dir.join(kind.as_str());
        std::fs::create_dir_all(&scratch).expect("a directory for the fuzzer");
        let result = one_layer(kind, data, &scratch);
        (kind, scratch, result)
    });
    match &unpacked {
        [(_, copy, Ok(one)), (_, erofs, Ok(other))] => same(copy, one, erofs, other),
        [(_, _, one), (_, _, other)] => {
            let classes = [one, other].map(|result| result.as_ref().err().map(crate::Error::class));
            // Each has its own limits of what it can store.
            let own = classes.iter().any(|class| matches!(class, Some(Class::Unsupported | Class::Io)));
            assert!(own || classes[0] == classes[1], "{one:?} {other:?}");
        }
    }
    remove_tree(&dir).expect("the directory of the fuzzer goes");
}

fn one_layer(kind: SnapshotKind, data: &[u8], scratch: &Path) -> Result<Tree> {
    let control = Control { limits: limits(), ..Control::default() };
    let data = data.to_vec();
    let job = LayerJob {
        diff_id: Digest::sha256(&data),
        scratch: scratch.to_owned(),
        control: control.layer(Step::Unpack, 0, 1, data.len() as u64),
        open: Box::new(move || Ok(Box::new(Cursor::new(data)))),
    };
    unpack(&*snapshotter(kind, &Owners::Plain), &[], vec![job], &mut |_, scratch| Ok(scratch.to_owned()))?;
    Ok(index::read(&scratch.join(index::FILE)).expect("our own index"))
}

fn same(copy: &Path, one: &Tree, erofs: &Path, other: &Tree) {
    let root = copy.join(snapshotter(SnapshotKind::Copy, &Owners::Plain).content());
    let image = erofs.join(snapshotter(SnapshotKind::Erofs, &Owners::Plain).content());
    let mut walk = Walk::new(NodeId::ROOT);
    let mut count = 0;
    while let Some(visit) = walk.next(one) {
        let Visit::Enter(id) = visit else { continue };
        count += 1;
        let path = one.path(id);
        let parts: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|part| !part.is_empty()).collect();
        let there = parts.iter().try_fold(NodeId::ROOT, |at, part| other.child(at, part));
        let (a, b) = (one.node(id), other.node(there.expect("the same names")));
        assert_eq!((a.kind, a.mode, a.uid, a.gid), (b.kind, b.mode, b.uid, b.gid));
        assert_eq!((a.mtime(), a.size), (b.mtime(), b.size));
        if a.kind == NodeKind::File && a.size < 1 << 20 {
            let path = root.join(std::os::unix::ffi::OsStrExt::from_bytes(&path[..]) as &std::ffi::OsStr);
            let mut body = Vec::new();
            let mut content = crate::erofs::Content::open(&image, b.data).expect("an inode");
            content.read_to_end(&mut body).expect("a body");
            assert_eq!(std::fs::read(path).expect("a file"), body);
        }
    }
    let mut walk = Walk::new(NodeId::ROOT);
    let others = std::iter::from_fn(|| walk.next(other)).filter(|visit| matches!(visit, Visit::Enter(_)));
    assert_eq!(others.count(), count);
}
