//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! cli -> config -> launch | plan -> handshake -> rootfs -> init -> reap
//!                         | run (outside: maps, state, monitor) -> lifecycle, exec
//! ```

pub mod exec;
pub mod launch;
pub mod lifecycle;
pub mod run;
