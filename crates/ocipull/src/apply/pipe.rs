//! Three threads for a layer: one inflates, one hashes, one parses and writes.
//!
//! ```text
//! blob -> decompress -> [full buffers] -> hash -> [hashed buffers] -> BufRead of the tar reader
//!             ^---------------------- [empty buffers] <----------------------|
//! ```
//!
//! The buffers go round, so memory is bounded whatever the layer's size, and the slowest side
//! holds the others up. None of the threads can open a file but for the last one, below the trees
//! that it is given ([`confine`]).

use std::io::{self, BufRead, Read};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use oci_spec::image::DigestAlgorithm;
use sha2::digest::DynDigest;

use super::limits::Budget;
use super::turns::{Stopped, Turns};
use super::{ApplyError, LayerSpec, confine};
use crate::decompress;

/// Large enough that a hand-over costs nothing beside the inflating of a buffer.
const BUFFER_BYTES: usize = 256 << 10;

/// One for each thread and some in between, so that none waits for another's scheduling.
const BUFFERS: usize = 6;

type Filled = io::Result<Vec<u8>>;

/// Runs `consume` over the uncompressed stream of `blob`, reads on to the stream's end whatever
/// `consume` left, and checks the diff_id. `consume` reaches files below `trees` only. The number
/// of bytes comes with the result. It ends early, with an error, when `turns` are stopped: a blob on
/// this machine has no download whose end would end it.
pub(super) fn with_stream<T: Send>(
    layer: &LayerSpec<'_>,
    budget: &Budget,
    turns: &Turns,
    trees: &[BorrowedFd<'_>],
    blob: &mut (dyn Read + Send),
    consume: impl FnOnce(&mut PipeReader) -> Result<T, ApplyError> + Send,
) -> Result<(T, u64), ApplyError> {
    let mut hasher = hasher_for(layer)?;
    let layer_error = |source| ApplyError::Decompress { digest: layer.digest.clone(), source };
    let limit = budget.limits().expansion_ratio;
    let mut stream = decompress::open(layer.media_type, blob, limit).map_err(layer_error)?;
    let (full_in, full) = sync_channel(BUFFERS);
    let (hashed_in, hashed) = sync_channel(BUFFERS);
    let (empty, empty_out) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all, and the receiver is here.
        let _ = empty.send(vec![0; BUFFER_BYTES]);
    }
    let hashing = hasher.as_mut();
    let (consumed, bytes) = thread::scope(|scope| {
        let inflating = move || {
            confine::to_nothing();
            inflate(&mut stream, budget, turns, &empty_out, &full_in);
        };
        spawn(scope, "inflate", inflating)?;
        spawn(scope, "hash", move || hash(hashing, &full, &hashed_in))?;
        let unpacking = move || {
            confine::to_trees(trees);
            // Of this thread: a failure drops it, and the threads before end when they find their
            // receiver gone.
            let mut reader = PipeReader::new(hashed, empty);
            let consumed = consume(&mut reader)?;
            // What stands behind the end marker belongs to the diff_id as well.
            reader.drain().map_err(|source| stream_error(layer, source))?;
            Ok::<_, ApplyError>((consumed, reader.bytes))
        };
        joined(spawn(scope, "unpack", unpacking)?)
    })?;
    check_diff_id(layer, hasher)?;
    Ok((consumed, bytes))
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, ApplyError> {
    let named = thread::Builder::new().name(name.into());
    named.spawn_scoped(scope, body).map_err(|source| ApplyError::Thread { source })
}

/// What the thread returned; its panic goes on in this one.
fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The error of a stream that cannot be read to its end.
pub(super) fn stream_error(layer: &LayerSpec<'_>, source: io::Error) -> ApplyError {
    ApplyError::Stream { digest: layer.digest.clone(), source }
}

fn inflate(
    stream: &mut dyn Read,
    budget: &Budget,
    turns: &Turns,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Filled>,
) {
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(BUFFER_BYTES, 0);
        let filled = fill(stream, &mut buffer).and_then(|length| {
            budget.take_bytes(length).map_err(io::Error::other)?;
            if turns.has_stopped() { Err(io::Error::other(Stopped)) } else { Ok(length) }
        });
        let end = !matches!(filled, Ok(length) if length == BUFFER_BYTES);
        let message = filled.map(|length| {
            buffer.truncate(length);
            buffer
        });
        // A receiver that is gone has failed, and says itself why.
        if full.send(message).is_err() || end {
            return;
        }
    }
}

fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn hash(hasher: &mut (dyn DynDigest + Send), full: &Receiver<Filled>, hashed: &SyncSender<Filled>) {
    confine::to_nothing();
    while let Ok(message) = full.recv() {
        if let Ok(buffer) = &message {
            hasher.update(buffer);
        }
        if hashed.send(message).is_err() {
            return;
        }
    }
}

/// The reading end.
pub(super) struct PipeReader {
    hashed: Receiver<Filled>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    bytes: u64,
}

impl PipeReader {
    fn new(hashed: Receiver<Filled>, empty: SyncSender<Vec<u8>>) -> Self {
        Self { hashed, empty, buffer: Vec::new(), position: 0, bytes: 0 }
    }

    fn drain(&mut self) -> io::Result<()> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.buffer.len() {
            let used = std::mem::take(&mut self.buffer);
            self.position = 0;
            if used.capacity() > 0 {
                let _ = self.empty.try_send(used);
            }
            // A sender that is gone has sent its last buffer.
            if let Ok(buffer) = self.hashed.recv() {
                self.buffer = buffer?;
                self.bytes += self.buffer.len() as u64;
            }
        }
        Ok(self.buffer.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.buffer.len());
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

fn hasher_for(layer: &LayerSpec<'_>) -> Result<Box<dyn DynDigest + Send>, ApplyError> {
    match layer.diff_id.algorithm() {
        DigestAlgorithm::Sha256 => Ok(Box::new(sha2::Sha256::default())),
        DigestAlgorithm::Sha384 => Ok(Box::new(sha2::Sha384::default())),
        DigestAlgorithm::Sha512 => Ok(Box::new(sha2::Sha512::default())),
        _ => Err(ApplyError::DigestAlgorithm { diff_id: layer.diff_id.clone() }),
    }
}

fn check_diff_id(
    layer: &LayerSpec<'_>,
    hasher: Box<dyn DynDigest + Send>,
) -> Result<(), ApplyError> {
    use std::fmt::Write as _;
    let mut got = String::with_capacity(128);
    for byte in hasher.finalize() {
        let _ = write!(got, "{byte:02x}");
    }
    if got == layer.diff_id.digest() {
        return Ok(());
    }
    Err(ApplyError::DiffId {
        digest: layer.digest.clone(),
        got: format!("{}:{got}", layer.diff_id.algorithm()),
        want: layer.diff_id.clone(),
    })
}
