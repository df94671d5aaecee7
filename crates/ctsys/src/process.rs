//! Who a process is, beyond a number that the kernel gives to another one later.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result, SysError};
use nix::errno::Errno;

/// A process by number and start time. The pair is unique for the life of a boot, which the number
/// alone is not (pid reuse).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// The process number in the caller's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot (proc_pid_stat(5)).
    pub start_time_ticks: u64,
}

impl ProcessId {
    /// The identity of the process that has the number `pid` now; `None` when there is none, or
    /// only a zombie.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        match read_stat(pid)? {
            Some(stat) if !stat.is_zombie => {
                Ok(Some(Self { pid, start_time_ticks: stat.start_time_ticks }))
            }
            _ => Ok(None),
        }
    }

    /// Whether this very process still runs (a zombie does not).
    pub fn is_alive(&self) -> Result<bool> {
        Ok(Self::of(self.pid)? == Some(*self))
    }

    /// A pidfd of this very process: opened first, then checked, so a number that was given to
    /// another process in between is found out. `None` when it is gone, or cannot be told: where /proc
    /// is that of another pid namespace, its numbers are not the caller's.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        let pidfd = match pidfd_open(self.pid) {
            Err(error) if error.errno() == Errno::ESRCH => return Ok(None),
            other => other?,
        };
        let is_same = number_in_proc(&pidfd)?.is_none_or(|number| number == self.pid);
        Ok(if is_same && self.is_alive()? { Some(pidfd) } else { None })
    }
}

/// The number that the process of a pidfd has in /proc, which may be that of another pid namespace
/// than the caller's (proc_pid_fdinfo(5)); `None` where it has none, or has ended.
pub fn number_in_proc(pidfd: impl AsFd) -> Result<Option<i32>> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(&path).call("read", || path.clone())?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    number
        .ok_or(Errno::EPROTO)
        .call("read", || path)
        .map(|number: i32| Some(number).filter(|n| *n > 0))
}

/// pidfd_open(2), close-on-exec.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(SysError::last("pidfd_open", format!("{pid}, 0")));
    }
    // SAFETY: the call succeeded, so `fd` is a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Stat {
    is_zombie: bool,
    start_time_ticks: u64,
}

fn read_stat(pid: i32) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    // Some fifty numbers, read at once: the file says no length, and reading it by parts is slower.
    let mut text = Vec::with_capacity(1 << 10);
    match std::fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
        Ok(_) => {}
        // ESRCH: the process ended between open and read.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        Err(e) => return Err(SysError::from_io("read", path, &e)),
    };
    parse_stat(&text).map(Some).ok_or(Errno::EPROTO).call("read", || path)
}

/// The command name stands in parentheses and may itself hold any byte, so fields count from the
/// last `)`.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3, the start time field 22.
    let start_time_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { is_zombie: matches!(state, "Z" | "X" | "x"), start_time_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let text = b"7 (a) Z 1) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3\n";
        let stat = parse_stat(text).unwrap();
        assert!(!stat.is_zombie);
        assert_eq!(stat.start_time_ticks, 4242);
    }

    #[test]
    fn this_process_lives_and_its_number_alone_is_not_enough() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap().unwrap();
        assert!(me.is_alive().unwrap());
        assert!(me.open().unwrap().is_some());
        let other = ProcessId { start_time_ticks: me.start_time_ticks + 1, ..me };
        assert!(!other.is_alive().unwrap());
        assert!(other.open().unwrap().is_none());
    }
}
