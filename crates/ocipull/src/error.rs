//! Why a pull failed.

use std::path::PathBuf;

use ctsys::record::RecordError;
use ctsys::report::Explain;
use ctsys::{Errno, SysError};

use crate::apply::{ApplyError, EntryError};
use crate::exit::EXIT_DISK_FULL;
use crate::fetch::FetchError;
use crate::image::ImageError;
use crate::local::LocalError;
use crate::registry::RegistryError;
use crate::resolve::ResolveError;
use crate::store::StoreError;

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference could not be resolved to an image.
    #[error("cannot pull")]
    Resolve(#[from] ResolveError),
    /// The registry did not give a layer.
    #[error("cannot pull")]
    Registry(#[from] RegistryError),
    /// A layout or archive did not give a layer.
    #[error("cannot read")]
    Local(#[source] Box<LocalError>),
    /// The manifest brings a layer that is not what it says.
    #[error("cannot pull")]
    Image(#[source] Box<ImageError>),
    /// The image could not be written into a layout.
    #[error("cannot copy")]
    Store(#[source] Box<StoreError>),
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
    /// An index that leads to very many manifests.
    #[error("cannot copy: the index leads to more than {0} manifests")]
    Large(usize),
    /// An index that leads to manifests of very many bytes.
    #[error("cannot copy: the manifests that the index leads to have more than {0} bytes together")]
    LargeDocuments(usize),
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
    #[error("cannot unpack: an unpacking thread ended early")]
    Unpacker,
}

impl PullError {
    /// Whether it only says that another layer failed.
    pub(crate) fn is_consequence(&self) -> bool {
        matches!(self, Self::Apply(error) if error.is_consequence())
    }
}

impl From<LocalError> for PullError {
    fn from(error: LocalError) -> Self {
        Self::Local(Box::new(error))
    }
}

impl From<ImageError> for PullError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<FetchError> for PullError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Registry(error) => error.into(),
            FetchError::Local(error) => error.into(),
            FetchError::Image(error) => error.into(),
        }
    }
}

impl From<ApplyError> for PullError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Box::new(error))
    }
}

impl PullError {
    /// Whether damaged content may be behind it, and not the network, the disk or the user.
    pub fn may_be_damage(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_damage(),
            Self::Apply(error) => error.is_of_content(),
            Self::Layer { .. } => !is_disk_full(self),
            Self::Store(error) => matches!(**error, StoreError::Content { .. }),
            Self::Resolve(_)
            | Self::Local(_)
            | Self::Image(_)
            | Self::Record(_)
            | Self::OtherImage { .. }
            | Self::Unpacker
            | Self::Large(_)
            | Self::LargeDocuments(_) => false,
        }
    }
}

impl Explain for PullError {
    fn hint(&self) -> Option<String> {
        if is_disk_full(self) {
            return Some("free some space, or name a destination on another file system".into());
        }
        match self {
            Self::Registry(error) => error.hint(),
            Self::Resolve(error) => error.hint(),
            Self::Local(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::Record(_) | Self::OtherImage { .. } => {
                Some("remove it and pull with --force".into())
            }
            Self::Layer { .. } | Self::Unpacker | Self::Large(_) | Self::LargeDocuments(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            _ if is_disk_full(self) => EXIT_DISK_FULL,
            Self::Apply(error) => error.exit_code(),
            Self::Registry(error) => error.exit_code(),
            Self::Resolve(error) => error.exit_code(),
            Self::Local(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            Self::Image(error) => error.exit_code(),
            Self::Layer { .. }
            | Self::Record(_)
            | Self::OtherImage { .. }
            | Self::Unpacker
            | Self::Large(_)
            | Self::LargeDocuments(_) => 1,
        }
    }
}

/// Whether somewhere down the chain a file system had no room.
fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        // An entry's error says what its own cause says, and passes that over.
        let entry = error.downcast_ref::<Box<EntryError>>().map(|entry| &**entry);
        let by_us = match entry.or_else(|| error.downcast_ref()) {
            Some(EntryError::Sys(error)) => Some(error),
            _ => error.downcast_ref::<SysError>(),
        };
        let by_us = by_us.map(SysError::errno);
        let by_std = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        let errno = by_us.or(by_std.map(Errno::from_raw));
        matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT))
    })
}
