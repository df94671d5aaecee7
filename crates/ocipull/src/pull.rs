//! The pipeline: a reference becomes a root filesystem with its record beside it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use ctsys::record::Ownership;
//! use ocipull::pull::{PullOptions, Pulled, pull};
//! use ocipull::{event::Silent, platform::Platform, registry::Registry};
//!
//! let reference = "centos:latest".parse()?;
//! let registry = Registry::new(&reference, &Default::default(), Arc::new(Silent))?;
//! let options = PullOptions {
//!     dest: std::path::absolute("rootfs")?,
//!     platform: Platform::host(),
//!     ownership: Ownership::Single,
//!     force: false,
//!     cache: None,
//! };
//! match pull(Arc::new(registry), &reference, &options).await? {
//!     Pulled::UpToDate { manifest_digest } => println!("still {manifest_digest}"),
//!     Pulled::Unpacked { layers, .. } => println!("{layers} layers"),
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedLayer, record_path};
use oci_spec::image::{Descriptor, Digest};

use crate::apply::{ApplyOptions, LayerSpec, Staging, Warning};
use crate::cache::{Cache, LayerCaches};
use crate::error::PullError;
use crate::event::{Event, LayerInfo};
use crate::fetch::{self, Place};
use crate::image::Config;
use crate::platform::Platform;
use crate::reference::ImageReference;
use crate::registry::Registry;
use crate::resolve::{self, Resolved};

/// So much of a layer that could not be applied is still read, to see whether it was altered on its
/// way: in bytes, a second or so of a good line.
const MAX_BLAME_BYTES: u64 = 64 << 20;

/// What to pull, and where to.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The root filesystem's directory, absolute, with a last component.
    pub dest: PathBuf,
    /// For which platform.
    pub platform: Platform,
    /// How owners are stored.
    pub ownership: Ownership,
    /// Whether DEST may be replaced, whatever it holds.
    pub force: bool,
    /// Where blobs are kept from pull to pull.
    pub cache: Option<Arc<Cache>>,
}

/// What a pull did.
#[derive(Debug)]
pub enum Pulled {
    /// DEST had the image already.
    UpToDate {
        /// Of the platform's manifest.
        manifest_digest: String,
    },
    /// DEST is new.
    Unpacked {
        /// Of the platform's manifest.
        manifest_digest: String,
        /// How many layers.
        layers: usize,
        /// Their blobs' sizes together.
        bytes: u64,
        /// What could not be done as the image wants it.
        warnings: Vec<Warning>,
    },
}

/// Pulls the image. A failure, or dropping the future, leaves DEST as it was.
///
/// Must run within a tokio runtime; unpacking goes on in one of its blocking threads.
pub async fn pull(
    registry: Arc<Registry>,
    reference: &ImageReference,
    options: &PullOptions,
) -> Result<Pulled, PullError> {
    let present = if options.force { None } else { present(options)? };
    let apply = ApplyOptions { ownership: options.ownership, force: options.force };
    // Whether DEST may be written is said before the network is asked. Only a DEST that holds an
    // image already may be full and yet right.
    let staging = match present {
        Some(_) => None,
        None => Some(Staging::create(&options.dest, apply)?),
    };
    // A digest says by itself that nothing can have changed.
    if let (Some(record), Some(digest)) = (&present, reference.digest())
        && holds(record, digest)
    {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest.clone() });
    }
    let cache = options.cache.as_deref();
    let named = resolve::name(&registry, cache, reference).await?;
    if let Some(record) = present.as_ref().filter(|record| holds(record, &named.digest)) {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest.clone() });
    }
    let mut resolved = resolve::resolve(&registry, cache, named, &options.platform).await?;
    if let Some(record) = present.filter(|record| holds(record, &resolved.manifest_digest)) {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest });
    }
    let mut staging = match staging {
        Some(staging) => staging,
        None => Staging::create(&options.dest, apply)?,
    };
    let config = resolve::config(&registry, cache, &mut resolved, &options.platform).await?;
    let mut evicted = HashSet::new();
    let staging = loop {
        match unpack(&registry, &resolved, &config, staging, options).await {
            Ok(staging) => break staging,
            // A cache that was damaged is no reason to fail. Once a layer: then it is not the cache.
            Err((_, Some(layer))) if evicted.insert(layer.clone()) => {
                staging = Staging::create(&options.dest, apply)?;
            }
            Err((error, _)) => return Err(error),
        }
    };
    let record = record(reference, &resolved, config, options.ownership);
    let warnings = staging.commit(&record)?;
    if let Some(cache) = cache {
        cache.note(&record.canonical_reference, &resolved.descriptor, &resolved.resolved_digest);
    }
    Ok(Pulled::Unpacked {
        manifest_digest: record.manifest_digest,
        layers: record.layers.len(),
        bytes: resolved.manifest.layers.iter().map(Descriptor::size).sum(),
        warnings,
    })
}

/// The record of what DEST holds, if it was made for this platform and with this ownership, by this
/// user: where others may write beside DEST (/tmp), one of theirs could vouch for any tree.
fn present(options: &PullOptions) -> Result<Option<ImageRecord>, PullError> {
    let seen = |path: &Path| std::fs::symlink_metadata(path).ok();
    let is_tree = seen(&options.dest).is_some_and(|seen| seen.is_dir());
    let (user, _) = ctsys::userns::effective_ids();
    let is_own = seen(&record_path(&options.dest)).is_some_and(|r| r.is_file() && r.uid() == user);
    if !is_tree || !is_own {
        return Ok(None);
    }
    let record = ImageRecord::read(&options.dest)?;
    Ok(record.filter(|record| {
        let platform = Platform::from_record(&record.platform);
        record.ownership == options.ownership && options.platform.suits(&platform).is_some()
    }))
}

fn holds(record: &ImageRecord, digest: &Digest) -> bool {
    [&record.resolved_digest, &record.manifest_digest].contains(&&digest.to_string())
}

/// Fetches and applies the layers, lowest first. With the error comes the layer that failed, where
/// it was the cache that was damaged.
async fn unpack(
    registry: &Arc<Registry>,
    resolved: &Resolved,
    config: &Config,
    mut staging: Staging,
    options: &PullOptions,
) -> Result<Staging, (PullError, Option<Digest>)> {
    let layers = &resolved.manifest.layers;
    let caches =
        LayerCaches::new(options.cache.as_ref(), layers, &options.dest, registry.observer());
    for (index, (layer, diff_id)) in layers.iter().zip(&config.diff_ids).enumerate() {
        let place = Place { index, total: layers.len() };
        let cache = caches.of(layer.digest());
        let (fetch, mut reader) = fetch::fetch(registry, cache, layer, place);
        let (blob, diff_id) = (layer.clone(), diff_id.clone());
        let applying = tokio::task::spawn_blocking(move || {
            let media_type = blob.media_type().to_string();
            let spec =
                LayerSpec { media_type: &media_type, diff_id: &diff_id, digest: blob.digest() };
            let applied = staging.apply_layer(&spec, &mut reader).map_err(PullError::from);
            // What a decompressor leaves behind its stream's end belongs to the blob as well. Where
            // the content makes no sense, the rest of it shows whether it is what was asked for.
            let rest = reader.finish(if applied.is_ok() { u64::MAX } else { MAX_BLAME_BYTES });
            let digest = blob.digest().to_string();
            let applied =
                applied.and_then(|_| rest.map_err(|source| PullError::Layer { digest, source }));
            (staging, applied, reader.is_from_cache())
        });
        let (back, applied, is_from_cache) =
            applying.await.map_err(|_| (PullError::Unpacker(options.dest.clone()), None))?;
        staging = back;
        if let Err(error) = applied {
            // A layer that cannot be read is the network's failure, not the unpacker's.
            let error = fetch.failure().map_or(error, PullError::from);
            let may_be_cache = is_from_cache && error.may_be_damage();
            let is_damaged = cache.is_some_and(|c| may_be_cache && c.distrust(layer.digest()));
            let suspect = is_damaged.then(|| layer.digest().clone());
            return Err((error, suspect));
        }
        let info = LayerInfo {
            index,
            total: layers.len(),
            digest: layer.digest(),
            size_bytes: layer.size(),
        };
        registry.observer().observe(&Event::LayerDone(info));
    }
    Ok(staging)
}

fn record(
    reference: &ImageReference,
    resolved: &Resolved,
    config: Config,
    ownership: Ownership,
) -> ImageRecord {
    let layers = resolved.manifest.layers.iter().zip(&config.diff_ids);
    ImageRecord {
        version: RECORD_VERSION,
        reference: reference.typed().to_owned(),
        canonical_reference: reference.to_string(),
        manifest_digest: resolved.manifest_digest.to_string(),
        resolved_digest: resolved.resolved_digest.to_string(),
        platform: resolved.platform.to_record(),
        layers: layers
            .map(|(layer, diff_id)| RecordedLayer {
                digest: layer.digest().to_string(),
                diff_id: diff_id.to_string(),
            })
            .collect(),
        ownership,
        config: config.raw,
    }
}
