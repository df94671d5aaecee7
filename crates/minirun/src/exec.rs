//! One more command in a container that runs. (Signatures; bodies follow.)

use oci_spec::runtime::User;

/// What to run in which container.
#[derive(Debug, Clone)]
pub struct ExecOptions {
    /// Id, name or unique start of an id.
    pub container: String,
    /// Command and arguments; not empty.
    pub args: Vec<String>,
    /// `NAME=value`, added to the environment of the container's configuration.
    pub env: Vec<String>,
    /// Working directory instead of the configuration's.
    pub cwd: Option<String>,
    /// User instead of the configuration's; names are looked up already (in
    /// [`ctsys::state::ContainerState::rootfs`], by `lifecycle::find`).
    pub user: Option<User>,
    /// Give it a terminal of its own.
    pub tty: bool,
}

/// Runs the command and returns its exit code (128 + n when signal n ended it).
pub fn exec(_options: &ExecOptions) -> Result<u8, ExecError> {
    Err(ExecError::Unfinished)
}

/// Why a command could not be run; implements `Explain` (125, 126, 127 as for run; 1 when there is
/// no such container).
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Not there yet.
    #[error("not there yet")]
    Unfinished,
}

impl ctsys::report::Explain for ExecError {}
