//! Blobs: written aside, checked, synchronised, and only then given their names.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::progress::{Control, LayerControl};
use crate::{Algorithm, Digest, Digester, Error, Result};

use super::lease::{Lease, Root};
use super::{Store, lock, sync_directory};

/// What is to become a blob.
pub(crate) struct Content<'a> {
    /// Its bytes.
    pub(crate) reader: Box<dyn Read + Send + 'a>,
    /// Its digest and size, where they are known. Then it is not read when the store has it.
    pub(crate) expected: Option<(Digest, u64)>,
    /// Whom to tell how far it is.
    pub(crate) control: &'a LayerControl,
}

impl Store {
    /// Adds a blob, and keeps it for as long as `lease` lives.
    pub(crate) fn ingest(
        &self,
        lease: &Lease,
        content: Content<'_>,
        control: &Control,
    ) -> Result<(Digest, u64)> {
        let Content { mut reader, expected, control: layer } = content;
        let mut _making = None;
        if let Some((digest, size)) = &expected {
            lease.protect([Root::Blob(digest.clone())])?;
            if self.has_blob(digest, *size)? {
                return Ok((digest.clone(), *size));
            }
            let name = format!("blob-{}-{}", digest.algorithm().as_str(), digest.hex());
            _making = Some(lock::named(&self.path().join("locks").join(name), control)?);
            if self.has_blob(digest, *size)? {
                return Ok((digest.clone(), *size));
            }
        }
        let path = lease.fresh_path();
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, |(digest, _)| digest.algorithm());
        let mut digester = Digester::new(algorithm);
        let mut size = 0;
        let mut buffer = vec![0; 256 << 10];
        loop {
            layer.check()?;
            let n = reader.read(&mut buffer).map_err(|e| Error::from_io("read", "blob", e))?;
            if n == 0 {
                break;
            }
            size += n as u64;
            if let Some((digest, expected)) = expected.as_ref().filter(|(_, expected)| size > *expected) {
                return Err(Error::SizeMismatch {
                    what: format!("blob {digest}"),
                    expected: *expected,
                    actual: size,
                });
            }
            digester.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(Error::io("write", &path))?;
            layer.read(n as u64);
        }
        let actual = digester.finish();
        match expected {
            Some((digest, expected)) if size != expected => {
                return Err(Error::SizeMismatch { what: format!("blob {digest}"), expected, actual: size });
            }
            Some((digest, _)) if actual != digest => {
                return Err(Error::DigestMismatch { what: "blob".into(), expected: digest, actual });
            }
            Some(_) => {}
            None => lease.protect([Root::Blob(actual.clone())])?,
        }
        file.sync_all().map_err(Error::io("sync", &path))?;
        let place = self.blob_path(&actual);
        // Over one that is there already, which has the same content; or had, before it was damaged.
        fs::rename(&path, &place).map_err(Error::io("rename", &place))?;
        sync_directory(place.parent().unwrap_or(&place))?;
        layer.done();
        Ok((actual, size))
    }

    /// Adds a document.
    pub(crate) fn ingest_bytes(
        &self,
        lease: &Lease,
        digest: &Digest,
        bytes: &[u8],
        control: &Control,
    ) -> Result<()> {
        let quiet = Control { progress: None, ..control.clone() };
        let layer = quiet.layer(crate::Step::Import, 0, 1, bytes.len() as u64);
        let expected = Some((digest.clone(), bytes.len() as u64));
        let content = Content { reader: Box::new(bytes), expected, control: &layer };
        self.ingest(lease, content, control).map(|_| ())
    }

    /// Whether a blob is there. One of the wrong size is damaged, and as good as none.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> Result<bool> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() == size),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("stat", path)(e)),
        }
    }

    /// Opens a blob.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::BlobNotFound { digest: digest.clone(), path: self.path().to_owned() }
            }
            _ => Error::io("open", path)(e),
        })
    }

    /// Reads a document and checks its digest.
    pub(crate) fn read_document(&self, digest: &Digest, what: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut bytes).map_err(Error::io("read", self.blob_path(digest)))?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Error::DigestMismatch { what: what.to_owned(), expected: digest.clone(), actual });
        }
        Ok(bytes)
    }
}
