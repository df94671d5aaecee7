//! What is done to containers that exist, a file a subcommand.

mod error;
mod filter;
mod inspect;
mod logs;
mod remove;
mod show;
mod stop;
mod top;
mod wait;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ctsys::process::ProcessId;
use ctsys::signal;
use ctsys::state::{ContainerState, StateError, StateRoot, Status};
use nix::errno::Errno;
use nix::libc;

use crate::reap;
use crate::sweep;

pub use error::LifecycleError;
pub use filter::{Filter, FilterError, matching};
pub use inspect::inspect;
pub use logs::{LogOptions, logs};
pub use remove::delete;
pub use show::{list_json, list_table, state_json};
pub use stop::Stopping;
pub use top::top;
pub use wait::wait;

/// How long a container that is being set up is waited for: it takes milliseconds, on a busy machine
/// with the set-uid helpers some more.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const START_INTERVAL: Duration = Duration::from_millis(2);

type Result<T> = std::result::Result<T, LifecycleError>;

/// All of the caller's containers, each with the status that is true now. What killed miniruns have
/// left is removed.
pub fn list() -> Result<Vec<ContainerState>> {
    let Some(root) = StateRoot::find_default()? else { return Ok(Vec::new()) };
    // What cannot be cleaned up, as on a full disk, is listed all the same.
    let _ = sweep::clean(&root, usize::MAX, sweep::KILL_LIMIT);
    root.list()?.into_iter().map(|state| Ok(live(state)?)).collect()
}

/// The container that an id, a name or a unique start of an id means, with its live status.
pub fn find(name: &str) -> Result<ContainerState> {
    let root = root_with(name)?;
    let mut state = root.find(name)?;
    if state.is_abandoned()? {
        let _ = sweep::clean_one(&root, &state.id, sweep::KILL_LIMIT);
        state = root.find(name)?;
    }
    Ok(live(state)?)
}

/// As [`find`], but one that is being set up is waited for: its command may speak, and be answered,
/// before the record says that it runs.
pub(crate) fn find_settled(name: &str) -> Result<ContainerState> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let state = find(name)?;
        match state.status {
            Status::Creating if Instant::now() < deadline => std::thread::sleep(START_INTERVAL),
            _ => return Ok(state),
        }
    }
}

/// As [`find_settled`], for what needs a command that runs.
pub(crate) fn find_started(name: &str) -> Result<ContainerState> {
    let state = find_settled(name)?;
    match state.status {
        Status::Running | Status::Created => Ok(state),
        status => Err(LifecycleError::NotRunning { name: state.name, status }),
    }
}

/// Sends `signal` (name with or without SIG, or number) to the container's main command; KILL ends
/// the whole container.
pub fn kill(name: &str, signal: &str) -> Result<()> {
    let number =
        signal::parse(signal).ok_or_else(|| LifecycleError::UnknownSignal(signal.into()))?;
    let state = find_started(name)?;
    send(&state, number)
}

/// Sends a signal to the process of the container that is to have it.
fn send(state: &ContainerState, number: i32) -> Result<()> {
    let not_running =
        || LifecycleError::NotRunning { name: state.name.clone(), status: Status::Stopped };
    // The init passes on what it can; what it never sees goes to the command directly.
    let through_init = number == libc::SIGKILL || reap::forwards(number);
    // Without an init on record (`ContainerState::live_status`) the command gets all of them; its
    // end is the container's.
    let target = if through_init { state.init.or(state.main) } else { state.main };
    let pidfd = open("signal", state, target.as_ref())?.ok_or_else(not_running)?;
    match signal::send(pidfd, number) {
        Err(error) if error.errno() == Errno::ESRCH => Err(not_running()),
        other => other.map_err(|source| sys("signal", &state.name, source)),
    }
}

/// One of the container's processes; `None` when it is gone.
fn open(
    step: &'static str,
    state: &ContainerState,
    process: Option<&ProcessId>,
) -> Result<Option<OwnedFd>> {
    let pidfd = process.map(ProcessId::open).transpose();
    Ok(pidfd.map_err(|source| sys(step, &state.name, source))?.flatten())
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

fn sys(step: &'static str, name: &str, source: ctsys::SysError) -> LifecycleError {
    LifecycleError::Sys { step, name: name.into(), source }
}
