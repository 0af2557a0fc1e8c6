//! Media types of the OCI and Docker families, sorted by what they are.

/// Media types this crate writes; those of the OCI image specification.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// What a descriptor points at. How a layer is compressed is not part of this: its first bytes tell, digest and DiffID
/// make that safe, and many writers get the media type wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Index,
    Manifest,
    Config,
    Layer,
    /// A layer that need not be part of an archive or registry: non-distributable, "foreign".
    ForeignLayer,
    Other,
}

pub(crate) fn kind(media_type: &str) -> Kind {
    // Parameters ("; charset=utf-8") and case carry no meaning here.
    let bare = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match bare.as_str() {
        OCI_INDEX | "application/vnd.docker.distribution.manifest.list.v2+json" => Kind::Index,
        OCI_MANIFEST | "application/vnd.docker.distribution.manifest.v2+json" => Kind::Manifest,
        OCI_CONFIG | "application/vnd.docker.container.image.v1+json" => Kind::Config,
        OCI_LAYER
        | OCI_LAYER_GZIP
        | OCI_LAYER_ZSTD
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Kind::Layer,
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Kind::ForeignLayer,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families() {
        assert_eq!(kind("application/vnd.docker.image.rootfs.diff.tar.gzip"), Kind::Layer);
        assert_eq!(kind("Application/vnd.OCI.image.manifest.v1+json; charset=utf-8"), Kind::Manifest);
        assert_eq!(kind("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), Kind::Other);
        assert_eq!(kind(""), Kind::Other);
    }
}
