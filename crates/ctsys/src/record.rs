//! The image record: what ocipull leaves beside a root filesystem and minirun reads.
//!
//! `DEST.image.json` stands beside `DEST`, never inside it: nothing an image contains is read as
//! configuration.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The form of the record that this code writes, and the newest it reads.
pub const RECORD_VERSION: u32 = 1;

/// A record larger than this, in bytes, is not one of ours: image configs are refused above 4 MiB, and
/// the rest of the record is digests that came in a config and a manifest of 4 MiB.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;

/// A record is indented for people up to so many bytes; real ones have some kilobytes. A config of
/// many values, nested deep, would grow a hundred times.
const MAX_INDENTED_BYTES: usize = 1 << 20;

/// Where an unpacked image comes from and how it is to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRecord {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The reference as the user typed it.
    pub reference: String,
    /// Registry, repository, tag and digest, written out.
    pub canonical_reference: String,
    /// Digest of the platform's manifest (`sha256:…`).
    pub manifest_digest: String,
    /// Digest that the tag resolved to: the index's where there is one, else the manifest's.
    pub resolved_digest: String,
    /// The platform that was chosen.
    pub platform: RecordedPlatform,
    /// The layers, lowest first.
    pub layers: Vec<RecordedLayer>,
    /// How owners were stored.
    pub ownership: Ownership,
    /// Whether a layer's directories left lower layers' links to directories as they were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_dirlinks: bool,
    /// The image's config as the registry sent it (image-spec, config.md).
    pub config: serde_json::Value,
}

/// A platform in image-spec's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPlatform {
    /// `linux`.
    pub os: String,
    /// GOARCH: `amd64`, `arm64`.
    pub architecture: String,
    /// `v7`, where the architecture has variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A layer by the digest of its blob and of its uncompressed tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedLayer {
    /// Digest of the blob as the registry serves it.
    pub digest: String,
    /// Digest of the uncompressed tar stream.
    pub diff_id: String,
}

/// How the owners in the image became owners on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// Unpacked by root: every file has the image's owner.
    Root,
    /// Unpacked in a user namespace: every file has its owner as seen from inside it.
    Subuid,
    /// Everything belongs to the user; true owners are in `user.rootlesscontainers`.
    Single,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read or written.
    #[error("cannot access image record {path:?}")]
    Io {
        /// The record's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a record.
    #[error("image record {path:?} is damaged")]
    Malformed {
        /// The record's path.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
    /// Past [`MAX_RECORD_BYTES`].
    #[error("image record {path:?} is larger than {MAX_RECORD_BYTES} bytes")]
    TooLarge {
        /// The record's path.
        path: PathBuf,
    },
    /// Written by a newer ocipull.
    #[error("image record {path:?} has version {got}, want at most {RECORD_VERSION}")]
    Version {
        /// The record's path.
        path: PathBuf,
        /// The version found.
        got: u32,
    },
}

/// The record's path for a root filesystem at `dest`: the same name with `.image.json` added.
///
/// `dest` should name its last component (`rootfs`, not `.`); a trailing slash is ignored.
pub fn record_path(dest: &Path) -> PathBuf {
    // `components` drops a trailing slash, which would otherwise put the record inside DEST.
    let mut name: OsString = dest.components().collect::<PathBuf>().into_os_string();
    name.push(".image.json");
    name.into()
}

impl ImageRecord {
    /// Reads the record of the root filesystem at `dest`; `None` when there is none.
    pub fn read(dest: &Path) -> Result<Option<Self>, RecordError> {
        let path = record_path(dest);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Io { path, source }),
        };
        let mut bytes = Vec::new();
        if let Err(source) = file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes) {
            return Err(RecordError::Io { path, source });
        }
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge { path });
        }
        Self::parse(&bytes, path).map(Some)
    }

    fn parse(bytes: &[u8], path: PathBuf) -> Result<Self, RecordError> {
        // The version is looked at first: a newer form need not parse as this one.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { version: got }) if got > RECORD_VERSION => {
                return Err(RecordError::Version { path, got });
            }
            Ok(_) => {}
            Err(source) => return Err(RecordError::Malformed { path, source }),
        }
        serde_json::from_slice(bytes).map_err(|source| RecordError::Malformed { path, source })
    }

    /// The record as the text that is written to disk.
    pub fn to_json(&self) -> Vec<u8> {
        let mut indented = Bounded(Vec::new());
        let mut text = match serde_json::to_writer_pretty(&mut indented, self) {
            Ok(()) => indented.0,
            Err(_) => serde_json::to_vec(self).unwrap_or_default(),
        };
        text.push(b'\n');
        text
    }
}

/// Takes up to [`MAX_INDENTED_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > MAX_INDENTED_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_stands_beside_the_root_filesystem() {
        for dest in ["pod/rootfs", "pod/rootfs/", "pod/./rootfs"] {
            assert_eq!(record_path(Path::new(dest)), Path::new("pod/rootfs.image.json"));
        }
    }

    #[test]
    fn a_newer_version_is_named_before_its_fields_are_looked_at() {
        let error = ImageRecord::parse(br#"{"version":2,"else":1}"#, "r".into()).unwrap_err();
        assert!(matches!(error, RecordError::Version { got: 2, .. }));
    }
}
