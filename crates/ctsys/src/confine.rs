//! Taking from a helper process all that it does not need.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::{prctl, stat::Mode};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::error::{Context, Result, SysError};

/// Points standard input, output and error at `/dev/null` and closes every other descriptor but
/// `keep`, those that the program's caller leaked into it among them.
///
/// Only for a child of [`crate::clone::spawn`] that from here on uses `keep` alone: descriptors
/// that values on the copied stack own are closed under them.
pub fn close_all_but(keep: impl AsFd) -> Result<()> {
    let path = "/dev/null";
    let null = open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .call("open", || format!("{path:?}"))?;
    dup2_stdin(&null).call("dup2", || "0".into())?;
    dup2_stdout(&null).call("dup2", || "1".into())?;
    dup2_stderr(&null).call("dup2", || "2".into())?;
    // Closed below with all the others; dropping it then would close a number twice.
    std::mem::forget(null);
    let keep = keep.as_fd().as_raw_fd().unsigned_abs();
    if keep > 3 {
        close_range(3, keep - 1)?;
    }
    close_range(3.max(keep + 1), u32::MAX)
}

/// Keeps others from tracing this process, reading its memory and, by `/proc`, its files.
///
/// To be called before it joins another's user namespace: whoever has CAP_SYS_PTRACE there could
/// otherwise take it over the moment it is in, while it still sees this machine's files (as in
/// CVE-2016-9962).
pub fn hide() -> Result<()> {
    prctl::set_dumpable(false).call("prctl", || "PR_SET_DUMPABLE, 0".into())
}

/// Makes this process die with its parent and gain no privilege; signals but SIGKILL and SIGSTOP
/// wait for ever, so that a terminal's interrupt ends the parent alone.
///
/// To be called after the last change of credentials, joined user namespaces included: the kernel
/// forgets the parent-death signal then (PR_SET_PDEATHSIG(2const)). A parent that died before is not
/// noticed; the end of a channel to it is.
pub fn bind_to_parent() -> Result<()> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None)
        .call("sigprocmask", || "SIG_BLOCK, all".into())?;
    prctl::set_pdeathsig(Signal::SIGKILL).call("prctl", || "PR_SET_PDEATHSIG, SIGKILL".into())?;
    prctl::set_no_new_privs().call("prctl", || "PR_SET_NO_NEW_PRIVS, 1".into())
}

/// close_range(2), Linux 5.9.
fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: closing descriptors touches no memory. That nothing uses them afterwards is what
    // `close_all_but` asks of its caller, a child that never returns into the code that owns them.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    match result {
        0 => Ok(()),
        _ => Err(SysError::new("close_range", format!("{first}, {last}"), Errno::last())),
    }
}
