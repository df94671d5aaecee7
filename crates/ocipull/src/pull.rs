//! The pipeline: a reference becomes a root filesystem with its record beside it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use ctsys::record::Ownership;
//! use ocipull::pull::{PullOptions, Pulled, Resources, pull};
//! use ocipull::reference::ImageReference;
//! use ocipull::{event::Silent, platform::Platform, registry::Registry, source::Source};
//!
//! let reference: ImageReference = "centos:latest".parse()?;
//! let registry = Registry::new(&reference, &Default::default(), Arc::new(Silent))?;
//! let options = PullOptions {
//!     dest: std::path::absolute("rootfs")?,
//!     platform: Platform::host(),
//!     ownership: Ownership::Single,
//!     force: false,
//!     keep_dirlinks: false,
//!     sync: false,
//!     resources: Resources::default(),
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
use std::str::FromStr;
use std::sync::Arc;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedLayer, record_path};
use oci_spec::image::{Descriptor, Digest};

use crate::apply::{self, ApplyError, ApplyOptions, Limits, Staging, Warning};
use crate::cache::{Cache, LayerCaches};
use crate::error::PullError;
use crate::image::Config;
use crate::platform::Platform;
use crate::resolve::{self, Named, Resolved};
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
    /// Whether lower layers' links to directories stay ([`ApplyOptions::keep_dirlinks`]).
    pub keep_dirlinks: bool,
    /// Whether everything is on the disk when the pull returns ([`ApplyOptions::is_durable`]).
    pub sync: bool,
    /// What it may use.
    pub resources: Resources,
}

/// What fetching and unpacking an image may use.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Where blobs are kept from pull to pull.
    pub cache: Option<Arc<Cache>>,
    /// How many layers are fetched and unpacked at once.
    pub jobs: NonZeroUsize,
    /// What the image may ask for at most.
    pub limits: Limits,
}

/// As many layers at once as docker and containerd fetch.
pub const DEFAULT_JOBS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

impl Default for Resources {
    fn default() -> Self {
        Self { cache: None, jobs: DEFAULT_JOBS, limits: Limits::USUAL }
    }
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
pub async fn pull(source: &Source, options: &PullOptions) -> Result<Pulled, PullError> {
    let present = if options.force { None } else { present(options)? };
    let PullOptions { ownership, force, keep_dirlinks, ref resources, .. } = *options;
    let limits = resources.limits;
    let how = ApplyOptions { ownership, force, keep_dirlinks, limits, is_durable: options.sync };
    let make_staging = || Staging::create(&options.dest, how);
    // Whether DEST may be written is said before the network is asked. Only a DEST that holds an
    // image already may be full and yet right.
    let staging = match present {
        Some(_) => None,
        None => Some(make_staging()?),
    };
    // A digest says by itself that nothing can have changed.
    if let (Some(record), Some(digest)) = (&present, source.digest())
        && holds(record, digest)
    {
        return up_to_date(record, options);
    }
    let cache = resources.cache.as_deref();
    let named = resolve::name(source, cache).await?;
    if let Some(record) = present.as_ref().filter(|record| holds(record, &named.digest)) {
        return up_to_date(record, options);
    }
    let mut resolved = resolve::resolve(source, cache, named, &options.platform).await?;
    if let Some(record) = present.filter(|record| holds(record, &resolved.manifest_digest)) {
        return up_to_date(&record, options);
    }
    let staging = match staging {
        Some(staging) => staging,
        None => make_staging()?,
    };
    let config = resolve::config(source, cache, &mut resolved, &options.platform).await?;
    let image = Image { source, resolved: &resolved, config: &config };
    let staging = image.unpack(resources, &options.dest, staging, make_staging).await?;
    let record = record(source, &resolved, config, options);
    let warnings = staging.commit(&record)?;
    if let Some(cache) = cache.filter(|_| !source.is_local()) {
        cache.note(&record.canonical_reference, &resolved.descriptor, &resolved.resolved_digest);
    }
    Ok(Pulled::Unpacked {
        manifest_digest: record.manifest_digest,
        layers: record.layers.len(),
        bytes: resolved.manifest.layers.iter().map(Descriptor::size).sum(),
        warnings,
    })
}

/// Unpacks the image that `record` names once more, beside `dest`, to be looked at: nothing takes
/// the place of `dest`. Fails when that image is not what the record says it is.
pub async fn stage(
    source: &Source,
    record: &ImageRecord,
    dest: &Path,
    resources: &Resources,
) -> Result<Staging, PullError> {
    let other = |what| PullError::OtherImage {
        dest: dest.into(),
        digest: record.manifest_digest.clone(),
        what,
    };
    let digest = Digest::from_str(&record.manifest_digest).map_err(|_| other("digest"))?;
    let platform = Platform::from_record(&record.platform);
    let how = ApplyOptions {
        limits: resources.limits,
        keep_dirlinks: record.keep_dirlinks,
        ..ApplyOptions::new(record.ownership, false)
    };
    let make_staging = || Staging::beside(dest, how);
    let staging = make_staging()?;
    let cache = resources.cache.as_deref();
    let named = Named::by_digest(digest);
    let mut resolved = resolve::resolve(source, cache, named, &platform).await?;
    let config = resolve::config(source, cache, &mut resolved, &platform).await?;
    if layers(&resolved, &config) != record.layers {
        return Err(other("layers"));
    }
    let image = Image { source, resolved: &resolved, config: &config };
    image.unpack(resources, dest, staging, make_staging).await
}

/// An image whose layers are still to be fetched.
struct Image<'a> {
    source: &'a Source,
    resolved: &'a Resolved,
    config: &'a Config,
}

impl Image<'_> {
    /// Unpacks the image into `staging`, or where the cache turns out to be damaged, into a new one.
    async fn unpack(
        &self,
        resources: &Resources,
        dest: &Path,
        mut staging: Staging,
        make_staging: impl Fn() -> Result<Staging, ApplyError>,
    ) -> Result<Staging, PullError> {
        let layers = &self.resolved.manifest.layers;
        // What is on this machine needs no keeping.
        let kept = if self.source.is_local() { &[] } else { layers.as_slice() };
        let observer = self.source.observer();
        let job = Job {
            source: self.source,
            layers,
            diff_ids: &self.config.diff_ids,
            caches: &LayerCaches::new(resources.cache.as_ref(), kept, dest, observer),
            jobs: resources.jobs,
        };
        let mut evicted = HashSet::new();
        loop {
            match unpack(&job, staging).await {
                Ok(staging) => return Ok(staging),
                // A cache that was damaged is no reason to fail. Once a layer: then it is not the
                // cache.
                Err(Failure { evicted: Some(layer), .. }) if evicted.insert(layer.clone()) => {
                    staging = make_staging()?;
                }
                Err(Failure { error, .. }) => return Err(*error),
            }
        }
    }
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
        record.ownership == options.ownership
            && record.keep_dirlinks == options.keep_dirlinks
            && options.platform.suits(&platform).is_some()
    }))
}

fn up_to_date(record: &ImageRecord, options: &PullOptions) -> Result<Pulled, PullError> {
    if options.sync {
        // Who pulled it may not have waited for the disk.
        apply::sync(&options.dest)?;
    }
    Ok(Pulled::UpToDate { manifest_digest: record.manifest_digest.clone() })
}

fn holds(record: &ImageRecord, digest: &Digest) -> bool {
    [&record.resolved_digest, &record.manifest_digest].contains(&&digest.to_string())
}

fn record(
    source: &Source,
    resolved: &Resolved,
    config: Config,
    options: &PullOptions,
) -> ImageRecord {
    ImageRecord {
        version: RECORD_VERSION,
        reference: source.typed().to_owned(),
        canonical_reference: source.to_string(),
        manifest_digest: resolved.manifest_digest.to_string(),
        resolved_digest: resolved.resolved_digest.to_string(),
        platform: resolved.platform.to_record(),
        layers: layers(resolved, &config),
        ownership: options.ownership,
        keep_dirlinks: options.keep_dirlinks,
        config: config.raw,
    }
}

fn layers(resolved: &Resolved, config: &Config) -> Vec<RecordedLayer> {
    let layers = resolved.manifest.layers.iter().zip(&config.diff_ids);
    layers
        .map(|(layer, diff_id)| RecordedLayer {
            digest: layer.digest().to_string(),
            diff_id: diff_id.to_string(),
        })
        .collect()
}
