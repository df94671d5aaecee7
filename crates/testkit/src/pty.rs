//! Programs on a terminal: a real pseudo-terminal, with keys, a window and its mode.

use crate::programs::{Capture, DEFAULT_LIMIT, end_within};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

/// A terminal, and the program that leads its session; killed when this is dropped.
///
/// ```
/// use testkit::pty::Session;
/// let mut command = std::process::Command::new("sh");
/// command.args(["-c", "read a; echo you typed $a; tty -s; stty size; exit 4"]);
/// let session = Session::start(command, 10, 20);
/// session.keys("x\r");
/// let done = session.finish();
/// assert_eq!((done.code, done.shown.as_str()), (Some(4), "x\nyou typed x\n10 20\n"));
/// ```
pub struct Session {
    text: String,
    child: Child,
    master: File,
    slave: OwnedFd,
    shown: Arc<Capture>,
    ended: bool,
}

/// A program that has ended on its terminal.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What stood on the terminal, without carriage returns.
    pub shown: String,
    /// The terminal was left in raw mode.
    pub raw: bool,
}

impl Session {
    /// Starts a program as the leader of a session of its own on a new terminal of that size. The
    /// streams that `command` has are replaced.
    pub fn start(command: Command, rows: u16, columns: u16) -> Self {
        let text = format!("{command:?}");
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )
        .unwrap();
        tcsetwinsize(&slave, size(rows, columns)).unwrap();
        // The program opens it by name (/dev/tty, stty(1)), as another user perhaps.
        rustix::fs::fchmod(&slave, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
        // setsid(1) takes its standard input as the session's terminal, and executes the program.
        let mut outer = Command::new("setsid");
        outer.arg("--ctty").arg(command.get_program()).args(command.get_args());
        outer.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        if let Some(dir) = command.get_current_dir() {
            outer.current_dir(dir);
        }
        let stream = || Stdio::from(slave.try_clone().unwrap());
        outer.stdin(stream()).stdout(stream()).stderr(stream());
        let child = outer.spawn().unwrap_or_else(|e| panic!("cannot run {text}: {e}"));
        let master = File::from(master);
        let shown = Capture::of(master.try_clone().unwrap());
        Self { text, child, master, slave, shown, ended: false }
    }

    /// Types.
    pub fn keys(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the terminal shows `text`, and returns all that it shows.
    pub fn wait_shown(&self, text: &str) -> String {
        let shown = self.shown.wait_for(text, Instant::now() + DEFAULT_LIMIT);
        shown.unwrap_or_else(|| {
            panic!("no {text:?} from {}\n-- shown --\n{}\n--", self.text, self.shown())
        })
    }

    /// What it shows so far, without carriage returns.
    pub fn shown(&self) -> String {
        self.shown.text().replace('\r', "")
    }

    /// Whether keys reach the program as they are: no echo, no lines, no signals.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Another size of the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// The program's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Signals the program.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ended {
        let in_time = end_within(&self.child, DEFAULT_LIMIT);
        assert!(in_time, "no end of {}\n-- shown --\n{}\n--", self.text, self.shown());
        let status = self.child.wait().unwrap();
        self.ended = true;
        let raw = self.is_raw();
        // What is written to a terminal is there to be read at once: a mark comes after all of it.
        rustix::io::write(&self.slave, END.as_bytes()).unwrap();
        let shown = self.wait_shown(END).replace('\r', "");
        let shown = shown.strip_suffix(END).unwrap_or(&shown).to_owned();
        Ended { code: status.code(), signal: status.signal(), shown, raw }
    }
}

const END: &str = "\u{4}end of the session\u{4}";

impl Drop for Session {
    fn drop(&mut self) {
        if !self.ended {
            let pid = Pid::from_child(&self.child);
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
