//! What `docker save`, `podman save` and skopeo write: a tar file with images in it.
//!
//! ```text
//! file -> spool (only what is compressed or a pipe) -> index of the tar's entries -> Local
//!                                                       |
//!                                    index.json there: an OCI layout inside (docker 25 and later)
//!                                    manifest.json only: docker's older form
//! ```
//!
//! Nothing is unpacked: an entry's name is only looked up, its bytes are read where they are.

mod docker;
mod entries;
mod spool;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::Digest;

use crate::local::check_version;
use crate::local::{Blobs, LAYOUT_FILE, Local, LocalError, MAX_INDEX_BYTES, NamedImage, choose};
use crate::location::ArchiveName;
use entries::Entries;

/// Opens an archive's image. `shown` is how the user named it. Blocks while what is compressed is
/// spooled; `stop` ends that.
pub fn open(name: &ArchiveName, shown: String, stop: &AtomicBool) -> Result<Local, LocalError> {
    let archive = Archive::open(&name.path, stop)?;
    let wanted = name.name.as_deref();
    if !archive.is_layout()? {
        return docker::image(archive, shown, wanted, stop);
    }
    let root = choose(&name.path, &archive.layout_images()?, wanted)?.clone();
    let extents = archive.entries.blobs();
    let blobs = Blobs::Archive { file: archive.file, extents, made: HashMap::new() };
    Ok(Local::new(shown, root, blobs))
}

/// The names of all images in an archive.
pub fn names(path: &Path, stop: &AtomicBool) -> Result<Vec<String>, LocalError> {
    let archive = Archive::open(path, stop)?;
    let names = if archive.is_layout()? {
        archive.layout_images()?.into_iter().map(|image| image.names).collect()
    } else {
        docker::images(&archive)?.into_iter().map(|image| image.names).collect::<Vec<_>>()
    };
    Ok(names.into_iter().flatten().collect())
}

/// An open archive, not compressed, and what is where in it.
struct Archive<'a> {
    path: &'a Path,
    file: Arc<File>,
    entries: Entries,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path, stop: &AtomicBool) -> Result<Self, LocalError> {
        let file = spool::seekable(path, stop)?;
        let entries = Entries::read(path, &file)?;
        Ok(Self { path, file: Arc::new(file), entries })
    }

    /// Whether it holds an OCI layout.
    fn is_layout(&self) -> Result<bool, LocalError> {
        if !self.entries.has(LAYOUT_FILE) || !self.entries.has("index.json") {
            return Ok(false);
        }
        check_version(self.path, &self.read(LAYOUT_FILE, MAX_INDEX_BYTES)?)?;
        Ok(true)
    }

    fn layout_images(&self) -> Result<Vec<NamedImage<oci_spec::image::Descriptor>>, LocalError> {
        NamedImage::list(self.path, &self.read("index.json", MAX_INDEX_BYTES)?)
    }

    /// A small file, whole.
    fn read(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, LocalError> {
        let failed = |source| self.failed(name, source);
        let (start, length) = self.entries.find(name).ok_or_else(|| failed(LocalError::Missing))?;
        if length > limit_bytes {
            return Err(failed(LocalError::TooLarge { limit_bytes }));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        std::os::unix::fs::FileExt::read_exact_at(&*self.file, &mut bytes, start)
            .map_err(|e| failed(LocalError::Read(e)))?;
        Ok(bytes)
    }

    fn failed(&self, name: &str, source: LocalError) -> LocalError {
        let (name, path) = (name.to_owned(), self.path.to_path_buf());
        LocalError::File { name, path, source: Box::new(source) }
    }
}

impl Entries {
    /// All that have the name of a blob in a layout.
    fn blobs(&self) -> HashMap<Digest, (u64, u64)> {
        let digest = |name: &str| {
            let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
            format!("{algorithm}:{hex}").parse::<Digest>().ok()
        };
        let names = self.names();
        names.filter_map(|name| Some((digest(name)?, self.find(name)?))).collect()
    }
}

/// Ends a long read when nobody waits for it any more.
struct Stoppable<'a, R> {
    inner: R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        self.inner.read(buffer)
    }
}

fn stopped() -> io::Error {
    io::Error::other("stopped")
}
