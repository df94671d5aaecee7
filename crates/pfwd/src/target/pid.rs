//! `pid:N`: any process.

use std::path::Path;

use ctsys::process::ProcessId;

use super::{Result, Target, TargetError};

/// The process with the decimal number `number`.
pub(super) fn find(name: &str, number: &str) -> Result<Target> {
    let pid: i32 = number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| number.parse().ok())
        .flatten()
        .filter(|&pid| pid > 0)
        .ok_or_else(|| TargetError::InvalidPid(name.to_owned()))?;
    let sys = |source| TargetError::Sys { name: name.to_owned(), source };
    match ProcessId::of(pid).map_err(sys)? {
        Some(process) => {
            Target::open(name, process, Vec::new())?.ok_or(TargetError::NoProcess(pid))
        }
        None if Path::new(&format!("/proc/{pid}")).exists() => Err(TargetError::Zombie(pid)),
        None => Err(TargetError::NoProcess(pid)),
    }
}
