//! `stop`: asks, waits, kills.

use std::time::{Duration, Instant};

use ctsys::signal;
use ctsys::state::{ContainerState, Status};
use nix::libc;

use super::remove::kill_and_wait;
use super::{LifecycleError, Result, find_settled, open, send, sys};
use crate::config::annotations;
use crate::sweep::{KILL_LIMIT, ended_by};

/// How long a container may take to stop when nobody says: docker's and podman's time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A container that was asked to stop. Several are asked before the first is waited for.
#[derive(Debug)]
pub struct Stopping {
    state: ContainerState,
    /// `None` when it may take all the time it wants.
    deadline: Option<Instant>,
}

impl Stopping {
    /// Sends the container its stop signal: that of its configuration (`--stop-signal`, or the
    /// image's), else TERM. `timeout` is how long it may take, without limit where it is
    /// `Some(None)`; without a word, what its configuration says, else ten seconds.
    ///
    /// `None` for a container that has stopped already.
    pub fn begin(name: &str, timeout: Option<Option<Duration>>) -> Result<Option<Self>> {
        let state = find_settled(name)?;
        match state.status {
            Status::Stopped => return Ok(None),
            Status::Creating => {
                let (name, status) = (state.name, state.status);
                return Err(LifecycleError::NotRunning { name, status });
            }
            Status::Created | Status::Running => {}
        }
        let configured = || annotations::stop_timeout(&state.annotations);
        let timeout = timeout.or_else(configured).unwrap_or(Some(DEFAULT_TIMEOUT));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // What an image says may be no signal.
        let word = state.annotations.get(annotations::STOP_SIGNAL);
        let number = word.and_then(|word| signal::parse(word)).unwrap_or(libc::SIGTERM);
        match send(&state, number) {
            Err(LifecycleError::NotRunning { .. }) => Ok(None),
            other => other.map(|()| Some(Self { state, deadline })),
        }
    }

    /// Waits until all of the container has ended and that is on record, and kills it at the end of
    /// its time.
    pub fn finish(self) -> Result<()> {
        let Self { state, deadline } = self;
        let wait = |source| sys("wait for", &state.name, source);
        let monitor = open("wait for", &state, state.monitor.as_ref())?;
        let target = state.init.or(state.main);
        if let Some(pidfd) = open("wait for", &state, target.as_ref())?
            && !ended_by(&pidfd, deadline).map_err(wait)?
        {
            kill_and_wait(&state, target.as_ref())?;
        }
        if let Some(monitor) = monitor {
            ended_by(&monitor, Some(Instant::now() + KILL_LIMIT)).map_err(wait)?;
        }
        Ok(())
    }
}
