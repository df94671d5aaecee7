//! Going on with a program as root of a user namespace.
//!
//! ```text
//! outside                          inside
//! fork into the namespace   -----> wait
//! install the maps
//! "mapped"                  -----> take ids 0:0, end when the one outside ends
//! wait                      <----- "ready"
//! pass signals on                  return to the caller: the rest of the program
//! exit with the child's code
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Gid, Pid, Uid};

use crate::clone::{self, Child};
use crate::error::{Context, Result, SysError};
use crate::idmap::IdMaps;

/// What the process outside passes on: the signals by which people and service managers end a
/// program, and those that a program may give a meaning to.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Goes on in a child that is root of a new user namespace with these maps.
///
/// Returns in the child only. The calling process stays outside: it passes signals on, and exits
/// with the child's exit code, or 128 and the number of the signal that ended it. The child is
/// killed when the process outside ends first. On an error there is no child and nothing is
/// changed.
///
/// The caller must have one thread ([`clone::spawn`]).
pub fn enter(maps: &IdMaps) -> Result<()> {
    let outside = nix::unistd::getpid();
    let (mapped_out, mapped) = pipe()?;
    let (ready_out, ready) = pipe()?;
    let signals = SigSet::from_iter(FORWARDED);
    // Blocked before there is a child, so that none comes between and ends only one of the two.
    let old_mask = signals
        .thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)
        .call("sigprocmask", String::new)?;
    match clone::fork(CloneFlags::CLONE_NEWUSER) {
        Ok(None) => {
            drop((mapped, ready_out));
            become_root(outside, File::from(mapped_out), File::from(ready));
            old_mask.thread_set_mask().call("sigprocmask", String::new)
        }
        Ok(Some(child)) => {
            drop((mapped_out, ready));
            match hand_over(maps, &child, File::from(mapped), File::from(ready_out)) {
                Ok(()) => std::process::exit(stand_by(&child, &signals)),
                Err(error) => {
                    // A child that is not ready waits for nothing else than this.
                    let _ = nix::sys::signal::kill(Pid::from_raw(child.pid), Signal::SIGKILL);
                    let _ = nix::sys::wait::waitpid(Pid::from_raw(child.pid), None);
                    let _ = old_mask.thread_set_mask();
                    Err(error)
                }
            }
        }
        Err(error) => {
            let _ = old_mask.thread_set_mask();
            Err(error)
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).call("pipe2", || "O_CLOEXEC".into())
}

/// Outside: the maps, then the child's word that it took its ids.
fn hand_over(maps: &IdMaps, child: &Child, mut mapped: File, mut ready: File) -> Result<()> {
    maps.install(child.pid)?;
    mapped.write_all(&[0]).call("write", || "pipe to the child".into())?;
    let mut errno = [0_u8; 4];
    // A child that ends without a word leaves the pipe's end.
    ready
        .read_exact(&mut errno)
        .map_err(|_| SysError::new("setresuid", "0, 0, 0", Errno::ECHILD))?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(SysError::new("setresuid", "0, 0, 0", Errno::from_raw(errno))),
    }
}

/// Inside: comes back as root of the namespace, or not at all.
fn become_root(outside: Pid, mut mapped: File, mut ready: File) {
    let mut byte = [0];
    if mapped.read_exact(&mut byte).is_err() {
        std::process::exit(1);
    }
    let taken = take_ids();
    let errno = taken.err().map_or(0, |errno| errno as i32);
    // The parent's death is looked for only now: changing ids takes the request back (prctl(2)).
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let is_orphan = nix::unistd::getppid() != outside;
    if ready.write_all(&errno.to_ne_bytes()).is_err() || errno != 0 || is_orphan {
        std::process::exit(1);
    }
}

fn take_ids() -> std::result::Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)
}

/// Outside, until the child has ended: its exit code.
fn stand_by(child: &Child, signals: &SigSet) -> i32 {
    let pid = Pid::from_raw(child.pid);
    // Without it signals stay blocked, the child still gets those of its terminal.
    let incoming = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    while let Ok(incoming) = &incoming {
        let mut fds = [
            PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(incoming.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        while let Ok(Some(info)) = incoming.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().map(Signal::try_from);
            if let Some(Ok(signal)) = signal {
                // Not reaped yet, so the number is still the child's.
                let _ = nix::sys::signal::kill(pid, signal);
            }
        }
        if fds.first().is_some_and(|fd| fd.any().unwrap_or(false)) {
            break;
        }
    }
    loop {
        match nix::sys::wait::waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) => {}
            Err(_) => return 1,
        }
    }
}

/// The caller's effective user and group.
pub fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

/// How many ids this process's user namespace has: all of them, or what its maps say.
pub fn mapped_ids() -> Result<u64> {
    let path = "/proc/self/uid_map";
    let text = std::fs::read_to_string(path).call("read", || path.into())?;
    let counts = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(2));
    Ok(counts.filter_map(|count| count.parse::<u64>().ok()).sum())
}

/// Whether this process has all of these capabilities in effect, by number (`CAP_CHOWN` is 0).
pub fn has_capabilities(numbers: &[u8]) -> Result<bool> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).call("read", || path.into())?;
    let effective = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let bits = bits.ok_or(Errno::EPROTO).call("read", || path.into())?;
    Ok(numbers.iter().all(|&number| bits.checked_shr(number.into()).unwrap_or(0) & 1 == 1))
}
