//! Why a pull failed.

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
    /// The thread that unpacks ended without a result.
    #[error("cannot unpack: an unpacking thread ended early")]
    Unpacker,
}

impl PullError {
    /// Whether it only says that another layer failed.
    pub(crate) fn is_consequence(&self) -> bool {
        matches!(self, Self::Apply(error) if error.is_consequence())
    }
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
            Self::Record(_) => Some("remove it and pull with --force".into()),
            Self::Layer { .. } | Self::Unpacker => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Apply(error) => error.exit_code(),
            _ => 1,
        }
    }
}
