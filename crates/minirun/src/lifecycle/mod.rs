//! What is done to containers that exist: list, state, kill, delete. (Signatures; bodies follow.)

use ctsys::state::ContainerState;

/// All of the caller's containers, each with the status that is true now.
pub fn list() -> Result<Vec<ContainerState>, LifecycleError> {
    Ok(Vec::new())
}

/// The containers as `minirun list` shows them: a table with a header line.
pub fn list_table(_containers: &[ContainerState]) -> String {
    String::new()
}

/// The containers as `list --json` and `list --format json` show them: an array of runc's states.
pub fn list_json(_containers: &[ContainerState]) -> String {
    String::new()
}

/// The container that an id, a name or a unique start of an id means, with its live status.
pub fn find(name: &str) -> Result<ContainerState, LifecycleError> {
    Err(LifecycleError::NotRunning(name.into()))
}

/// The container's state as `runc state` prints it (runtime-spec, "State"; ends with a newline).
pub fn state_json(_container: &ContainerState) -> String {
    String::new()
}

/// Sends `signal` (name with or without SIG, or number) to the container's main command; KILL ends
/// the whole container.
pub fn kill(name: &str, _signal: &str) -> Result<(), LifecycleError> {
    Err(LifecycleError::NotRunning(name.into()))
}

/// Removes a stopped container; with `force`, kills a running one first and forgives one that does
/// not exist.
pub fn delete(name: &str, _force: bool) -> Result<(), LifecycleError> {
    Err(LifecycleError::NotRunning(name.into()))
}

/// Why something could not be done to a container; implements `Explain` (exit code 1).
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// Its processes are gone.
    #[error("container {0:?} is not running")]
    NotRunning(String),
}

impl ctsys::report::Explain for LifecycleError {}
