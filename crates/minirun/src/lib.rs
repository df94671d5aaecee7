//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! cli -> prepare ----------------> launch | plan -> handshake -> rootfs -> init -> reap
//!        | caller  user  spec  json       | run (outside: maps, state, monitor)
//!        | config  bundle  naming         | lifecycle, exec
//! ```

pub mod bundle;
pub mod caller;
pub mod cli;
pub mod config;
pub mod exec;
pub mod json;
pub mod launch;
pub mod lifecycle;
pub mod naming;
pub mod prepare;
pub mod run;
pub mod spec;
pub mod spec_file;
pub mod user;
