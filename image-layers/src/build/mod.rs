//! Making images: from files, from another image, from what a container changed.

mod layer;

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::decode::Compression;
use crate::document::{Descriptor, PlatformDocument};
use crate::progress::Control;
use crate::store::import::manifest;
use crate::store::index::Record;
use crate::store::layer_writer::{LayerWriter, NewLayer};
use crate::{
    Cancel, Digest, Error, Image, Platform, Reference, Result, Store, WritableLayer, media_type, snapshot,
};

pub use layer::LayerBuilder;

/// Puts an image together.
///
/// The same calls with the same files make the same bytes, and so the same digest: files are sorted, times are fixed, and
/// nothing of the machine gets in. (Except with [`changes`](ImageBuilder::changes): what a container wrote has the times
/// at which it wrote.)
///
/// ```no_run
/// use image_layers::{ImageBuilder, LayerBuilder, Store};
/// # fn main() -> image_layers::Result<()> {
/// let store = Store::open_or_create("store")?;
/// let image = ImageBuilder::new()
///     .layer(LayerBuilder::new().file("/bin/app", "target/release/app", 0o755).directory("/tmp", 0o1777))
///     .entrypoint(["/bin/app"])
///     .env("MODE", "production")
///     .build(&store, Some(&"app:1".parse()?))?;
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct ImageBuilder<'a> {
    base: Option<Image>,
    layers: Vec<Content<'a>>,
    platform: Option<Platform>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    env: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    settings: Map<String, Value>,
    compression: Compression,
    cancel: Cancel,
}

#[derive(Debug)]
enum Content<'a> {
    Files(LayerBuilder),
    Changes(&'a WritableLayer),
}

impl<'a> ImageBuilder<'a> {
    /// An image without layers, for the platform of this program.
    pub fn new() -> ImageBuilder<'a> {
        ImageBuilder::default()
    }

    /// Starts with the layers and settings of another image of the same store.
    pub fn over(base: &Image) -> ImageBuilder<'a> {
        ImageBuilder { base: Some(base.clone()), ..ImageBuilder::default() }
    }

    /// Adds a layer of files.
    pub fn layer(mut self, layer: LayerBuilder) -> Self {
        self.layers.push(Content::Files(layer));
        self
    }

    /// Adds a layer of what a container changed. It belongs over the image that the container runs; nothing may write to the
    /// container's root filesystem meanwhile.
    pub fn changes(mut self, container: &'a WritableLayer) -> Self {
        self.layers.push(Content::Changes(container));
        self
    }

    /// What the image is made for.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// When the image was made, RFC 3339. By default it does not say, so that its digest does not depend on it.
    pub fn created(mut self, time: impl Into<String>) -> Self {
        self.created = Some(time.into());
        self
    }

    /// Who made the image.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// A remark for the image's history.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Sets one environment variable; others of the base stay.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets one label; others of the base stay.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// What a container runs, before the arguments of its command.
    pub fn entrypoint<S: Into<String>>(self, args: impl IntoIterator<Item = S>) -> Self {
        self.list("Entrypoint", args)
    }

    /// The default command, or the default arguments of the entry point.
    pub fn cmd<S: Into<String>>(self, args: impl IntoIterator<Item = S>) -> Self {
        self.list("Cmd", args)
    }

    /// The user a container runs as: `user[:group]`, names or numbers.
    pub fn user(self, user: impl Into<String>) -> Self {
        self.set("User", user.into().into())
    }

    /// The working directory of a container.
    pub fn working_dir(self, directory: impl Into<String>) -> Self {
        self.set("WorkingDir", directory.into().into())
    }

    /// The signal that asks a container to stop, such as `SIGQUIT`.
    pub fn stop_signal(self, signal: impl Into<String>) -> Self {
        self.set("StopSignal", signal.into().into())
    }

    /// The ports a container listens on: `80/tcp`.
    pub fn exposed_ports<S: Into<String>>(self, ports: impl IntoIterator<Item = S>) -> Self {
        self.keys("ExposedPorts", ports)
    }

    /// The directories of a container that want a volume.
    pub fn volumes<S: Into<String>>(self, directories: impl IntoIterator<Item = S>) -> Self {
        self.keys("Volumes", directories)
    }

    /// How new layers are compressed. The default is gzip, which every engine reads.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// A flag that stops the work.
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.settings.insert(key.to_owned(), value);
        self
    }

    fn list<S: Into<String>>(self, key: &str, items: impl IntoIterator<Item = S>) -> Self {
        let items: Vec<Value> = items.into_iter().map(|item| Value::String(item.into())).collect();
        self.set(key, Value::Array(items))
    }

    /// Sets of the image configuration are objects with empty values.
    fn keys<S: Into<String>>(self, key: &str, items: impl IntoIterator<Item = S>) -> Self {
        let items: Map<String, Value> = items.into_iter().map(|item| (item.into(), json!({}))).collect();
        self.set(key, Value::Object(items))
    }

    /// Makes the image, stores it, and gives it a name where one is wanted. It is listed either way.
    ///
    /// # Errors
    /// [`Error::InvalidLayer`] for paths that cannot be in a layer; [`Error::Io`] for files that cannot be read, and for
    /// the store; [`Error::Cancelled`].
    pub fn build(self, store: &Store, name: Option<&Reference>) -> Result<Image> {
        let control = Control { cancel: self.cancel.clone(), ..Control::default() };
        let lease = store.lease()?;
        if let Some(base) = &self.base {
            lease.keep(base)?;
            base.check_blobs()?;
        }
        let mut new: Vec<NewLayer> = Vec::new();
        for content in &self.layers {
            control.check()?;
            let mut writer = LayerWriter::new(store, &lease, self.compression)?;
            match content {
                Content::Files(layer) => layer.write(&mut writer, &control)?,
                Content::Changes(container) => changes(container, &mut writer)?,
            }
            new.push(writer.finish()?);
        }
        let config = serde_json::to_vec(&self.config(&new))
            .map_err(|e| Error::InvalidDocument { what: "configuration".into(), reason: e.to_string() })?;
        let config_digest = Digest::sha256(&config);
        store.ingest_bytes(&lease, &config_digest, &config, &control)?;
        let base_layers = self.base.iter().flat_map(Image::layers);
        let layers = base_layers
            .map(|layer| Descriptor::new(&layer.media_type, &layer.digest, layer.size))
            .chain(new.into_iter().map(|layer| layer.descriptor))
            .collect();
        let (digest, manifest) = manifest(&config_digest, config.len() as u64, layers)?;
        store.ingest_bytes(&lease, &digest, &manifest, &control)?;
        let platform = self.chosen_platform();
        let descriptor = Descriptor {
            platform: Some(PlatformDocument {
                architecture: platform.architecture,
                os: platform.os,
                variant: platform.variant,
            }),
            ..Descriptor::new(media_type::OCI_MANIFEST, &digest, manifest.len() as u64)
        };
        let references = name.cloned().into_iter().collect();
        let record = Record { descriptor, digest: digest.clone(), references };
        store.update_index(|index| {
            index.add(record);
            Ok(())
        })?;
        Image::by_digest(store, &digest)
    }

    fn chosen_platform(&self) -> Platform {
        let base = self.base.as_ref().map(|base| base.platform().clone());
        self.platform.clone().or(base).unwrap_or_default()
    }

    /// The configuration: that of the base, unknown members included, with what was set.
    fn config(&self, new: &[NewLayer]) -> Value {
        let mut config = self.base.as_ref().map_or_else(Map::new, |base| object(base.config().raw()));
        let platform = self.chosen_platform();
        config.insert("architecture".into(), platform.architecture.into());
        config.insert("os".into(), platform.os.into());
        match platform.variant {
            Some(variant) => config.insert("variant".into(), variant.into()),
            None => config.remove("variant"),
        };
        // The time and author of the base are not those of this image.
        for (key, value) in [("created", &self.created), ("author", &self.author)] {
            match value {
                Some(value) => config.insert(key.into(), value.clone().into()),
                None => config.remove(key),
            };
        }
        let mut settings = config.get("config").map(object).unwrap_or_default();
        settings.extend(self.settings.clone());
        if !self.env.is_empty() {
            let mut env: Vec<String> = self.base.as_ref().map(|b| b.config().env.clone()).unwrap_or_default();
            for (name, value) in &self.env {
                env.retain(|e| e.split_once('=').is_none_or(|(n, _)| n != name));
                env.push(format!("{name}={value}"));
            }
            settings.insert("Env".into(), env.into());
        }
        if !self.labels.is_empty() {
            let mut labels = settings.get("Labels").map(object).unwrap_or_default();
            labels.extend(self.labels.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))));
            settings.insert("Labels".into(), Value::Object(labels));
        }
        config.insert("config".into(), Value::Object(settings));
        let old = self.base.iter().flat_map(|base| &base.config().diff_ids).cloned();
        let diff_ids: Vec<String> =
            old.chain(new.iter().map(|layer| layer.diff_id.clone())).map(|id| id.to_string()).collect();
        let mut history = match config.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        // History is optional. One that would not fit the layers is worse than none.
        let described = history.iter().filter(|step| step["empty_layer"] != true).count();
        if described + new.len() == diff_ids.len() {
            for _ in new {
                let mut step = Map::new();
                for (key, value) in
                    [("created", &self.created), ("author", &self.author), ("comment", &self.comment)]
                {
                    step.extend(value.clone().map(|value| (key.to_owned(), Value::String(value))));
                }
                history.push(Value::Object(step));
            }
        }
        if !history.is_empty() {
            config.insert("history".into(), Value::Array(history));
        }
        config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        Value::Object(config)
    }
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn changes(container: &WritableLayer, out: &mut dyn Write) -> Result<()> {
    let snapshotter = snapshot::snapshotter(container.store.backend(), container.store.owners());
    snapshotter.diff(&container.chain(), &container.data(), out).map(|_| ())
}

impl WritableLayer {
    /// Makes an image of the image this layer is over and what was changed in it: the short form of
    /// [`ImageBuilder::over`] with [`ImageBuilder::changes`].
    ///
    /// # Errors
    /// As [`ImageBuilder::build`].
    pub fn commit(&self, name: Option<&Reference>) -> Result<Image> {
        let base = Image::by_digest(&self.store, self.image())?;
        ImageBuilder::over(&base).changes(self).build(&self.store, name)
    }
}
