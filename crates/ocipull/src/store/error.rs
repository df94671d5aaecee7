//! Why an image could not be written into a layout.

use std::io;
use std::path::PathBuf;

use ctsys::SysError;
use ctsys::report::Explain;

use crate::exit::EXIT_DAMAGED;
use crate::local::LocalError;
use crate::verify::VerifyError;

/// Why a layout could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What is there is none, or a damaged one.
    #[error("cannot write a layout there")]
    Layout(#[source] LocalError),
    /// The directory cannot be opened or made.
    #[error("cannot open layout {path:?}")]
    Directory {
        /// As named by the user.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// Something in it cannot be written.
    #[error("cannot {action} in layout {path:?}")]
    Write {
        /// What was tried.
        action: &'static str,
        /// As named by the user.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// The blob's source failed.
    #[error("cannot read blob {digest}")]
    Read {
        /// Which.
        digest: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob's source gave something else.
    #[error("blob {digest} is not what was asked for")]
    Content {
        /// Which.
        digest: String,
        /// How it differs.
        #[source]
        cause: VerifyError,
    },
    /// An index.json without a list of manifests.
    #[error("index.json of {0:?} has no list of manifests")]
    Index(PathBuf),
    /// An index.json that could not be read again.
    #[error("index.json of {0:?} would be too large")]
    Full(PathBuf),
    /// Somebody holds the lock, and does not let go.
    #[error("layout {0:?} is locked by another process")]
    Locked(PathBuf),
}

impl Explain for StoreError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Layout(LocalError::NoLayout { .. }) => {
                "name a new directory, an empty one, or an OCI layout".into()
            }
            Self::Layout(error) => return error.hint(),
            Self::Directory { .. } | Self::Write { .. } => "check the path and its mode".into(),
            Self::Full(_) => "begin another layout".into(),
            Self::Locked(_) => "try again when it is done".into(),
            Self::Read { .. } | Self::Content { .. } | Self::Index(_) => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Content { .. } => EXIT_DAMAGED,
            Self::Layout(error) => error.exit_code(),
            _ => 1,
        }
    }
}
