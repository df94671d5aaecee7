//! An image into an OCI layout, byte for byte: what a registry signs is what is kept.
//!
//! ```text
//! root -> the manifests below it -> their configs and layers, several at a time -> the layout
//!                                                                name last of all -> index.json
//! ```

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::{Descriptor, Digest};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::error::PullError;
use crate::event::{Event, LayerInfo};
use crate::fetch::{self, Place};
use crate::image::Children;
use crate::platform::Platform;
use crate::resolve;
use crate::source::Source;
use crate::store::{LayoutStore, StoreError};

/// Manifests and indexes of one image, at most: a real one has two for each of some twenty platforms.
const MAX_DOCUMENTS: usize = 1000;
/// Those together, in bytes: all are kept in memory, with what they name, until the blobs are there.
/// A real image's have some hundred thousand.
const MAX_DOCUMENTS_BYTES: usize = 64 << 20;

/// What docker's own manifests and lists are called.
const DOCKER_TYPES: &str = "application/vnd.docker.";
/// Other types would be another image, with another digest.
const DOCKER_NOTICE: &str = "the image is of docker's media types and is kept as it is; umoci \
                             and older skopeos read only OCI's from a layout";

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The layout's directory: new, empty, or a layout.
    pub dir: PathBuf,
    /// What the image is to be called there.
    pub name: Option<String>,
    /// The platform whose image is copied; `None` for the index with all of them.
    pub platform: Option<Platform>,
    /// How many blobs are fetched at once.
    pub jobs: NonZeroUsize,
    /// Where blobs are kept from pull to pull.
    pub cache: Option<Arc<Cache>>,
}

/// What a copy did.
#[derive(Debug)]
pub struct Copied {
    /// Of what the layout's name stands for now.
    pub digest: Digest,
    /// Manifests and indexes.
    pub documents: usize,
    /// Configs and layers.
    pub blobs: usize,
    /// Of all blobs together, in bytes, whether they were there already or not.
    pub bytes: u64,
}

/// A manifest or index that was fetched.
struct Fetched {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// Copies the image. A failure, or dropping the future, leaves the layout's index.json as it was;
/// blobs that are there already serve the next attempt.
///
/// Must run within a tokio runtime.
pub async fn copy(source: &Source, options: &CopyOptions) -> Result<Copied, PullError> {
    // Whether it may be written is said before the network is asked.
    LayoutStore::check(&options.dir)?;
    let cache = options.cache.as_deref();
    let named = resolve::name(source, cache).await?;
    let root = resolve::root(source, cache, named).await?;
    let root = match &options.platform {
        None => Fetched { descriptor: root.descriptor, bytes: root.bytes },
        Some(platform) => {
            let mut resolved = resolve::choose(source, cache, root, platform).await?;
            resolve::config(source, cache, &mut resolved, platform).await?;
            Fetched { descriptor: resolved.descriptor, bytes: resolved.bytes }
        }
    };
    let descriptor = root.descriptor.clone();
    if descriptor.media_type().to_string().starts_with(DOCKER_TYPES) {
        source.observer().observe(&Event::Notice(DOCKER_NOTICE));
    }
    let (documents, blobs) = collect(source, cache, root).await?;
    let store = Arc::new(LayoutStore::open(&options.dir)?);
    let mut copying = Copying {
        source,
        store: Arc::clone(&store),
        cache: options.cache.clone(),
        total: blobs.len(),
        tasks: JoinSet::new(),
        stop: Arc::default(),
    };
    copying.run(&blobs, options.jobs).await?;
    let copied = Copied {
        digest: descriptor.digest().clone(),
        documents: documents.len(),
        blobs: blobs.len(),
        bytes: blobs.iter().map(Descriptor::size).sum(),
    };
    let name = options.name.clone();
    let written = tokio::task::spawn_blocking(move || {
        // What is inside of an index comes before it.
        for document in documents.iter().rev() {
            store.put(&document.descriptor, &mut document.bytes.as_slice())?;
        }
        store.name(&descriptor, name.as_deref())
    });
    written.await.map_err(|_| PullError::Unpacker)??;
    Ok(copied)
}

/// The documents below `root`, it first, and the blobs of all of them, each once.
async fn collect(
    source: &Source,
    cache: Option<&Cache>,
    root: Fetched,
) -> Result<(Vec<Fetched>, Vec<Descriptor>), PullError> {
    let mut seen = HashSet::from([root.descriptor.digest().clone()]);
    let mut bytes_of_all = root.bytes.len();
    let mut documents = vec![root];
    let mut blobs: Vec<Descriptor> = Vec::new();
    let mut next = 0;
    while let Some(document) = documents.get(next) {
        let children = Children::parse(&document.bytes)?;
        blobs.extend(children.blobs.into_iter().filter(|blob| seen.insert(blob.digest().clone())));
        for descriptor in children.documents {
            if !seen.insert(descriptor.digest().clone()) {
                continue;
            }
            if documents.len() >= MAX_DOCUMENTS {
                return Err(PullError::Large(MAX_DOCUMENTS));
            }
            let bytes = resolve::entry(source, cache, &descriptor).await?.bytes;
            bytes_of_all = bytes_of_all.saturating_add(bytes.len());
            if bytes_of_all > MAX_DOCUMENTS_BYTES {
                return Err(PullError::LargeDocuments(MAX_DOCUMENTS_BYTES));
            }
            documents.push(Fetched { descriptor, bytes });
        }
        next += 1;
    }
    Ok((documents, blobs))
}

/// The blobs on their way. Dropping it ends them.
struct Copying<'a> {
    source: &'a Source,
    store: Arc<LayoutStore>,
    cache: Option<Arc<Cache>>,
    total: usize,
    tasks: JoinSet<(usize, Result<(), PullError>)>,
    stop: Arc<AtomicBool>,
}

impl Copying<'_> {
    async fn run(&mut self, blobs: &[Descriptor], jobs: NonZeroUsize) -> Result<(), PullError> {
        let mut waiting = blobs.iter().enumerate();
        let mut running = HashMap::new();
        loop {
            for (index, blob) in waiting.by_ref().take(jobs.get() - self.tasks.len()) {
                running.insert(index, blob);
                self.start(index, blob);
            }
            let Some(done) = self.tasks.join_next().await else { return Ok(()) };
            let (index, copied) = done.map_err(|_| PullError::Unpacker)?;
            copied?;
            if let Some(blob) = running.remove(&index) {
                let (digest, size_bytes) = (blob.digest(), blob.size());
                let info = LayerInfo { index, total: self.total, digest, size_bytes };
                self.source.observer().observe(&Event::LayerDone(info));
            }
        }
    }

    fn start(&mut self, index: usize, blob: &Descriptor) {
        let one = OneBlob {
            source: self.source.clone(),
            store: Arc::clone(&self.store),
            cache: self.cache.clone(),
            blob: blob.clone(),
            place: Place { index, total: self.total },
            stop: Arc::clone(&self.stop),
        };
        self.tasks.spawn(async move { (index, one.copy().await) });
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct OneBlob {
    source: Source,
    store: Arc<LayoutStore>,
    cache: Option<Arc<Cache>>,
    blob: Descriptor,
    place: Place,
    stop: Arc<AtomicBool>,
}

impl OneBlob {
    async fn copy(self) -> Result<(), PullError> {
        let (store, blob) = (Arc::clone(&self.store), self.blob.clone());
        let has = tokio::task::spawn_blocking(move || store.has(&blob)).await;
        if has.map_err(|_| PullError::Unpacker)? {
            return Ok(());
        }
        let (result, from_cache) = self.attempt().await?;
        match (result, &self.cache) {
            // As when unpacking: a damaged cache is no reason to fail.
            (Err(error), Some(cache)) if from_cache && error.may_be_damage() => {
                cache.evict(self.blob.digest());
                self.attempt().await?.0
            }
            (result, _) => result,
        }
    }

    /// Tells whether the cache had some of it as well.
    async fn attempt(&self) -> Result<(Result<(), PullError>, bool), PullError> {
        let (fetch, reader) =
            fetch::fetch(&self.source, self.cache.as_ref(), &self.blob, self.place);
        let (store, blob) = (Arc::clone(&self.store), self.blob.clone());
        let mut reader = Stoppable { inner: reader, stop: Arc::clone(&self.stop) };
        let put = tokio::task::spawn_blocking(move || {
            let put = store.put(&blob, &mut reader);
            (put, reader.inner.is_from_cache())
        });
        let (put, from_cache) = put.await.map_err(|_| PullError::Unpacker)?;
        let result = put.map_err(|error| match (fetch.failure(), error) {
            // The source's own words, where it was the source.
            (Some(failure), StoreError::Read { .. }) => failure.into(),
            (_, error) => error.into(),
        });
        Ok((result, from_cache))
    }
}

/// Ends the thread that copies, where nobody waits for it any more.
struct Stoppable<R> {
    inner: R,
    stop: Arc<AtomicBool>,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        self.inner.read(buffer)
    }
}
