//! The layers of an image, fetched and applied several at a time.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest};
use tokio::task::JoinSet;

use crate::apply::{LayerSpec, Staging};
use crate::cache::LayerCaches;
use crate::error::PullError;
use crate::event::{Event, LayerInfo};
use crate::fetch::{self, Fetch, LayerReader, Place};
use crate::registry::Registry;

/// So much of a layer that could not be applied is still read, to see whether it was altered on its
/// way: in bytes, a second or so of a good line.
const MAX_BLAME_BYTES: u64 = 64 << 20;

/// What is to be unpacked.
pub(crate) struct Job<'a> {
    pub(crate) registry: &'a Arc<Registry>,
    /// Lowest first.
    pub(crate) layers: &'a [Descriptor],
    /// As many.
    pub(crate) diff_ids: &'a [Digest],
    pub(crate) caches: &'a LayerCaches,
    /// Layers at once.
    pub(crate) jobs: NonZeroUsize,
}

/// Why it could not be.
pub(crate) struct Failure {
    pub(crate) error: Box<PullError>,
    /// The layer that failed, where it came from the cache, which does not hold it any more.
    pub(crate) evicted: Option<Digest>,
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self { error: error.into(), evicted: None }
    }
}

/// Fetches and applies the layers.
pub(crate) async fn unpack(job: &Job<'_>, staging: Staging) -> Result<Staging, Failure> {
    let mut unpacking = Unpacking {
        job,
        staging: Arc::new(staging),
        fetches: HashMap::new(),
        threads: JoinSet::new(),
    };
    match unpacking.run().await {
        Ok(()) => unpacking.into_staging(),
        Err(failure) => {
            unpacking.cancel().await;
            Err(failure)
        }
    }
}

/// What a layer's thread comes to.
struct Done {
    index: usize,
    applied: Result<(), PullError>,
    is_from_cache: bool,
}

/// The layers on their way. Dropping it ends them.
struct Unpacking<'a> {
    job: &'a Job<'a>,
    staging: Arc<Staging>,
    fetches: HashMap<usize, Fetch>,
    threads: JoinSet<Done>,
}

impl Unpacking<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let jobs = self.job.jobs.get();
        let mut waiting = self.job.layers.iter().zip(self.job.diff_ids).enumerate();
        let mut consequence = None;
        loop {
            // The lowest first: one that waits for its turn always has those below it under way.
            let free = if consequence.is_some() { 0 } else { jobs - self.threads.len() };
            for (index, (layer, diff_id)) in waiting.by_ref().take(free) {
                self.start(index, layer, diff_id);
            }
            let Some(done) = self.threads.join_next().await else { break };
            let done = done.map_err(|_| PullError::Unpacker)?;
            let fetch = self.fetches.remove(&done.index);
            match done.applied {
                Ok(()) => self.tell_done(done.index),
                // The layer that is the cause ends as well.
                Err(error) if error.is_consequence() => consequence = Some(error),
                Err(error) => {
                    // A layer that cannot be read is the network's failure, not the unpacker's.
                    let network = fetch.and_then(|fetch| fetch.failure());
                    let error = network.map_or(error, PullError::from);
                    let is_suspect = done.is_from_cache && error.may_be_damage();
                    let evicted = self.evict_damaged(done.index, is_suspect);
                    return Err(Failure { error: error.into(), evicted });
                }
            }
        }
        consequence.map_or(Ok(()), |error| Err(error.into()))
    }

    fn start(&mut self, index: usize, layer: &Descriptor, diff_id: &Digest) {
        let place = Place { index, total: self.job.layers.len() };
        let cache = self.job.caches.of(layer.digest());
        let (fetch, mut reader) = fetch::fetch(self.job.registry, cache, layer, place);
        self.fetches.insert(index, fetch);
        let staging = Arc::clone(&self.staging);
        let (layer, diff_id) = (layer.clone(), diff_id.clone());
        self.threads.spawn_blocking(move || {
            let applied = apply_layer(&staging, index, &layer, &diff_id, &mut reader);
            Done { index, applied, is_from_cache: reader.is_from_cache() }
        });
    }

    /// Takes a layer out of the cache if it is damaged there.
    fn evict_damaged(&self, index: usize, is_suspect: bool) -> Option<Digest> {
        let digest = self.job.layers.get(index)?.digest();
        let cache = self.job.caches.of(digest).filter(|_| is_suspect)?;
        cache.distrust(digest).then(|| digest.clone())
    }

    fn tell_done(&self, index: usize) {
        let Some(layer) = self.job.layers.get(index) else { return };
        let (digest, size_bytes) = (layer.digest(), layer.size());
        let info = LayerInfo { index, total: self.job.layers.len(), digest, size_bytes };
        self.job.registry.observer().observe(&Event::LayerDone(info));
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

    fn into_staging(self) -> Result<Staging, Failure> {
        let staging = Arc::clone(&self.staging);
        drop(self);
        // All threads have ended.
        Arc::into_inner(staging).ok_or_else(|| PullError::Unpacker.into())
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
