//! The pipeline: a reference becomes a root filesystem with its record beside it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use ctsys::record::Ownership;
//! use ocipull::apply::Limits;
//! use ocipull::pull::{self, PullOptions, Pulled, pull};
//! use ocipull::{event::Silent, platform::Platform, registry::Registry, source::Source};
//! use ocipull::reference::ImageReference;
//!
//! let reference: ImageReference = "centos:latest".parse()?;
//! let registry = Registry::new(&reference, &Default::default(), Arc::new(Silent))?;
//! let options = PullOptions {
//!     dest: std::path::absolute("rootfs")?,
//!     platform: Platform::host(),
//!     ownership: Ownership::Single,
//!     force: false,
//!     cache: None,
//!     jobs: pull::DEFAULT_JOBS,
//!     limits: Limits::USUAL,
//! };
//! match pull(&Source::registry(registry, reference), &options).await? {
//!     Pulled::UpToDate { manifest_digest } => println!("still {manifest_digest}"),
//!     Pulled::Unpacked { layers, .. } => println!("{layers} layers"),
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedLayer, record_path};
use oci_spec::image::{Descriptor, Digest};

use crate::apply::{ApplyOptions, Limits, Staging, Warning};
use crate::cache::{Cache, LayerCaches};
use crate::error::PullError;
use crate::image::Config;
use crate::platform::Platform;
use crate::resolve::{self, Resolved};
use crate::source::Source;
use crate::unpack::{Failure, Job, unpack};

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
    /// How many layers are fetched and unpacked at once.
    pub jobs: NonZeroUsize,
    /// What the image may ask for at most.
    pub limits: Limits,
}

/// As many layers at once as docker and containerd fetch.
pub const DEFAULT_JOBS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

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
pub async fn pull(source: &Source, options: &PullOptions) -> Result<Pulled, PullError> {
    let present = if options.force { None } else { present(options)? };
    let PullOptions { ownership, force, limits, .. } = *options;
    let apply = ApplyOptions { ownership, force, limits };
    // Whether DEST may be written is said before the network is asked. Only a DEST that holds an
    // image already may be full and yet right.
    let staging = match present {
        Some(_) => None,
        None => Some(Staging::create(&options.dest, apply)?),
    };
    // A digest says by itself that nothing can have changed.
    if let (Some(record), Some(digest)) = (&present, source.digest())
        && holds(record, digest)
    {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest.clone() });
    }
    let cache = options.cache.as_deref();
    let named = resolve::name(source, cache).await?;
    if let Some(record) = present.as_ref().filter(|record| holds(record, &named.digest)) {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest.clone() });
    }
    let mut resolved = resolve::resolve(source, cache, named, &options.platform).await?;
    if let Some(record) = present.filter(|record| holds(record, &resolved.manifest_digest)) {
        return Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest });
    }
    let mut staging = match staging {
        Some(staging) => staging,
        None => Staging::create(&options.dest, apply)?,
    };
    let config = resolve::config(source, cache, &mut resolved, &options.platform).await?;
    let layers = &resolved.manifest.layers;
    // What is on this machine needs no keeping.
    let keep = if source.is_local() { &[] } else { layers.as_slice() };
    let job = Job {
        source,
        layers,
        diff_ids: &config.diff_ids,
        caches: &LayerCaches::new(options.cache.as_ref(), keep, &options.dest, source.observer()),
        jobs: options.jobs,
    };
    let mut evicted = HashSet::new();
    let staging = loop {
        match unpack(&job, staging).await {
            Ok(staging) => break staging,
            // A cache that was damaged is no reason to fail; what failed in the same way when it
            // came from the registry is.
            Err(Failure { evicted: Some(layer), .. }) if evicted.insert(layer.clone()) => {
                staging = Staging::create(&options.dest, apply)?;
            }
            Err(Failure { error, .. }) => return Err(error),
        }
    };
    let record = record(source, &resolved, config, options.ownership);
    let warnings = staging.commit(&record)?;
    if let Some(cache) = cache.filter(|_| !source.is_local()) {
        cache.note(&record.canonical_reference, &resolved.root);
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

fn record(
    source: &Source,
    resolved: &Resolved,
    config: Config,
    ownership: Ownership,
) -> ImageRecord {
    let layers = resolved.manifest.layers.iter().zip(&config.diff_ids);
    ImageRecord {
        version: RECORD_VERSION,
        reference: source.typed().to_owned(),
        canonical_reference: source.to_string(),
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
