//! What is done to containers that exist: list, state, kill, delete.

mod show;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ctsys::SysError;
use ctsys::error::Context;
use ctsys::process::ProcessId;
use ctsys::report::Explain;
use ctsys::signal;
use ctsys::state::{ContainerState, StateError, StateRoot, Status};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup;
use crate::reap;
use crate::record;

pub use show::{list_json, list_table, state_json};

/// How long `delete --force` waits for a killed container's end, in milliseconds: the kernel ends
/// all of its processes at once, but a busy machine may take its time.
const KILL_LIMIT_MS: u16 = 10_000;

/// How long a container that is being set up is waited for: it takes milliseconds, on a busy machine
/// with the set-uid helpers some more.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const START_INTERVAL: Duration = Duration::from_millis(2);

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
    #[error("container {name:?} did not end within {limit_ms} ms of SIGKILL")]
    StillRunning {
        /// Which.
        name: String,
        /// How long was waited.
        limit_ms: u16,
    },
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
            Self::State(error) => error.remedy(),
            Self::Sys { .. } => None,
        }
    }
}

type Result<T> = std::result::Result<T, LifecycleError>;

/// All of the caller's containers, each with the status that is true now.
pub fn list() -> Result<Vec<ContainerState>> {
    let Some(root) = StateRoot::find_default()? else { return Ok(Vec::new()) };
    root.list()?.into_iter().map(|state| Ok(live(state)?)).collect()
}

/// The container that an id, a name or a unique start of an id means, with its live status.
pub fn find(name: &str) -> Result<ContainerState> {
    let root = root_with(name)?;
    Ok(live(root.find(name)?)?)
}

/// As [`find`], for what needs a command that runs. The command may speak before the record says
/// that it runs: so one that is being set up is waited for.
pub(crate) fn find_started(name: &str) -> Result<ContainerState> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let state = find(name)?;
        match state.status {
            Status::Running | Status::Created => return Ok(state),
            Status::Creating if Instant::now() < deadline => std::thread::sleep(START_INTERVAL),
            status => return Err(LifecycleError::NotRunning { name: state.name, status }),
        }
    }
}

/// Sends `signal` (name with or without SIG, or number) to the container's main command; KILL ends
/// the whole container.
pub fn kill(name: &str, signal: &str) -> Result<()> {
    let number =
        signal::parse(signal).ok_or_else(|| LifecycleError::UnknownSignal(signal.into()))?;
    let state = find_started(name)?;
    let not_running =
        || LifecycleError::NotRunning { name: state.name.clone(), status: Status::Stopped };
    // The init passes on what it can; what it never sees goes to the command directly.
    let through_init = number == libc::SIGKILL || reap::forwards(number);
    // Without an init on record (`ContainerState::live_status`) the command gets all of them; its
    // end is the container's.
    let target = if through_init { state.init.or(state.main) } else { state.main };
    let sys = |source| sys("signal", &state.name, source);
    let pidfd = target.map(|p| p.open()).transpose().map_err(sys)?.flatten();
    match signal::send(pidfd.ok_or_else(not_running)?, number) {
        Err(error) if error.errno() == Errno::ESRCH => Err(not_running()),
        other => other.map_err(sys),
    }
}

/// Removes a stopped container; with `force`, kills a running one first and forgives one that does
/// not exist.
pub fn delete(name: &str, force: bool) -> Result<()> {
    let state = match find(name) {
        Err(LifecycleError::State(StateError::NotFound(_))) if force => return Ok(()),
        other => other?,
    };
    if state.status != Status::Stopped {
        if !force {
            return Err(LifecycleError::NotStopped { name: state.name, status: state.status });
        }
        end(&state)?;
    }
    let root = root_with(name)?;
    let lock = root.lock()?;
    // Another one may have taken the id while the lock was free.
    match root.load(&state.id) {
        Ok(now) if now.created == state.created => Ok(record::forget(&root, &now, &lock)?),
        // A foreground container's launcher has removed it itself.
        Ok(_) | Err(StateError::NotFound(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Kills all of the container and waits for its end.
fn end(state: &ContainerState) -> Result<()> {
    let sys = |source| sys("kill", &state.name, source);
    // All at once, what entered from outside, too.
    state.cgroup.as_deref().into_iter().for_each(cgroup::kill);
    // One that is still being set up ends with its launcher.
    let target = if state.init.is_some() { state.init } else { state.monitor };
    let Some(pidfd) = target.as_ref().map(ProcessId::open).transpose().map_err(sys)?.flatten()
    else {
        return Ok(());
    };
    match signal::send(&pidfd, libc::SIGKILL) {
        Err(error) if error.errno() == Errno::ESRCH => return Ok(()),
        other => other.map_err(sys)?,
    }
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::from(KILL_LIMIT_MS)) {
            Ok(0) => {
                let (name, limit_ms) = (state.name.clone(), KILL_LIMIT_MS);
                return Err(LifecycleError::StillRunning { name, limit_ms });
            }
            Err(Errno::EINTR) => {}
            other => return other.map(drop).call("poll", || "pidfd".into()).map_err(sys),
        }
    }
}

/// The state directory, in which `name` is looked for: without one there is no such container.
fn root_with(name: &str) -> Result<StateRoot> {
    Ok(StateRoot::find_default()?.ok_or_else(|| StateError::NotFound(name.into()))?)
}

fn live(mut state: ContainerState) -> std::result::Result<ContainerState, StateError> {
    state.status = state.live_status()?;
    if state.status == Status::Stopped {
        state.pid = 0;
    }
    Ok(state)
}

fn sys(step: &'static str, name: &str, source: SysError) -> LifecycleError {
    LifecycleError::Sys { step, name: name.into(), source }
}
