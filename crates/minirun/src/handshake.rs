//! What the process outside and the one that sets the container up tell each other.
//!
//! ```text
//! outside                                inside (born by clone3 into the new namespaces)
//!   installs the id maps                   waits
//!   ── Mapped ───────────────────────────▶ sets up: mounts, devices, network, …
//!   ── Go, 0…1 ──────────────────────────▶ where helpers outside had to get ready meanwhile
//!   ◀───────────────── Notice(text), 0…n ──
//!   ◀──────────────────── Made(path), 0…n ──
//!   ◀────────── Terminal + pty master, 0…1 ──
//!   ◀──────────── Main + pidfd of the command ── forks; the init closes its end
//!   ◀─ end of the socket: the command runs ── execve closes the last one
//!   ◀────────── Failed(what), and its end ── at any step instead
//! ```
//!
//! The socket keeps message boundaries. If the outside ends, so does the inside: it sees the
//! socket's end while it waits, and has itself killed after that (PR_SET_PDEATHSIG).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ctsys::error::{Result, SysError};
use ctsys::{fdpass, process};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::refusal;

/// A message is at most this long: one failure with a path or two in it.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// More of a failure's text than this is not told: it has a command of the user's in it.
const MAX_TOLD_BYTES: usize = 8 << 10;

/// What the outside says.
const MAPPED: &[u8] = b"mapped";
const GO: &[u8] = b"go";

/// What the inside says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// Something to tell the user though nothing failed.
    Notice(String),
    /// A path in the root filesystem that was missing and had to be made.
    Made(PathBuf),
    /// The master of the container's terminal comes along.
    Terminal,
    /// A pidfd of the main command, not yet executed, comes along.
    Main,
    /// From a process that joined namespaces first: a pidfd of the init comes along.
    Init,
    /// From a detached container's monitor: the command runs.
    Started,
    /// It is over.
    Failed(Failure),
}

/// A step that failed on the other side, complete with what the user is to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Step, object and cause.
    pub what: String,
    /// The errno, 0 without one.
    pub errno: i32,
    /// The remedy.
    pub hint: Option<String>,
    /// What the program is to exit with.
    pub code: u8,
}

impl Failure {
    /// A failure of the launcher itself.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: 0, hint: None, code: 125 }
    }

    /// With a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What the user can do about it: the step's own hint, else what the errno says.
    pub fn remedy(&self) -> String {
        let by_errno = || refusal::step(Errno::from_raw(self.errno)).hint();
        self.hint.clone().unwrap_or_else(by_errno)
    }

    /// With another exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Says which step a system call failed in.
pub trait Step<T> {
    /// `what` is formatted only then: `cannot mount "/proc"`.
    fn step(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failure>;
}

impl<T> Step<T> for Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> std::result::Result<T, Failure> {
        self.map_err(|error| Failure {
            what: format!("{}: {error}", what()),
            errno: error.errno() as i32,
            hint: None,
            code: 125,
        })
    }
}

/// Tells the inside that its ids are mapped.
pub fn send_mapped(socket: impl AsFd) -> Result<()> {
    fdpass::send(socket, MAPPED, &[])
}

/// Waits for [`send_mapped`]; false when the outside is gone.
pub fn wait_mapped(socket: impl AsFd) -> Result<bool> {
    wait_word(socket, MAPPED)
}

/// Tells the inside that what works for it outside is ready.
pub fn send_go(socket: impl AsFd) -> Result<()> {
    fdpass::send(socket, GO, &[])
}

/// Waits for [`send_go`]; false when the outside is gone.
pub fn wait_go(socket: impl AsFd) -> Result<bool> {
    wait_word(socket, GO)
}

fn wait_word(socket: impl AsFd, word: &[u8]) -> Result<bool> {
    let mut buffer = [0; 16];
    match fdpass::receive(socket, &mut buffer) {
        Err(error) if error.errno() == Errno::ECONNRESET => Ok(false),
        other => other.map(|(length, _)| buffer.get(..length) == Some(word)),
    }
}

/// Sends a message, with a descriptor when the message has one.
pub fn send(socket: impl AsFd, message: &Message, fd: Option<BorrowedFd<'_>>) -> Result<()> {
    if let Message::Failed(failure) = message
        && failure.what.len() > MAX_TOLD_BYTES
    {
        let what = shortened(&failure.what);
        return send(socket, &Message::Failed(Failure { what, ..failure.clone() }), fd);
    }
    let bytes = serde_json::to_vec(message).map_err(|_| malformed("sendmsg"))?;
    fdpass::send(socket, &bytes, fd.as_slice())
}

/// Receives the next message; `None` at the end.
pub fn receive(socket: impl AsFd) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let received = fdpass::next_length(&socket).and_then(|length| {
        // Most have some twenty bytes: room for the longest would have to be cleared each time.
        let mut buffer = vec![0; length.min(MAX_MESSAGE_BYTES)];
        fdpass::receive(&socket, &mut buffer).map(|(length, fds)| (buffer, length, fds))
    });
    let (buffer, length, fds) = match received {
        // The other side was killed with something unread.
        Err(error) if error.errno() == Errno::ECONNRESET => return Ok(None),
        other => other?,
    };
    let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(bytes).map_err(|_| malformed("recvmsg"))?;
    Ok(Some((message, fds.into_iter().next())))
}

/// The beginning and the end, where the reason stands.
fn shortened(text: &str) -> String {
    let (start, end) = (MAX_TOLD_BYTES / 2, text.len() - MAX_TOLD_BYTES / 4);
    format!(
        "{}…{}",
        &text[..text.floor_char_boundary(start)],
        &text[text.ceil_char_boundary(end)..]
    )
}

fn malformed(call: &'static str) -> SysError {
    SysError::new(call, "a message of the set-up", Errno::EBADMSG)
}

/// The number that the process of a pidfd has in /proc; -1 when it has ended already.
pub fn pid_of(pidfd: impl AsFd) -> Result<i32> {
    Ok(process::number_in_proc(pidfd)?.unwrap_or(-1))
}
