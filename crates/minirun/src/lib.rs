//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! cli -> config -> launch | plan -> handshake -> rootfs -> init -> reap
//! ```

pub mod launch;
