//! The task that gets a layer: what the cache has of it, then the rest off the network, each byte
//! hashed, kept and handed on in one go. A reader that falls behind gets the rest out of the partial
//! blob, so that it holds up neither the download nor those who read along.
//!
//! ```text
//! partial blob of ours            \
//! partial blob that another writes -> verify -> channel
//! registry, by Range              /    \-> partial blob
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use oci_spec::image::Descriptor;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{PIECE_BYTES, Piece};
use crate::cache::{Cache, Claim, Followed, Following, Partial};
use crate::event::Event;
use crate::registry::{BlobBody, Cause, Registry, RegistryError};
use crate::verify::{Verifier, VerifyError};

/// A blob of which so many more bytes came, although the network failed, is worth as many attempts
/// as at its beginning. Many for a large blob, but they end: less is no progress.
const PROGRESS_BYTES: u64 = 1 << 20;
/// How often it is looked whether somebody else's download has more.
const FOLLOW_POLL: Duration = Duration::from_millis(20);

/// Why a download ended before its end.
pub(super) enum Stop {
    /// The reader gave up and says why itself.
    ReaderGone,
    Failed(RegistryError),
}

/// How to get what did not come from another's download.
enum Rest {
    /// The other is gone, and its partial blob is ours now.
    Write(Partial),
    /// The partial blob is gone: somebody's claim can be made anew.
    Claim,
    /// Off the network, for this pull alone; nothing, where all came.
    Fetch,
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error)
    }
}

/// One layer's.
pub(super) struct Download {
    pub(super) registry: Arc<Registry>,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) layer: Descriptor,
    pub(super) index: usize,
    pub(super) sender: mpsc::Sender<Piece>,
    /// Told when something comes off the disk that only the digest at the end will confirm.
    pub(super) from_cache: Arc<AtomicBool>,
    /// So much was hashed, in bytes.
    pub(super) position: u64,
    /// So much was handed on, in bytes: less than that only while it is in a partial blob of ours.
    pub(super) sent: u64,
    /// Who answered last, for errors.
    pub(super) url: String,
}

impl Download {
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        let verifier = Verifier::new(self.layer.digest(), Some(self.layer.size()));
        let mut verifier = verifier.map_err(|cause| self.content(cause))?;
        let mut partial = self.claim(&mut verifier).await?;
        let loaded = self.load(&mut partial, &mut verifier).await;
        let result =
            loaded.and_then(|()| verifier.finish().map_err(|cause| self.content(cause).into()));
        let Some(partial) = partial else { return result };
        let written = partial.reader();
        match (&result, &self.cache) {
            (Ok(()), Some(cache)) => cache.publish(self.layer.digest(), partial),
            // What came so far is good for the next attempt, unless it is known to be bad.
            (Err(Stop::Failed(error)), _) if error.is_damage() => partial.discard(),
            _ => {}
        }
        result?;
        match written {
            Ok(file) => self.catch_up(&file).await,
            Err(_) if self.sent == self.position => Ok(()),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// Hands on what is here, and gives what the rest is to be written to.
    async fn claim(&mut self, verifier: &mut Verifier) -> Result<Option<Partial>, Stop> {
        let Some(cache) = self.cache.clone() else { return Ok(None) };
        let (digest, size) = (self.layer.digest().clone(), self.layer.size());
        loop {
            match cache.claim(&digest) {
                None => return Ok(None),
                Some(Claim::Mine(partial)) if partial.length_bytes() > size => partial.discard(),
                Some(Claim::Mine(partial)) if partial.length_bytes() == 0 => {
                    // Somebody may have finished it since it was looked for.
                    let Some(file) = cache.blob(&digest, Some(size)) else {
                        return Ok(Some(partial));
                    };
                    partial.discard();
                    let read = |buffer: &mut [u8], at| file.read_at(buffer, at);
                    self.read_file(read, verifier).await?;
                    return Ok(None);
                }
                Some(Claim::Mine(partial)) => return self.resume(partial, verifier).await,
                Some(Claim::Others(following)) => {
                    match self.follow(&cache, following, verifier).await? {
                        Rest::Write(partial) => return self.resume(partial, verifier).await,
                        Rest::Fetch => return Ok(None),
                        Rest::Claim if self.position > 0 => return Ok(None),
                        Rest::Claim => {}
                    }
                }
            }
        }
    }

    /// Hashes what the partial blob holds, and hands it on as the reader takes it.
    async fn resume(
        &mut self,
        partial: Partial,
        verifier: &mut Verifier,
    ) -> Result<Option<Partial>, Stop> {
        while let Some(chunk) = self.next_of(|buffer, at| partial.read_at(buffer, at)) {
            self.take_in(&chunk, verifier)?;
            self.offer(chunk, &partial)?;
            // Nothing here waits: a large one would keep a worker from all else, signals too.
            tokio::task::yield_now().await;
        }
        // One that cannot be read to its end is no place for what follows.
        if partial.length_bytes() == self.position {
            return Ok(Some(partial));
        }
        self.catch_up_from(&partial).await?;
        Ok(None)
    }

    /// Hands on what another writes, as it comes.
    async fn follow(
        &mut self,
        cache: &Cache,
        mut following: Following,
        verifier: &mut Verifier,
    ) -> Result<Rest, Stop> {
        let stall = self.registry.timeouts().stall;
        let mut moved = Instant::now();
        loop {
            let before = self.position;
            let read = |buffer: &mut [u8], position| following.read_at(buffer, position);
            self.read_file(read, verifier).await?;
            if self.position == self.layer.size() {
                cache.keep(following.file());
                return Ok(Rest::Fetch);
            }
            if self.position > before {
                moved = Instant::now();
            } else if moved.elapsed() > stall {
                return Ok(Rest::Fetch);
            }
            following = match following.look() {
                Ok(Followed::Others(following)) => following,
                Ok(Followed::Mine(partial)) => return Ok(Rest::Write(partial)),
                Ok(Followed::Whole(whole)) => {
                    let read = |buffer: &mut [u8], position| whole.read_at(buffer, position);
                    self.read_file(read, verifier).await?;
                    cache.keep(whole.file());
                    return Ok(Rest::Fetch);
                }
                Ok(Followed::Gone) => return Ok(Rest::Claim),
                Err(_) => return Ok(Rest::Fetch),
            };
            tokio::time::sleep(FOLLOW_POLL).await;
        }
    }

    /// Hands on what `read` gives from the position on, up to the layer's size.
    async fn read_file(
        &mut self,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
        verifier: &mut Verifier,
    ) -> Result<(), Stop> {
        while let Some(chunk) = self.next_of(&read) {
            self.take_in(&chunk, verifier)?;
            self.send(chunk).await?;
        }
        Ok(())
    }

    /// The next piece of a file, up to the layer's size. What cannot be read is fetched.
    fn next_of(&self, read: impl Fn(&mut [u8], u64) -> io::Result<usize>) -> Option<Bytes> {
        let left = self.layer.size().saturating_sub(self.position);
        let piece = self.piece(left, self.position, read).ok()?;
        self.from_cache.store(true, Ordering::Relaxed);
        Some(piece)
    }

    /// At most `most` bytes, and at least one.
    fn piece(
        &self,
        most: u64,
        position: u64,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<Bytes> {
        let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(most).unwrap_or(PIECE_BYTES))];
        let length = read(&mut buffer, position)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(length);
        Ok(Bytes::from(buffer))
    }

    /// Gets the rest off the network, in as many attempts as it is worth.
    async fn load(
        &mut self,
        partial: &mut Option<Partial>,
        verifier: &mut Verifier,
    ) -> Result<(), Stop> {
        let mut attempts = self.registry.attempts();
        let mut by_range = true;
        let mut counted = self.position;
        while self.position < self.layer.size() {
            let from = if by_range { self.position } else { 0 };
            let (digest, size) = (self.layer.digest(), self.layer.size());
            let body = match self.registry.open_blob(digest, from, size, &mut attempts).await {
                Err(error) if from > 0 && error.is_about_range() => {
                    by_range = false;
                    continue;
                }
                other => other?,
            };
            let error = match self.take(body, from, partial, verifier).await {
                Ok(()) if self.position == size => break,
                Ok(()) => self.truncated(),
                Err(Stop::Failed(error)) => error,
                Err(gone) => return Err(gone),
            };
            if self.position - counted >= PROGRESS_BYTES {
                attempts.progressed();
                counted = self.position;
            }
            self.registry.after_break(error, &mut attempts).await?;
        }
        Ok(())
    }

    /// Hands on an answer that was asked for from the byte `from` on.
    async fn take(
        &mut self,
        body: BlobBody,
        from: u64,
        partial: &mut Option<Partial>,
        verifier: &mut Verifier,
    ) -> Result<(), Stop> {
        let mut answer = body.answer;
        answer.url().clone_into(&mut self.url);
        let mut surplus = self.position - from + body.surplus_bytes;
        loop {
            let chunk = match partial {
                Some(partial) if self.sent < self.position => {
                    let sender = self.sender.clone();
                    tokio::select! {
                        biased;
                        chunk = answer.chunk() => chunk,
                        permit = sender.reserve() => {
                            let permit = permit.map_err(|_| Stop::ReaderGone)?;
                            permit.send(self.read_back(|buffer, at| partial.read_at(buffer, at))?);
                            continue;
                        }
                    }
                }
                _ => answer.chunk().await,
            };
            let Some(mut chunk) = chunk.map_err(|error| self.cut_off(error))? else {
                return Ok(());
            };
            let known = usize::try_from(surplus).unwrap_or(usize::MAX).min(chunk.len());
            chunk.advance(known);
            surplus -= known as u64;
            if !chunk.is_empty() {
                self.keep_and_hand_on(chunk, verifier, partial).await?;
            }
        }
    }

    /// Hashes a piece, keeps it, and gives it to the reader.
    async fn keep_and_hand_on(
        &mut self,
        chunk: Bytes,
        verifier: &mut Verifier,
        partial: &mut Option<Partial>,
    ) -> Result<(), Stop> {
        let Some(mut writing) = partial.take() else {
            self.take_in(&chunk, verifier)?;
            return self.send(chunk).await;
        };
        if let Err(error) = writing.append(&chunk) {
            if let Some(cache) = &self.cache {
                cache.give_up("a blob", &error);
            }
            self.catch_up_from(&writing).await?;
            // The room it takes may be what the unpacking needs.
            writing.discard();
            self.take_in(&chunk, verifier)?;
            return self.send(chunk).await;
        }
        let writing = partial.insert(writing);
        self.take_in(&chunk, verifier)?;
        self.offer(chunk, writing)
    }

    fn take_in(&mut self, chunk: &Bytes, verifier: &mut Verifier) -> Result<(), Stop> {
        verifier.update(chunk).map_err(|cause| self.content(cause))?;
        self.position += chunk.len() as u64;
        let event = Event::LayerBytes { index: self.index, bytes: chunk.len() as u64 };
        self.registry.observer().observe(&event);
        Ok(())
    }

    /// Hands a piece on when the reader has taken all before it.
    async fn send(&mut self, mut chunk: Bytes) -> Result<(), Stop> {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE_BYTES));
            self.sent += piece.len() as u64;
            self.sender.send(Piece::Bytes(piece)).await.map_err(|_| Stop::ReaderGone)?;
        }
        Ok(())
    }

    /// Hands a piece on, which was just taken in, where the reader has room for it. Else it is read
    /// back when there is.
    fn offer(&mut self, mut chunk: Bytes, partial: &Partial) -> Result<(), Stop> {
        let sender = self.sender.clone();
        while self.sent < self.position {
            let permit = match sender.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return Ok(()),
                Err(TrySendError::Closed(())) => return Err(Stop::ReaderGone),
            };
            if self.sent + (chunk.len() as u64) < self.position {
                permit.send(self.read_back(|buffer, at| partial.read_at(buffer, at))?);
                // What was read back may reach into the piece.
                let sent = self.position.saturating_sub(self.sent);
                let sent = usize::try_from(sent).unwrap_or(usize::MAX);
                chunk.advance(chunk.len().saturating_sub(sent));
                continue;
            }
            let piece = chunk.split_to(chunk.len().min(PIECE_BYTES));
            self.sent += piece.len() as u64;
            permit.send(Piece::Bytes(piece));
        }
        Ok(())
    }

    async fn catch_up_from(&mut self, partial: &Partial) -> Result<(), Stop> {
        match partial.reader() {
            Ok(file) => self.catch_up(&file).await,
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    /// Hands on all that was taken in and is in `file`.
    async fn catch_up(&mut self, file: &File) -> Result<(), Stop> {
        let sender = self.sender.clone();
        while self.sent < self.position {
            let permit = sender.reserve().await.map_err(|_| Stop::ReaderGone)?;
            permit.send(self.read_back(|buffer, at| file.read_at(buffer, at))?);
        }
        Ok(())
    }

    /// The next piece for the reader, of what was taken in before.
    fn read_back(
        &mut self,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<Piece, Stop> {
        let piece = self.piece(self.position.saturating_sub(self.sent), self.sent, read);
        let piece = piece.map_err(|error| self.unreadable(&error))?;
        self.sent += piece.len() as u64;
        Ok(Piece::Bytes(piece))
    }

    fn unreadable(&self, error: &io::Error) -> Stop {
        // As if there had been no more: who asks for the layer again gets it off the network.
        self.from_cache.store(true, Ordering::Relaxed);
        if let Some(cache) = &self.cache {
            cache.give_up("what was written", error);
        }
        self.content(VerifyError::Truncated { got: self.sent, want: self.layer.size() }).into()
    }

    /// A server that closes the connection early has sent a short layer; a network that breaks or
    /// stalls says more as what it is.
    fn cut_off(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Broken { cause: Cause::Other(_), .. }
                if self.position < self.layer.size() =>
            {
                self.truncated()
            }
            _ => error,
        }
    }

    fn truncated(&self) -> RegistryError {
        self.content(VerifyError::Truncated { got: self.position, want: self.layer.size() })
    }

    fn content(&self, cause: VerifyError) -> RegistryError {
        RegistryError::Content { method: "GET", url: self.url.clone(), cause }
    }
}
