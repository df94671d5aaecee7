//! A password from standard input, not shown where that is a terminal.

use std::io::{self, BufRead, IsTerminal, Read, Stdin, Write};
use std::os::fd::AsFd;

use ctsys::signal::{self, SignalSet};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Longest password, in bytes: tokens in its place have up to a few kilobytes.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;
/// What may end or stop the program while it asks.
const HELD_BACK: [&str; 5] = ["INT", "QUIT", "TERM", "HUP", "TSTP"];

/// The first line of standard input, without its end.
pub(crate) fn read(user: &str) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line();
    }
    let shown = tcgetattr(&stdin)?;
    let all = SignalSet::all_but(&[]);
    let pending = all.fd().map_err(io::Error::other)?;
    loop {
        // Nothing may end the program while the terminal shows nothing: it would stay so.
        let before = all.block().map_err(io::Error::other)?;
        let asked = ask(&stdin, &shown, user, &pending);
        let restored = tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown);
        let _ = writeln!(io::stderr());
        before.block().map_err(io::Error::other)?;
        restored?;
        match asked? {
            Asked::Password(password) => return Ok(password),
            Asked::Signal(number) => {
                let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
                // Most end the program here. After a stop it is asked anew.
                signal::kill(own, number).map_err(io::Error::other)?;
            }
        }
    }
}

enum Asked {
    Password(String),
    /// One of those held back came first.
    Signal(i32),
}

fn ask(stdin: &Stdin, shown: &Termios, user: &str, pending: impl AsFd) -> io::Result<Asked> {
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin, SetArg::TCSAFLUSH, &hidden)?;
    let _ = write!(io::stderr(), "password of {}: ", ctsys::report::escape(user));
    let held_back = HELD_BACK.map(signal::parse);
    loop {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [readable(stdin.as_fd()), readable(pending.as_fd())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let came = signal::read(&pending).map_err(io::Error::other)?;
        if let Some(number) = came.filter(|number| held_back.contains(&Some(*number))) {
            return Ok(Asked::Signal(number));
        }
        if fds[0].any().unwrap_or_default() {
            return line().map(Asked::Password);
        }
    }
}

/// The user's name, asked for on a terminal; `None` where there is none.
pub(crate) fn ask_user() -> io::Result<Option<String>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let _ = write!(io::stderr(), "user name: ");
    line().map(Some)
}

/// The first line of standard input, shown as it is typed.
pub(crate) fn line() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_PASSWORD_BYTES + 1).read_line(&mut text)?;
    if text.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB"));
    }
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "standard input holds none"));
    }
    Ok(password.to_owned())
}
