//! One image of a store as an archive, the input that every engine takes.

use std::fs::{self, File};
use std::path::Path;

use image_layers::{Image, Store};
use serde_json::{Value, json};

use super::Result;

/// Writes `image` as an OCI image archive under the reference `name`.
pub fn write(store: &Store, image: &Image, name: &str, path: &Path) -> Result<()> {
    let blobs = store.path().join("blobs/sha256");
    let manifest = fs::read(blobs.join(image.digest().hex()))?;
    let parsed: Value = serde_json::from_slice(&manifest)?;
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.digest().to_string(),
        "size": manifest.len(),
        // The one is the specification's, the other containerd's.
        "annotations": { "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name },
    }]});
    let mut archive = tar::Builder::new(File::create(path)?);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.to_string().as_bytes())?;
    add(&format!("blobs/sha256/{}", image.digest().hex()), &manifest)?;
    let layers = parsed["layers"].as_array().ok_or("a manifest without layers")?;
    for descriptor in layers.iter().chain([&parsed["config"]]) {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        let digest = digest.ok_or("a descriptor without a digest")?;
        archive.append_path_with_name(blobs.join(digest), format!("blobs/sha256/{digest}"))?;
    }
    archive.into_inner()?;
    Ok(())
}
