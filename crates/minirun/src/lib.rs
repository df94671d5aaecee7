//! Write a rootless OCI runtime config and run the container.
//!
//! ```text
//! json          configurations as runc's encoder writes them
//! spec          what `runc spec` writes, rootless or not; pure
//! caller        who calls, and from where
//! refusal       why this machine refuses something -> cause and remedy
//! user          a user by name or number -> ids, by the root filesystem's own passwd and group
//! seccomp       profiles -> what the kernel runs; pure
//! config        image record + flags -> configuration; pure
//! bundle        config.json: read, sealed as generated, written
//! spec_file     `minirun spec`
//! naming        what a container is called
//! network       which namespaces and helpers a container's network takes, and its files
//! launch        one run, fully decided
//! prepare       flags, bundle and record -> launch
//! cli           what was typed -> what it means
//! plan          configuration -> checked plan; pure
//! handshake     typed messages between outside and inside
//! rootfs        mounts by descriptor, /dev, masks, pivot_root      (inside)
//! command       the last steps before the user's program           (inside)
//! reap          the PID 1 loop                                     (inside)
//! guest         the end of a container's processes where the process namespace is another's
//! tini          that loop as a program of its own: `minirun init`
//! init          numbered steps from birth to that loop             (inside)
//! cgroup        limits: a delegated cgroup, found or asked of systemd          (outside)
//! sweep         the remnants of miniruns that were killed          (outside)
//! log           what a container in the background writes          (outside)
//! record        the state directory's entry                        (outside)
//! terminal      the relay between the caller's terminal and the container's
//! tidy          takes back what a failed start made in the root filesystem
//! monitor       waits, forwards signals
//! run           clone3, id maps, handshake, wait
//! lifecycle     what is done to containers that exist, a file a subcommand
//! exec          one more process in a container
//! doctor        what this machine lacks for containers, tried out
//! ```

pub mod bundle;
pub mod caller;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod handshake;
pub mod init;
pub mod json;
pub mod launch;
pub mod lifecycle;
pub mod naming;
pub mod network;
pub mod plan;
pub mod prepare;
pub mod reap;
pub mod rootfs;
pub mod run;
pub mod seccomp;
pub mod spec;
pub mod spec_file;
pub mod tini;
pub mod user;

mod command;
mod guest;
mod log;
mod monitor;
mod record;
mod refusal;
mod sweep;
mod terminal;
mod tidy;
