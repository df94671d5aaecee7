//! What the kernel can do, asked without doing it.

use nix::errno::Errno;

use crate::error::{Context, Result};

/// Whether seccomp filters can make system calls fail: `SECCOMP_GET_ACTION_AVAIL` of
/// `SECCOMP_RET_ERRNO` (seccomp(2), Linux 4.14). `EINVAL` where the kernel has no filters,
/// `EOPNOTSUPP` where it lacks the action.
pub fn seccomp_filters() -> Result<()> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the action is a u32 that outlives the call, which only reads it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    Errno::result(result)
        .map(drop)
        .call("seccomp", || "SECCOMP_GET_ACTION_AVAIL, SECCOMP_RET_ERRNO".into())
}
