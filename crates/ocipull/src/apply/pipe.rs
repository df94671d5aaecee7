//! Two threads for a layer: one inflates and hashes, the other parses and writes.
//!
//! ```text
//! blob -> decompress -> hash -> [full buffers] -> BufRead of the tar reader
//!                        ^------ [empty buffers] <------|
//! ```
//!
//! The buffers go round, so memory is bounded whatever the layer's size, and the slower side
//! holds the faster one up.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use oci_spec::image::DigestAlgorithm;
use sha2::digest::DynDigest;

use super::{ApplyError, LayerSpec};
use crate::decompress;

/// Large enough that a hand-over costs nothing beside the inflating of a buffer.
const BUFFER_BYTES: usize = 256 << 10;

/// Enough that neither side waits for the other's scheduling.
const BUFFERS: usize = 4;

/// Runs `consume` over the uncompressed stream of `blob`, reads on to the stream's end whatever
/// `consume` left, and checks the diff_id. The number of bytes comes with the result.
pub(super) fn with_stream<T>(
    layer: &LayerSpec<'_>,
    blob: &mut (dyn Read + Send),
    consume: impl FnOnce(&mut PipeReader) -> Result<T, ApplyError>,
) -> Result<(T, u64), ApplyError> {
    let mut hasher = hasher_for(layer)?;
    let layer_error = |source| ApplyError::Decompress { digest: layer.digest.clone(), source };
    let mut stream = decompress::open(layer.media_type, blob).map_err(layer_error)?;
    let (full_in, full) = sync_channel(BUFFERS);
    let (empty, empty_out) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all, and the receiver is here.
        let _ = empty.send(vec![0; BUFFER_BYTES]);
    }
    let hashing = hasher.as_mut();
    let (consumed, bytes) = thread::scope(|scope| {
        // Of this closure, not of the function: a failure drops it before the scope waits for the
        // inflating thread, which ends when it finds its receiver gone.
        let mut reader = PipeReader { full, empty, buffer: Vec::new(), position: 0, bytes: 0 };
        thread::Builder::new()
            .name("inflate".into())
            .spawn_scoped(scope, move || inflate(&mut stream, hashing, &empty_out, &full_in))
            .map_err(|source| ApplyError::Thread { source })?;
        let consumed = consume(&mut reader)?;
        // What stands behind the end marker belongs to the diff_id as well.
        reader.drain().map_err(|source| stream_error(layer, source))?;
        Ok::<_, ApplyError>((consumed, reader.bytes))
    })?;
    check_diff_id(layer, hasher)?;
    Ok((consumed, bytes))
}

/// The error of a stream that cannot be read to its end.
pub(super) fn stream_error(layer: &LayerSpec<'_>, source: io::Error) -> ApplyError {
    ApplyError::Stream { digest: layer.digest.clone(), source }
}

fn inflate(
    stream: &mut dyn Read,
    hasher: &mut (dyn DynDigest + Send),
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<io::Result<Vec<u8>>>,
) {
    while let Ok(mut buffer) = empty.recv() {
        buffer.resize(BUFFER_BYTES, 0);
        let filled = fill(stream, &mut buffer);
        let end = !matches!(filled, Ok(length) if length == BUFFER_BYTES);
        let message = filled.map(|length| {
            buffer.truncate(length);
            hasher.update(&buffer);
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

/// The reading end.
pub(super) struct PipeReader {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    bytes: u64,
}

impl PipeReader {
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
            if let Ok(buffer) = self.full.recv() {
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
