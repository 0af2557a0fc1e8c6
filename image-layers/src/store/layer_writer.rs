//! A new layer: a tar archive goes in, a compressed blob with its digest and DiffID comes out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::decode::{Compression, Encoder};
use crate::document::Descriptor;
use crate::{Algorithm, Digest, Digester, Error, Result, media_type};

use super::lease::{Lease, Root};
use super::{Store, sync_directory};

/// Takes the bytes of a tar archive.
pub(crate) struct LayerWriter<'a> {
    store: &'a Store,
    lease: &'a Lease,
    path: PathBuf,
    compression: Compression,
    diff_id: Digester,
    encoder: Encoder<Hashing>,
}

/// A layer that is in the store.
#[derive(Clone, Debug)]
pub(crate) struct NewLayer {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

impl<'a> LayerWriter<'a> {
    pub(crate) fn new(
        store: &'a Store,
        lease: &'a Lease,
        compression: Compression,
    ) -> Result<LayerWriter<'a>> {
        let path = lease.fresh_path();
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let hashing = Hashing { file, digester: Digester::new(Algorithm::Sha256), size: 0 };
        let encoder = Encoder::new(hashing, compression, None).map_err(Error::io("write", &path))?;
        let diff_id = Digester::new(Algorithm::Sha256);
        Ok(LayerWriter { store, lease, path, compression, diff_id, encoder })
    }

    /// Gives the blob its name. It stays for as long as the lease lives.
    pub(crate) fn finish(self) -> Result<NewLayer> {
        let LayerWriter { store, lease, path, compression, diff_id, encoder } = self;
        let Hashing { file, digester, size } = encoder.finish().map_err(Error::io("write", &path))?;
        file.sync_all().map_err(Error::io("sync", &path))?;
        let digest = digester.finish();
        lease.protect([Root::Blob(digest.clone())])?;
        let place = store.blob_path(&digest);
        fs::rename(&path, &place).map_err(Error::io("rename", &place))?;
        sync_directory(place.parent().unwrap_or(&place))?;
        let media_type = match compression {
            Compression::None => media_type::OCI_LAYER,
            Compression::Gzip => media_type::OCI_LAYER_GZIP,
            Compression::Zstd => media_type::OCI_LAYER_ZSTD,
        };
        Ok(NewLayer { descriptor: Descriptor::new(media_type, &digest, size), diff_id: diff_id.finish() })
    }
}

impl Write for LayerWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.encoder.write(bytes)?;
        self.diff_id.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Writes through to the file and hashes what it writes.
struct Hashing {
    file: File,
    digester: Digester,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.digester.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
