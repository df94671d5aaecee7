//! Pull an image from an OCI registry, verify it and unpack it into a root filesystem.

pub mod apply;
pub mod decompress;
pub mod ownership;
