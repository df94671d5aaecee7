//! Containers whose minirun was killed: whoever looks next cleans up after them.
//!
//! Their processes and mounts are gone already: the init has asked for SIGKILL at the end of the
//! process outside, and the mounts were in its namespace. What can be left is the record.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ctsys::error::Context;
use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, StateError, StateLock, StateRoot, Status};
use ctsys::{SysError, signal};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup;

/// How long the end of a killed container is waited for: the kernel ends all of its processes at
/// once, but a busy machine may take its time.
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How many containers are looked at each time that another one is started: it should not take longer
/// the more there are. To list or remove containers looks at all.
pub(crate) const MOST_AT_A_START: usize = 64;

/// Cleans up what killed miniruns have left in the state directory, looking at `most` containers:
/// directories without a record and records that were to go with their container are removed. One of
/// a container in the background stays, and its log: it has stopped, nobody knows how. What is still
/// ending gets `patience` for it, and is left to the next one.
pub(crate) fn clean(root: &StateRoot, most: usize, patience: Duration) -> Result<(), StateError> {
    for id in root.ids()?.into_iter().take(most) {
        if is_remnant(root, &id)? {
            clean_one(root, &id, patience)?;
        }
    }
    Ok(())
}

/// As [`clean`], of one that was left over at a first look.
pub(crate) fn clean_one(root: &StateRoot, id: &str, patience: Duration) -> Result<(), StateError> {
    if let Ok(state) = root.load(id)
        && !await_end(&state, patience)?
    {
        return Ok(());
    }
    let lock = root.lock()?;
    // It may have been a creation or removal on its way, or be gone.
    if !is_remnant(root, id)? {
        return Ok(());
    }
    let cleaned = match root.load(id) {
        Ok(state) if state.transient => forget(root, &state, &lock),
        Ok(state) => mark_stopped(root, state, &lock),
        Err(_) => root.remove(id, &lock),
    };
    match cleaned {
        Err(StateError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn mark_stopped(
    root: &StateRoot,
    mut state: ContainerState,
    lock: &StateLock,
) -> Result<(), StateError> {
    remove_cgroup(&state)?;
    state.cgroup = None;
    (state.status, state.pid) = (Status::Stopped, 0);
    root.update(&state, lock)
}

/// Removes a stopped container's record, and its cgroup first: without the record nobody would know
/// of it.
pub(crate) fn forget(
    root: &StateRoot,
    state: &ContainerState,
    lock: &StateLock,
) -> Result<(), StateError> {
    remove_cgroup(state)?;
    root.remove(&state.id, lock)
}

/// The cgroup of a container that has ended.
pub(crate) fn remove_cgroup(state: &ContainerState) -> Result<(), StateError> {
    Ok(state.cgroup.as_deref().map_or(Ok(()), cgroup::remove)?)
}

/// A damaged record is none: who asks for it hears of it.
fn is_remnant(root: &StateRoot, id: &str) -> Result<bool, StateError> {
    match root.load(id) {
        Ok(state) => state.is_abandoned(),
        Err(StateError::NotFound(_)) => Ok(true),
        Err(StateError::Damaged { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Whether an abandoned container's processes are gone, or go within `patience`: their end has begun
/// with that of the process outside. Others are not waited for.
pub(crate) fn await_end(state: &ContainerState, patience: Duration) -> Result<bool, StateError> {
    if !state.is_abandoned()? {
        return Ok(true);
    }
    let Some(init) = state.init.as_ref().map(ProcessId::open).transpose()?.flatten() else {
        return Ok(true);
    };
    match signal::send(&init, libc::SIGKILL) {
        Err(error) if error.errno() == Errno::ESRCH => return Ok(true),
        other => other?,
    }
    Ok(ended_by(&init, Some(Instant::now() + patience))?)
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
