//! An OCI image layout's directory (image-spec, "OCI Image Layout"), for reading.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctsys::rootdir::{self, RootDir};
use ctsys::{Errno, SysError};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Deserialize;

use super::{Blobs, Local, LocalBlob, LocalError, NamedImage, choose};

/// Longest index.json, in bytes: some fifty thousand images.
pub const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Longest `oci-layout`, in bytes: it holds a version.
const MAX_LAYOUT_FILE_BYTES: u64 = 4096;
/// The file that makes a directory a layout.
pub const LAYOUT_FILE: &str = "oci-layout";
/// The annotation that names an image in a layout (image-spec, "Pre-Defined Annotation Keys").
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An open layout. What is in it is reached by descriptors, and never through a link.
#[derive(Debug)]
pub struct LayoutDir {
    path: PathBuf,
    root: RootDir,
}

impl LayoutDir {
    /// Opens the layout at `path`.
    pub fn open(path: &Path) -> Result<Self, LocalError> {
        let dir = rootdir::open_dir(path)
            .map_err(|source| LocalError::Open { path: path.to_path_buf(), source })?;
        let layout = Self { path: path.to_path_buf(), root: RootDir::new(dir) };
        check_version(path, &layout.read(LAYOUT_FILE, MAX_LAYOUT_FILE_BYTES)?)?;
        Ok(layout)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image of that digest; or of that name, or the only one.
    pub fn image(
        self,
        shown: String,
        name: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<Local, LocalError> {
        let root = match digest {
            Some(digest) => self.by_digest(digest)?,
            None => choose(&self.path, &self.images()?, name)?.clone(),
        };
        Ok(Local::new(shown, root, Blobs::Layout(self)))
    }

    /// All images that index.json lists.
    pub fn images(&self) -> Result<Vec<NamedImage<Descriptor>>, LocalError> {
        NamedImage::list(&self.path, &self.index_json()?)
    }

    /// The bytes of index.json.
    pub fn index_json(&self) -> Result<Vec<u8>, LocalError> {
        self.read("index.json", MAX_INDEX_BYTES)
    }

    /// Opens a blob. Its content is not checked.
    pub fn blob(&self, digest: &Digest) -> Result<LocalBlob, LocalError> {
        // The parts of a digest have no slash and are no dots.
        let dir = format!("blobs/{}", digest.algorithm());
        let dir = self.root.open_dir(dir.as_bytes()).map_err(told)?;
        let file = open_file(dir.as_fd(), digest.digest())?;
        let length = file.metadata().map_err(LocalError::Read)?.len();
        Ok(LocalBlob::part(Arc::new(file), 0, length))
    }

    fn by_digest(&self, digest: &Digest) -> Result<Descriptor, LocalError> {
        let listed = self.images()?.into_iter().find(|named| named.image.digest() == digest);
        if let Some(named) = listed {
            return Ok(named.image);
        }
        // One of an index's: its type is what its bytes say.
        let blob = self.blob(digest).map_err(|source| LocalError::Blob {
            digest: digest.to_string(),
            shown: format!("oci:{}", self.path.display()),
            source: Box::new(source),
        })?;
        let unknown = MediaType::Other(String::new());
        Ok(Descriptor::new(unknown, blob.size_bytes(), digest.clone()))
    }

    /// A small file of the layout's own.
    fn read(&self, name: &'static str, limit_bytes: u64) -> Result<Vec<u8>, LocalError> {
        let failed = |source| match source {
            LocalError::Missing => {
                let reason = if name == LAYOUT_FILE { NO_LAYOUT_FILE } else { NO_INDEX };
                LocalError::NoLayout { path: self.path.clone(), reason }
            }
            source => {
                let path = self.path.clone();
                LocalError::File { name: name.to_owned(), path, source: Box::new(source) }
            }
        };
        let file = open_file(self.root.fd(), name).map_err(failed)?;
        let mut bytes = Vec::new();
        let read = file.take(limit_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|e| failed(LocalError::Read(e)))?;
        if bytes.len() as u64 > limit_bytes {
            return Err(failed(LocalError::TooLarge { limit_bytes }));
        }
        Ok(bytes)
    }
}

const NO_LAYOUT_FILE: &str = "it has no file oci-layout";
const NO_INDEX: &str = "it has no file index.json";

/// Minor versions add, major ones change (image-spec, "oci-layout file").
pub(crate) fn check_version(path: &Path, oci_layout: &[u8]) -> Result<(), LocalError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members {
        image_layout_version: String,
    }
    let path = path.to_path_buf();
    let members: Members = match serde_json::from_slice(oci_layout) {
        Ok(members) => members,
        Err(source) => return Err(LocalError::Json { name: LAYOUT_FILE, path, source }),
    };
    let version = members.image_layout_version;
    let is_known = version.starts_with("1.");
    if is_known { Ok(()) } else { Err(LocalError::Version { path, version }) }
}

/// Opens the regular file `name`, and no link of that name.
fn open_file(dir: BorrowedFd<'_>, name: &str) -> Result<File, LocalError> {
    // O_NONBLOCK: opening a FIFO would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::openat(dir, name, flags, Mode::empty());
    let file = opened.map_err(|errno| told(SysError::new("openat", format!("{name:?}"), errno)))?;
    let file = File::from(file);
    let is_file = file.metadata().map_err(LocalError::Read)?.is_file();
    if is_file { Ok(file) } else { Err(LocalError::NoFile) }
}

fn told(error: SysError) -> LocalError {
    match error.errno() {
        Errno::ENOENT => LocalError::Missing,
        // What a link is answered with, as a directory and as a file.
        Errno::ELOOP | Errno::ENOTDIR => LocalError::NoFile,
        _ => LocalError::System(error),
    }
}
