//! `delete`, and `rm`, which is docker's name for it.

use std::time::Instant;

use ctsys::process::ProcessId;
use ctsys::signal;
use ctsys::state::{ContainerState, StateError, Status};
use nix::errno::Errno;
use nix::libc;

use super::{LifecycleError, Result, find, open, root_with, sys};
use crate::cgroup;
use crate::sweep::{self, KILL_LIMIT, ended_by};

/// Removes a stopped container; with `force`, kills a running one first and forgives one that does
/// not exist. Whether there was one.
pub fn delete(name: &str, force: bool) -> Result<bool> {
    match find(name) {
        Err(LifecycleError::State(StateError::NotFound(_))) if force => Ok(false),
        other => remove(&other?, force).map(|()| true),
    }
}

fn remove(state: &ContainerState, force: bool) -> Result<()> {
    if state.status != Status::Stopped {
        if !force {
            let (name, status) = (state.name.clone(), state.status);
            return Err(LifecycleError::NotStopped { name, status });
        }
        end(state)?;
    }
    let root = root_with(&state.name)?;
    let lock = root.lock()?;
    // Another one may have taken the id while the lock was free.
    match root.load(&state.id) {
        Ok(now) if now.created == state.created => Ok(sweep::forget(&root, &now, &lock)?),
        // One in the foreground, or with --rm, was removed by the process outside.
        Ok(_) | Err(StateError::NotFound(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Kills all of the container and waits for its end.
fn end(state: &ContainerState) -> Result<()> {
    // All at once, what entered from outside, too.
    state.cgroup.as_deref().into_iter().for_each(cgroup::kill);
    let monitor = open("kill", state, state.monitor.as_ref())?;
    // One that is still being set up ends with its launcher.
    let target = if state.init.is_some() { state.init } else { state.monitor };
    kill_and_wait(state, target.as_ref())?;
    // The process outside has some last words for the log and the record. One in the foreground may
    // be stopped by its terminal and say them later, which nobody has to wait for.
    if let Some(monitor) = monitor {
        let deadline = Some(Instant::now() + KILL_LIMIT);
        ended_by(&monitor, deadline).map_err(|source| sys("wait for", &state.name, source))?;
    }
    Ok(())
}

pub(super) fn kill_and_wait(state: &ContainerState, target: Option<&ProcessId>) -> Result<()> {
    let sys = |source| sys("kill", &state.name, source);
    let Some(pidfd) = open("kill", state, target)? else { return Ok(()) };
    match signal::send(&pidfd, libc::SIGKILL) {
        Err(error) if error.errno() == Errno::ESRCH => return Ok(()),
        other => other.map_err(sys)?,
    }
    if ended_by(&pidfd, Some(Instant::now() + KILL_LIMIT)).map_err(sys)? {
        return Ok(());
    }
    Err(LifecycleError::StillRunning { name: state.name.clone(), limit: KILL_LIMIT })
}
