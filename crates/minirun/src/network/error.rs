//! What can be wrong with a network, and the remedies.

use std::path::PathBuf;

use ctsys::SysError;
use ctsys::report::Explain;
use ctsys::state::{StateError, Status};
use nix::errno::Errno;

/// Why a container could not have its network; implements `Explain` (exit code 125).
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The other container's record.
    #[error(transparent)]
    State(StateError),
    /// The other container has nothing to share.
    #[error("container {name:?} is {}, not running", status.as_str())]
    NotRunning {
        /// Its name.
        name: String,
        /// What it is.
        status: Status,
    },
    /// It ended meanwhile.
    #[error("the container whose namespaces are to be shared has ended")]
    Gone,
    /// Namespaces of two owners.
    #[error("--net and --pid name two different containers")]
    Two,
    /// The other container's ids are not those of this root filesystem.
    #[error(
        "the root filesystem needs ids that the container whose namespaces are to be shared does not have"
    )]
    OtherMaps,
    /// A helper cannot reach into a namespace that its starter shares.
    #[error("a container that shares another's process namespace cannot have pasta or slirp4netns")]
    HelperShared,
    /// Ports of a network that is not the container's.
    #[error("-p publishes ports of a network that is the container's own, and this one's is not")]
    PublishElsewhere,
    /// `MINIRUN_NET` says something else.
    #[error("invalid MINIRUN_NET {0:?}: want none, host, pasta or slirp4netns")]
    Variable(String),
    /// The program that was asked for is not there.
    #[error("{0} is not installed")]
    NoProgram(&'static str),
    /// What both helpers need.
    #[error("/dev/net/tun cannot be opened: {}", .0.desc())]
    Tun(Errno),
    /// A helper ended before it was done.
    #[error("{program} cannot connect the container: {reason}")]
    Refused {
        /// Which.
        program: &'static str,
        /// Its own words.
        reason: String,
    },
    /// pfwd ended before it was done; its own words, and its own hint.
    #[error("cannot publish ports: {reason}")]
    Publish {
        /// What failed.
        reason: String,
        /// Its hint.
        hint: Option<String>,
    },
    /// A namespace file.
    #[error("cannot open the namespace {path:?}")]
    Namespace {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// A file that is none.
    #[error("{path:?} is no namespace")]
    NotNamespace {
        /// The file.
        path: PathBuf,
    },
    /// A namespace that the caller may not join.
    #[error("the network namespace {path:?} is not the caller's to join")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// A system call.
    #[error("cannot {step}")]
    Sys {
        /// What it was for.
        step: &'static str,
        /// The cause.
        #[source]
        source: SysError,
    },
}

impl Explain for NetworkError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::State(StateError::NotFound(_) | StateError::Ambiguous { .. }) => {
                "see those there are: minirun list".into()
            }
            Self::State(error) => return error.remedy(),
            Self::NotRunning { name, .. } => {
                format!("start {name} first; what it shares ends with it")
            }
            Self::Gone => "start it again first; what it shares ends with it".into(),
            Self::Two => "name the same one twice, or share one namespace only".into(),
            Self::OtherMaps => {
                "give both root filesystems the same ownership: pull both as the same user".into()
            }
            Self::HelperShared => {
                "leave --net out to share that container's network too, or take --net none".into()
            }
            Self::PublishElsewhere => {
                "publish it with -p of the container that has the network, or by pfwd".into()
            }
            Self::Variable(_) => "correct the variable, or unset it".into(),
            Self::NoProgram("pasta") => {
                "install it (Debian: apt-get install passt), or take --net none or --net host".into()
            }
            Self::NoProgram("slirp4netns") => "install it (Debian: apt-get install slirp4netns), or take --net none or --net host".into(),
            Self::NoProgram(_) => "put pfwd beside minirun, or into PATH".into(),
            Self::Tun(_) => {
                "as root: chmod 0666 /dev/net/tun (modprobe tun where it is missing), or take --net none or --net host".into()
            }
            Self::Refused { program: "pasta", .. } => {
                "try --net slirp4netns, or take --net none or --net host".into()
            }
            Self::Refused { .. } => "take --net none or --net host".into(),
            Self::Publish { hint, .. } => return hint.clone(),
            Self::Namespace { .. } | Self::NotNamespace { .. } => {
                "ns: takes a namespace's file, such as /run/netns/NAME or /proc/PID/ns/net".into()
            }
            Self::Foreign { .. } => {
                "run minirun as root, or as the user who made the user namespace that owns it".into()
            }
            Self::Sys { .. } => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        125
    }
}
