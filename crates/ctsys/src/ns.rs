//! Joining the namespaces of another process.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Result};

/// `NS_GET_USERNS` of linux/nsfs.h: `_IO(0xb7, 1)`.
const NS_GET_USERNS: u32 = 0xb701;

/// Joins those namespaces of a process that `kinds` names, all or none, through its pidfd
/// (setns(2), Linux 5.8): by descriptor, so the process cannot be exchanged for another in between.
/// With a descriptor of one namespace (`/proc/PID/ns/net`, or where such a file is bound), that one.
///
/// Joining a user namespace needs a caller with one thread; a joined pid namespace is that of
/// children made later.
pub fn join(pidfd: impl AsFd, kinds: CloneFlags) -> Result<()> {
    let fd = pidfd.as_fd();
    setns(fd, kinds).call("setns", || format!("{}, {kinds:?}", fd.as_raw_fd()))
}

/// The user namespace that owns the namespace of `fd` (ioctl_ns(2)): who is root there may join it.
/// `EPERM` where that is outside the caller's own.
pub fn owner(fd: impl AsFd) -> Result<OwnedFd> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: this request takes no argument and touches no memory of ours.
    let owner = unsafe { libc::ioctl(fd, libc::c_ulong::from(NS_GET_USERNS) as _) };
    let owner = Errno::result(owner).call("ioctl", || format!("{fd}, NS_GET_USERNS"))?;
    // SAFETY: the call succeeded, so `owner` is a fresh descriptor that nothing else owns; the
    // kernel opens it close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}
