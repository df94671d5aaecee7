//! `ocipull inspect`: what an image is made of and how it wants to be run.

use std::collections::BTreeMap;

use clap::Args;
use oci_spec::image::Descriptor;
use ocipull::image::{Config, Document, Manifest};
use ocipull::platform::Platform;
use ocipull::resolve::{self, Resolved, Root};
use ocipull::source::Source;
use serde::Serialize;
use serde_json::Value;

use super::{ShowError, TypedQuery, platform, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct TypedInspect {
    #[command(flatten)]
    query: TypedQuery,
    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Print the bytes as they are: of the index or manifest that the name stands for, with
    /// --platform of that platform's manifest, with --config of the config
    #[arg(long)]
    raw: bool,
    /// Print the image's config
    #[arg(long)]
    config: bool,
}

/// For people and for jq.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    reference: String,
    digest: String,
    media_type: String,
    /// Of an index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    platforms: Vec<String>,
    manifest: ManifestSummary,
    created: Option<Value>,
    config: Value,
    layers: Vec<LayerSummary>,
    /// Of all layers, as they are fetched.
    size_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestSummary {
    digest: String,
    media_type: String,
    platform: String,
    config_digest: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerSummary {
    digest: String,
    diff_id: String,
    media_type: String,
    size_bytes: u64,
}

impl TypedInspect {
    pub(super) async fn run(self) -> Result<(), ShowError> {
        let typed = platform(self.platform.as_deref())?;
        let (source, cache) = self.query.meaning()?.open().await?;
        let cache = cache.as_deref();
        let named = resolve::name(&source, cache).await?;
        let root = resolve::root(&source, cache, named).await?;
        if self.raw && !self.config && typed.is_none() {
            return print(&root.bytes);
        }
        let wanted = typed.unwrap_or_else(Platform::host);
        let (root_type, platforms) = of_root(&root);
        let mut image = resolve::choose(&source, cache, root, &wanted).await?;
        if self.config && self.raw {
            let config = &image.manifest.config;
            return print(&resolve::config_bytes(&source, cache, config).await?);
        }
        let config = resolve::config(&source, cache, &mut image, &wanted).await?;
        match (self.raw, self.config) {
            (true, _) => print(&image.bytes),
            (_, true) => print_json(&config.raw),
            _ => print_json(&summary(&source, root_type, platforms, &image, config)),
        }
    }
}

fn of_root(root: &Root) -> (String, Vec<String>) {
    let platforms = match &root.document {
        Document::Index(index) => {
            let known = index.entries().iter().filter_map(|entry| entry.platform.as_ref());
            known.map(Platform::to_string).collect()
        }
        Document::Manifest(_) => Vec::new(),
    };
    (root.descriptor.media_type().to_string(), platforms)
}

fn summary(
    source: &Source,
    media_type: String,
    platforms: Vec<String>,
    image: &Resolved,
    config: Config,
) -> Summary {
    let Manifest { layers, config: config_descriptor, annotations } = &*image.manifest;
    Summary {
        reference: source.to_string(),
        digest: image.resolved_digest.to_string(),
        media_type,
        platforms,
        manifest: ManifestSummary {
            digest: image.manifest_digest.to_string(),
            media_type: image.descriptor.media_type().to_string(),
            platform: image.platform.to_string(),
            config_digest: config_descriptor.digest().to_string(),
            annotations: annotations.clone(),
        },
        created: config.raw.get("created").cloned(),
        config: config.raw.get("config").cloned().unwrap_or_default(),
        layers: layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, diff_id)| LayerSummary {
                digest: layer.digest().to_string(),
                diff_id: diff_id.to_string(),
                media_type: layer.media_type().to_string(),
                size_bytes: layer.size(),
            })
            .collect(),
        size_bytes: layers.iter().map(Descriptor::size).fold(0, u64::saturating_add),
    }
}
