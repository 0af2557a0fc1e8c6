//! What the machine needs at least: decoding, hashing, and making the files with as few system calls as possible, in a
//! pipeline of two threads. It trusts its input completely and keeps no index; nothing that is correct can be much
//! faster with one writer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use sha2::{Digest, Sha256};

use super::Result;

/// Decoded bytes as they come; buffers go back by the sender.
type Decoded = (Receiver<Vec<u8>>, Sender<Vec<u8>>);

/// Decodes in a thread of its own; 64 buffers of 128 KiB are the ring.
fn decoded(blob: &Path) -> Result<Decoded> {
    let mut file = File::open(blob)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    let file = File::open(blob)?;
    let (send, receive) = channel();
    let (home, free) = channel();
    for _ in 0..64 {
        home.send(Vec::new())?;
    }
    let mut reader: Box<dyn Read + Send> = if magic[..2] == [0x1f, 0x8b] {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(zstd::Decoder::new(file)?)
    };
    thread::spawn(move || {
        while let Ok(mut buffer) = free.recv() {
            buffer.resize(128 << 10, 0);
            let mut len = 0;
            while len < buffer.len() {
                match reader.read(&mut buffer[len..]) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(_) => return,
                }
            }
            buffer.truncate(len);
            if len == 0 || send.send(buffer).is_err() {
                return;
            }
        }
    });
    Ok((receive, home))
}

/// Decoding and hashing alone.
pub fn decode(blobs: &[PathBuf]) -> Result<()> {
    for blob in blobs {
        let mut digest = Sha256::new();
        let (buffers, home) = decoded(blob)?;
        for buffer in buffers {
            digest.update(&buffer);
            let _ = home.send(buffer);
        }
        std::hint::black_box(digest.finalize());
    }
    Ok(())
}

/// A stream of the decoded bytes that hashes what passes.
struct Stream {
    buffers: Decoded,
    current: Vec<u8>,
    at: usize,
    digest: Sha256,
}

impl Stream {
    fn some(&mut self, max: usize) -> Option<(usize, usize)> {
        if self.at == self.current.len() {
            // The decoder may have ended.
            let _ = self.buffers.1.send(std::mem::take(&mut self.current));
            self.current = self.buffers.0.recv().ok()?;
            self.at = 0;
            self.digest.update(&self.current);
        }
        let start = self.at;
        self.at = self.current.len().min(start + max);
        Some((start, self.at))
    }

    /// Whole blocks up to `len` bytes, handed to `take` without the padding.
    fn body(&mut self, len: usize, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = len.next_multiple_of(512);
        let mut useful = len;
        while left > 0 {
            let (start, end) = self.some(left).ok_or("archive ends early")?;
            let n = (end - start).min(useful);
            if n > 0 {
                take(&self.current[start..start + n])?;
            }
            useful -= n;
            left -= end - start;
        }
        Ok(())
    }

    fn text(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.body(len, |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(text)
    }
}

/// Each layer into a directory of its own, as a store of overlays does.
pub fn unpack(blobs: &[PathBuf], target: &Path) -> Result<()> {
    // This process does nothing else.
    rustix::process::umask(Mode::empty());
    fs::create_dir(target)?;
    for (number, blob) in blobs.iter().enumerate() {
        let root = target.join(number.to_string());
        fs::create_dir(&root)?;
        let stream = Stream { buffers: decoded(blob)?, current: Vec::new(), at: 0, digest: Sha256::new() };
        layer(stream, &root)?;
    }
    Ok(())
}

fn layer(mut stream: Stream, root: &Path) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut dirs: HashMap<Vec<u8>, OwnedFd> =
        HashMap::from([(Vec::new(), open(rustix::fs::CWD, root.as_os_str().as_encoded_bytes())?)]);
    let mut times: Vec<(Vec<u8>, Timestamps)> = Vec::new();
    let (mut long_name, mut long_link) = (None, None);
    loop {
        let block = match stream.text(512) {
            Ok(block) if block.iter().any(|&byte| byte != 0) => block,
            _ => break,
        };
        let header = tar::Header::from_byte_slice(&block);
        let size = header.entry_size()? as usize;
        match header.entry_type().as_byte() {
            b'x' => {
                for record in tar::PaxExtensions::new(&stream.text(size)?) {
                    let record = record?;
                    match record.key_bytes() {
                        b"path" => long_name = Some(record.value_bytes().to_vec()),
                        b"linkpath" => long_link = Some(record.value_bytes().to_vec()),
                        _ => {}
                    }
                }
                continue;
            }
            b'L' => {
                long_name = Some(stream.text(size)?.split(|&b| b == 0).next().unwrap_or_default().to_vec());
                continue;
            }
            b'K' => {
                long_link = Some(stream.text(size)?.split(|&b| b == 0).next().unwrap_or_default().to_vec());
                continue;
            }
            _ => {}
        }
        let name = long_name.take().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link
            .take()
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let path: Vec<&[u8]> =
            name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        let time = Timespec { tv_sec: header.mtime()? as i64, tv_nsec: 0 };
        let time = Timestamps { last_access: time, last_modification: time };
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let owner = (header.uid()? as u32, header.gid()? as u32);
        let given = owner != (uid, gid);
        let owner = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
        let Some((last, parents)) = path.split_last() else { continue };
        let parent = directory(&mut dirs, parents)?;
        match header.entry_type().as_byte() {
            0 | b'0' => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&dirs[&parent], *last, flags, mode)?;
                stream.body(size, |bytes| {
                    let mut bytes = bytes;
                    while !bytes.is_empty() {
                        bytes = &bytes[rustix::io::write(&file, bytes)?..];
                    }
                    Ok(())
                })?;
                if given {
                    rustix::fs::fchown(&file, owner.0, owner.1)?;
                    rustix::fs::fchmod(&file, mode)?;
                }
                rustix::fs::futimens(&file, &time)?;
            }
            b'5' => {
                let key = directory(&mut dirs, &path)?;
                if mode.as_raw_mode() != 0o755 {
                    rustix::fs::fchmod(&dirs[&key], mode)?;
                }
                if given {
                    rustix::fs::fchown(&dirs[&key], owner.0, owner.1)?;
                }
                times.push((key, time));
            }
            b'2' => {
                rustix::fs::symlinkat(&link[..], &dirs[&parent], *last)?;
                if given {
                    rustix::fs::chownat(&dirs[&parent], *last, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                rustix::fs::utimensat(&dirs[&parent], *last, &time, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            b'1' => {
                let root = &dirs[&Vec::new()];
                let target = link.strip_prefix(b"./").unwrap_or(&link);
                rustix::fs::linkat(root, target, &dirs[&parent], *last, AtFlags::empty())?;
            }
            // A handful of devices, which only root can make.
            _ => {}
        }
    }
    while stream.some(usize::MAX / 2).is_some() {}
    std::hint::black_box(stream.digest.finalize());
    for (key, time) in times.iter().rev() {
        rustix::fs::futimens(&dirs[key], time)?;
    }
    Ok(())
}

/// The key of an open directory, made where it is missing.
fn directory(dirs: &mut HashMap<Vec<u8>, OwnedFd>, parts: &[&[u8]]) -> Result<Vec<u8>> {
    let key = parts.join(&b'/');
    if dirs.contains_key(&key) {
        return Ok(key);
    }
    let Some((last, parents)) = parts.split_last() else { return Ok(key) };
    let parent = directory(dirs, parents)?;
    match rustix::fs::mkdirat(&dirs[&parent], *last, Mode::from_raw_mode(0o755)) {
        Err(rustix::io::Errno::EXIST) => {}
        other => other?,
    }
    let opened = open(&dirs[&parent], last)?;
    dirs.insert(key.clone(), opened);
    Ok(key)
}

fn open(dir: impl std::os::fd::AsFd, name: &[u8]) -> Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
