//! Why a pull failed.

use std::path::PathBuf;

use ctsys::record::RecordError;
use ctsys::report::Explain;

use crate::apply::ApplyError;
use crate::registry::RegistryError;
use crate::resolve::ResolveError;

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference could not be resolved to an image.
    #[error("cannot pull")]
    Resolve(#[from] ResolveError),
    /// The registry did not give a layer.
    #[error("cannot pull")]
    Registry(#[from] RegistryError),
    /// The image could not be unpacked.
    #[error("cannot unpack")]
    Apply(#[source] Box<ApplyError>),
    /// A layer's end could not be read. Its cause is a [`PullError::Registry`] in most cases.
    #[error("cannot read layer {digest}")]
    Layer {
        /// Of the blob.
        digest: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The record beside DEST is not readable.
    #[error("cannot tell what DEST holds")]
    Record(#[from] RecordError),
    /// The record beside DEST does not belong to the image that it names.
    #[error("the record of {dest:?} does not belong to image {digest}: got other {what}")]
    OtherImage {
        /// The root filesystem.
        dest: PathBuf,
        /// As in the record.
        digest: String,
        /// What differs.
        what: &'static str,
    },
    /// The thread that unpacks ended without a result.
    #[error("cannot unpack into {0:?}: the unpacking thread ended early")]
    Unpacker(PathBuf),
}

impl From<ApplyError> for PullError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Box::new(error))
    }
}

impl Explain for PullError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Resolve(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::Record(_) | Self::OtherImage { .. } => {
                Some("remove it and pull with --force".into())
            }
            Self::Layer { .. } | Self::Unpacker(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Apply(error) => error.exit_code(),
            _ => 1,
        }
    }
}
