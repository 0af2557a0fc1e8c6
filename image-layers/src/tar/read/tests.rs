use super::super::Buffered;
use super::*;

fn header(name: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000001750");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(block)
}

fn sum(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    let mut out = header(name.as_bytes(), b'0', data.len() as u64).to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn read(data: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut reader = Reader::new(Buffered::new(data), &Limits::default());
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut body = Vec::new();
        loop {
            let bytes = reader.body()?;
            let n = bytes.len();
            if n == 0 {
                break;
            }
            body.extend_from_slice(bytes);
            reader.consume(n);
        }
        all.push((String::from_utf8(entry.name).unwrap(), body));
    }
    Ok(all)
}

fn pair(name: &str, data: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), data.to_vec())
}

#[test]
fn ends_at_an_entry_or_zero_blocks() {
    let a = file("a", b"one");
    assert_eq!(read(&a).unwrap(), [pair("a", b"one")]);
    assert_eq!(read(&[&a[..], &[0; 512]].concat()).unwrap(), [pair("a", b"one")]);
    assert_eq!(read(&[&a[..], &[0; 1024], &a[..]].concat()).unwrap(), [pair("a", b"one")]);
    assert!(read(b"").unwrap().is_empty());
}

#[test]
fn what_is_broken_is_an_error() {
    let a = file("a", b"one");
    assert!(matches!(read(&a[..600]), Err(Error::Truncated { .. })));
    assert!(matches!(read(&a[..100]), Err(Error::Truncated { .. })));
    let lone = [&a[..], &[0; 512], &a[..]].concat();
    assert!(matches!(read(&lone), Err(Error::InvalidLayer { .. })));
    let mut damaged = a.clone();
    damaged[0] ^= 1;
    assert!(matches!(read(&damaged), Err(Error::InvalidLayer { .. })));
    assert!(matches!(read(&header(b"m", b'M', 0)), Err(Error::UnsupportedLayer { .. })));
    assert!(matches!(read(&header(b"x", b'x', 5 << 20)), Err(Error::LimitExceeded { .. })));
    let dangling = [&header(b"x", b'x', 9)[..], b"9 path=b\n", &[0; 503]].concat();
    assert!(matches!(read(&dangling), Err(Error::Truncated { .. })));
}

#[test]
fn global_records_hold_until_taken_back() {
    let pax = |flag, records: &str| {
        let mut out = header(b"pax", flag, records.len() as u64).to_vec();
        out.extend_from_slice(records.as_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    };
    let data = [
        pax(b'g', "17 path=everyone\n"),
        file("a", b"1"),
        pax(b'x', "9 path=b\n"),
        file("x", b"2"),
        pax(b'x', "8 path=\n"),
        file("c", b"3"),
    ]
    .concat();
    assert_eq!(read(&data).unwrap(), [pair("everyone", b"1"), pair("b", b"2"), pair("c", b"3")]);
}

#[test]
fn pax_size_decides_what_is_skipped() {
    let inner = file("smuggled", b"evil");
    let mut data = header(b"pax", b'x', 13).to_vec();
    data.extend_from_slice(format!("13 size={}\n", inner.len()).as_bytes());
    data.resize(1024, 0);
    data.extend_from_slice(&header(b"data", b'0', 0));
    data.extend_from_slice(&inner);
    data.extend_from_slice(&file("after", b"a"));
    assert_eq!(read(&data).unwrap(), [pair("data", &inner), pair("after", b"a")]);
}
