//! What a process sheds before it runs somebody else's program: descriptors, keys.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::{Context, Result};

/// Closes every descriptor but those in `keep` (close_range(2)).
///
/// Owners of the closed ones must never use or drop them: for a process that ends by `_exit` or
/// execve, as the body of [`crate::clone::spawn`] does.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX, 0)
}

/// Overwrites the caller's own command line with zeros: a container's processes can read that of
/// their init in /proc/1/cmdline, and paths and values of the host's stand there. `/proc` must
/// still be the caller's own.
pub fn erase_command_line() -> Result<()> {
    let path = "/proc/self/stat";
    let stat = std::fs::read(path).call("read", || path.into())?;
    let (start, end) =
        command_line_range(&stat).ok_or(Errno::EPROTO).call("read", || path.into())?;
    // SAFETY: the kernel put the arguments at start..end of this process's own stack, where they
    // stay for its life and are writable. Nothing holds a Rust reference into them: the standard
    // library copies them whenever it is asked. Each stays terminated, as all bytes become zero.
    unsafe {
        std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(start), 0, end - start)
    }
    Ok(())
}

/// Fields 48 and 49 of proc_pid_stat(5), counted from the last `)` as a name may hold any byte.
fn command_line_range(stat: &[u8]) -> Option<(usize, usize)> {
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let mut fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?.split_ascii_whitespace();
    let start = fields.nth(45)?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0 && start <= end).then_some((start, end))
}

/// Marks every descriptor from `first` on close-on-exec: the last guard against one that leaked.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Leaves the session keyring of the caller's session, whose keys a container must not see, for a
/// new and empty one (keyctl(2)). A kernel without keys is no error.
pub fn join_new_keyring() -> Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING takes a name or null for an anonymous keyring.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none) };
    match Errno::result(result) {
        Err(Errno::ENOSYS) => Ok(()),
        other => other.map(drop).call("keyctl", || "KEYCTL_JOIN_SESSION_KEYRING".into()),
    }
}

/// Sets the NIS domain name of the caller's UTS namespace (setdomainname(2)).
pub fn set_domain_name(name: &str) -> Result<()> {
    // SAFETY: the pointer is to `name.len()` bytes that outlive the call.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    Errno::result(result).map(drop).call("setdomainname", || format!("{name:?}"))
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<()> {
    // SAFETY: three integers. What the descriptors' owners must observe is the callers' contract,
    // told above; with CLOSE_RANGE_CLOEXEC nothing is closed now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop).call("close_range", || format!("{first}, {last}, {flags}"))
}
