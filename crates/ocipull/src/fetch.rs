//! A layer as a stream of verified bytes: a task takes them off the network, hashes them, keeps them
//! in the cache and hands them through a bounded channel to whoever reads.
//!
//! ```text
//! registry -> task: size and digest -> channel -> Read -> decompress, apply
//!                   \-> cache -------------------/
//! ```
//!
//! The end of the stream is told only after size and digest were found right, so a reader that saw
//! the end has read the layer and nothing else. A layer that the cache holds whole is read as it is:
//! its digest was right when it got there, and the diff_id of what comes out of it is checked by who
//! unpacks it. When that fails, [`LayerReader::is_from_cache`] tells that the cache may be to blame.
//!
//! ```no_run
//! # async fn example(
//! #     source: ocipull::source::Source,
//! #     image: ocipull::resolve::Resolved,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use ocipull::fetch::{Place, fetch};
//!
//! // The first layer into a file, as it is served.
//! let place = Place { index: 0, total: image.manifest.layers.len() };
//! let (fetching, mut blob) = fetch(&source, None, &image.manifest.layers[0], place);
//! let copied = tokio::task::spawn_blocking(move || {
//!     std::io::copy(&mut blob, &mut std::fs::File::create("layer")?)
//! });
//! match copied.await? {
//!     Ok(bytes) => println!("{bytes} bytes, verified"),
//!     // The network's own words, where it was the network.
//!     Err(error) => return Err(fetching.failure().map_or(error.into(), Into::into)),
//! }
//! # Ok(())
//! # }
//! ```

mod download;

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use oci_spec::image::Descriptor;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cache::Cache;
use crate::event::{Event, LayerInfo, Observer};
use crate::image::{ImageError, inline_data};
use crate::local::{LocalBlob, LocalError};
use crate::registry::RegistryError;
use crate::source::{self, Source};
use download::{Download, Stop};

/// Longest piece handed on at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces waiting for the reader, at most: 2 MiB a layer, enough to keep both sides busy.
const PIECES: usize = 8;

/// Which layer of how many.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// From 0, lowest first.
    pub index: usize,
    /// Of the image.
    pub total: usize,
}

/// A layer on its way. Dropping it ends the download, and the reader's stream with an error.
#[derive(Debug)]
pub struct Fetch {
    /// None where the layer is on this machine.
    task: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<FetchError>>>,
}

/// The blocking end of a [`Fetch`]: the blob's bytes as they are served.
#[derive(Debug)]
pub struct LayerReader {
    origin: Origin,
    from_cache: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Origin {
    Download {
        pieces: mpsc::Receiver<Piece>,
        current: Bytes,
        ended: bool,
    },
    Here(LayerHere),
    /// Its failure is noted.
    Nowhere(String),
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// All came, and was right.
    End,
    /// For the reader's error; the whole story is in [`Fetch::failure`].
    Failed(String),
}

/// Why a layer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The layout or archive.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// What stands in the manifest instead of a blob.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Starts to fetch `layer`, or opens it where it is on this machine or `cache` holds it. Must be
/// called within a tokio runtime; the reader is for a thread that may block.
pub fn fetch(
    source: &Source,
    cache: Option<&Arc<Cache>>,
    layer: &Descriptor,
    place: Place,
) -> (Fetch, LayerReader) {
    source.observer().observe(&Event::LayerStarted(LayerInfo {
        index: place.index,
        total: place.total,
        digest: layer.digest(),
        size_bytes: layer.size(),
    }));
    let registry = match (inline_data(layer), &source.origin) {
        (Ok(Some(bytes)), _) => return here(source, LocalBlob::memory(bytes), place, false),
        (Err(error), _) => return nowhere(error.into()),
        (Ok(None), source::Origin::Local(image)) => {
            return match image.blob(layer) {
                Ok(blob) => here(source, blob, place, false),
                Err(error) => nowhere(error.into()),
            };
        }
        (Ok(None), source::Origin::Registry(registry, _)) => registry,
    };
    if let Some(file) = cache.and_then(|cache| cache.blob(layer.digest(), Some(layer.size()))) {
        let blob = LocalBlob::part(Arc::new(file), 0, layer.size());
        return here(source, blob, place, true);
    }
    let failure = Arc::new(Mutex::new(None));
    let (sender, pieces) = mpsc::channel(PIECES);
    let from_cache = Arc::new(AtomicBool::new(false));
    let download = Download {
        registry: Arc::clone(registry),
        cache: cache.cloned(),
        layer: layer.clone(),
        index: place.index,
        sender: sender.clone(),
        from_cache: Arc::clone(&from_cache),
        position: 0,
        sent: 0,
        url: format!("blobs/{}", layer.digest()),
    };
    let task = Some(tokio::spawn(run(download, sender, Arc::clone(&failure))));
    let origin = Origin::Download { pieces, current: Bytes::new(), ended: false };
    (Fetch { task, failure }, LayerReader { origin, from_cache })
}

fn here(source: &Source, blob: LocalBlob, place: Place, from_cache: bool) -> (Fetch, LayerReader) {
    let observer = Arc::clone(source.observer());
    let origin = Origin::Here(LayerHere { blob, index: place.index, observer });
    let reader = LayerReader { origin, from_cache: Arc::new(AtomicBool::new(from_cache)) };
    (Fetch { task: None, failure: Arc::default() }, reader)
}

fn nowhere(error: FetchError) -> (Fetch, LayerReader) {
    let origin = Origin::Nowhere(error.to_string());
    let failure = Arc::new(Mutex::new(Some(error)));
    (Fetch { task: None, failure }, LayerReader { origin, from_cache: Arc::default() })
}

async fn run(
    download: Download,
    sender: mpsc::Sender<Piece>,
    failure: Arc<Mutex<Option<FetchError>>>,
) {
    let last = match download.run().await {
        Ok(()) => Piece::End,
        Err(Stop::ReaderGone) => return,
        Err(Stop::Failed(error)) => {
            let text = error.to_string();
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
            Piece::Failed(text)
        }
    };
    // A reader that is gone wants to know nothing.
    let _ = sender.send(last).await;
}

impl Fetch {
    /// Why the download failed, if it did: the cause of whatever the reader's side reports.
    pub fn failure(&self) -> Option<FetchError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl LayerReader {
    /// Whether some of what was read had been in the cache. When it cannot be unpacked, the cache
    /// may be damaged: [`Cache::distrust`] the layer, and fetch it once more where that helps.
    pub fn is_from_cache(&self) -> bool {
        self.from_cache.load(Ordering::Relaxed)
    }

    /// Reads what the reader's user left over, up to the verified end or to `limit_bytes`.
    pub fn finish(&mut self, limit_bytes: u64) -> io::Result<()> {
        io::copy(&mut self.take(limit_bytes), &mut io::sink()).map(|_| ())
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (pieces, current, ended) = match &mut self.origin {
            Origin::Here(layer) => return layer.read(buffer),
            Origin::Nowhere(why) => return Err(io::Error::other(why.clone())),
            Origin::Download { pieces, current, ended } => (pieces, current, ended),
        };
        while current.is_empty() {
            if *ended || buffer.is_empty() {
                return Ok(0);
            }
            match pieces.blocking_recv() {
                Some(Piece::Bytes(piece)) => *current = piece,
                Some(Piece::End) => *ended = true,
                Some(Piece::Failed(why)) => return Err(io::Error::other(why)),
                None => return Err(io::Error::other("the download was cancelled")),
            }
        }
        let length = buffer.len().min(current.len());
        let (target, _) = buffer.split_at_mut(length);
        current.copy_to_slice(target);
        Ok(length)
    }
}

/// A layer that is on this machine, open already: who reads it may not open files.
struct LayerHere {
    blob: LocalBlob,
    index: usize,
    observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for LayerHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LayerHere").field(&self.blob).finish()
    }
}

impl LayerHere {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.blob.read(buffer)?;
        let event = Event::LayerBytes { index: self.index, bytes: length as u64 };
        self.observer.observe(&event);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(pieces: Vec<Piece>) -> LayerReader {
        let (sender, receiver) = mpsc::channel(PIECES);
        for piece in pieces {
            sender.try_send(piece).unwrap();
        }
        let origin = Origin::Download { pieces: receiver, current: Bytes::new(), ended: false };
        LayerReader { origin, from_cache: Arc::default() }
    }

    #[test]
    fn pieces_are_joined_and_the_end_stays_the_end() {
        let mut reader = reader(vec![
            Piece::Bytes(Bytes::from_static(b"ab")),
            Piece::Bytes(Bytes::new()),
            Piece::Bytes(Bytes::from_static(b"c")),
            Piece::End,
        ]);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "abc");
        assert_eq!(reader.read(&mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn a_stream_without_its_end_is_an_error() {
        let cut = vec![Piece::Bytes(Bytes::from_static(b"ab"))];
        let failed = vec![Piece::Bytes(Bytes::from_static(b"ab")), Piece::Failed("altered".into())];
        for (pieces, words) in [(cut, "cancelled"), (failed, "altered")] {
            let error = reader(pieces).finish(u64::MAX).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
