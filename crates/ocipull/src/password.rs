//! A password from standard input, not shown where that is a terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Longest password, in bytes: tokens in its place have up to a few kilobytes.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;

/// The first line of standard input, without its end.
pub(crate) fn read(user: &str) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return line();
    }
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden)?;
    let _ = write!(io::stderr(), "password of {}: ", ctsys::report::escape(user));
    let password = line();
    let restored = tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown);
    let _ = writeln!(io::stderr());
    restored?;
    password
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
