//! For tests only: a registry that can misbehave, image builders, an unprivileged user, trees as text.
//!
//! ```text
//! layers -> image -> images        bytes: tar entries, layers, manifests, ready-made images
//!                      |
//!                   registry       serves them over real HTTP or TLS, records and disturbs requests
//!                      |
//! user -> programs -> tree         run the real binaries as a real user, compare what they made
//!             |
//!            pty                   the same on a terminal
//! ```
//!
//! Everything here panics when it cannot do its work: a test has no better way to say so.

// A helper for tests fails by panic, with a message that says what it could not do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]

pub mod authority;
pub mod docker_registry;
pub mod image;
pub mod images;
pub mod layers;
pub mod nginx;
pub mod programs;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod shape;
pub mod tree;
pub mod user;

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// `sha256:` and the hexadecimal digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    sha256_name(Sha256::new_with_prefix(bytes))
}

fn sha256_name(hash: Sha256) -> String {
    let mut text = String::from("sha256:");
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The media types that the builders use and tests name.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker image manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
}
