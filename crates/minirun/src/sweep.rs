//! Containers whose minirun was killed: whoever looks next cleans up after them.
//!
//! Their processes and mounts are gone already: the init has asked for SIGKILL at the end of the
//! process outside, and the mounts were in its namespace. What can be left is the record.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ctsys::error::Context;
use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, Contents, StateError, StateLock, StateRoot};
use ctsys::{SysError, signal};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the end of a killed container is waited for: the kernel ends all of its processes at
/// once, but a busy machine may take its time.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What stands in the state directory once the remnants of killed miniruns are removed from it:
/// directories without a record, and records that were to go with their container. One of a
/// container in the background stays, and its log: it has stopped, nobody knows how.
pub(crate) fn contents(
    root: &StateRoot,
    lock: &StateLock,
) -> Result<Vec<ContainerState>, StateError> {
    let Contents { containers, remnants } = root.contents()?;
    for id in remnants {
        removed(root.remove(&id, lock))?;
    }
    let mut kept = Vec::with_capacity(containers.len());
    for state in containers {
        if is_left_over(&state)? {
            await_end(&state)?;
            removed(root.remove(&state.id, lock))?;
        } else {
            kept.push(state);
        }
    }
    Ok(kept)
}

/// Whether a record should have gone with its container, and nobody is left to see to it.
pub(crate) fn is_left_over(state: &ContainerState) -> Result<bool, StateError> {
    Ok(state.transient && state.is_abandoned()?)
}

/// Waits until an abandoned container's processes are gone: their end has begun with that of the
/// process outside. One that does not end is left to itself.
pub(crate) fn await_end(state: &ContainerState) -> Result<(), StateError> {
    let Some(init) = state.init.as_ref().map(ProcessId::open).transpose()?.flatten() else {
        return Ok(());
    };
    match signal::send(&init, libc::SIGKILL) {
        Err(error) if error.errno() == Errno::ESRCH => return Ok(()),
        other => other?,
    }
    ended_by(&init, Some(Instant::now() + KILL_LIMIT)).map(drop).map_err(StateError::from)
}

/// Waits for a process's end, at most until `deadline`; whether it came.
pub(crate) fn ended_by(pidfd: &OwnedFd, deadline: Option<Instant>) -> Result<bool, SysError> {
    loop {
        let timeout = match deadline {
            // A wait too long for poll(2) is made of several.
            Some(deadline) => PollTimeout::try_from(
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1),
            )
            .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(false);
            }
            Ok(0) | Err(Errno::EINTR) => {}
            other => return other.map(|_| true).call("poll", || "pidfd".into()),
        }
    }
}

/// What is gone already needs no removal.
fn removed(result: Result<(), StateError>) -> Result<(), StateError> {
    match result {
        Err(StateError::NotFound(_)) => Ok(()),
        other => other,
    }
}
