//! PID 1's work: reap what ends, pass on what arrives, end with the main child. Knows nothing of
//! containers.

use ctsys::error::Result;
use ctsys::signal::{self, SignalSet};
use ctsys::wait;
use nix::libc;

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

/// The signals that an init takes: it must block them before its main child is started.
pub fn signals() -> SignalSet {
    SignalSet::all_but(NOT_TAKEN)
}

/// Whether an init passes `signal` on to its main child.
pub fn forwards(signal: i32) -> bool {
    !NOT_TAKEN.contains(&signal) && ![libc::SIGCHLD, libc::SIGKILL, libc::SIGSTOP].contains(&signal)
}

/// Reaps every child and passes on every signal until the child `main` has ended; returns its exit
/// code, 128 + n when signal n ended it. Sleeps until something happens.
///
/// [`signals`] must be blocked.
pub fn run(main: i32) -> Result<u8> {
    let signals = signals();
    loop {
        match signals.wait()? {
            libc::SIGCHLD => {
                // One signal may stand for many children.
                let mut code = None;
                while let Some(ended) = wait::reap_any()? {
                    if ended.pid == main {
                        code = Some(ended.code);
                    }
                }
                if let Some(code) = code {
                    return Ok(code);
                }
            }
            signal => {
                // The child may have ended meanwhile; its SIGCHLD comes next.
                let _ = signal::kill(main, signal);
            }
        }
    }
}
