//! A child process by clone3(2), with whatever namespaces it is to be born into.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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

/// Linux 5.7's flag beyond 32 bits: the child is born into the cgroup of `CloneArgs::cgroup`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Runs `body` in a new process, born into the new namespaces that `namespaces` names. The child
/// ends with the code that `body` returns and never comes back here; a panic in it ends it with
/// 125.
///
/// The caller must have one thread only: in a copy of a process with more, locks that another
/// thread held stay taken for ever (signal-safety(7)). That is checked, and `EBUSY` otherwise.
pub fn spawn(namespaces: CloneFlags, body: impl FnOnce() -> u8) -> Result<Child> {
    spawn_into(namespaces, None, body)
}

/// As [`spawn`], with the child born into the cgroup whose open directory is given: it never counts
/// against another one, and no write to `cgroup.procs` waits for a grace period of the kernel's.
pub fn spawn_into(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> u8,
) -> Result<Child> {
    if let Some(child) = fork_into(namespaces, cgroup)? {
        return Ok(child);
    }
    let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(125);
    // SAFETY: _exit ends the process at once; the parent's atexit handlers and buffers are not the
    // child's to run.
    unsafe { libc::_exit(code.into()) }
}

/// The stack of a child that [`spawn_until_exec`] starts: it formats an error message at most.
const STACK_BYTES: usize = 256 << 10;

/// Runs `body`, which is to end by execve(2), in a new process in the caller's own memory, and
/// waits until it has executed or ended: as vfork(2), so nothing is copied that would be given up
/// at once. If `body` returns, the child ends with that code.
///
/// What `body` changes in memory the caller finds changed; descriptors, working directory, signal
/// mask and dispositions and credentials are the child's own. While it waits the caller can be
/// killed, and nothing else. The caller must have one thread only, as for [`spawn`].
pub fn spawn_until_exec(mut body: impl FnMut() -> u8) -> Result<Child> {
    let shown = || "CLONE_VM | CLONE_VFORK".to_owned();
    if has_threads()? {
        return Err(SysError::new("clone", shown(), Errno::EBUSY));
    }
    let stack = Stack::new()?;
    let mut body: &mut dyn FnMut() -> u8 = &mut body;
    let mut pidfd: i32 = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the child runs `call` on a stack of its own that stays until this call has returned,
    // with a pointer to `body`, which does too: CLONE_VFORK suspends this thread, the only one,
    // until the child no longer uses this memory. So the two never run in it at once.
    let pid =
        unsafe { libc::clone(call, stack.top(), flags, (&raw mut body).cast(), &raw mut pidfd) };
    let pid = Errno::result(pid).call("clone", shown)?;
    // SAFETY: clone succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor of ours.
    Ok(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Where the child begins; what it returns becomes its exit code.
extern "C" fn call(body: *mut libc::c_void) -> libc::c_int {
    let body = body.cast::<&mut dyn FnMut() -> u8>();
    // SAFETY: `spawn_until_exec` passes a pointer to such a reference and is suspended meanwhile.
    let body = unsafe { &mut *body };
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(125).into()
}

/// Memory for a stack, with a page below it that cannot be touched.
struct Stack {
    base: *mut libc::c_void,
    length: usize,
}

impl Stack {
    fn new() -> Result<Self> {
        const GUARD_BYTES: usize = 64 << 10; // The largest page of any machine.
        let length = STACK_BYTES + GUARD_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping, wherever the kernel finds room.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(SysError::last("mmap", length.to_string()));
        }
        let stack = Self { base, length };
        let usable = base.wrapping_byte_add(GUARD_BYTES);
        // SAFETY: within the mapping that was just made, which nothing else uses.
        let result =
            unsafe { libc::mprotect(usable, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) };
        Errno::result(result).call("mprotect", || STACK_BYTES.to_string())?;
        Ok(stack)
    }

    /// Stacks grow down; the end of a mapping is aligned as any stack must be.
    fn top(&self) -> *mut libc::c_void {
        self.base.wrapping_byte_add(self.length)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody uses any more: the child has its own memory by
        // now, or has ended.
        unsafe { libc::munmap(self.base, self.length) };
    }
}

/// As fork(2), with the child born into new namespaces: returns the child in the parent and `None`
/// in the child. For a program that goes on as a whole in the child; see [`spawn`] for the rest.
///
/// With `CLONE_PARENT` among the flags the child is the caller's parent's, which learns of its end as
/// of the caller's own (clone(2)); the caller has its pidfd all the same.
pub fn fork(namespaces: CloneFlags) -> Result<Option<Child>> {
    fork_into(namespaces, None)
}

fn fork_into(namespaces: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Option<Child>> {
    let shown = || match cgroup {
        Some(_) => format!("{namespaces:?} | CLONE_INTO_CGROUP"),
        None => format!("{namespaces:?}"),
    };
    if has_threads()? {
        return Err(SysError::new("clone3", shown(), Errno::EBUSY));
    }
    let mut pidfd: i32 = -1;
    let flags = u64::try_from(namespaces.bits()).unwrap_or(0);
    // A sibling's end is told as the caller's own; clone3 takes no other signal for it.
    let is_sibling = namespaces.contains(CloneFlags::CLONE_PARENT);
    let exit_signal = if is_sibling { 0 } else { libc::SIGCHLD };
    let args = CloneArgs {
        flags: flags
            | u64::try_from(libc::CLONE_PIDFD).unwrap_or(0)
            | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::try_from(exit_signal).unwrap_or(0),
        cgroup: cgroup.map_or(0, |dir| u64::from(dir.as_raw_fd().cast_unsigned())),
        ..CloneArgs::default()
    };
    // SAFETY: `args` outlives the call and its one pointer is to a live i32. Without CLONE_VM and a
    // stack the child runs on a copy of this very stack; there is only one thread, so the copy of
    // every lock is free or ours.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    let denied = pid == -1 && Errno::last() == Errno::ENOSYS;
    let pid = if denied { old_clone(args.flags, &mut pidfd) } else { pid };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok(None),
        -1 => Err(SysError::last("clone3", shown())),
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a fresh descriptor of ours.
        pid => Ok(Some(Child { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// clone(2), for behind the seccomp filters of container engines: they cannot see what clone3 is asked
/// for, and so let nobody have it.
fn old_clone(flags: u64, pidfd: &mut i32) -> libc::c_long {
    let flags = flags | u64::try_from(libc::SIGCHLD).unwrap_or(0);
    // SAFETY: as for clone3 above; the pidfd goes where the third argument points, the same on every
    // architecture that minirun knows, and neither TLS nor thread ids are asked for.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, &raw mut *pidfd, 0_u64, 0_u64) }
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
