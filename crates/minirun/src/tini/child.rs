//! The init's main child: a process group of its own, in the terminal's foreground, with the
//! signals as the init was given them.

use std::ffi::CString;

use ctsys::clone;
use ctsys::error::{Context, SysError};
use ctsys::signal::{self, Disposition, SignalSet};
use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, execvp, getpgrp, setpgid, tcsetpgrp};

use super::Failure;
use super::report::{Level, Report};
use crate::reap;

/// The signals as they were, for the child to have them so.
pub(super) struct Signals {
    mask: SignalSet,
    stops: [Disposition; 2],
}

impl Signals {
    /// Takes those that the init waits for. A background process that writes to a terminal with
    /// TOSTOP, or gives it to its child, is stopped unless it ignores that: the init is in the
    /// background once its child has the terminal.
    pub(super) fn take() -> Result<Self, Failure> {
        let mask = reap::signals().block().map_err(|e| Failure::Signals("block signals", e))?;
        let ignore = |signal| {
            signal::ignore(signal).map_err(|e| Failure::Signals("ignore the terminal's stops", e))
        };
        Ok(Self { mask, stops: [ignore(libc::SIGTTIN)?, ignore(libc::SIGTTOU)?] })
    }

    fn restore(&self) -> Result<(), SysError> {
        self.mask.block()?;
        for stop in &self.stops {
            stop.restore()?;
        }
        // Rust's runtime ignores this one before any code of ours can look what it did.
        signal::set_default(libc::SIGPIPE);
        Ok(())
    }
}

/// Starts `command`; its process number. That it cannot be executed shows in its exit code.
pub(super) fn start(
    command: &[CString],
    signals: &Signals,
    report: &Report<'_>,
) -> Result<i32, Failure> {
    let child = clone::spawn(CloneFlags::empty(), || become_command(command, signals, report));
    child.map(|child| child.pid).map_err(Failure::Fork)
}

/// Returns the code to exit with, only if that failed.
fn become_command(command: &[CString], signals: &Signals, report: &Report<'_>) -> u8 {
    if let Err(error) = isolate(report) {
        return report.child_failed("become a process group of its own", &error);
    }
    if let Err(error) = signals.restore() {
        return report.child_failed("restore signals", &error);
    }
    let Some(program) = command.first() else { return 127 };
    match execvp(program, command) {
        Err(errno) => report.not_executed(program, errno),
        Ok(never) => match never {},
    }
}

/// In the child and not in the parent: where an init starts an init, the outer one could otherwise
/// take the foreground away from what the inner one has given it to.
fn isolate(report: &Report<'_>) -> Result<(), SysError> {
    let own = Pid::from_raw(0);
    setpgid(own, own).call("setpgid", || "0, 0".into())?;
    match tcsetpgrp(std::io::stdin(), getpgrp()) {
        Err(Errno::ENOTTY) => {
            report.say(Level::Debug, || "tcsetpgrp failed: no tty (ok to proceed)".into());
            Ok(())
        }
        // As on a zone of illumos that runs Linux programs.
        Err(Errno::ENXIO) => {
            report.say(Level::Debug, || "tcsetpgrp failed: no such device (ok to proceed)".into());
            Ok(())
        }
        other => other.call("tcsetpgrp", || "0".into()),
    }
}
