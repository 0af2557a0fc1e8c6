//! The JSON documents of an image: index, manifest, configuration.
//!
//! One rule for all of them: `null` is the same as absent, what is not known is kept (documents are stored and passed on as
//! the bytes they came in), and a document is what the descriptor that led to it says it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::media_type::{self, Kind};
use crate::{Digest, Error, Platform, Result};

/// The annotation of an index entry that names the image, by the image specification.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd and Docker keep the full reference.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Parses `bytes`, without the members of objects that are null.
pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::InvalidDocument { what: what.to_owned(), reason: e.to_string() })?;
    drop_nulls(&mut value);
    Ok(value)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Parses `bytes` into a document type whose members all have defaults.
pub(crate) fn parse_as<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_value(parse(what, bytes)?)
        .map_err(|e| Error::InvalidDocument { what: what.to_owned(), reason: e.to_string() })
}

/// A descriptor as it stands in a document, its digest not yet judged: entries of unknown kinds are ignored whatever
/// they hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<PlatformDocument>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            ..Descriptor::default()
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        media_type::kind(&self.media_type)
    }

    pub(crate) fn digest(&self) -> Result<Digest> {
        self.digest.parse()
    }

    /// Whether it describes a build attestation, which looks like an image for a platform nobody has.
    pub(crate) fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PlatformDocument {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl PlatformDocument {
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
        }
    }
}

/// An index: `index.json` of a layout, or an image index blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

impl Index {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Index> {
        let index: Index = parse_as(what, bytes)?;
        expect_kind(what, &index.media_type, Kind::Index)?;
        Ok(index)
    }
}

/// An image manifest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = parse_as(what, bytes)?;
        expect_kind(what, &manifest.media_type, Kind::Manifest)?;
        if manifest.config.digest.is_empty() {
            return Err(Error::InvalidDocument { what: what.to_owned(), reason: "no configuration".into() });
        }
        Ok(manifest)
    }
}

/// A document that calls itself something else than its descriptor does could be read two ways; nobody should.
fn expect_kind(what: &str, media_type: &str, kind: Kind) -> Result<()> {
    if media_type.is_empty() || media_type::kind(media_type) == kind {
        return Ok(());
    }
    Err(Error::InvalidDocument {
        what: what.to_owned(),
        reason: format!("its media type says {media_type:?}"),
    })
}

/// One image of `manifest.json` in an archive of `docker save`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) layers: Vec<String>,
}

/// An image's configuration: for which platform it is, and what a container of it runs by default.
///
/// Everything the image does not say is empty. What this type has no member for is in [`raw`](ImageConfig::raw).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageConfig {
    /// What the image is made for.
    pub platform: Platform,
    /// When it was made, RFC 3339, as written.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// What is run, before the arguments of the command.
    pub entrypoint: Vec<String>,
    /// Default command, or default arguments of the entry point.
    pub cmd: Vec<String>,
    /// Working directory; empty for `/`.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports the image listens on: `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Directories that want a volume.
    pub volumes: Vec<String>,
    /// The signal that asks the container to stop, such as `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// The digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    raw: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigDocument {
    #[serde(flatten)]
    platform: PlatformDocument,
    created: Option<String>,
    author: Option<String>,
    config: ContainerDocument,
    rootfs: RootfsDocument,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ContainerDocument {
    user: String,
    env: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    working_dir: String,
    labels: BTreeMap<String, String>,
    exposed_ports: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
    stop_signal: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RootfsDocument {
    diff_ids: Vec<String>,
}

impl ImageConfig {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<ImageConfig> {
        let raw = parse(what, bytes)?;
        let document = ConfigDocument::deserialize(&raw)
            .map_err(|e| Error::InvalidDocument { what: what.to_owned(), reason: e.to_string() })?;
        let container = document.config;
        Ok(ImageConfig {
            platform: document.platform.platform(),
            created: document.created,
            author: document.author,
            user: container.user,
            env: container.env,
            entrypoint: container.entrypoint,
            cmd: container.cmd,
            working_dir: container.working_dir,
            labels: container.labels,
            exposed_ports: container.exposed_ports.into_keys().collect(),
            volumes: container.volumes.into_keys().collect(),
            stop_signal: container.stop_signal.filter(|s| !s.is_empty()),
            diff_ids: document.rootfs.diff_ids.iter().map(|d| d.parse()).collect::<Result<_>>()?,
            raw,
        })
    }

    /// The whole document, without members that were null.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// What a container runs by default: entry point and command, one after the other.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }

    /// The ChainID of each layer, the lowest first: the name of the tree made of it and all below
    /// ([image specification](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid)).
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            chain.push(match chain.last() {
                None => diff_id.clone(),
                Some(parent) => Digest::sha256(format!("{parent} {diff_id}").as_bytes()),
            });
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_absent() {
        let config = ImageConfig::parse(
            "configuration",
            br#"{"architecture":"amd64","os":"linux","author":null,"history":null,"variant":"",
                "config":{"Env":null,"Cmd":["/x"],"Labels":null,"Volumes":null,"OnBuild":null,"Unknown":{"x":[1]}},
                "rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();
        assert_eq!(config.args(), ["/x"]);
        assert!(config.env.is_empty() && config.volumes.is_empty() && config.diff_ids.is_empty());
        assert_eq!(config.platform.variant, None);
        assert_eq!(config.raw()["config"]["Unknown"]["x"][0], 1);
        assert!(ImageConfig::parse("configuration", b"{}").is_ok());
    }

    #[test]
    fn chain_ids_as_the_specification_has_them() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let json = format!(r#"{{"rootfs":{{"diff_ids":["{a}","{b}"]}}}}"#);
        let config = ImageConfig::parse("configuration", json.as_bytes()).unwrap();
        assert_eq!(config.chain_ids(), [a.clone(), Digest::sha256(format!("{a} {b}").as_bytes())]);
    }

    #[test]
    fn a_document_is_what_its_descriptor_says() {
        let both = br#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"config":{"digest":"x"},"layers":[]}"#;
        assert!(Manifest::parse("manifest", both).is_err());
        assert!(Index::parse("index", both).is_ok());
    }
}
