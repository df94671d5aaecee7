//! Images: config, manifest, index, in OCI's and in docker's form, right or wrong on purpose.

mod platform;

pub use platform::Platform;

use crate::layers::Layer;
use crate::media;
use crate::registry::Registry;
use bytes::Bytes;
use serde_json::{Value, json};
use std::path::Path;

/// Which family of media types an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// OCI image manifest and index.
    #[default]
    Oci,
    /// Docker schema 2 manifest and manifest list.
    Docker,
}

/// Bytes with the media type and digest that a descriptor names.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Media type.
    pub media_type: String,
    /// Content.
    pub bytes: Bytes,
    /// Digest of the content.
    pub digest: String,
}

impl Blob {
    /// Content of a type.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { media_type: media_type.into(), digest: crate::digest(&bytes), bytes }
    }

    /// The descriptor: media type, size and digest.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "size": self.bytes.len(), "digest": self.digest })
    }
}

type Edit = std::sync::Arc<dyn Fn(&mut Value) + Send + Sync>;

/// An image of one platform, in the making. The platform is the host's until told otherwise.
#[derive(Clone, Default)]
pub struct Image {
    format: Format,
    layers: Vec<Layer>,
    platform: Option<Platform>,
    config: serde_json::Map<String, Value>,
    history: Vec<Value>,
    diff_ids: Option<Vec<String>>,
    config_edits: Vec<Edit>,
    manifest_edits: Vec<Edit>,
}

impl Image {
    /// An OCI image for the host's platform without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// An image in docker's format.
    pub fn docker() -> Self {
        Self { format: Format::Docker, ..Self::default() }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets the platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Adds `NAME=value` to the environment.
    pub fn env(mut self, assignment: &str) -> Self {
        let env = self.config.entry("Env").or_insert_with(|| json!([]));
        env.as_array_mut().unwrap().push(assignment.into());
        self
    }

    /// The default arguments.
    pub fn cmd(self, args: &[&str]) -> Self {
        self.set("Cmd", json!(args))
    }

    /// The entrypoint.
    pub fn entrypoint(self, args: &[&str]) -> Self {
        self.set("Entrypoint", json!(args))
    }

    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    /// The working directory.
    pub fn workdir(self, dir: &str) -> Self {
        self.set("WorkingDir", json!(dir))
    }

    /// The stop signal, such as `SIGTERM`.
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    /// Exposes a port, such as `8080/tcp`.
    pub fn expose(mut self, port: &str) -> Self {
        let ports = self.config.entry("ExposedPorts").or_insert_with(|| json!({}));
        ports[port] = json!({});
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        let labels = self.config.entry("Labels").or_insert_with(|| json!({}));
        labels[key] = json!(value);
        self
    }

    /// Any field of the config's `config` object.
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.into(), value);
        self
    }

    /// A history entry; `empty` ones have no layer.
    pub fn history(mut self, created_by: &str, empty: bool) -> Self {
        let mut entry = json!({ "created_by": created_by });
        if empty {
            entry["empty_layer"] = true.into();
        }
        self.history.push(entry);
        self
    }

    /// Other diff_ids than those of the layers.
    pub fn diff_ids(mut self, diff_ids: &[&str]) -> Self {
        self.diff_ids = Some(diff_ids.iter().map(|&d| d.to_owned()).collect());
        self
    }

    /// Changes the config document in any way before it is written.
    pub fn edit_config(mut self, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.config_edits.push(std::sync::Arc::new(edit));
        self
    }

    /// Changes the manifest document in any way before it is written: sizes, media types, digests.
    pub fn edit_manifest(mut self, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.manifest_edits.push(std::sync::Arc::new(edit));
        self
    }

    /// Writes the documents.
    pub fn build(&self) -> BuiltImage {
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let (config_type, manifest_type) = match self.format {
            Format::Oci => (media::OCI_CONFIG, media::OCI_MANIFEST),
            Format::Docker => (media::DOCKER_CONFIG, media::DOCKER_MANIFEST),
        };
        let config = Blob::new(config_type, self.config_json(&platform));
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let media_type = self.layer_type(&layer.media_type);
                json!({ "mediaType": media_type, "size": layer.size(), "digest": layer.digest })
            })
            .collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": layers,
        });
        self.manifest_edits.iter().for_each(|edit| edit(&mut manifest));
        let media_type = manifest["mediaType"].as_str().unwrap_or(manifest_type).to_owned();
        let manifest = Blob::new(&media_type, docker_json(&manifest));
        BuiltImage { manifest, config, layers: self.layers.clone(), platform }
    }

    /// Builds, and stores everything in a registry under the tag (or digest).
    pub fn push(&self, registry: &Registry, repository: &str, reference: &str) -> BuiltImage {
        let image = self.build();
        image.push(registry, repository, reference);
        image
    }

    fn config_json(&self, platform: &Platform) -> Vec<u8> {
        let of_layers = || self.layers.iter().map(|l| l.diff_id.clone()).collect();
        let diff_ids: Vec<String> = self.diff_ids.clone().unwrap_or_else(of_layers);
        let mut config = platform.json();
        config["created"] = "2023-11-14T22:13:20Z".into();
        config["config"] = Value::Object(self.config.clone());
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        if !self.history.is_empty() {
            config["history"] = self.history.clone().into();
        }
        self.config_edits.iter().for_each(|edit| edit(&mut config));
        serde_json::to_vec(&config).unwrap()
    }

    fn layer_type(&self, oci: &str) -> String {
        match (self.format, oci) {
            (Format::Docker, media::OCI_LAYER) => media::DOCKER_LAYER,
            (Format::Docker, media::OCI_LAYER_GZIP) => media::DOCKER_LAYER_GZIP,
            (Format::Docker, media::OCI_LAYER_ZSTD) => media::DOCKER_LAYER_ZSTD,
            (_, other) => other,
        }
        .to_owned()
    }
}

/// An image of one platform, as bytes.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The manifest.
    pub manifest: Blob,
    /// The config.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// What its entry in an index says.
    pub platform: Platform,
}

impl BuiltImage {
    /// The manifest's digest.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Stores config, layers and manifest in a registry.
    pub fn push(&self, registry: &Registry, repository: &str, reference: &str) {
        registry.put_blob(self.config.bytes.clone());
        for layer in &self.layers {
            registry.put_blob(layer.bytes.clone());
        }
        let Blob { media_type, bytes, .. } = &self.manifest;
        registry.put_manifest(repository, reference, media_type, bytes.clone());
    }

    /// Writes an OCI layout with this image under a tag, for umoci, skopeo and the like.
    pub fn write_oci_layout(&self, dir: &Path, tag: &str) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let write = |digest: &str, bytes: &[u8]| {
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        };
        write(&self.config.digest, &self.config.bytes);
        write(&self.manifest.digest, &self.manifest.bytes);
        self.layers.iter().for_each(|layer| write(&layer.digest, &layer.bytes));
        let mut descriptor = self.manifest.descriptor();
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// An index or manifest list, in the making.
#[derive(Clone, Default)]
pub struct Index {
    format: Format,
    images: Vec<BuiltImage>,
    edits: Vec<Edit>,
}

impl Index {
    /// An OCI index.
    pub fn new() -> Self {
        Self::default()
    }

    /// A docker manifest list.
    pub fn docker() -> Self {
        Self { format: Format::Docker, ..Self::default() }
    }

    /// Adds an image.
    pub fn image(mut self, image: BuiltImage) -> Self {
        self.images.push(image);
        self
    }

    /// Changes the index document in any way before it is written.
    pub fn edit(mut self, edit: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        self.edits.push(std::sync::Arc::new(edit));
        self
    }

    /// The index as bytes.
    pub fn build(&self) -> Blob {
        let media_type = match self.format {
            Format::Oci => media::OCI_INDEX,
            Format::Docker => media::DOCKER_LIST,
        };
        let manifests: Vec<Value> = self
            .images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = image.platform.json();
                descriptor
            })
            .collect();
        let mut index =
            json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.edits.iter().for_each(|edit| edit(&mut index));
        let media_type = index["mediaType"].as_str().unwrap_or(media_type).to_owned();
        Blob::new(&media_type, docker_json(&index))
    }

    /// Stores the index under the tag, and every image by its digest.
    pub fn push(&self, registry: &Registry, repository: &str, reference: &str) -> Blob {
        for image in &self.images {
            image.push(registry, repository, image.digest());
        }
        let index = self.build();
        registry.put_manifest(repository, reference, &index.media_type, index.bytes.clone());
        index
    }
}

/// JSON with three spaces of indent, as docker writes manifests.
pub fn docker_json(value: &Value) -> Vec<u8> {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).unwrap();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Compression, LayerBuilder};

    fn layer() -> Layer {
        LayerBuilder::new().file("f", b"data").build(Compression::Gzip)
    }

    #[test]
    fn manifests_read_as_oci_spec_types() {
        let image = Image::new().layer(layer()).env("A=b").cmd(&["sh"]).expose("80/tcp").build();
        let manifest = oci_spec::image::ImageManifest::from_reader(image.manifest.bytes.as_ref());
        assert_eq!(manifest.unwrap().layers()[0].digest().to_string(), layer().digest);
        let config = oci_spec::image::ImageConfiguration::from_reader(image.config.bytes.as_ref());
        assert_eq!(config.unwrap().rootfs().diff_ids(), &[layer().diff_id]);
        let index = Index::new().image(image).build();
        let index = oci_spec::image::ImageIndex::from_reader(index.bytes.as_ref()).unwrap();
        assert_eq!(index.manifests().len(), 1);
    }

    #[test]
    fn edits_make_wrong_documents() {
        let image = Image::docker()
            .layer(layer())
            .diff_ids(&["sha256:00"])
            .edit_manifest(|m| m["layers"][0]["size"] = 1.into())
            .build();
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(manifest["layers"][0]["size"], 1);
        assert_eq!(manifest["layers"][0]["mediaType"], media::DOCKER_LAYER_GZIP);
        let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!(["sha256:00"]));
    }
}
