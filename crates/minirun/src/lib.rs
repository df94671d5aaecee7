//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! cli -> config -> launch | plan -> handshake -> rootfs -> command -> reap -> init    (inside)
//!                         | record -> terminal -> monitor -> run                      (outside)
//!                         | lifecycle, exec                         (a container that exists)
//! ```

pub mod exec;
pub mod handshake;
pub mod init;
pub mod launch;
pub mod lifecycle;
pub mod plan;
pub mod reap;
pub mod rootfs;
pub mod run;

mod command;
mod monitor;
mod record;
mod terminal;
