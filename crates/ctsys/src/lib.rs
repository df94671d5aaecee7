//! System calls, namespaces, in-root file operations, state and error reports shared by the tools.
//!
//! ```text
//! error      what a failed system call was: call, arguments, errno
//! report     error chain + hint -> one line, one hint, an exit code
//! process    who a process is, beyond its reusable number
//! wait       how a child ended
//! signal     masks, waiting, sending, names
//! clone      a child by clone3, in namespaces of its own
//! ns         joining the namespaces of another process
//! fdpass     descriptors over a unix socket
//! confine    what a helper process gives up
//! idmap      which subordinate ids the caller may use, and installing them in a user namespace
//! userns     going on as root of a user namespace, the process outside waiting
//! rootdir    file operations below a directory that an image's data fills
//! held       looking at what stands in such a directory without opening it
//! xattr      extended attributes of open files
//! durable    getting what was written onto the disk
//! mounted    what is mounted inside a directory, and so not to be removed with it
//! inroot     reading a file of a root filesystem without leaving it
//! mount      mounts by descriptor
//! isolate, capability, netif, tty    what a container's processes need, call by call
//! support    what the kernel can do, asked without doing it
//! seccomp    filtering system calls
//! seal       a copy of the running program that nobody can change
//! record     what ocipull leaves beside a root filesystem and minirun reads
//! state      where a container's record lies: owner-checked directory, lock, atomic write
//! ```
//!
//! This is the only crate of the workspace in which `unsafe` may stand.

pub mod capability;
pub mod clone;
pub mod confine;
pub mod durable;
pub mod error;
pub mod fdpass;
pub mod held;
pub mod idmap;
pub mod inroot;
pub mod isolate;
pub mod mount;
pub mod mounted;
pub mod netif;
pub mod ns;
pub mod process;
pub mod record;
pub mod report;
pub mod rootdir;
pub mod seal;
pub mod seccomp;
pub mod signal;
pub mod state;
pub mod support;
pub mod tty;
pub mod userns;
pub mod wait;
pub mod xattr;

pub use error::SysError;
pub use nix::errno::Errno;
