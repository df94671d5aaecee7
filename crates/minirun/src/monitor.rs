//! What stays outside while a container runs: waits for its end, passes signals in, carries the
//! terminal's bytes. Sleeps until one of these happens.

use std::os::fd::{AsFd, OwnedFd};

use ctsys::error::{Context, Result};
use ctsys::signal::{self, SignalSet};
use ctsys::wait;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::terminal::Relay;

/// What the waiting process leaves to the kernel: the stops of a background process that uses the
/// terminal, writes to a closed pipe, and the news of its children.
const NOT_TAKEN: &[i32] = &[libc::SIGTTIN, libc::SIGTTOU, libc::SIGPIPE, libc::SIGCHLD];

/// Faults. Where somebody sends one, it is this process that is to die of it, and the container with
/// it; the terminal is given back before. One of its own kills it though they are blocked.
const FAULTS: &[i32] = &[
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// The signals that are passed in. To be blocked before the container is born, so that none that
/// arrives in between is lost or ends the launcher alone.
pub(crate) fn signals() -> SignalSet {
    SignalSet::all_but(NOT_TAKEN)
}

/// Waits until the child of `pidfd` ends and returns its code (128 + n when signal n ended it).
pub(crate) fn wait_for(pidfd: &OwnedFd, mut relay: Option<Relay>) -> Result<u8> {
    let signals = signals().fd()?;
    loop {
        let (ended, signalled) = wait_for_event(pidfd, &signals, relay.as_mut())?;
        if signalled {
            while let Some(signal) = signal::read(&signals)? {
                pass_on(pidfd, signal, relay.as_ref());
            }
        }
        if ended {
            break;
        }
    }
    if let Some(relay) = relay {
        relay.finish();
    }
    wait::wait(pidfd)
}

fn pass_on(pidfd: &OwnedFd, signal: i32, relay: Option<&Relay>) {
    match (signal, relay) {
        // The container's terminal tells its own processes.
        (libc::SIGWINCH, Some(relay)) => return relay.resize(),
        // The kernel has continued this process already.
        (libc::SIGCONT, Some(relay)) => relay.resume(),
        _ if FAULTS.contains(&signal) => die_by(signal, relay),
        _ => {}
    }
    // It may have ended meanwhile, which is noticed next.
    let _ = signal::send(pidfd, signal);
    if signal == libc::SIGTSTP {
        stop(relay);
    }
}

fn die_by(signal: i32, relay: Option<&Relay>) {
    relay.inspect(|relay| relay.suspend());
    signal::reset_dispositions();
    let _ = signal::kill(std::process::id().cast_signed(), signal);
    let _ = SignalSet::all_but(&[NOT_TAKEN, &[signal]].concat()).block();
}

/// Stops this process as the signal would have done: it is what the caller's shell has as its job.
/// The container is told (podman#18095), and goes on unless it stops itself: the kernel discards
/// the signal's default action where nobody in the session could continue a process again.
fn stop(relay: Option<&Relay>) {
    relay.inspect(|relay| relay.suspend());
    let deliverable = SignalSet::all_but(&[NOT_TAKEN, &[libc::SIGTSTP]].concat());
    // Pending first, then let through: it arrives before the second call returns. Failing, and
    // without a shell that could continue it (the group is orphaned), the process just goes on.
    let _ = signal::kill(std::process::id().cast_signed(), libc::SIGTSTP);
    if let Ok(blocked) = deliverable.block() {
        let _ = blocked.block();
    }
    relay.inspect(|relay| relay.resume());
}

/// Whether the child has ended, and whether signals are pending.
fn wait_for_event(
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    relay: Option<&mut Relay>,
) -> Result<(bool, bool)> {
    let (events, ready) = {
        let mut fds = vec![
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let interests = relay.as_ref().map_or([None, None, None], |r| r.interests());
        fds.extend(interests.iter().flatten().map(|&(fd, flags)| PollFd::new(fd, flags)));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok((false, false)),
            other => other.call("poll", || format!("{} descriptors", fds.len()))?,
        };
        let mut results = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let events = (results.next(), results.next());
        let ready = interests.map(|interest| match interest {
            Some(_) => results.next().unwrap_or(PollFlags::empty()),
            None => PollFlags::empty(),
        });
        (events, ready)
    };
    if let Some(relay) = relay {
        relay.advance(ready);
    }
    let is_set = |event: Option<PollFlags>| event.is_some_and(|e| !e.is_empty());
    Ok((is_set(events.0), is_set(events.1)))
}
