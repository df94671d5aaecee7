//! Runs one container from start to end. (Signatures; the body follows.)

use crate::launch::Launch;

/// Runs the container in the foreground and returns its command's exit code (128 + n when signal n
/// ended it); with [`Launch::detach`], returns 0 once the command runs (the caller prints the id).
///
/// `notice` is told what the user should know though nothing failed (one line, no prefix).
/// Must be called before any thread is started.
pub fn run(_launch: &Launch, _notice: &mut dyn FnMut(&str)) -> Result<u8, RunError> {
    Err(RunError::Unfinished)
}

/// Why a container could not be run; implements `Explain` (exit codes 125, 126, 127).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not there yet.
    #[error("not there yet")]
    Unfinished,
}

impl ctsys::report::Explain for RunError {}
