//! One archive for each form that headers take in the wild, written byte by byte.

use super::header::Header;
use super::*;
use crate::{Error, Limits, Result};

/// A header block in the making.
struct Raw([u8; BLOCK]);

impl Raw {
    fn new(name: &[u8], flag: u8, size: u64) -> Raw {
        let mut raw = Raw([0; BLOCK]);
        raw.put(0, name);
        raw.put(100, b"0000644\0");
        raw.put(124, format!("{size:011o}\0").as_bytes());
        raw.put(136, b"00000001750\0");
        raw.put(156, &[flag]);
        raw.put(257, b"ustar\x0000");
        raw
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Raw {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn gnu(mut self) -> Raw {
        self.put(257, b"ustar  \0");
        self
    }

    /// With its checksum, and a body behind it.
    fn block(&mut self, body: &[u8]) -> Vec<u8> {
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        [&self.0[..], &padded(body)].concat()
    }
}

fn padded(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(BLOCK), 0);
    body
}

fn file(name: &str, body: &[u8]) -> Vec<u8> {
    Raw::new(name.as_bytes(), b'0', body.len() as u64).block(body)
}

/// A PAX header in front of an entry.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let len = (1..).find(|len| *len == rest + len.to_string().len()).unwrap();
        body.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
    }
    Raw::new(b"pax", b'x', body.len() as u64).block(&body)
}

/// All entries with their contents, holes filled with zeros.
fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(Buffered::new(archive), &Limits::default());
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut stored = Vec::new();
        while reader.left() > 0 {
            let bytes = reader.body()?.to_vec();
            reader.consume(bytes.len());
            stored.extend(bytes);
        }
        let mut content = vec![0; entry.size as usize];
        let mut from = 0;
        for extent in entry.sparse.clone().unwrap_or(vec![Extent { offset: 0, len: entry.size }]) {
            let (at, len) = (extent.offset as usize, extent.len as usize);
            content[at..at + len].copy_from_slice(&stored[from..from + len]);
            from += len;
        }
        all.push((entry, content));
    }
    Ok(all)
}

fn one(archive: &[u8]) -> (Entry, Vec<u8>) {
    let mut all = read(&[archive, &file("after", b"a")].concat()).unwrap();
    assert_eq!(all.len(), 2, "the next entry is found");
    assert_eq!((&all[1].0.name[..], &all[1].1[..]), (&b"after"[..], &b"a"[..]));
    all.remove(0)
}

fn holes(size: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut content = vec![0; size];
    for (at, bytes) in parts {
        content[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    content
}

#[test]
fn sparse_in_the_old_gnu_form_with_more_parts_than_a_header_holds() {
    let parts: Vec<(usize, Vec<u8>)> = (0..27).map(|i| (i * 4096, vec![b'a' + i as u8; 512])).collect();
    let pair = |(offset, len): (usize, usize)| format!("{offset:011o}\0{len:011o}\0").into_bytes();
    let mut map = parts.iter().map(|(offset, bytes)| pair((*offset, bytes.len())));
    let body: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let mut raw = Raw::new(b"s", b'S', body.len() as u64).gnu();
    raw.put(386, &map.by_ref().take(4).flatten().collect::<Vec<_>>());
    raw.put(482, &[1]).put(483, format!("{:011o}\0", 200_000).as_bytes());
    let mut archive = raw.block(b"");
    for last in [false, true] {
        let mut block = map.by_ref().take(21).flatten().collect::<Vec<_>>();
        block.resize(BLOCK, 0);
        block[504] = u8::from(!last);
        archive.extend(block);
    }
    archive.extend(&body);
    let (entry, content) = one(&archive);
    let expected: Vec<_> = parts.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    assert_eq!((entry.size, content), (200_000, holes(200_000, &expected)));
}

#[test]
fn sparse_in_the_pax_forms() {
    let body = b"AAAABB";
    let expected = holes(9000, &[(512, b"AAAA"), (8192, b"BB")]);
    let zero = pax(&[
        ("GNU.sparse.size", "9000"),
        ("GNU.sparse.numblocks", "3"),
        ("GNU.sparse.offset", "512"),
        ("GNU.sparse.numbytes", "4"),
        ("GNU.sparse.offset", "8192"),
        ("GNU.sparse.numbytes", "2"),
        ("GNU.sparse.offset", "9000"),
        ("GNU.sparse.numbytes", "0"),
    ]);
    let (entry, content) = one(&[zero, file("zero", body)].concat());
    assert_eq!((&entry.name[..], content), (&b"zero"[..], expected.clone()));
    let one_map =
        [("GNU.sparse.size", "9000"), ("GNU.sparse.name", "d/one"), ("GNU.sparse.map", "512,4,8192,2")];
    let (entry, content) = one(&[pax(&one_map), file("GNUSparseFile.1/one", body)].concat());
    assert_eq!((&entry.name[..], content), (&b"d/one"[..], expected.clone()));
    let in_body = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "d/two"),
        ("GNU.sparse.realsize", "9000"),
    ];
    let mapped = [&padded(b"2\n512\n4\n8192\n2\n")[..], body].concat();
    let (entry, content) = one(&[pax(&in_body), file("GNUSparseFile.2/two", &mapped)].concat());
    assert_eq!((&entry.name[..], content), (&b"d/two"[..], expected));
}

#[test]
fn sparse_maps_that_do_not_add_up_are_refused() {
    for map in ["0,4", "0,8", "4,4,0,2", "0,4,2,2", "8999,6", "0,4,8", "0,x", "18446744073709551615,6"] {
        let records = [("GNU.sparse.size", "9000"), ("GNU.sparse.map", map)];
        let archive = [pax(&records), file("s", b"AAAABB")].concat();
        assert!(matches!(read(&archive), Err(Error::InvalidLayer { .. })), "{map}");
    }
    for version in [("2", "0"), ("1", "1")] {
        let records = [("GNU.sparse.major", version.0), ("GNU.sparse.minor", version.1)];
        assert!(matches!(
            read(&[pax(&records), file("s", b"")].concat()),
            Err(Error::UnsupportedLayer { .. })
        ));
    }
}

#[test]
fn old_and_foreign_headers() {
    // Before POSIX there is no magic, and a name with a slash at its end is a directory.
    let mut v7 = Raw::new(b"d/", 0, 0);
    v7.put(257, &[0; 8]).put(345, b"not a prefix");
    let (entry, _) = one(&v7.block(b""));
    assert_eq!((entry.kind, &entry.name[..]), (Kind::Directory, &b"d/"[..]));
    let mut star = Raw::new(b"name", b'0', 0);
    star.put(345, b"prefix").put(476, b"00000001750 ").put(508, b"tar\0");
    assert_eq!(one(&star.block(b"")).0.name, b"prefix/name");
    let mut ustar = Raw::new(b"name", b'7', 1);
    ustar.put(345, &[b'p'; 155]);
    assert_eq!(one(&ustar.block(b"x")).0.name, [&[b'p'; 155][..], b"/name"].concat());
    // A GNU header has times where the prefix would be.
    let mut gnu = Raw::new(b"name", b'0', 0).gnu();
    gnu.put(345, b"00000001750\0");
    assert_eq!(one(&gnu.block(b"")).0.name, b"name");
    // Incremental dumps list names in the body of a directory; a volume label is nothing at all.
    let (entry, _) =
        one(&[Raw::new(b"label", b'V', 0).block(b""), Raw::new(b"d", b'D', 4).block(b"Yab\0")].concat());
    assert_eq!(entry.kind, Kind::Directory);
    // Signed checksums of old writers.
    let mut raw = Raw::new(b"caf\xe9", b'0', 0);
    raw.put(148, b"        ");
    let sum: i32 = raw.0.iter().map(|&byte| i32::from(byte as i8)).sum();
    raw.put(148, format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(one(&raw.0).0.name, b"caf\xe9");
}

#[test]
fn long_names_and_targets_in_either_order() {
    let (name, target) = ([b'n'; 300], [b't'; 200]);
    let long = |flag, text: &[u8]| {
        Raw::new(b"././@LongLink", flag, text.len() as u64 + 1).gnu().block(&[text, b"\0"].concat())
    };
    for order in [[b'L', b'K'], [b'K', b'L']] {
        let mut archive = Vec::new();
        for flag in order {
            archive.extend(long(flag, if flag == b'L' { &name } else { &target }));
        }
        archive.extend(Raw::new(b"short", b'2', 0).gnu().put(157, b"cut").block(b""));
        let (entry, _) = one(&archive);
        assert_eq!((&entry.name[..], entry.kind), (&name[..], Kind::Symlink { target: target.to_vec() }));
    }
}

#[test]
fn numbers_times_and_ids() {
    let mut raw = Raw::new(b"f", b'0', 0);
    raw.put(100, b" 104755 ").put(108, &[0x80, 0, 0, 0, 0xb6, 0x59, 0x9b, 0xa8]).put(116, b"     6 \0");
    raw.put(136, &[0xff; 12]);
    let (entry, _) = one(&raw.block(b""));
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o4755, 3_059_325_864, 6));
    assert_eq!(entry.mtime, Timestamp { secs: -1, nanos: 0 });
    let records =
        [("mtime", "-1.25"), ("uid", "4294967294"), ("SCHILY.xattr.user.a", "v"), ("VENDOR.x", "ignored")];
    let (entry, _) = one(&[pax(&records), file("f", b"")].concat());
    assert_eq!(entry.mtime, Timestamp { secs: -2, nanos: 750_000_000 });
    assert_eq!((entry.uid, entry.xattrs), (4_294_967_294, vec![(b"user.a".to_vec(), b"v".to_vec())]));
    for (at, field) in [
        (108, &[0x80, 0, 0, 1, 0, 0, 0, 0][..]),
        (108, &[0xff; 8]),
        (124, &[0xff; 12]),
        (136, b"12345x78901\0"),
    ] {
        let archive = Raw::new(b"f", b'0', 0).put(at, field).block(b"");
        assert!(matches!(read(&archive), Err(Error::InvalidLayer { .. })), "{field:?}");
    }
    // The body of a link is not there, whatever its size says.
    let (entry, _) = one(&Raw::new(b"l", b'1', 4096).put(157, b"f").block(b""));
    assert_eq!(entry.kind, Kind::HardLink { target: b"f".to_vec() });
}

#[test]
fn limits_hold() {
    let within = |archive: &[u8], limits: Limits| {
        let mut reader = Reader::new(Buffered::new(archive), &limits);
        loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(Error::LimitExceeded { name, .. }) => return Some(name),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let many: Vec<u8> = (0..10).flat_map(|i| file(&i.to_string(), b"")).collect();
    assert_eq!(within(&many, Limits { entries: 9, ..Limits::default() }), Some("entries"));
    assert_eq!(within(&many, Limits { entries: 10, ..Limits::default() }), None);
    let long = "x".repeat(300);
    let named = [pax(&[("path", &long)]), file("f", b"")].concat();
    assert_eq!(within(&named, Limits { name_bytes: 299, ..Limits::default() }), Some("name_bytes"));
    assert_eq!(within(&named, Limits { header_bytes: 300, ..Limits::default() }), Some("header_bytes"));
    let attributed = [pax(&[("SCHILY.xattr.user.a", &long)]), file("f", b"")].concat();
    assert_eq!(within(&attributed, Limits { xattr_bytes: 305, ..Limits::default() }), Some("xattr_bytes"));
    assert_eq!(within(&attributed, Limits::default()), None);
    // Headers count together, not one by one.
    let half = pax(&[("comment", &"c".repeat(600))]);
    let twice = [&half[..], &half, &file("f", b"")].concat();
    assert_eq!(within(&twice, Limits { header_bytes: 1000, ..Limits::default() }), Some("header_bytes"));
    let each = [&half[..], &file("f", b""), &half, &file("g", b"")].concat();
    assert_eq!(within(&each, Limits { header_bytes: 1000, ..Limits::default() }), None);
    let records = [("GNU.sparse.size", "5000"), ("GNU.sparse.map", "0,1")];
    let sparse = [pax(&records), file("s", b"x"), pax(&records), file("t", b"x")].concat();
    assert_eq!(within(&sparse, Limits { layer_bytes: 9_999, ..Limits::default() }), Some("layer_bytes"));
    assert_eq!(within(&sparse, Limits { layer_bytes: 10_000, ..Limits::default() }), None);
}

#[test]
fn a_header_tells_its_format() {
    let format = |magic: &[u8]| {
        let mut raw = Raw::new(b"f", b'0', 0);
        raw.put(257, magic);
        let block: [u8; BLOCK] = raw.block(b"").try_into().unwrap();
        format!("{:?}", Header::parse(&block, 0).unwrap().format())
    };
    assert_eq!(format(b"ustar\x0000"), "Ustar");
    assert_eq!(format(b"ustar  \0"), "Gnu");
    assert_eq!(format(&[0; 8]), "V7");
}
