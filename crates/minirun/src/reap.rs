//! An init's work: reap what ends, pass on what arrives, end with the main child. Knows nothing of
//! containers.
//!
//! ```text
//! until the main child has ended    every signal but SIGCHLD is passed on to it
//! then, where it was asked to stop  the rest is asked too, and waited for up to a limit
//! ```
//!
//! It sleeps until a signal arrives. Only that last wait has a limit, one timer for all of it.

use std::time::{Duration, Instant};

use ctsys::error::Result;
use ctsys::signal::{self, SignalSet};
use ctsys::wait::{self, Ended, Reaped};
use nix::errno::Errno;
use nix::libc;

mod rest;

/// What an init leaves to the kernel: its own faults, and the stops of a background process that
/// uses the terminal (as tini does).
const NOT_TAKEN: &[i32] = &[
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Those that end the wait for the rest: a second Ctrl-C or Ctrl-\ of somebody who has had enough.
/// A second SIGTERM does not: systemd sends one to each process of a service, and minirun passes
/// its own on besides.
const IMPATIENT: &[i32] = &[libc::SIGINT, libc::SIGQUIT];

/// What an init has to do.
#[derive(Debug)]
pub struct Duty {
    /// The main child.
    pub main: i32,
    /// Signals go to its whole process group, which it must lead.
    pub to_group: bool,
    /// A signal that cannot be passed on is the end, as with tini; else it is let go.
    pub strict: bool,
    /// Whether the rest is waited for once the main child has ended on demand.
    pub stop: Option<Stop>,
}

/// How the rest is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// The signal that is a demand to stop, as SIGTERM and SIGINT are in any case.
    pub signal: i32,
    /// How long everything may take from the demand on; [`Duration::MAX`] is for ever.
    pub timeout: Duration,
}

/// What an init may want to tell.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// SIGCHLD has come.
    ChildSignal,
    /// This one has come and is passed on.
    Passing(i32),
    /// The main child had ended when it was to be passed a signal.
    Late,
    /// A child was reaped; whether it was the main one.
    Reaped(Ended, bool),
    /// No child has ended that was not reaped.
    NothingToReap,
    /// There are no children at all.
    NoChildren,
}

/// The signals that an init takes: it must block them before its main child is started.
pub fn signals() -> SignalSet {
    SignalSet::all_but(NOT_TAKEN)
}

/// Whether an init passes `signal` on to its main child.
pub fn forwards(signal: i32) -> bool {
    !NOT_TAKEN.contains(&signal) && ![libc::SIGCHLD, libc::SIGKILL, libc::SIGSTOP].contains(&signal)
}

/// Reaps every child and passes on every signal until the main child has ended, and what else is
/// its duty; returns the main child's exit code, 128 + n when signal n ended it. `tell` hears of
/// everything up to the main child's end.
///
/// [`signals`] must be blocked.
pub fn run(duty: &Duty, tell: &mut dyn FnMut(Event)) -> Result<u8> {
    let signals = signals();
    let mut asked = None;
    loop {
        match signals.wait()? {
            libc::SIGCHLD => tell(Event::ChildSignal),
            signal => {
                tell(Event::Passing(signal));
                if duty.stop.is_some_and(|stop| stop.is_demand(signal)) {
                    asked = Some(Instant::now());
                }
                duty.pass_on(signal, tell)?;
            }
        }
        if let Some(code) = reap(duty.main, tell)? {
            if let (Some(stop), Some(asked)) = (duty.stop, asked) {
                rest::end(&signals, stop.deadline(asked), IMPATIENT)?;
            }
            return Ok(code);
        }
    }
}

impl Duty {
    fn pass_on(&self, signal: i32, tell: &mut dyn FnMut(Event)) -> Result<()> {
        let target = if self.to_group { -self.main } else { self.main };
        match signal::kill(target, signal) {
            // Its SIGCHLD comes next.
            Err(error) if error.errno() == Errno::ESRCH => tell(Event::Late),
            Err(error) if self.strict => return Err(error),
            // As where the main child has become another user.
            Ok(()) | Err(_) => {}
        }
        Ok(())
    }
}

impl Stop {
    fn is_demand(&self, signal: i32) -> bool {
        [self.signal, libc::SIGTERM, libc::SIGINT].contains(&signal)
    }

    /// `None` is never.
    fn deadline(&self, asked: Instant) -> Option<Instant> {
        asked.checked_add(self.timeout)
    }
}

/// Takes all children that have ended, as one SIGCHLD may stand for many; the main one's code.
fn reap(main: i32, tell: &mut dyn FnMut(Event)) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match wait::reap_any()? {
            Reaped::Child(ended) => {
                let is_main = ended.pid == main;
                tell(Event::Reaped(ended, is_main));
                if is_main {
                    code = Some(ended.code);
                }
            }
            Reaped::NotYet => {
                tell(Event::NothingToReap);
                return Ok(code);
            }
            Reaped::NoChildren => {
                tell(Event::NoChildren);
                return Ok(code);
            }
        }
    }
}
