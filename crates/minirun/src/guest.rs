//! The end of a container that shares another's process namespace: there no kernel ends its
//! processes with its init, as it does where that is the namespace's PID 1.
//!
//! ```text
//! inside    the init, a subreaper, inherits every orphan of its own: it ends its children until
//!           there are none
//! outside   when the init was killed itself, or `exec` put processes in: those in the container's
//!           mount namespace are ended
//! ```
//!
//! What left both, a process that was not the init's and made a mount namespace of its own, stays
//! until the other container ends. (A cgroup would hold it too; without delegation there is none.)

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use ctsys::error::Context;
use ctsys::process::pidfd_open;
use ctsys::signal;
use ctsys::wait::{self, Reaped};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;

use crate::handshake::{Failure, Step};

/// A list of children longer than this is read in the next round: numbers of up to seven digits.
const MAX_CHILDREN_BYTES: u64 = 1 << 20;
/// How often the outside looks for more: every round ends all that it saw, so one that is never done
/// means processes that start others faster than they are killed.
const MAX_ROUNDS: usize = 1000;
/// How long a killed process is waited for, in milliseconds: the kernel ends it at once, unless it
/// waits for a dead disk or server.
const KILL_LIMIT_MS: u16 = 10_000;

/// The init's children, as the kernel lists them (proc_pid_children(5)).
#[derive(Debug)]
pub(crate) struct Children(File);

impl Children {
    /// Makes the caller inherit what its descendants leave behind, and opens the list: once the
    /// user's program runs, it may have changed /proc.
    pub(crate) fn open() -> Result<Self, Failure> {
        prctl::set_child_subreaper(true)
            .call("prctl", || "PR_SET_CHILD_SUBREAPER".into())
            .step(|| "cannot inherit orphans".into())?;
        // By another namespace's procfs the numbers would be those of strangers.
        let path = "/proc/self";
        let own = std::fs::read_link(path).call("readlink", || path.into());
        let own = own.step(|| "cannot look at /proc".into())?;
        if own.to_str() != Some(&std::process::id().to_string()) {
            return Err(Failure::new(
                "cannot share a process namespace: /proc in the container shows another",
            )
            .hint("mount a proc of its own on /proc"));
        }
        let path = "/proc/thread-self/children";
        let file = File::open(path).call("open", || path.into());
        file.map(Self).step(|| "cannot list the init's children".into())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Kills and reaps until there is no child left. A process's children become the init's when it
    /// is killed, and are next.
    pub(crate) fn end(mut self) {
        while let Ok(pids) = self.list() {
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                // One that has ended is still to be reaped, so the number is its own.
                let _ = signal::kill(pid, libc::SIGKILL);
            }
            match wait::reap_next() {
                Ok(Reaped::Child(_)) => while let Ok(Reaped::Child(_)) = wait::reap_any() {},
                _ => return,
            }
        }
    }

    fn list(&mut self) -> std::io::Result<Vec<i32>> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.by_ref().take(MAX_CHILDREN_BYTES).read_to_string(&mut text)?;
        Ok(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

/// A container's mount namespace, which none but its own processes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    /// Of the container whose main command is `main`; `None` when that has ended.
    pub(crate) fn of(main: i32) -> Option<Self> {
        let own = namespace(std::process::id().cast_signed());
        namespace(main).filter(|_| namespace(main) != own).map(Self)
    }

    /// Ends all processes that are in it.
    pub(crate) fn end_all(self) {
        for _ in 0..MAX_ROUNDS {
            let killed: Vec<_> = self.processes().into_iter().filter(kill).collect();
            if killed.is_empty() {
                return;
            }
            killed.iter().for_each(wait_for_end);
        }
    }

    fn processes(self) -> Vec<OwnedFd> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // Opened, then looked at again: the number may have been given to another in between.
        pids.filter(|&pid| namespace(pid) == Some(self.0))
            .filter_map(|pid| Some((pid, pidfd_open(pid).ok()?)))
            .filter(|&(pid, _)| namespace(pid) == Some(self.0))
            .map(|(_, pidfd)| pidfd)
            .collect()
    }
}

fn kill(pidfd: &OwnedFd) -> bool {
    signal::send(pidfd, libc::SIGKILL).is_ok()
}

fn wait_for_end(pidfd: &OwnedFd) {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::from(KILL_LIMIT_MS));
}

fn namespace(pid: i32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|meta| meta.ino())
}
