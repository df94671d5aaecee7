//! The outside's end of a container's terminal: the caller's one in raw mode, and bytes both ways. In
//! the background, that of its output too.

mod raw;

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ctsys::error::{Context, Result};
use ctsys::tty;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use raw::RawMode;

use crate::log::Log;

/// Bytes taken at once: what a pipe takes whole when it says that it takes something (PIPE_BUF).
const CHUNK_BYTES: usize = 4096;

/// Chunks taken at once for a log: what a pipe holds (pipe(7)).
const READS_FOR_LOG: usize = 16;

/// What a terminal sends for the end of input (VEOF as it is by default, Ctrl-D): the first ends a
/// line that has no end, the second is read as the end of the file.
const END_OF_INPUT: [u8; 2] = [4, 4];

/// Carries bytes between a container's terminal and the caller's standard streams.
pub(crate) struct Relay {
    master: File,
    /// The caller's standard input, until its end; `None` in the background.
    input: Option<File>,
    output: Option<Output>,
    to_master: Vec<u8>,
    to_output: Vec<u8>,
    master_open: bool,
    /// Held open: the master of a pty whose slave nobody has open reports an end, though a process
    /// inside may open `/dev/console` later.
    _slave: Option<OwnedFd>,
    raw: Option<RawMode>,
}

impl Relay {
    /// Between `master` and the caller's own terminal or pipes. The caller's terminal is in raw
    /// mode until the relay is dropped.
    pub(crate) fn interactive(master: OwnedFd) -> Result<Self> {
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let raw = if stdin.is_terminal() { Some(RawMode::enter(stdin.as_fd())?) } else { None };
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().call("dup", String::new);
        let input = Some(File::from(copy(stdin.as_fd())?));
        let output = Output::Stream(File::from(copy(stdout.as_fd())?));
        let slave = Some(tty::open_slave(&master)?);
        let relay = Self::new(master, input, output, slave, raw)?;
        // The window may have changed since the container took its size.
        relay.resize();
        Ok(relay)
    }

    /// From a terminal in the background into its log, without input.
    pub(crate) fn terminal_to_log(master: OwnedFd, log: Log) -> Result<Self> {
        let slave = Some(tty::open_slave(&master)?);
        Self::new(master, None, Output::Log(log), slave, None)
    }

    /// From the pipe that a container in the background writes to into its log.
    pub(crate) fn pipe_to_log(reader: OwnedFd, log: Log) -> Result<Self> {
        Self::new(reader, None, Output::Log(log), None, None)
    }

    fn new(
        master: OwnedFd,
        input: Option<File>,
        output: Output,
        slave: Option<OwnedFd>,
        raw: Option<RawMode>,
    ) -> Result<Self> {
        let mode = if slave.is_some() { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        fcntl(&master, FcntlArg::F_SETFL(mode | OFlag::O_NONBLOCK))
            .call("fcntl", || "pty master or pipe, F_SETFL, O_NONBLOCK".into())?;
        Ok(Self {
            master: master.into(),
            input,
            output: Some(output),
            to_master: Vec::new(),
            to_output: Vec::new(),
            master_open: true,
            _slave: slave,
            raw,
        })
    }

    /// The caller's terminal changed its size: the container's follows.
    pub(crate) fn resize(&self) {
        if let Some(size) = tty::callers_window_size() {
            // A terminal whose other side is gone needs no size.
            let _ = tty::set_window_size(&self.master, size);
        }
    }

    /// The caller is to have its terminal as it was, for as long as this process is stopped.
    pub(crate) fn suspend(&self) {
        if let Some(raw) = &self.raw {
            raw.leave();
        }
    }

    /// The end of [`Relay::suspend`], or of a stop that left no time for it (SIGSTOP): whoever had
    /// the terminal meanwhile may have changed it.
    pub(crate) fn resume(&self) {
        if let Some(raw) = &self.raw {
            raw.enter_again();
            self.resize();
        }
    }

    /// What to poll for: the master, the input, the output.
    pub(crate) fn interests(&self) -> [Option<(BorrowedFd<'_>, PollFlags)>; 3] {
        let mut master = PollFlags::empty();
        master.set(PollFlags::POLLIN, self.to_output.is_empty());
        master.set(PollFlags::POLLOUT, !self.to_master.is_empty());
        let input = self.input.as_ref().filter(|_| self.to_master.is_empty());
        let output = self.output.as_ref().filter(|_| !self.to_output.is_empty());
        [
            Some((self.master.as_fd(), master)).filter(|_| self.master_open && !master.is_empty()),
            input.map(|f| (f.as_fd(), PollFlags::POLLIN)),
            output.map(|f| (f.as_fd(), PollFlags::POLLOUT)),
        ]
    }

    /// Moves what can be moved, given what poll(2) said about each of [`Relay::interests`].
    pub(crate) fn advance(&mut self, ready: [PollFlags; 3]) {
        let [master, input, output] = ready;
        if !input.is_empty() {
            self.read_input();
        }
        if !output.is_empty() {
            self.write_output();
        }
        if master.contains(PollFlags::POLLOUT) {
            self.write_master();
        }
        if master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
            && self.to_output.is_empty()
        {
            // A log takes all at once, a terminal when it is ready for it.
            let most = if matches!(self.output, Some(Output::Log(_))) { READS_FOR_LOG } else { 1 };
            (0..most).all(|_| self.read_master());
        }
    }

    /// Everything inside is over: passes on what it wrote before.
    pub(crate) fn finish(mut self) {
        loop {
            while !self.to_output.is_empty() {
                self.write_output();
                self.wait_for_output();
            }
            if !self.master_open || !self.read_master() {
                break;
            }
        }
    }

    /// Until the output takes what is left, where somebody has made it not block.
    fn wait_for_output(&self) {
        let Some(output) = self.output.as_ref().filter(|_| !self.to_output.is_empty()) else {
            return;
        };
        let _ = poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
    }

    fn read_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        let mut buffer = [0; CHUNK_BYTES];
        match input.read(&mut buffer) {
            Ok(0) => {
                // A terminal has no other way to tell the program inside.
                self.to_master.extend(END_OF_INPUT);
                self.input = None;
            }
            Ok(length) => self.to_master.extend(buffer.iter().take(length)),
            Err(e) if is_transient(&e) => {}
            Err(_) => self.input = None,
        }
    }

    fn write_master(&mut self) {
        match self.master.write(&self.to_master) {
            Ok(length) => drop(self.to_master.drain(..length)),
            Err(e) if is_transient(&e) => {}
            Err(_) => self.to_master.clear(),
        }
    }

    /// Whether there was something.
    fn read_master(&mut self) -> bool {
        let mut buffer = [0; CHUNK_BYTES];
        match self.master.read(&mut buffer) {
            Err(e) if is_transient(&e) => false,
            // EIO: the terminal was hung up, as when the leader of its session has ended.
            Ok(0) | Err(_) => {
                self.master_open = false;
                false
            }
            Ok(length) => {
                let bytes = buffer.iter().take(length);
                match &mut self.output {
                    // A file is always ready.
                    Some(Output::Log(log)) => log.append(buffer.get(..length).unwrap_or_default()),
                    Some(Output::Stream(_)) => self.to_output.extend(bytes),
                    // Where nobody listens the container must not block.
                    None => {}
                }
                true
            }
        }
    }

    fn write_output(&mut self) {
        let Some(output) = &mut self.output else { return };
        match output.write(&self.to_output) {
            Ok(length) => drop(self.to_output.drain(..length)),
            Err(e) if is_transient(&e) => {}
            Err(_) => {
                self.output = None;
                self.to_output.clear();
            }
        }
    }
}

/// Where a container's output goes.
enum Output {
    /// The caller's standard output.
    Stream(File),
    /// The log of a container in the background.
    Log(Log),
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(file) => file.as_fd(),
            Self::Log(log) => log.as_fd(),
        }
    }
}

impl Output {
    /// Takes some of the bytes, a log all of them.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Stream(file) => file.write(bytes),
            Self::Log(log) => {
                log.append(bytes);
                Ok(bytes.len())
            }
        }
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAGAIN | Errno::EINTR))
}
