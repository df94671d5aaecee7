//! Why state could not be read or written, and the remedies.

use std::path::PathBuf;

use nix::errno::Errno;

use super::{MAX_ID_BYTES, StateRoot};
use crate::error::SysError;

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A system call failed.
    #[error("cannot access the state of containers")]
    Sys(#[from] SysError),
    /// The directory belongs to somebody else or lets others in.
    #[error(
        "state directory {path:?} is not private: got owner {owner} mode {mode:#o}, want owner {want_owner} mode 0o700"
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// The uid it should belong to.
        want_owner: u32,
    },
    /// The id or name cannot be one.
    #[error(
        "invalid container name {0:?}: want letters, digits and _ + - . with a letter or digit first, at most {MAX_ID_BYTES}"
    )]
    InvalidId(String),
    /// There is one of that name already.
    #[error("container {0:?} already exists")]
    Exists(String),
    /// There is none of that name.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// A name stands for several containers.
    #[error("{name:?} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// What was looked for.
        name: String,
        /// The ids it could mean.
        candidates: Vec<String>,
    },
    /// A state file is damaged.
    #[error("state file {path:?} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StateError {
    /// What the user can do about it, as one line; `None` where it depends on what was wanted.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotPrivate { path, .. } => {
                Some(format!("remove {path:?}, or set XDG_RUNTIME_DIR to a directory of your own"))
            }
            Self::Sys(error) => {
                let dir = StateRoot::default_dir();
                let dir = dir.display();
                match error.errno() {
                    Errno::ENOSPC | Errno::EDQUOT => Some(format!(
                        "there is no room for {dir}: free some, or set XDG_RUNTIME_DIR to a directory of yours elsewhere"
                    )),
                    Errno::EROFS | Errno::EACCES => Some(format!(
                        "containers are recorded in {dir}: make that writable, or set XDG_RUNTIME_DIR to a directory of yours that is"
                    )),
                    _ => None,
                }
            }
            Self::Damaged { path, .. } => {
                let dir = path.parent().unwrap_or(path);
                Some(format!(
                    "if no container of that name runs, remove it: rm -r {}",
                    dir.display()
                ))
            }
            _ => None,
        }
    }
}
