//! What can be wrong with what was asked for, and the remedies.

use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::record::RecordError;
use ctsys::report::Explain;
use ctsys::state::StateError;
use nix::errno::Errno;

use crate::bundle::{self, BundleError};
use crate::config::image::ImageError;
use crate::config::limits::LimitError;
use crate::config::security::SecurityError;
use crate::config::value::BadValue;
use crate::network::NetworkError;
use crate::refusal;
use crate::seccomp::profile::ProfileError;
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
    /// It may be there, but the way to it is closed.
    #[error("cannot get to {path:?}")]
    Unreachable {
        /// As asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
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
    /// A `--security-opt`.
    #[error(transparent)]
    Security(SecurityError),
    /// A seccomp profile that cannot be read.
    #[error("cannot read the seccomp profile {path:?}")]
    ReadProfile {
        /// Absolute.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A file that is no seccomp profile.
    #[error("cannot use the seccomp profile {path:?}")]
    Profile {
        /// Absolute.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ProfileError,
    },
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
    /// A file of variables that cannot be read.
    #[error("cannot read variables from {path:?}")]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: std::io::Error,
    },
    /// A line of such a file that is no variable.
    #[error("no variable in line {line} of {path:?}: {what}")]
    EnvLine {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A label without a key, or one of minirun's own.
    #[error("invalid label {0:?}: want KEY=VALUE or KEY, and no KEY that begins with minirun.")]
    Label(String),
    /// No signal of that name.
    #[error("unknown signal {0:?}")]
    Signal(String),
    /// No time to wait.
    #[error("invalid stop timeout {0:?}: want seconds, or -1 for no limit")]
    Timeout(String),
    /// An option of logs that there is not, or no size.
    #[error("invalid log option {0:?}: want max-size=SIZE, from 8k up, or max-size=-1")]
    LogOption(String),
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

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
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
            Self::Record(RecordError::Io { source, .. }) => refusal::step(errno_of(source)).hint(),
            Self::Record(_) | Self::Image(_) => "pull the image again with `ocipull --force`".into(),
            Self::User(error) => return error.hint(),
            Self::Value(bad) => bad.hint.clone(),
            Self::Source { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
                "make it first; minirun makes no directories outside the container".into()
            }
            Self::Security(error) => return error.hint(),
            Self::ReadProfile { .. } => "--security-opt seccomp=FILE takes a file on the host".into(),
            Self::Profile { .. } => "it takes docker's form of a profile, or config.json's".into(),
            Self::Source { .. } => "the caller must be able to reach it".into(),
            Self::Limit(error) => format!("see minirun --help for {}", error.option),
            Self::Network(error) => return error.hint(),
            Self::Name(_) => "--name takes letters, digits and _ + - .".into(),
            Self::Variable(_) => "-e NAME takes the caller's value, -e NAME=VALUE this one".into(),
            Self::EnvFile { .. } => "--env-file takes a file with a line NAME=VALUE for each variable".into(),
            Self::EnvLine { .. } => "a line is NAME=VALUE, or NAME for the caller's value; comments begin with #".into(),
            Self::Label(_) => "mark the container as in: --label app=web".into(),
            Self::Signal(_) => "want a name like TERM or a number from 1 to 64".into(),
            Self::Timeout(_) => "for half a minute: --stop-timeout 30".into(),
            Self::LogOption(_) => "the newest of the output is kept, as in: --log-opt max-size=10m".into(),
            Self::NoCommand => "give one after `--`, as in: minirun -- /bin/sh".into(),
            Self::Unmapped { .. } => "run as root inside with -u 0; or map more: have an administrator grant subordinate ids in /etc/subuid and /etc/subgid (minirun doctor shows yours), then --uidmap 0:OWN:1 --uidmap 1:FIRST:COUNT, or pull again".into(),
            Self::NoSubordinate { .. } => {
                "install newuidmap and have a range granted in /etc/subuid and /etc/subgid, or pull again".into()
            }
            Self::Hostname(_) => "choose another with --hostname NAME".into(),
            Self::Workdir(_) => "-w takes a path inside the container, such as /srv".into(),
            Self::Unreachable { .. } => {
                "every directory on the way must let you in: give its name right, or the permission (chmod a+x)".into()
            }
            Self::Bundle(BundleError::Access { source, .. }) | Self::Subordinate(source) => {
                refusal::step(source.errno()).hint()
            }
            Self::Bundle(BundleError::TooLarge { .. }) => "is it the right file? remove it to have it generated".into(),
            Self::CurrentDir(_) => "change to a directory that is there (cd)".into(),
            Self::Json(_) | Self::Nul { .. } => "write it with other characters".into(),
            Self::State(error) => return refusal::of_state(error),
            Self::NotUtf8(_) => "give the directory another name".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        EXIT_OWN_FAILURE
    }
}
