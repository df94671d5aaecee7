//! A layer as a stream of verified bytes: a task takes them off the network, hashes them and hands
//! them through a bounded channel to whoever reads.
//!
//! ```text
//! registry -> task: size and digest -> channel -> Read -> decompress, apply
//! ```
//!
//! The end of the stream is told only after size and digest were found right, so a reader that saw
//! the end has read the layer and nothing else.
//!
//! ```no_run
//! # async fn example(
//! #     registry: std::sync::Arc<ocipull::registry::Registry>,
//! #     image: ocipull::resolve::Resolved,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use ocipull::fetch::{Place, fetch};
//!
//! // The first layer into a file, as it is served.
//! let place = Place { index: 0, total: image.manifest.layers.len() };
//! let (fetching, mut blob) = fetch(&registry, &image.manifest.layers[0], place);
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

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use oci_spec::image::Descriptor;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::event::{Event, LayerInfo};
use crate::registry::{Answer, Cause, Registry, RegistryError};
use crate::verify::{Verifier, VerifyError};

/// Longest piece handed on at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces waiting for the reader, at most: 4 MiB a layer, enough to keep both sides busy.
const PIECES: usize = 16;

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
    task: JoinHandle<()>,
    failure: Arc<Mutex<Option<RegistryError>>>,
}

/// The blocking end of a [`Fetch`]: the blob's bytes as they are served.
#[derive(Debug)]
pub struct LayerReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// All came, and was right.
    End,
    /// For the reader's error; the whole story is in [`Fetch::failure`].
    Failed(String),
}

/// Starts to fetch `layer`. Must be called within a tokio runtime; the reader is for a thread that
/// may block.
pub fn fetch(registry: &Arc<Registry>, layer: &Descriptor, place: Place) -> (Fetch, LayerReader) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let failure = Arc::new(Mutex::new(None));
    let (registry, layer, noted) = (Arc::clone(registry), layer.clone(), Arc::clone(&failure));
    let task = tokio::spawn(async move {
        let result = stream(&registry, &layer, place, &sender).await;
        let last = match result {
            Ok(()) => Piece::End,
            Err(error) => {
                let text = error.to_string();
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Piece::Failed(text)
            }
        };
        // A reader that is gone wants to know nothing.
        let _ = sender.send(last).await;
    });
    (Fetch { task, failure }, LayerReader { pieces, current: Bytes::new(), ended: false })
}

impl Fetch {
    /// Why the download failed, if it did: the cause of whatever the reader's side reports.
    pub fn failure(&self) -> Option<RegistryError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stream(
    registry: &Registry,
    layer: &Descriptor,
    place: Place,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), RegistryError> {
    let info = LayerInfo {
        index: place.index,
        total: place.total,
        digest: layer.digest(),
        size_bytes: layer.size(),
    };
    registry.observer().observe(&Event::LayerStarted(info));
    let mut answer = registry.open_blob(layer.digest()).await?;
    let mut verifier = Verifier::new(layer.digest(), Some(layer.size()))
        .map_err(|cause| content(&answer, cause))?;
    loop {
        let mut chunk = match answer.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return Err(cut_off(error, verifier, &answer)),
        };
        verifier.update(&chunk).map_err(|cause| content(&answer, cause))?;
        let event = Event::LayerBytes { index: place.index, bytes: chunk.len() as u64 };
        registry.observer().observe(&event);
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE_BYTES));
            if sender.send(Piece::Bytes(piece)).await.is_err() {
                // The reader gave up and says why itself.
                return Ok(());
            }
        }
    }
    verifier.finish().map_err(|cause| content(&answer, cause))
}

fn content(answer: &Answer, cause: VerifyError) -> RegistryError {
    RegistryError::Content { method: answer.method(), url: answer.url().to_owned(), cause }
}

/// A server that closes the connection early has sent a short layer; a network that breaks or
/// stalls says more as what it is.
fn cut_off(error: RegistryError, verifier: Verifier, answer: &Answer) -> RegistryError {
    match error {
        RegistryError::Broken { cause: Cause::Other(_), .. } => match verifier.finish() {
            Err(cause @ VerifyError::Truncated { .. }) => content(answer, cause),
            _ => error,
        },
        _ => error,
    }
}

impl LayerReader {
    /// Reads what the reader's user left over, up to the verified end or to `limit_bytes`.
    pub fn finish(&mut self, limit_bytes: u64) -> io::Result<()> {
        io::copy(&mut self.take(limit_bytes), &mut io::sink()).map(|_| ())
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(piece)) => self.current = piece,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(why)) => return Err(io::Error::other(why)),
                None => return Err(io::Error::other("the download was cancelled")),
            }
        }
        let length = buffer.len().min(self.current.len());
        let (target, _) = buffer.split_at_mut(length);
        self.current.copy_to_slice(target);
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
        LayerReader { pieces: receiver, current: Bytes::new(), ended: false }
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
