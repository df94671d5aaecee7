//! Joining the namespaces of another process.

use std::os::fd::{AsFd, AsRawFd};

use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Result};

/// Joins those namespaces of a process that `kinds` names, all or none, through its pidfd
/// (setns(2), Linux 5.8): by descriptor, so the process cannot be exchanged for another in between.
///
/// Joining a user namespace needs a caller with one thread; a joined pid namespace is that of
/// children made later.
pub fn join(pidfd: impl AsFd, kinds: CloneFlags) -> Result<()> {
    let fd = pidfd.as_fd();
    setns(fd, kinds).call("setns", || format!("{}, {kinds:?}", fd.as_raw_fd()))
}
