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
//!     jobs: pull::DEFAULT_JOBS,
//!     limits: Limits::USUAL,
//!     cache: None,
//! };
//! match pull(&Source::registry(registry, reference), &options).await? {
//!     Pulled::UpToDate { manifest_digest } => println!("still {manifest_digest}"),
//!     Pulled::Unpacked { layers, .. } => println!("{layers} layers"),
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedLayer, record_path};
use oci_spec::image::{Descriptor, Digest};
use tokio::task::JoinSet;

use crate::apply::{ApplyOptions, LayerSpec, Limits, Staging, Warning};
use crate::cache::{Cache, LayerCaches};
use crate::error::PullError;
use crate::event::{Event, LayerInfo};
use crate::fetch::{self, Fetch, LayerReader, Place};
use crate::image::Config;
use crate::platform::Platform;
use crate::resolve::{self, Resolved};
use crate::source::Source;

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
    /// How many layers are fetched and unpacked at once.
    pub jobs: NonZeroUsize,
    /// What the image may ask for at most.
    pub limits: Limits,
    /// Where blobs are kept from pull to pull.
    pub cache: Option<Arc<Cache>>,
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
    let mut evicted = HashSet::new();
    let staging = loop {
        match unpack(source, &resolved, &config, staging, options).await {
            Ok(staging) => break staging,
            // A cache that was damaged is no reason to fail; what failed in the same way when it
            // came from the registry is.
            Err(Failed { evicted: Some(layer), .. }) if evicted.insert(layer.clone()) => {
                staging = Staging::create(&options.dest, apply)?;
            }
            Err(failed) => return Err(failed.error),
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

/// Why layers could not be unpacked.
struct Failed {
    error: PullError,
    /// The layer that failed, where it came from the cache; it is evicted then.
    evicted: Option<Digest>,
}

/// Fetches and applies the layers, several at a time.
async fn unpack(
    source: &Source,
    resolved: &Resolved,
    config: &Config,
    staging: Staging,
    options: &PullOptions,
) -> Result<Staging, Failed> {
    let layers = &resolved.manifest.layers;
    // What is on this machine needs no keeping.
    let keep = if source.is_local() { &[][..] } else { layers };
    let cache = options.cache.as_ref();
    let mut unpacking = Unpacking {
        source,
        layers,
        caches: LayerCaches::new(cache, keep, &options.dest, source.observer()),
        staging: Arc::new(staging),
        fetches: HashMap::new(),
        threads: JoinSet::new(),
    };
    match unpacking.run(&config.diff_ids, options.jobs).await {
        Ok(()) => unpacking.into_staging().map_err(Failed::from),
        Err(failed) => {
            unpacking.cancel().await;
            Err(failed)
        }
    }
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Self {
        Self { error, evicted: None }
    }
}

/// The layers on their way. Dropping it ends them.
struct Unpacking<'a> {
    source: &'a Source,
    layers: &'a [Descriptor],
    caches: LayerCaches,
    staging: Arc<Staging>,
    fetches: HashMap<usize, Fetch>,
    threads: JoinSet<(usize, LayerReader, Result<(), PullError>)>,
}

impl Unpacking<'_> {
    async fn run(&mut self, diff_ids: &[Digest], jobs: NonZeroUsize) -> Result<(), Failed> {
        let mut waiting = diff_ids.iter().enumerate();
        let mut consequence = None;
        loop {
            // The lowest first: one that waits for its turn always has those below it under way.
            for (index, diff_id) in waiting.by_ref().take(jobs.get() - self.threads.len()) {
                self.start(index, diff_id);
            }
            let Some(done) = self.threads.join_next().await else { break };
            let (index, reader, applied) = done.map_err(|_| PullError::Unpacker)?;
            let fetch = self.fetches.remove(&index);
            match applied {
                Ok(()) => self.tell_done(index),
                // The layer that is the cause ends as well.
                Err(error) if error.is_consequence() => {
                    waiting = [].iter().enumerate();
                    consequence = Some(error);
                }
                // A layer that cannot be read is the network's failure, not the unpacker's.
                Err(error) => {
                    let failure = fetch.and_then(|fetch| fetch.failure());
                    let error = failure.map_or(error, PullError::from);
                    let evicted = if reader.is_from_cache() { self.evict(index) } else { None };
                    return Err(Failed { error, evicted });
                }
            }
        }
        consequence.map_or(Ok(()), |error| Err(Failed::from(error)))
    }

    fn start(&mut self, index: usize, diff_id: &Digest) {
        let Some(layer) = self.layers.get(index).cloned() else { return };
        let place = Place { index, total: self.layers.len() };
        let cache = self.caches.of(layer.digest());
        let (fetch, mut reader) = fetch::fetch(self.source, cache, &layer, place);
        self.fetches.insert(index, fetch);
        let (staging, diff_id) = (Arc::clone(&self.staging), diff_id.clone());
        self.threads.spawn_blocking(move || {
            let applied = apply_layer(&staging, index, &layer, &diff_id, &mut reader);
            (index, reader, applied)
        });
    }

    fn tell_done(&self, index: usize) {
        let Some(layer) = self.layers.get(index) else { return };
        let (digest, size_bytes) = (layer.digest(), layer.size());
        let info = LayerInfo { index, total: self.layers.len(), digest, size_bytes };
        self.source.observer().observe(&Event::LayerDone(info));
    }

    /// Removes a layer from the cache that could not be unpacked as it is there.
    fn evict(&self, index: usize) -> Option<Digest> {
        let digest = self.layers.get(index)?.digest();
        self.caches.of(digest)?.evict(digest);
        Some(digest.clone())
    }

    /// Ends what is under way, and waits for that.
    async fn cancel(&mut self) {
        self.stop();
        while self.threads.join_next().await.is_some() {}
    }

    /// Ends the downloads, and so the threads that read them or wait for those that do.
    fn stop(&mut self) {
        self.staging.stop();
        self.fetches.clear();
    }

    fn into_staging(self) -> Result<Staging, PullError> {
        let staging = Arc::clone(&self.staging);
        drop(self);
        // All threads have ended.
        Arc::into_inner(staging).ok_or(PullError::Unpacker)
    }
}

impl Drop for Unpacking<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn apply_layer(
    staging: &Staging,
    index: usize,
    layer: &Descriptor,
    diff_id: &Digest,
    reader: &mut LayerReader,
) -> Result<(), PullError> {
    let media_type = layer.media_type().to_string();
    let spec = LayerSpec { media_type: &media_type, diff_id, digest: layer.digest() };
    let applied = staging.apply_layer_at(index, &spec, reader);
    // What a decompressor leaves behind its stream's end belongs to the blob as well. Where the
    // content makes no sense, the rest of it shows whether it is what was asked for.
    let rest = reader.finish(if applied.is_ok() { u64::MAX } else { MAX_BLAME_BYTES });
    applied?;
    rest.map_err(|source| {
        staging.stop();
        PullError::Layer { digest: layer.digest().to_string(), source }
    })
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
