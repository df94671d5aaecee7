//! A child process by clone3(2), with whatever namespaces it is to be born into.

use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sched::CloneFlags;

use crate::error::{Context, Result, SysError};

/// A child that runs; its pidfd is its identity, the number is for messages and files.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// Readable once the child has ended; close-on-exec.
    pub pidfd: OwnedFd,
}

/// The argument of clone3(2) as of Linux 5.7 (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs `body` in a new process, born into the new namespaces that `namespaces` names. The child
/// ends with the code that `body` returns and never comes back here; a panic in it ends it with
/// 125.
///
/// The caller must have one thread only: in a copy of a process with more, locks that another
/// thread held stay taken for ever (signal-safety(7)). That is checked, and `EBUSY` otherwise.
pub fn spawn(namespaces: CloneFlags, body: impl FnOnce() -> u8) -> Result<Child> {
    if let Some(child) = fork(namespaces)? {
        return Ok(child);
    }
    let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(125);
    // SAFETY: _exit ends the process at once; the parent's atexit handlers and buffers are not the
    // child's to run.
    unsafe { libc::_exit(code.into()) }
}

/// As fork(2), with the child born into new namespaces: returns the child in the parent and `None`
/// in the child. For a program that goes on as a whole in the child; see [`spawn`] for the rest.
///
/// With `CLONE_PARENT` among the flags the child is the caller's parent's, which learns of its end as
/// of the caller's own (clone(2)); the caller has its pidfd all the same.
pub fn fork(namespaces: CloneFlags) -> Result<Option<Child>> {
    let shown = || format!("{namespaces:?}");
    if has_threads()? {
        return Err(SysError::new("clone3", shown(), Errno::EBUSY));
    }
    let mut pidfd: i32 = -1;
    let flags = u64::try_from(namespaces.bits()).unwrap_or(0);
    // A sibling's end is told as the caller's own; clone3 takes no other signal for it.
    let is_sibling = namespaces.contains(CloneFlags::CLONE_PARENT);
    let exit_signal = if is_sibling { 0 } else { libc::SIGCHLD };
    let args = CloneArgs {
        flags: flags | u64::try_from(libc::CLONE_PIDFD).unwrap_or(0),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::try_from(exit_signal).unwrap_or(0),
        ..CloneArgs::default()
    };
    // SAFETY: `args` outlives the call and its one pointer is to a live i32. Without CLONE_VM and a
    // stack the child runs on a copy of this very stack; there is only one thread, so the copy of
    // every lock is free or ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok(None),
        -1 => Err(SysError::last("clone3", shown())),
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor of ours.
        pid => Ok(Some(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// Whether this process has other threads. unshare(2) of CLONE_THREAD changes nothing in a process
/// with one thread and fails in one with more; it needs no /proc, which a container may lack.
fn has_threads() -> Result<bool> {
    match nix::sched::unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => Ok(false),
        Err(Errno::EINVAL) => Ok(true),
        // Seccomp filters of container engines deny unshare as a whole.
        Err(_) => thread_count().map(|count| count != 1),
    }
}

/// Threads of this process: field 20 of `/proc/self/stat` (proc_pid_stat(5)).
fn thread_count() -> Result<usize> {
    let path = "/proc/self/stat";
    let text = std::fs::read(path).call("read", || path.into())?;
    let end = text.iter().rposition(|&b| b == b')').map_or(0, |at| at + 1);
    String::from_utf8_lossy(text.get(end..).unwrap_or_default())
        .split_ascii_whitespace()
        .nth(17)
        .and_then(|field| field.parse().ok())
        .ok_or(Errno::EPROTO)
        .call("read", || path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_more_threads_is_not_copied() {
        // The test harness runs every test in a thread of its own.
        let error = spawn(CloneFlags::empty(), || 0).unwrap_err();
        assert_eq!(error.errno(), Errno::EBUSY);
    }
}
