//! `wait`: a container's exit code, once it has one.

use std::fs::File;
use std::io::Read;

use super::{LifecycleError, Result, find_settled, open, root_with, sys};
use crate::record::EXIT_FILE;
use crate::sweep::ended_by;
use ctsys::state::ContainerState;

/// An exit code is a number of three digits.
const MAX_CODE_BYTES: u64 = 3;

/// Waits until the container has ended, and returns its exit code (128 + n when signal n ended it).
pub fn wait(name: &str) -> Result<i32> {
    let state = find_settled(name)?;
    let dir = root_with(name)?.container_dir(&state.id)?;
    // Read at the end, when the directory may be gone.
    let exit_file = File::open(dir.join(EXIT_FILE)).ok();
    if let Some(monitor) = open("wait for", &state, state.monitor.as_ref())? {
        ended_by(&monitor, None).map_err(|source| sys("wait for", &state.name, source))?;
    }
    let code = recorded(&state)?.or_else(|| exit_file.and_then(told));
    code.ok_or(LifecycleError::ExitUnknown(state.name))
}

fn recorded(state: &ContainerState) -> Result<Option<i32>> {
    match root_with(&state.name)?.load(&state.id) {
        Ok(now) if now.created == state.created => Ok(now.exit_code),
        Ok(_) | Err(ctsys::state::StateError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn told(file: File) -> Option<i32> {
    let mut text = String::new();
    file.take(MAX_CODE_BYTES + 1).read_to_string(&mut text).ok()?;
    text.parse().ok()
}
