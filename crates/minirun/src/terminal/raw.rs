//! The caller's terminal in raw mode, and back whatever happens, a panic included. Only SIGKILL
//! leaves no time for that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use ctsys::error::{Context, Result};
use nix::libc;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal that is in raw mode, and how it was before. Here and not in [`RawMode`], for a
/// panic to find it: a release ends with one at once, nothing is dropped.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

struct Before {
    terminal: OwnedFd,
    mode: libc::termios,
}

/// A terminal in raw mode; as it was before, once this is dropped. There is one at a time.
pub(super) struct RawMode(());

impl RawMode {
    pub(super) fn enter(terminal: BorrowedFd<'_>) -> Result<Self> {
        let terminal = terminal.try_clone_to_owned().call("dup", || "terminal".into())?;
        let mode = tcgetattr(&terminal).call("tcgetattr", || "terminal".into())?;
        restore_on_panic();
        // Known before it is changed, and dropped if that fails.
        let mut before = lock();
        let raw = before.insert(Before { terminal, mode: mode.into() }).make_raw();
        drop(before);
        let guard = Self(());
        raw.map(|()| guard)
    }

    /// The mode that was before, for a while.
    pub(super) fn leave(&self) {
        if let Some(before) = &*lock() {
            before.restore();
        }
    }

    pub(super) fn enter_again(&self) {
        if let Some(before) = &*lock() {
            // A terminal that is gone needs no mode.
            let _ = before.make_raw();
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = lock().take() {
            before.restore();
        }
    }
}

impl Before {
    fn make_raw(&self) -> Result<()> {
        let mut raw = Termios::from(self.mode);
        cfmakeraw(&mut raw);
        tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).call("tcsetattr", || "raw".into())
    }

    /// After what was written is out.
    fn restore(&self) {
        let mode = Termios::from(self.mode);
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(self.terminal.as_fd(), SetArg::TCSADRAIN, &mode);
    }
}

fn lock() -> MutexGuard<'static, Option<Before>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Taken already where the panic is in these very lines.
            if let Ok(before) = BEFORE.try_lock()
                && let Some(before) = &*before
            {
                before.restore();
            }
            next(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    #[test]
    fn the_mode_comes_back_at_the_end_and_by_a_panic() {
        let pty = openpty(None, None).unwrap();
        let echoes = || {
            let mode = tcgetattr(&pty.slave).unwrap();
            mode.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
        };
        assert!(echoes());
        let raw = RawMode::enter(pty.slave.as_fd()).unwrap();
        assert!(!echoes());
        raw.leave();
        assert!(echoes());
        raw.enter_again();
        assert!(!echoes());
        // As in a release, where nothing is dropped.
        let caught = std::panic::catch_unwind(|| panic!("a mistake of ours"));
        assert!(caught.is_err() && echoes());
        raw.enter_again();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());
    }
}
