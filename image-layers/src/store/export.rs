//! Images on their way out of a store.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use serde_json::{Value, json};

use crate::apply::remove::parent;
use crate::document::{CONTAINERD_NAME, Descriptor, REF_NAME};
use crate::progress::Control;
use crate::tar::{self, Entry, Kind, Timestamp};
use crate::{Cancel, Digest, Error, Image, Reference, Result, Verifier};

use super::{Lease, OCI_LAYOUT, sync_directory, write_file};

/// Writes images to an archive or an OCI image layout, for other stores and other engines.
///
/// An archive is both at once: an OCI archive with the images byte for byte as they are, so that their digests stay, and what
/// `docker save` writes, over the same blobs. Whoever reads one of the two reads it. The same images give the same bytes.
///
/// ```no_run
/// use image_layers::{Export, Store};
/// # fn main() -> image_layers::Result<()> {
/// let store = Store::open_or_create("store")?;
/// let (app, tools) = (store.resolve("app:1")?, store.resolve("tools")?);
/// Export::new(&app).and(&tools).archive("images.tar")?; // podman load -i images.tar
/// Export::new(&app).layout("app")?; // skopeo copy oci:app:docker.io/library/app:1 ...
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Export<'a> {
    images: Vec<(&'a Image, Vec<Reference>)>,
    cancel: Cancel,
}

/// A file of a layout or archive.
struct Member<'a> {
    name: String,
    body: Body<'a>,
}

enum Body<'a> {
    Document(Vec<u8>),
    Blob { image: &'a Image, digest: &'a Digest, size: u64 },
}

/// What an OCI layout consists of beside its blobs, and what only `docker load` reads.
const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const DOCKER: &str = "manifest.json";

impl<'a> Export<'a> {
    /// This image, with the names it had when it was looked up.
    pub fn new(image: &'a Image) -> Export<'a> {
        Export { images: Vec::new(), cancel: Cancel::new() }.and(image)
    }

    /// One more image. Layers that images share are written once.
    pub fn and(mut self, image: &'a Image) -> Export<'a> {
        self.images.push((image, image.references().to_vec()));
        self
    }

    /// Gives the image that was added last this one name, in place of its own.
    pub fn named(mut self, name: Reference) -> Export<'a> {
        if let Some((_, names)) = self.images.last_mut() {
            *names = vec![name];
        }
        self
    }

    /// A flag that stops the work.
    pub fn cancel(mut self, cancel: Cancel) -> Export<'a> {
        self.cancel = cancel;
        self
    }

    /// Writes an archive to a file, which is there when all of it is on the disk, and in place of one that was there.
    ///
    /// # Errors
    /// As [`write`](Export::write).
    pub fn archive(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let new = beside(path);
        let file = File::create_new(&new).map_err(Error::io("create", &new))?;
        let done = self
            .write_as(&mut io::BufWriter::with_capacity(256 << 10, &file), path)
            .and_then(|()| file.sync_all().map_err(Error::io("sync", path)))
            .and_then(|()| fs::rename(&new, path).map_err(Error::io("rename", path)));
        if done.is_err() {
            let _ = fs::remove_file(&new);
        }
        done.and_then(|()| sync_directory(parent(path)))
    }

    /// Writes an archive, to standard output or into a compressor.
    ///
    /// # Errors
    /// [`Error::BlobNotFound`], [`Error::DigestMismatch`] and [`Error::SizeMismatch`] for a damaged store: what is written is
    /// checked; [`Error::Io`], also of `out`; [`Error::Cancelled`].
    pub fn write(&self, out: impl Write) -> Result<()> {
        self.write_as(&mut io::BufWriter::with_capacity(256 << 10, out), Path::new("archive"))
    }

    /// Makes an OCI image layout in a directory that is missing or empty. After a failure it is as it was.
    ///
    /// # Errors
    /// As [`write`](Export::write); [`Error::Io`] for a directory that holds something.
    pub fn layout(&self, directory: impl AsRef<Path>) -> Result<()> {
        let directory = directory.as_ref();
        let made = match fs::create_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            other => other.map(|()| true).map_err(Error::io("create", directory))?,
        };
        if !made && fs::read_dir(directory).map_err(Error::io("read", directory))?.next().is_some() {
            let source = Errno::NOTEMPTY.into();
            return Err(Error::Io { action: "export to", path: directory.to_owned(), source });
        }
        let done = self.write_layout(directory);
        if done.is_err() {
            // It was empty.
            let _ = fs::remove_dir_all(directory.join("blobs"));
            for name in [LAYOUT, INDEX] {
                let _ = fs::remove_file(directory.join(name));
            }
            if made {
                let _ = fs::remove_dir(directory);
            }
        }
        done
    }

    fn write_layout(&self, directory: &Path) -> Result<()> {
        let _leases = self.keep()?;
        let mut members = self.members()?;
        // Its index comes last: a layout that is not whole is none.
        members.sort_by_key(|member| member.name == INDEX);
        let mut made = HashSet::new();
        for Member { name, body } in members.iter().filter(|member| member.name != DOCKER) {
            let path = directory.join(name);
            let parent = parent(&path);
            if made.insert(parent.to_owned()) {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            match body {
                Body::Document(bytes) => write_file(&path, bytes)?,
                Body::Blob { .. } => {
                    let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
                    self.copy(body, |bytes| file.write_all(bytes), &path)?;
                    file.sync_all().map_err(Error::io("sync", &path))?;
                }
            }
        }
        let blobs = directory.join("blobs");
        made.insert(blobs);
        made.iter().try_for_each(|directory| sync_directory(directory))
    }

    fn write_as(&self, out: &mut impl Write, path: &Path) -> Result<()> {
        let _leases = self.keep()?;
        let mut archive = tar::Writer::new(out);
        let failed = |e| Error::io("write", path)(e);
        let mut made = HashSet::new();
        for Member { name, body } in &self.members()? {
            for (slash, _) in name.match_indices('/') {
                let directory = &name[..slash];
                if made.insert(directory) {
                    archive.entry(&entry(directory, Kind::Directory, 0o755, 0)).map_err(failed)?;
                }
            }
            let size = match body {
                Body::Document(bytes) => bytes.len() as u64,
                Body::Blob { size, .. } => *size,
            };
            archive.entry(&entry(name, Kind::File, 0o644, size)).map_err(failed)?;
            self.copy(body, |bytes| archive.body(bytes), path)?;
        }
        archive.finish().and_then(Write::flush).map_err(failed)
    }

    /// Nothing of the images may be collected meanwhile.
    fn keep(&self) -> Result<Vec<Lease>> {
        let keep = |(image, _): &(&Image, _)| {
            let lease = image.store().lease()?;
            lease.keep(image)?;
            image.check_blobs().map(|()| lease)
        };
        self.images.iter().map(keep).collect()
    }

    /// In the order of an archive: a reader that goes through it once meets the documents first.
    fn members(&self) -> Result<Vec<Member<'a>>> {
        let mut index = Vec::new();
        let mut docker = Vec::new();
        let mut blobs = Vec::new();
        let mut seen = HashSet::new();
        for (image, names) in &self.images {
            let mut names: Vec<String> = names.iter().filter(|n| n.tag().is_some()).map(tagged).collect();
            names.sort();
            names.dedup();
            let entry = |name: Option<&String>| Descriptor {
                annotations: name
                    .into_iter()
                    .flat_map(|name| [REF_NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), name.clone())))
                    .collect(),
                ..image.descriptor()
            };
            match &names[..] {
                [] => index.push(entry(None)),
                names => index.extend(names.iter().map(|name| entry(Some(name)))),
            }
            let layers: Vec<String> = image.layers().iter().map(|layer| blob_name(&layer.digest)).collect();
            docker.push(json!({
                "Config": blob_name(image.config_digest()),
                "RepoTags": names,
                "Layers": layers,
            }));
            for (digest, size) in image.blobs() {
                if seen.insert(digest) {
                    blobs.push(Member { name: blob_name(digest), body: Body::Blob { image, digest, size } });
                }
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": crate::media_type::OCI_INDEX,
            "manifests": index,
        });
        let layout = Member { name: LAYOUT.to_owned(), body: Body::Document(OCI_LAYOUT.to_vec()) };
        let documents = [(INDEX, index), (DOCKER, Value::Array(docker))];
        let document = |(name, value): (&str, Value)| {
            let bytes = serde_json::to_vec(&value)
                .map_err(|e| Error::InvalidDocument { what: name.to_owned(), reason: e.to_string() })?;
            Ok(Member { name: name.to_owned(), body: Body::Document(bytes) })
        };
        let layout = std::iter::once(Ok(layout));
        layout.chain(documents.into_iter().map(document)).chain(blobs.into_iter().map(Ok)).collect()
    }

    /// Gives a member's bytes to `write`, which goes to `path`. Those of blobs are checked.
    fn copy(
        &self,
        body: &Body<'_>,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
        path: &Path,
    ) -> Result<()> {
        let (image, digest, size) = match body {
            Body::Document(bytes) => return write(bytes).map_err(Error::io("write", path)),
            Body::Blob { image, digest, size } => (image, *digest, *size),
        };
        let control = Control { cancel: self.cancel.clone(), ..Control::default() };
        let what = format!("blob {digest}");
        let mut blob = Verifier::new(image.store().open_blob(digest)?, &what, digest.clone(), size);
        let mut buffer = vec![0; 256 << 10];
        loop {
            control.check()?;
            match blob.read(&mut buffer).map_err(|e| Error::from_io("read", &what, e))? {
                0 => return Ok(()),
                n => write(&buffer[..n]).map_err(Error::io("write", path))?,
            }
        }
    }
}

impl Image {
    /// Writes the image to an archive that every engine can load: [`Export`] for this image alone.
    ///
    /// # Errors
    /// As [`Export::archive`].
    pub fn export(&self, path: impl AsRef<Path>) -> Result<()> {
        Export::new(self).archive(path)
    }
}

/// A name without the digest: the entry it stands in has that.
fn tagged(name: &Reference) -> String {
    let full = name.to_string();
    full.split_once('@').map_or(full.clone(), |(name, _)| name.to_owned())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn entry(name: &str, kind: Kind, mode: u16, size: u64) -> Entry {
    Entry {
        name: name.into(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        size,
        xattrs: Vec::new(),
        sparse: None,
    }
}

/// A name that nobody else uses, in the same directory.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}
