//! What can go wrong between a layer and a root filesystem.

use std::io;
use std::path::PathBuf;

use ctsys::record::RecordError;
use ctsys::report::Explain;
use ctsys::{Errno, SysError};
use oci_spec::image::Digest;

use super::limits::LimitError;
use super::name::{NameError, quoted};
use super::shape::ShapeError;
use super::tar::TarError;
use super::turns::Stopped;
use crate::decompress::DecompressError;
use crate::exit::{EXIT_DAMAGED, EXIT_OVER_LIMIT};

/// Why a root filesystem could not be made, replaced or removed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The destination has something in it.
    #[error("destination {dest:?} exists and is not empty")]
    Exists {
        /// As named by the user.
        dest: PathBuf,
    },
    /// The destination is something else than a directory.
    #[error("destination {dest:?} is {found}, want a directory or nothing")]
    NotADirectory {
        /// As named by the user.
        dest: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A destination such as `.` or `/`: there is nothing beside it that could take its place.
    #[error("destination {dest:?} does not end in a directory's name")]
    Unnamed {
        /// As named by the user.
        dest: PathBuf,
    },
    /// A mount point cannot be replaced by a rename.
    #[error("destination {dest:?} is a mount point")]
    MountPoint {
        /// As named by the user.
        dest: PathBuf,
    },
    /// What is mounted there would be lost with the tree, on the host.
    #[error("{mounted:?} is mounted inside of {dest:?}")]
    MountInside {
        /// As named by the user.
        dest: PathBuf,
        /// The mount point.
        mounted: PathBuf,
    },
    /// There is nothing to remove.
    #[error("{dest:?} does not exist")]
    Missing {
        /// As named by the user.
        dest: PathBuf,
    },
    /// A directory that is not known to be an image's.
    #[error("{dest:?} has no image record")]
    NoRecord {
        /// As named by the user.
        dest: PathBuf,
    },
    /// The destination, its parent or the staging directory could not be worked on.
    #[error("cannot {action} {path:?}")]
    Directory {
        /// What was tried: `open`, `replace`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// The record beside the destination.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The blob cannot be decompressed.
    #[error("cannot unpack layer {digest}")]
    Decompress {
        /// Of the blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: DecompressError,
    },
    /// The stream fails before its end.
    #[error("cannot read layer {digest}")]
    Stream {
        /// Of the blob.
        digest: Digest,
        /// The cause: of the network, the decoder, or a check of the blob.
        #[source]
        source: io::Error,
    },
    /// The stream is no tar stream, or one that is refused.
    #[error("cannot unpack layer {digest}")]
    Tar {
        /// Of the blob.
        digest: Digest,
        /// The cause.
        #[source]
        source: TarError,
    },
    /// One entry of the layer.
    #[error("cannot unpack {} of layer {digest}", quoted(path))]
    Entry {
        /// Of the blob.
        digest: Digest,
        /// As in the layer.
        path: Vec<u8>,
        /// The cause.
        #[source]
        source: Box<EntryError>,
    },
    /// The layer's content is not what the image's config says.
    #[error("content of layer {digest} is not the image's: got diff_id {got}, want {want}")]
    DiffId {
        /// Of the blob.
        digest: Digest,
        /// As computed.
        got: String,
        /// As in the config.
        want: Digest,
    },
    /// A diff_id that cannot be checked is not believed.
    #[error(
        "cannot check diff_id {diff_id}: got an unknown algorithm, want sha256, sha384 or sha512"
    )]
    DigestAlgorithm {
        /// As in the config.
        diff_id: Digest,
    },
    /// Metadata of a directory, once all else is there.
    #[error("cannot set the metadata of directory {}", quoted(&[b"/", path.as_slice()].concat()))]
    Metadata {
        /// In the root filesystem.
        path: Vec<u8>,
        /// The cause.
        #[source]
        source: Box<EntryError>,
    },
    /// A layer failed before, so the tree is not whole.
    #[error("not all layers were applied")]
    Incomplete,
    /// No thread could be started.
    #[error("cannot start a thread")]
    Thread {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl ApplyError {
    /// Whether it only says that another layer failed.
    pub fn is_consequence(&self) -> bool {
        match self {
            Self::Entry { source, .. } => matches!(**source, EntryError::Stopped),
            Self::Stream { source, .. } => {
                source.get_ref().is_some_and(|inner| inner.is::<Stopped>())
            }
            _ => false,
        }
    }
}

impl ApplyError {
    /// Whether other bytes of the layer would have helped: the failure is not the disk's, the
    /// caller's or a limit's.
    pub fn is_of_content(&self) -> bool {
        match self {
            Self::Decompress { .. } | Self::Tar { .. } | Self::DiffId { .. } => true,
            Self::Stream { .. } => limit_passed(self).is_none() && !self.is_consequence(),
            Self::Entry { source, .. } => !matches!(
                **source,
                EntryError::Sys(_)
                    | EntryError::Limit(_)
                    | EntryError::UnmappedId { .. }
                    | EntryError::Stopped
            ),
            _ => false,
        }
    }
}

/// Why one entry cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The way to it.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Its data.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A system call.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// An owner that no file can have.
    #[error("invalid {which}: got {got}, want 0 to 4294967294")]
    Id {
        /// `uid` or `gid`.
        which: &'static str,
        /// As in the layer.
        got: i64,
    },
    /// An owner that the user namespace does not have.
    #[error("owner {uid}:{gid} is outside of the subordinate ids granted")]
    UnmappedId {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A device number that is none.
    #[error("invalid device number {major}:{minor}")]
    Device {
        /// As in the layer.
        major: i64,
        /// As in the layer.
        minor: i64,
    },
    /// The root itself as a link or a file.
    #[error("the root can only be a directory")]
    RootKind,
    /// Past a limit of the image's.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The layers below will not come any more.
    #[error("another layer failed")]
    Stopped,
    /// A type of entry that nobody specified.
    #[error("unknown entry type {:?}", char::from(*.0))]
    UnknownType(u8),
    /// A hard link to nothing.
    #[error("hard link to {}, which does not exist", quoted(.0))]
    NoLinkTarget(Vec<u8>),
    /// A hard link to a directory.
    #[error("hard link to {}, which is a directory", quoted(.0))]
    LinkToDirectory(Vec<u8>),
    /// More attributes of directories than are kept.
    #[error("the extended attributes of directories together are larger than {limit} bytes")]
    TooManyXattrs {
        /// In bytes.
        limit: usize,
    },
}

impl From<Stopped> for EntryError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl Explain for ApplyError {
    fn hint(&self) -> Option<String> {
        if let Some(name) = limit_passed(self) {
            return Some(format!("an image that is trusted may have more: --limit {name}=VALUE"));
        }
        let hint = match self {
            Self::Exists { .. } => "use --force to replace it, or name another directory",
            Self::NotADirectory { .. } | Self::Unnamed { .. } => {
                "name a directory that does not exist yet, such as ./rootfs"
            }
            Self::MountPoint { .. } => "name a directory below the mount point",
            Self::MountInside { .. } => "unmount it first",
            Self::NoRecord { .. } => "only what ocipull unpacked is removed by it; use rm -r",
            Self::Missing { .. } => "check the path",
            Self::Entry { source, .. } | Self::Metadata { source, .. } => {
                return entry_hint(source);
            }
            Self::Directory { source, .. } => {
                return sys_hint(source).or_else(|| place_hint(source));
            }
            Self::DiffId { .. } => "the image is damaged or was tampered with; pull it anew",
            _ => return None,
        };
        Some(hint.into())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::DiffId { .. } => EXIT_DAMAGED,
            _ if limit_passed(self).is_some() || is_past_fixed_limit(self) => EXIT_OVER_LIMIT,
            _ => 1,
        }
    }
}

fn entry_hint(error: &EntryError) -> Option<String> {
    match error {
        EntryError::UnmappedId { .. } => {
            Some("grant more ids in /etc/subuid and /etc/subgid, or use --ownership single".into())
        }
        EntryError::Sys(error) => sys_hint(error),
        _ => None,
    }
}

/// The limit that can be raised, if it was one that ended the pull.
fn limit_passed(error: &ApplyError) -> Option<&'static str> {
    match error {
        ApplyError::Entry { source, .. } => match &**source {
            EntryError::Limit(limit) => Some(limit.name()),
            EntryError::Shape(ShapeError::TooManyEntries(_)) => Some("entries"),
            EntryError::Tar(error) => limit_of_headers(error),
            _ => None,
        },
        ApplyError::Tar { source, .. } => limit_of_headers(source),
        ApplyError::Stream { source, .. } => limit_of_stream(source),
        _ => None,
    }
}

/// Whether it was a limit that nobody can raise: no image in use comes near it.
fn is_past_fixed_limit(error: &ApplyError) -> bool {
    let ApplyError::Entry { source, .. } = error else { return false };
    matches!(
        **source,
        EntryError::Name(NameError::TooLong(_))
            | EntryError::Shape(
                ShapeError::TooLong
                    | ShapeError::TooManyBytes(_)
                    | ShapeError::TooMuchWalked
                    | ShapeError::TooManyLinks
            )
            | EntryError::TooManyXattrs { .. }
    )
}

fn limit_of_headers(error: &TarError) -> Option<&'static str> {
    matches!(error, TarError::TooLarge { .. }).then_some("header-bytes")
}

fn limit_of_stream(error: &io::Error) -> Option<&'static str> {
    let inner = error.get_ref()?;
    match (inner.downcast_ref(), inner.downcast_ref::<LimitError>()) {
        (Some(DecompressError::Bomb { .. }), _) => Some("expansion-ratio"),
        (_, limit) => limit.map(LimitError::name),
    }
}

/// For the directory that DEST is to stand in.
fn place_hint(error: &SysError) -> Option<String> {
    let hint = match error.errno() {
        Errno::ENOENT | Errno::ENOTDIR => "check the path: no directory can be made there",
        Errno::EROFS => "name a destination on a file system that can be written",
        _ => return None,
    };
    Some(hint.into())
}

fn sys_hint(error: &SysError) -> Option<String> {
    let hint = match error.errno() {
        Errno::ENOSPC | Errno::EDQUOT => {
            "free some space, or name a destination on another file system"
        }
        Errno::EMFILE => "raise the limit of open files (ulimit -n), or lower --jobs",
        Errno::EIO => "the disk fails: see the kernel's log (dmesg)",
        Errno::EACCES | Errno::EPERM => "check who owns the directory",
        _ => return None,
    };
    Some(hint.into())
}
