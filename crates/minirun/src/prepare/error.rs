//! What can be wrong with what was asked for, and the remedies.

use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::record::RecordError;
use ctsys::report::Explain;
use ctsys::state::StateError;

use crate::bundle::{self, BundleError};
use crate::config::image::ImageError;
use crate::config::limits::LimitError;
use crate::config::value::BadValue;
use crate::network::NetworkError;
use crate::user::UserError;

/// The result of preparing a run.
pub type Result<T> = std::result::Result<T, Error>;

/// Minirun's own failures in the developer's form (docker's code for them).
pub const EXIT_OWN_FAILURE: u8 = 125;

/// Why a container could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no directory of that name, or it has no `rootfs`.
    #[error("no root filesystem: {path:?} is no directory")]
    NoRootfs {
        /// Where it was expected.
        path: PathBuf,
        /// The bundle that should have it.
        bundle: Option<PathBuf>,
    },
    /// There is no such bundle.
    #[error("no bundle: {path:?} is no directory")]
    NoBundle {
        /// As asked for.
        path: PathBuf,
    },
    /// A config.json without `root.path`.
    #[error("{path:?} names no root filesystem")]
    NoRoot {
        /// The config.json.
        path: PathBuf,
    },
    /// A config.json that maps ids which the caller has no way to.
    #[error("{path:?} maps ids that are not the caller's, and none are granted")]
    ForeignMaps {
        /// The config.json.
        path: PathBuf,
    },
    /// The image record.
    #[error(transparent)]
    Record(RecordError),
    /// The image's config.
    #[error(transparent)]
    Image(ImageError),
    /// The bundle's config.json.
    #[error(transparent)]
    Bundle(BundleError),
    /// A path that neither a configuration nor a record can say.
    #[error("{0:?} is not UTF-8, as all paths in a runtime configuration have to be")]
    NotUtf8(PathBuf),
    /// A path that JSON cannot say.
    #[error("cannot write the configuration")]
    Json(#[source] serde_json::Error),
    /// The user.
    #[error(transparent)]
    User(UserError),
    /// The value of an option.
    #[error(transparent)]
    Value(BadValue),
    /// A limit.
    #[error(transparent)]
    Limit(LimitError),
    /// The network, or a namespace to share.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A source on the host that is not there, or out of the caller's reach.
    #[error("cannot show {path:?} of the host")]
    Source {
        /// Absolute.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// Not a name.
    #[error(transparent)]
    Name(StateError),
    /// The state directory.
    #[error(transparent)]
    State(StateError),
    /// `-e` without a name.
    #[error("invalid environment variable {0:?}: want NAME=VALUE or NAME")]
    Variable(String),
    /// A host name that the kernel refuses.
    #[error("invalid host name {0:?}: want 1 to 64 bytes")]
    Hostname(String),
    /// A working directory that is not absolute.
    #[error("invalid working directory {0:?}: want an absolute path")]
    Workdir(String),
    /// The caller's directory is gone.
    #[error("cannot tell the current directory")]
    CurrentDir(#[source] std::io::Error),
    /// Neither image nor flags say what to run.
    #[error("no command: neither the image nor the configuration names one")]
    NoCommand,
    /// A word that no program can be given.
    #[error("a NUL byte in {word:?}")]
    Nul {
        /// The word.
        word: String,
    },
    /// The command would run as an id that the container does not have.
    #[error("{kind} {id} is not mapped: the container does not have that id")]
    Unmapped {
        /// `user` or `group`.
        kind: &'static str,
        /// The id.
        id: u32,
    },
    /// Unpacked with ids that are not there now.
    #[error("{rootfs:?} was unpacked with subordinate ids, and none are granted now")]
    NoSubordinate {
        /// The root filesystem.
        rootfs: PathBuf,
    },
    /// The subordinate ids could not be found out.
    #[error("cannot find out the subordinate ids")]
    Subordinate(#[source] SysError),
}

impl Error {
    pub(super) fn no_rootfs(path: &Path, bundle: Option<&Path>) -> Self {
        Self::NoRootfs { path: path.into(), bundle: bundle.map(Path::to_path_buf) }
    }

    pub(super) fn no_bundle(path: &Path) -> Self {
        Self::NoBundle { path: path.into() }
    }
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoRootfs { bundle: Some(dir), .. } => {
                format!("fill it with `ocipull IMAGE --bundle {}`, or name a root filesystem or a --bundle", dir.display())
            }
            Self::NoRootfs { path, .. } => format!("fill it with `ocipull IMAGE {}`", path.display()),
            Self::NoBundle { path } => format!("make it with `ocipull IMAGE --bundle {}`", path.display()),
            Self::NoRoot { .. } | Self::Bundle(BundleError::Malformed { .. }) => format!(
                "mend {0}, or remove it to have it generated", bundle::CONFIG_FILE
            ),
            Self::ForeignMaps { .. } => format!(
                "remove {} to have it generated, or map the own id only", bundle::CONFIG_FILE
            ),
            Self::Record(_) | Self::Image(_) => "pull the image again with `ocipull --force`".into(),
            Self::User(error) => return error.hint(),
            Self::Value(bad) => bad.hint.clone(),
            Self::Source { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
                "make it first; minirun makes no directories outside the container".into()
            }
            Self::Source { .. } => "the caller must be able to reach it".into(),
            Self::Limit(error) => format!("see minirun --help for {}", error.option),
            Self::Network(error) => return error.hint(),
            Self::Name(_) => "--name takes letters, digits and _ + - .".into(),
            Self::Variable(_) => "-e NAME takes the caller's value, -e NAME=VALUE this one".into(),
            Self::NoCommand => "give one after `--`, as in: minirun -- /bin/sh".into(),
            Self::Unmapped { .. } => "run as root inside with -u 0, or have subordinate ids granted in /etc/subuid and /etc/subgid and pull again".into(),
            Self::NoSubordinate { .. } => {
                "install newuidmap and have a range granted in /etc/subuid and /etc/subgid, or pull again".into()
            }
            Self::Hostname(_) => "choose another with --hostname NAME".into(),
            Self::Workdir(_) => "-w takes a path inside the container, such as /srv".into(),
            Self::Bundle(_) | Self::Json(_) | Self::CurrentDir(_)
            | Self::Nul { .. } | Self::Subordinate(_) => return None,
            Self::State(error) => return error.remedy(),
            Self::NotUtf8(_) => "give the directory another name".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        EXIT_OWN_FAILURE
    }
}
