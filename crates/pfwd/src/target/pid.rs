//! `pid:N`: any process.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use ctsys::process::ProcessId;

use super::{Result, Target, TargetError};

/// Far more than the kernel writes before `Tgid`, its fourth line.
const MAX_STATUS_BYTES: u64 = 4096;

/// The process with the decimal number `number`.
pub(super) fn find(name: &str, number: &str) -> Result<Target> {
    let pid: i32 = number
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| number.parse().ok())
        .flatten()
        .filter(|&pid| pid > 0)
        .ok_or_else(|| TargetError::InvalidPid(name.to_owned()))?;
    // pidfd_open(2) takes processes only.
    if let Some(process) = process_of(pid).filter(|&process| process != pid) {
        return Err(TargetError::Thread { thread: pid, process });
    }
    let sys = |source| TargetError::Sys { name: name.to_owned(), source };
    match ProcessId::of(pid).map_err(sys)? {
        Some(process) => {
            Target::open(name, process, Vec::new())?.ok_or(TargetError::NoProcess(pid))
        }
        None if Path::new(&format!("/proc/{pid}")).exists() => Err(TargetError::Zombie(pid)),
        None => Err(TargetError::NoProcess(pid)),
    }
}

/// The process that has the thread `id`: `Tgid` of proc_pid_status(5). Only for the message, so a
/// process that cannot be looked at is left to the checks that follow.
fn process_of(id: i32) -> Option<i32> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{id}/status")).ok()?;
    file.take(MAX_STATUS_BYTES).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()
}
