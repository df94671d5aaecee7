//! Manifests, indexes and configs: bytes from a registry -> types that cannot be wrong. Pure.
//!
//! Docker's schema 2 and OCI's forms differ in media types alone, so one set of types holds both.

mod error;
mod index;
mod inline;
mod search;

use std::collections::BTreeMap;
use std::str::FromStr;

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use oci_spec::image::{Descriptor, Digest, ImageManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use error::ImageError;
pub use index::{Entry, Index};
pub use inline::inline_data;
pub use search::{Choice, MAX_INDEX_DEPTH, MAX_INDEXES, Search};

use crate::platform::Platform;

/// Longest manifest or index, in bytes: what registries accept (distribution-spec, "Pushing
/// Manifests") and what containerd reads.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Longest image config, in bytes. Configs of real images have a few kilobytes.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// The four media types that a registry may answer a tag with, for `Accept`.
pub const MANIFEST_MEDIA_TYPES: [&str; 4] = [
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
];

/// What a layer's media type may start with: OCI's, and docker's, plain or "foreign". What follows
/// is the compression, which is seen in the bytes too.
const LAYER_MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// What registries and builders send when they do not care.
const UNTYPED: [&str; 3] = ["application/octet-stream", "application/json", "text/plain"];

/// What a tag or digest stands for.
#[derive(Debug)]
pub enum Document {
    /// A list of images, one a platform.
    Index(Index),
    /// One image.
    Manifest(Box<Manifest>),
}

/// One image: its config and its layers, lowest first, of types that can be unpacked.
#[derive(Debug)]
pub struct Manifest {
    /// Of the config.
    pub config: Descriptor,
    /// Of the layers.
    pub layers: Vec<Descriptor>,
    /// What it says beside that.
    pub annotations: BTreeMap<String, String>,
}

/// What ocipull needs of a config, and all of it for the record.
#[derive(Debug)]
pub struct Config {
    /// The platform it states.
    pub platform: Platform,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// As the registry sent it.
    pub raw: Value,
}

impl Document {
    /// Reads a body that came with `content_type`.
    ///
    /// The type is the header's, the document's own where the header says nothing; both must
    /// agree, and a document that would pass for either kind is refused: else two clients could see
    /// two images under one digest.
    pub fn parse(body: &[u8], content_type: &str) -> Result<Self, ImageError> {
        let value = parse_json(body, "manifest")?;
        let own = value.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        let header = content_type.split(';').next().unwrap_or_default().trim();
        let media_type = if header.is_empty() || UNTYPED.contains(&header) { own } else { header };
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1)
            || media_type.starts_with("application/vnd.docker.distribution.manifest.v1")
        {
            return Err(ImageError::Schema1);
        }
        if !own.is_empty() && own != media_type {
            let reason = format!("got type {own:?} inside, {media_type:?} outside");
            return Err(ImageError::Ambiguous(reason));
        }
        let lists = value.get("manifests").is_some();
        let layered = value.get("layers").is_some() || value.get("config").is_some();
        if lists && layered {
            return Err(ImageError::Ambiguous("it has both manifests and layers".into()));
        }
        match media_type {
            IMAGE_MANIFEST_LIST_MEDIA_TYPE | OCI_IMAGE_INDEX_MEDIA_TYPE => {
                Index::from_json(value).map(Self::Index)
            }
            IMAGE_MANIFEST_MEDIA_TYPE | OCI_IMAGE_MEDIA_TYPE => {
                Manifest::from_json(value).map(Box::new).map(Self::Manifest)
            }
            "" if lists => Index::from_json(value).map(Self::Index),
            "" if layered => Manifest::from_json(value).map(Box::new).map(Self::Manifest),
            other => Err(ImageError::MediaType(other.into())),
        }
    }
}

impl Document {
    /// Its media type: what it says itself, else what it came with, else OCI's for its kind.
    pub fn media_type(&self, body: &[u8], content_type: &str) -> String {
        let own = Self::own_media_type(body);
        let header = content_type.split(';').next().unwrap_or_default().trim();
        let kind = match self {
            Self::Index(_) => OCI_IMAGE_INDEX_MEDIA_TYPE,
            Self::Manifest(_) => OCI_IMAGE_MEDIA_TYPE,
        };
        let known = |given: &&str| MANIFEST_MEDIA_TYPES.contains(given);
        own.as_deref().filter(known).or(Some(header).filter(known)).unwrap_or(kind).to_owned()
    }

    /// What a document says itself that it is.
    pub fn own_media_type(body: &[u8]) -> Option<String> {
        parse_json(body, "manifest").ok()?.get("mediaType")?.as_str().map(str::to_owned)
    }
}

impl Manifest {
    fn from_json(mut value: Value) -> Result<Self, ImageError> {
        fill_null(&mut value, "layers");
        let artifact = value.get("artifactType").and_then(Value::as_str).map(str::to_owned);
        let manifest: ImageManifest = from_value(value, "manifest")?;
        match manifest.config().media_type().to_string().as_str() {
            IMAGE_CONFIG_MEDIA_TYPE | IMAGE_DOCKER_CONFIG_MEDIA_TYPE => {}
            other if UNTYPED.contains(&other) && artifact.is_none() => {}
            other => return Err(ImageError::Artifact(artifact.unwrap_or_else(|| other.into()))),
        }
        for layer in manifest.layers() {
            check_layer_type(layer)?;
        }
        Ok(Self {
            config: manifest.config().clone(),
            layers: manifest.layers().clone(),
            annotations: manifest
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        })
    }
}

/// Whether a media type is an index's.
pub(crate) fn is_index_type(media_type: &str) -> bool {
    matches!(media_type, IMAGE_MANIFEST_LIST_MEDIA_TYPE | OCI_IMAGE_INDEX_MEDIA_TYPE)
}

/// All that a manifest or an index names, whatever it is a manifest of: what has to come along
/// where it is copied.
#[derive(Debug, Default)]
pub struct Children {
    /// Manifests and indexes.
    pub documents: Vec<Descriptor>,
    /// Configs and layers.
    pub blobs: Vec<Descriptor>,
}

impl Children {
    /// Of a document's bytes.
    pub fn parse(body: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Members {
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        let members: Members = from_value(parse_json(body, "manifest")?, "manifest")?;
        let mut blobs = members.layers.unwrap_or_default();
        blobs.extend(members.config);
        Ok(Self { documents: members.manifests.unwrap_or_default(), blobs })
    }
}

impl Config {
    /// Reads an image config, leniently: of its many members only the platform and the diff_ids
    /// matter here, so oddities elsewhere are no reason to refuse an image.
    pub fn parse(body: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Members {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
            rootfs: Option<RootFs>,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Option<Vec<String>>,
        }
        let raw = parse_json(body, "config")?;
        let members: Members = from_value(raw.clone(), "config")?;
        let Some(rootfs) = members.rootfs else {
            return Err(ImageError::Artifact("config without a rootfs".into()));
        };
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        let diff_ids = diff_ids
            .iter()
            .map(|id| Digest::from_str(id).map_err(|_| ImageError::DiffId(id.clone())))
            .collect::<Result<_, _>>()?;
        let platform = Platform::new(
            members.os.as_deref().unwrap_or("linux"),
            members.architecture.as_deref().unwrap_or("unknown"),
            members.variant.as_deref(),
        );
        Ok(Self { platform, diff_ids, raw })
    }

    /// Whether the config belongs to `manifest`: one diff_id a layer.
    pub fn check(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let (layers, diff_ids) = (manifest.layers.len(), self.diff_ids.len());
        if layers == diff_ids { Ok(()) } else { Err(ImageError::LayerCount { layers, diff_ids }) }
    }
}

fn check_layer_type(layer: &Descriptor) -> Result<(), ImageError> {
    let media_type = layer.media_type().to_string();
    let digest = layer.digest().to_string();
    if media_type.ends_with("+encrypted") {
        return Err(ImageError::Encrypted(digest));
    }
    let known = LAYER_MEDIA_TYPES.iter().any(|known| {
        media_type
            .strip_prefix(known)
            .is_some_and(|rest| matches!(rest, "" | ".gzip" | "+gzip" | ".zstd" | "+zstd"))
    });
    if known { Ok(()) } else { Err(ImageError::LayerType { digest, media_type }) }
}

fn parse_json(body: &[u8], what: &'static str) -> Result<Value, ImageError> {
    serde_json::from_slice(body).map_err(|source| ImageError::Malformed { what, source })
}

fn from_value<T: DeserializeOwned>(value: Value, what: &'static str) -> Result<T, ImageError> {
    serde_json::from_value(value).map_err(|source| ImageError::Malformed { what, source })
}

fn fill_null(value: &mut Value, key: &str) {
    if let Some(member) = value.get_mut(key)
        && member.is_null()
    {
        *member = Value::Array(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn manifest(config_type: &str, layer_type: &str) -> Value {
        json!({
            "schemaVersion": 2,
            "config": {"mediaType": config_type, "size": 2, "digest": digest(1)},
            "layers": [{"mediaType": layer_type, "size": 3, "digest": digest(2)}],
        })
    }

    fn parse(value: &Value, content_type: &str) -> Result<Document, ImageError> {
        Document::parse(value.to_string().as_bytes(), content_type)
    }

    #[test]
    fn null_lists_are_empty() {
        let mut empty = manifest(IMAGE_CONFIG_MEDIA_TYPE, "");
        empty["layers"] = Value::Null;
        assert!(
            matches!(parse(&empty, OCI_IMAGE_MEDIA_TYPE), Ok(Document::Manifest(m)) if m.layers.is_empty())
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let chart = manifest("application/vnd.cncf.helm.config.v1+json", layer);
        assert!(matches!(parse(&chart, OCI_IMAGE_MEDIA_TYPE), Err(ImageError::Artifact(_))));
        let encrypted = manifest(IMAGE_CONFIG_MEDIA_TYPE, &format!("{layer}+encrypted"));
        assert!(matches!(parse(&encrypted, OCI_IMAGE_MEDIA_TYPE), Err(ImageError::Encrypted(_))));
        let wasm = manifest(IMAGE_CONFIG_MEDIA_TYPE, "application/wasm");
        assert!(matches!(parse(&wasm, OCI_IMAGE_MEDIA_TYPE), Err(ImageError::LayerType { .. })));
        let schema1 = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(matches!(parse(&schema1, "application/json"), Err(ImageError::Schema1)));
        assert!(matches!(parse(&json!({}), "text/html"), Err(ImageError::MediaType(_))));
        assert!(matches!(Document::parse(b"<", ""), Err(ImageError::Malformed { .. })));
    }

    #[test]
    fn what_a_document_names_is_found_whatever_it_is_a_document_of() {
        let in_toto = manifest("application/vnd.oci.empty.v1+json", "application/vnd.in-toto+json");
        let children = Children::parse(in_toto.to_string().as_bytes()).unwrap();
        let digests: Vec<_> = children.blobs.iter().map(|b| b.digest().to_string()).collect();
        assert_eq!(digests, [digest(2), digest(1)]);
        assert!(Children::parse(b"{}").unwrap().documents.is_empty());
        let evil = json!({"layers": [{"mediaType": "a/b", "size": 1, "digest": "sha256:../../x"}]});
        assert!(Children::parse(evil.to_string().as_bytes()).is_err());
    }

    #[test]
    fn one_document_is_never_two_things() {
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let mut both = manifest(IMAGE_DOCKER_CONFIG_MEDIA_TYPE, layer);
        assert!(parse(&both, IMAGE_MANIFEST_MEDIA_TYPE).is_ok());
        both["mediaType"] = OCI_IMAGE_INDEX_MEDIA_TYPE.into();
        let error = parse(&both, IMAGE_MANIFEST_MEDIA_TYPE);
        assert!(matches!(error, Err(ImageError::Ambiguous(_))));
        both["mediaType"] = IMAGE_MANIFEST_MEDIA_TYPE.into();
        both["manifests"] = json!([]);
        let error = parse(&both, IMAGE_MANIFEST_MEDIA_TYPE);
        assert!(matches!(error, Err(ImageError::Ambiguous(_))));
    }

    #[test]
    fn a_config_needs_a_rootfs_with_as_many_diff_ids_as_layers() {
        let body = json!({"os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [digest(7)]}});
        let config = Config::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(config.platform, "linux/amd64".parse().unwrap());
        let none = Manifest {
            config: serde_json::from_value(json!({
                "mediaType": IMAGE_CONFIG_MEDIA_TYPE, "size": 2, "digest": digest(1)
            }))
            .unwrap(),
            layers: vec![],
            annotations: BTreeMap::new(),
        };
        let error = config.check(&none).unwrap_err();
        assert_eq!(error.to_string(), "manifest and config disagree: got 0 layers and 1 diff_ids");
        assert!(matches!(Config::parse(b"{}"), Err(ImageError::Artifact(_))));
        let bad = json!({"rootfs": {"diff_ids": ["../x"]}}).to_string();
        assert!(matches!(Config::parse(bad.as_bytes()), Err(ImageError::DiffId(_))));
    }
}
