//! Why something could not be done to a container, and the remedies.

use std::path::PathBuf;
use std::time::Duration;

use ctsys::SysError;
use ctsys::record::RecordError;
use ctsys::report::Explain;
use ctsys::state::{StateError, Status};
use nix::errno::Errno;

use crate::refusal;

/// Why something could not be done to a container; implements `Explain` (exit code 1).
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The state directory could not be read or written, or there is no such container.
    #[error(transparent)]
    State(#[from] StateError),
    /// A system call failed.
    #[error("cannot {step} container {name:?}")]
    Sys {
        /// What was to be done.
        step: &'static str,
        /// To which container.
        name: String,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// Its processes are gone, or not there yet. (Engines over runc look for the text.)
    #[error("container not running: {name:?} is {}", status.as_str())]
    NotRunning {
        /// Which.
        name: String,
        /// What it is.
        status: Status,
    },
    /// Only a stopped container is deleted without force.
    #[error("cannot delete container {name:?} that is not stopped: {}", status.as_str())]
    NotStopped {
        /// Which.
        name: String,
        /// What it is.
        status: Status,
    },
    /// No signal of that name.
    #[error("unknown signal {0:?}")]
    UnknownSignal(String),
    /// A killed container did not end.
    #[error("container {name:?} did not end within {} s of SIGKILL", limit.as_secs())]
    StillRunning {
        /// Which.
        name: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Nobody was there to take the exit code.
    #[error(
        "the exit code of container {0:?} is unknown: its minirun was killed, or had nobody to tell"
    )]
    ExitUnknown(String),
    /// What a container in the foreground writes goes to its caller.
    #[error("container {0:?} has no log: it runs in the foreground")]
    NoLog(String),
    /// A file of the container, or the output, could not be read or written.
    #[error("cannot {step} of container {name:?}")]
    Io {
        /// What was to be done.
        step: &'static str,
        /// With which container.
        name: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file of the container is not as minirun left it.
    #[error("cannot read {path:?}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The image's record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Explain for LifecycleError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::State(StateError::NotFound(_) | StateError::Ambiguous { .. }) => {
                Some("see those there are: minirun list".into())
            }
            Self::NotRunning { name, status: Status::Creating } => {
                Some(format!("its set-up takes long; end it with: minirun delete --force {name}"))
            }
            Self::NotRunning { name, .. } => Some(format!("remove it: minirun delete {name}")),
            Self::NotStopped { name, .. } => {
                Some(format!("stop it first (minirun kill {name}), or add --force"))
            }
            Self::UnknownSignal(_) => Some("want a name like TERM or a number from 1 to 64".into()),
            Self::StillRunning { .. } => {
                Some("a process of it waits in the kernel, as for a dead disk or server".into())
            }
            Self::State(error) => refusal::of_state(error),
            Self::ExitUnknown(_) => Some("`minirun inspect` tells what is known".into()),
            Self::NoLog(_) => {
                Some("look where it was started; with -d the next one keeps a log".into())
            }
            Self::Damaged { .. } => Some("start the container anew".into()),
            Self::Record(_) => Some("pull the image again with `ocipull --force`".into()),
            Self::Sys { source, .. } => Some(refusal::step(source.errno()).hint()),
            Self::Io { source, .. } => {
                let errno = source.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                Some(refusal::step(errno).hint())
            }
        }
    }
}
