//! Images that are on this machine already: manifests, configs and layers by their digest, in an OCI
//! layout's directory or inside of an archive.
//!
//! ```text
//! layout      oci-layout, index.json, blobs/ALGORITHM/HEX
//! blob        a part of an open file, as a stream
//! named       which of several images is meant
//! Local       one image, and the blobs to look for what it needs
//! ```
//!
//! Whoever made the files is not trusted more than a registry: no link is followed below the
//! directory that the user named, nothing but regular files is opened, and what is small is checked
//! by its digest whenever it is read. A layer is held against its size here, and by who unpacks it
//! against the image's diff_id.

mod blob;
mod error;
mod layout;
mod named;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

pub use blob::LocalBlob;
pub use error::LocalError;
pub(crate) use layout::check_version;
pub use layout::{LAYOUT_FILE, LayoutDir, MAX_INDEX_BYTES, REF_NAME};
pub use named::{NamedImage, choose};

use crate::verify;

/// One image, and where its blobs are.
#[derive(Debug)]
pub struct Local {
    /// As the user named it, for messages: `oci:DIR:TAG`.
    pub shown: String,
    /// Of the index or manifest that was named.
    pub root: Descriptor,
    blobs: Blobs,
}

/// Where blobs are.
#[derive(Debug)]
pub enum Blobs {
    /// In an OCI layout.
    Layout(LayoutDir),
    /// Inside of a file.
    Archive {
        /// The archive, not compressed.
        file: Arc<File>,
        /// Where its blobs are, in bytes: from where, and how many.
        extents: HashMap<Digest, (u64, u64)>,
        /// What the archive does not hold in this form.
        made: HashMap<Digest, Bytes>,
    },
}

impl Local {
    /// An image whose blobs are in `blobs`.
    pub fn new(shown: String, root: Descriptor, blobs: Blobs) -> Self {
        Self { shown, root, blobs }
    }

    /// A manifest, index or config, checked. Past `limit_bytes` it is none.
    pub fn document(
        &self,
        digest: &Digest,
        size_bytes: Option<u64>,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, LocalError> {
        let mut blob = self.open(digest)?;
        if blob.size_bytes() > limit_bytes {
            return Err(self.failed(digest, LocalError::TooLarge { limit_bytes }));
        }
        let mut bytes = Vec::new();
        let read = blob.read_to_end(&mut bytes);
        read.map_err(|source| self.failed(digest, LocalError::Read(source)))?;
        verify::verify(&bytes, digest, size_bytes)
            .map_err(|cause| self.failed(digest, LocalError::Content(cause)))?;
        Ok(bytes)
    }

    /// Opens a blob, which has to have its descriptor's size. Its content is not checked.
    pub fn blob(&self, wanted: &Descriptor) -> Result<LocalBlob, LocalError> {
        let digest = wanted.digest();
        let blob = self.open(digest)?;
        let (got, want) = (blob.size_bytes(), wanted.size());
        if got == want {
            return Ok(blob);
        }
        let cause = if got < want {
            verify::VerifyError::Truncated { got, want }
        } else {
            verify::VerifyError::TooLong { want }
        };
        Err(self.failed(digest, LocalError::Content(cause)))
    }

    fn open(&self, digest: &Digest) -> Result<LocalBlob, LocalError> {
        let opened = match &self.blobs {
            Blobs::Layout(layout) => layout.blob(digest),
            Blobs::Archive { file, extents, made } => {
                let made = made.get(digest).map(|bytes| LocalBlob::memory(bytes.clone()));
                let part = |&(start, length): &(u64, u64)| {
                    LocalBlob::part(Arc::clone(file), start, length)
                };
                made.or_else(|| extents.get(digest).map(part)).ok_or(LocalError::Missing)
            }
        };
        opened.map_err(|error| self.failed(digest, error))
    }

    fn failed(&self, digest: &Digest, error: LocalError) -> LocalError {
        LocalError::Blob {
            digest: digest.to_string(),
            shown: self.shown.clone(),
            source: Box::new(error),
        }
    }
}
