//! How a child ended. Real-time signals included, which nix's wait functions fail on.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use crate::error::{Context, Result};

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its number.
    pub pid: i32,
    /// Its exit code, or 128 + n when signal n ended it, as shells say it.
    pub code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// What there was to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// A child has ended.
    Child(Ended),
    /// Those that there are have not ended.
    NotYet,
    /// There are no children.
    NoChildren,
}

/// Takes the status of a child that has ended, without waiting for one.
pub fn reap_any() -> Result<Reaped> {
    reap(libc::WNOHANG)
}

/// As [`reap_any`], and waits for one to end.
pub fn reap_next() -> Result<Reaped> {
    loop {
        match reap(0) {
            Err(error) if error.errno() == Errno::EINTR => {}
            other => return other,
        }
    }
}

fn reap(options: i32) -> Result<Reaped> {
    let mut status = 0;
    // SAFETY: waitpid writes the status to an int that outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, options) };
    match Errno::result(pid) {
        Ok(0) => Ok(Reaped::NotYet),
        Err(Errno::ECHILD) => Ok(Reaped::NoChildren),
        Ok(pid) if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            Ok(Reaped::Child(Ended { pid, code: code_of_signal(signal), signal: Some(signal) }))
        }
        Ok(pid) => {
            let code = low_byte(libc::WEXITSTATUS(status));
            Ok(Reaped::Child(Ended { pid, code, signal: None }))
        }
        Err(errno) => Err(errno).call("waitpid", || format!("-1, {options}")),
    }
}

/// Waits for the end of a child by its pidfd and takes its status: the code as in [`Ended`].
pub fn wait(pidfd: impl AsFd) -> Result<u8> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a siginfo_t is plain data, for which all zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: waitid writes to `info`, which outlives the call.
        let result = unsafe {
            libc::waitid(libc::P_PIDFD, fd.cast_unsigned(), &raw mut info, libc::WEXITED)
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            other => break other.map(drop).call("waitid", || format!("P_PIDFD, {fd}"))?,
        }
    }
    // SAFETY: waitid succeeded, so the fields of a child's siginfo are filled in.
    let status = unsafe { info.si_status() };
    Ok(if info.si_code == libc::CLD_EXITED { low_byte(status) } else { code_of_signal(status) })
}

fn code_of_signal(signal: i32) -> u8 {
    low_byte(128 + signal)
}

fn low_byte(status: i32) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(u8::MAX)
}
