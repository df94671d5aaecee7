//! `stop`: asks, waits, kills.

use std::time::{Duration, Instant};

use ctsys::state::{ContainerState, Status};

use super::remove::kill_and_wait;
use super::{LifecycleError, Result, find_settled, open, send, sys};
use crate::plan::Stop;
use crate::sweep::{KILL_LIMIT, ended_by};

/// A container that was asked to stop. Several are asked before the first is waited for.
#[derive(Debug)]
pub struct Stopping {
    state: ContainerState,
    /// `None` when it may take all the time it wants.
    deadline: Option<Instant>,
}

impl Stopping {
    /// Sends the container its stop signal: that of its configuration (`--stop-signal`, or the
    /// image's), else TERM. `timeout` is how long it may take, for ever where that is
    /// [`Duration::MAX`]; without a word, what its configuration says, else ten seconds.
    ///
    /// `None` for a container that has stopped already.
    pub fn begin(name: &str, timeout: Option<Duration>) -> Result<Option<Self>> {
        let state = find_settled(name)?;
        match state.status {
            Status::Stopped => return Ok(None),
            Status::Creating => {
                let (name, status) = (state.name, state.status);
                return Err(LifecycleError::NotRunning { name, status });
            }
            Status::Created | Status::Running => {}
        }
        // The configuration was checked when the container was started.
        let get = |key: &str| state.annotations.get(key).map(String::as_str);
        let stop = Stop::new(get).unwrap_or(Stop::DEFAULT);
        let deadline = Instant::now().checked_add(timeout.unwrap_or(stop.timeout));
        match send(&state, stop.signal) {
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
