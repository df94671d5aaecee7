//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! cli -> prepare ----------------> launch | plan -> handshake -> rootfs -> command -> reap -> init
//!        | caller  user  spec  json       | record -> terminal -> monitor -> run     (outside)
//!        | config  bundle  naming         | lifecycle, exec   (a container that exists)
//! ```

pub mod bundle;
pub mod caller;
pub mod cli;
pub mod config;
pub mod exec;
pub mod handshake;
pub mod init;
pub mod json;
pub mod launch;
pub mod lifecycle;
pub mod naming;
pub mod plan;
pub mod prepare;
pub mod reap;
pub mod rootfs;
pub mod run;
pub mod spec;
pub mod spec_file;
pub mod user;

mod command;
mod monitor;
mod record;
mod terminal;
