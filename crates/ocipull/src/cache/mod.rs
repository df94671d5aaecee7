//! Blobs that are here already, and those that are on their way: an OCI image layout, which skopeo
//! and umoci can read, with a directory for what is unfinished.
//!
//! ```text
//! oci-layout
//! index.json                the images, by org.opencontainers.image.ref.name
//! blobs/sha256/HEX          verified before it got this name
//! partial/sha256-HEX        so much of a blob as has come; locked by who fetches it
//! lock                      held while index.json is written and while blobs are removed
//! ```
//!
//! Nothing is synced to the disk: after a loss of power a blob may be short or damaged. Its size is
//! looked at whenever it is opened, its content by who reads it: small documents by their digest,
//! layers by the diff_id of what comes out of them. What is damaged is fetched anew.
//!
//! A file in use is locked (flock(2)), also against other processes; a lock goes with its process,
//! however that ends. Where the cache cannot be used, a notice says so and everything goes on
//! without it.

mod index;
mod layers;
mod partial;
mod place;
mod stock;
mod turn;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ctsys::report::{Explain, chain};
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::image::{Descriptor, Digest};

pub use layers::LayerCaches;
pub(crate) use partial::{Claim, Followed, Following, Partial};
pub use place::directory;
pub use stock::{Checked, Keep, Stock, StockedBlob, StockedImage, Swept};
pub(crate) use turn::Turn;

use crate::event::{Event, Observer};
use crate::verify;
use index::Index;

/// So many files are kept open, and with that from being pruned, until a pull is over: images have
/// 127 layers at most.
const MAX_KEPT_FILES: usize = 256;
/// And no larger part of the files that the process may have open (getrlimit(2)).
const KEPT_FILES_SHARE: u64 = 4;
/// How long a lock of the cache's is waited for. Who has it holds it for a moment only.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// The user's cache, open.
pub struct Cache {
    root: PathBuf,
    observer: Arc<dyn Observer>,
    /// What this run uses, locked.
    kept: Mutex<Vec<File>>,
    max_kept: usize,
    /// What was found damaged, until it is fetched anew: it may be that it cannot be removed.
    damaged: Mutex<HashSet<Digest>>,
    /// Whether writing failed: then nothing is written any more.
    given_up: AtomicBool,
    /// For one that is to go with its run: its locked directory.
    temporary: Option<File>,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nobody says where it is.
    #[error("neither XDG_CACHE_HOME nor HOME names a directory")]
    NoHome,
    /// Another user could have put anything there.
    #[error("{0:?} is another user's, or no directory")]
    Foreign(PathBuf),
    /// Others may write there.
    #[error("{0:?} can be written by others")]
    Open(PathBuf),
    /// The system does not let us.
    #[error("cannot {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for CacheError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHome => "set HOME, or XDG_CACHE_HOME to a directory of yours".into(),
            Self::Foreign(_) => "set XDG_CACHE_HOME to a directory of yours".into(),
            Self::Open(path) => format!("chmod go-w {}", path.display()),
            Self::Io { .. } => "check the path, its mode and the space left there".into(),
        })
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens the cache in `root`, and makes it where it is not there yet.
    pub fn open(root: &Path, observer: Arc<dyn Observer>) -> Result<Self, CacheError> {
        place::check_way(root)?;
        Self::open_own(root, observer)
    }

    fn open_own(root: &Path, observer: Arc<dyn Observer>) -> Result<Self, CacheError> {
        place::prepare(root)?;
        Ok(Self {
            root: root.to_path_buf(),
            observer,
            kept: Mutex::default(),
            max_kept: max_kept_files(),
            damaged: Mutex::default(),
            given_up: AtomicBool::new(false),
            temporary: None,
        })
    }

    /// As [`Cache::open`], with a notice instead of an error.
    pub fn open_or_say(
        root: Result<PathBuf, CacheError>,
        observer: &Arc<dyn Observer>,
    ) -> Option<Arc<Self>> {
        match root.and_then(|root| Self::open(&root, Arc::clone(observer))) {
            Ok(cache) => Some(Arc::new(cache)),
            Err(error) => {
                let text = format!("going on without a cache: {}", chain(&error));
                observer.observe(&Event::Notice(&text));
                None
            }
        }
    }

    /// A cache of this run alone in `dir`, which is made, locked, and removed at its end.
    pub fn temporary(dir: &Path, observer: Arc<dyn Observer>) -> Result<Self, CacheError> {
        place::make_dir(dir)?;
        let lock = File::open(dir).map_err(place::failed("open", dir))?;
        lock.try_lock().map_err(|e| place::failed("lock", dir)(e.into()))?;
        let mut cache = Self::open_own(dir, observer)?;
        cache.temporary = Some(lock);
        Ok(cache)
    }

    /// Opens a blob that is here and has this size in bytes, where that is known. Its content is
    /// not checked.
    pub fn blob(&self, digest: &Digest, size_bytes: Option<u64>) -> Option<File> {
        if self.damaged().contains(digest) {
            return None;
        }
        let file = place::options(false).open(self.blob_path(digest)).ok()?;
        let found = file.metadata().ok()?;
        if !found.is_file() || size_bytes.is_some_and(|size| size != found.len()) {
            return None;
        }
        // Who holds it exclusively has just fetched it, or is about to remove it.
        if file.try_lock_shared().is_ok() && file.metadata().ok()?.nlink() == 0 {
            return None;
        }
        // When it was used last is what pruning goes by.
        let _ = file.set_modified(SystemTime::now());
        self.keep(&file);
        Some(file)
    }

    /// A small blob that is here, whole and checked; one that is damaged is removed.
    pub fn document(
        &self,
        digest: &Digest,
        size_bytes: Option<u64>,
        limit_bytes: u64,
    ) -> Option<Vec<u8>> {
        let file = self.blob(digest, size_bytes)?;
        let mut bytes = Vec::new();
        file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > limit_bytes {
            return None;
        }
        if verify::verify(&bytes, digest, size_bytes).is_err() {
            self.evict(digest);
            return None;
        }
        Some(bytes)
    }

    /// Looks whether a blob that could not be unpacked is damaged here, by hashing it; then it is
    /// evicted, and `true` says that fetching it anew may help. One that is right is wrong in the
    /// registry as well.
    pub fn distrust(&self, digest: &Digest) -> bool {
        if matches!(stock::is_right(&self.blob_path(digest), digest), Ok(true)) {
            return false;
        }
        self.evict(digest);
        true
    }

    /// Removes a blob that was found damaged, and what came of it, so that it is fetched anew.
    pub fn evict(&self, digest: &Digest) {
        self.damaged().insert(digest.clone());
        let _ = fs::remove_file(self.blob_path(digest));
        // Whoever writes it goes on without the name.
        let _ = fs::remove_file(self.partial_path(digest));
    }

    /// What `reference`, written out, stood for when it was pulled last.
    pub fn lookup(&self, reference: &str) -> Option<Digest> {
        Index::read(&self.root).lookup(reference)
    }

    /// Notes that `reference`, written out, stands for `resolved`: `manifest` itself, or the index
    /// that it was chosen from.
    pub fn note(&self, reference: &str, manifest: &Descriptor, resolved: &Digest) {
        let image = index::named(reference, manifest, resolved);
        if self.has_given_up() || Index::read(&self.root).has(&image) {
            return;
        }
        let noted = self.lock_exclusively().and_then(|_lock| {
            let mut index = Index::read(&self.root);
            index.set(image);
            index.write(&self.root)
        });
        if let Err(error) = noted {
            self.give_up("index.json", &error);
        }
    }

    /// Begins to write a blob, or finds who is writing it; `None` where that cannot be done.
    pub(crate) fn claim(&self, digest: &Digest) -> Option<Claim> {
        if self.has_given_up() {
            return None;
        }
        let (partial, blob) = (self.partial_path(digest), self.blob_path(digest));
        Partial::claim(partial, blob).map_err(|error| self.give_up("a blob", &error)).ok()
    }

    /// Gives a blob that was verified its name.
    pub(crate) fn publish(&self, digest: &Digest, partial: Partial) {
        // Not while somebody removes what nobody uses: between the writer's lock and the user's
        // the blob has none.
        let _lock = self.lock_shared();
        match partial.publish() {
            Ok(file) => {
                self.damaged().remove(digest);
                self.keep(&file);
            }
            // It was evicted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.give_up("a blob", &error),
        }
    }

    /// Tells once that the cache cannot be written, and writes no more.
    pub(crate) fn give_up(&self, what: &str, error: &io::Error) {
        if !self.given_up.swap(true, Ordering::Relaxed) {
            let root = self.root.display();
            let text = format!("cannot write {what} into the cache {root}: {error}");
            self.observer.observe(&Event::Notice(&text));
        }
    }

    fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Keeps a file that this run uses from being pruned until the cache is dropped.
    pub(crate) fn keep(&self, file: &File) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.max_kept
            && let Ok(file) = file.try_clone()
        {
            kept.push(file);
        }
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a valid digest, so it names a file below `blobs`.
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let dir = self.root.join("blobs").join(digest.algorithm().as_ref());
        dir.join(digest.digest())
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(format!("{}-{}", digest.algorithm(), digest.digest()))
    }

    fn lock_exclusively(&self) -> io::Result<File> {
        self.lock(File::try_lock)
    }

    fn lock_shared(&self) -> io::Result<File> {
        self.lock(File::try_lock_shared)
    }

    fn lock(&self, take: fn(&File) -> Result<(), fs::TryLockError>) -> io::Result<File> {
        let file =
            place::options(true).create(true).truncate(false).open(self.root.join("lock"))?;
        let end = std::time::Instant::now() + MAX_LOCK_WAIT;
        loop {
            match take(&file) {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if std::time::Instant::now() < end => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn max_kept_files() -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    usize::try_from(limit / KEPT_FILES_SHARE).unwrap_or(MAX_KEPT_FILES).min(MAX_KEPT_FILES)
}

impl Drop for Cache {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
