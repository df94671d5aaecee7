//! Terminals: the slave of a pty, the controlling terminal, window sizes, the foreground group.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::error::{Context, Result};

/// Size of a terminal's window in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Opens the slave of the pty `master`, by the master itself and not by a name that could lead
/// elsewhere (`TIOCGPTPEER`, CVE-2025-52565). Not controlling, close-on-exec.
pub fn open_slave(master: impl AsFd) -> Result<OwnedFd> {
    let fd = master.as_fd().as_raw_fd();
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlock) };
    Errno::result(result).call("ioctl", || format!("{fd}, TIOCSPTLCK"))?;
    // SAFETY: TIOCGPTPEER takes open flags as an integer.
    let slave = unsafe {
        libc::ioctl(fd, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    };
    let slave = Errno::result(slave).call("ioctl", || format!("{fd}, TIOCGPTPEER"))?;
    // SAFETY: the call succeeded, so `slave` is a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Makes the terminal the controlling one of the caller's session, which the caller must lead.
pub fn set_controlling(terminal: impl AsFd) -> Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCSCTTY takes an integer: 0, do not steal.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) };
    Errno::result(result).map(drop).call("ioctl", || format!("{fd}, TIOCSCTTY"))
}

/// The window's size.
pub fn window_size(terminal: impl AsFd) -> Result<WindowSize> {
    let fd = terminal.as_fd().as_raw_fd();
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize to the pointer, which is to one that outlives the call.
    let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(result).call("ioctl", || format!("{fd}, TIOCGWINSZ"))?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The size of the window that the caller sits at, by its standard input or output.
pub fn callers_window_size() -> Option<WindowSize> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    window_size(&stdin).or_else(|_| window_size(&stdout)).ok()
}

/// Sets the window's size; the foreground processes get a SIGWINCH if it changes.
pub fn set_window_size(terminal: impl AsFd, size: WindowSize) -> Result<()> {
    let fd = terminal.as_fd().as_raw_fd();
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop).call("ioctl", || format!("{fd}, TIOCSWINSZ"))
}
