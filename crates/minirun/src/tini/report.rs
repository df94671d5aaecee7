//! What the init says: in tini's words where it has tini's name, in minirun's own else.

use std::ffi::{CStr, OsStr};
use std::io::Write as _;

use ctsys::error::SysError;
use ctsys::report::{self, Explain};
use ctsys::signal;
use nix::errno::Errno;

use super::options::Misuse;
use super::{Failure, Form, base_name};
use crate::reap::Event;

/// How much must be asked for, by `-v` or `TINI_VERBOSITY`, for something to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Warn = 1,
    Info,
    Debug,
    Trace,
}

/// The tini whose command line and texts these are; what follows is this program.
const TINI_VERSION: &str = concat!("tini version 0.19.0 - minirun.", env!("CARGO_PKG_VERSION"));

const LICENSE: &str = include_str!("../../../../LICENSE-MIT");

const NOT_THE_REAPER: &str = "\
Tini is not running as PID 1 and isn't registered as a child subreaper.
Zombie processes will not be re-parented to Tini, so zombie reaping won't work.
To fix the problem, use the -s option or set the environment variable TINI_SUBREAPER to register \
Tini as a child subreaper, or run Tini as PID 1.";

/// The init's voice.
pub(super) struct Report<'a> {
    form: &'a Form,
    verbosity: u32,
}

impl<'a> Report<'a> {
    pub(super) fn new(form: &'a Form, verbosity: u32) -> Self {
        Self { form, verbosity }
    }

    pub(super) fn is_tini(&self) -> bool {
        matches!(self.form, Form::Tini(_))
    }

    /// Says something if that much was asked for. tini gives warnings to standard error and all
    /// else to standard output; minirun's own form leaves that to the command.
    pub(super) fn say(&self, level: Level, text: impl FnOnce() -> String) {
        if self.verbosity < level as u32 {
            return;
        }
        let (text, word) = (text(), level.word());
        match self.form {
            Form::Tini(_) if level == Level::Warn => err(&tagged(word, &text)),
            Form::Tini(_) => out(&tagged(word, &text)),
            Form::Minirun => err(&format!("minirun: init: {}\n", report::escape(&text))),
        }
    }

    pub(super) fn event(&self, event: Event, warn_on_reap: bool) {
        match event {
            Event::ChildSignal => self.say(Level::Debug, || "Received SIGCHLD".into()),
            Event::Passing(number) => {
                self.say(Level::Debug, || format!("Passing signal: '{}'", signal::describe(number)))
            }
            Event::Late => {
                self.say(Level::Warn, || "Child was dead when forwarding signal".into());
            }
            Event::NothingToReap => self.say(Level::Trace, || "No child to reap".into()),
            Event::NoChildren => self.say(Level::Trace, || "No child to wait".into()),
            Event::Reaped(ended, is_main) => {
                let (pid, code) = (ended.pid, ended.code);
                self.say(Level::Debug, || format!("Reaped child with pid: '{pid}'"));
                if !is_main {
                    if warn_on_reap {
                        self.say(Level::Warn, || format!("Reaped zombie process with pid={pid}"));
                    }
                    return;
                }
                self.say(Level::Info, || match ended.signal {
                    None => format!("Main child exited normally (with status '{code}')"),
                    Some(number) => {
                        let name = signal::describe(number);
                        format!("Main child exited with signal (with signal '{name}')")
                    }
                });
            }
        }
    }

    pub(super) fn not_the_reaper(&self) {
        self.say(Level::Warn, || match self.form {
            Form::Tini(_) => NOT_THE_REAPER.into(),
            Form::Minirun => "orphans are not reaped: this is not PID 1; add -s for them".into(),
        });
    }

    pub(super) fn usage_on_request(&self) -> u8 {
        out(&self.usage());
        0
    }

    pub(super) fn version(&self) -> u8 {
        match self.form {
            Form::Tini(_) => out(&format!("{TINI_VERSION}\n")),
            Form::Minirun => out(concat!("minirun ", env!("CARGO_PKG_VERSION"), "\n")),
        }
        0
    }

    /// This program's own: it is not tini.
    pub(super) fn license(&self) -> u8 {
        out(LICENSE);
        0
    }

    pub(super) fn misused(&self, error: &Misuse) -> u8 {
        let Form::Tini(name) = self.form else { return self.explain(error) };
        let name = name.to_string_lossy();
        let letter = |letter: &u8| char::from(*letter);
        match error {
            Misuse::Unknown(byte) => {
                err(&format!("{name}: invalid option -- '{}'\n{}", letter(byte), self.usage()));
            }
            Misuse::NoArgument(byte) => {
                let letter = letter(byte);
                let usage = self.usage();
                err(&format!("{name}: option requires an argument -- '{letter}'\n{usage}"));
            }
            Misuse::Signal(text) => err(&fatal(&format!("Not a valid option for -p: {text}"))),
            Misuse::Code(text) => err(&fatal(&format!("Not a valid option for -e: {text}"))),
            Misuse::NoCommand | Misuse::UnknownLong(_) | Misuse::Seconds(_) => err(&self.usage()),
        }
        1
    }

    /// A step of the init's own failed.
    pub(super) fn fatal(&self, failure: &Failure) -> u8 {
        if !self.is_tini() {
            return self.explain(failure);
        }
        err(&fatal(&match failure {
            Failure::ParentDeath(_) => "Failed to set up parent death signal".into(),
            Failure::Subreaper(e) => {
                format!("Failed to register as child subreaper: {}", strerror(e.errno()))
            }
            Failure::Signals(_, e) => format!("{} failed: '{}'", e.call(), strerror(e.errno())),
            Failure::Fork(e) => format!("fork failed: {}", strerror(e.errno())),
            Failure::Forward(e) => {
                format!("Unexpected error when forwarding signal: '{}'", strerror(e.errno()))
            }
            Failure::Reap(e) => {
                format!("Error while waiting for pids: '{}'", strerror(e.errno()))
            }
        }));
        1
    }

    /// A step of the child's failed, before it executes.
    pub(super) fn child_failed(&self, step: &str, error: &SysError) -> u8 {
        if self.is_tini() {
            err(&fatal(&format!("{} failed: {}", error.call(), strerror(error.errno()))));
            1
        } else {
            err(&format!("minirun: cannot {step}: {error}\n"));
            125
        }
    }

    /// The command cannot be executed.
    pub(super) fn not_executed(&self, program: &CStr, errno: Errno) -> u8 {
        let shown = program.to_string_lossy();
        if self.is_tini() {
            err(&fatal(&format!("exec {shown} failed: {}", strerror(errno))));
            return match errno {
                Errno::ENOENT => 127,
                Errno::EACCES => 126,
                _ => 1,
            };
        }
        let missing = matches!(errno, Errno::ENOENT | Errno::ENOTDIR);
        let hint = if missing {
            "check the command's name, PATH, and the interpreter or loader that the file names"
        } else {
            "it must be a program for this machine that the user may execute"
        };
        let shown = report::escape(&shown);
        err(&format!("minirun: cannot run {shown:?}: {}\nhint: {hint}\n", strerror(errno)));
        if missing { 127 } else { 126 }
    }

    fn explain(&self, error: &dyn Explain) -> u8 {
        err(&report::render("minirun", error));
        error.exit_code()
    }

    fn usage(&self) -> String {
        match self.form {
            Form::Tini(name) => tini_usage(base_name(name)),
            Form::Minirun => OWN_USAGE.into(),
        }
    }
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Warn => "WARN ",
            Self::Info => "INFO ",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

fn tagged(word: &str, text: &str) -> String {
    format!("[{word} tini ({})] {text}\n", std::process::id())
}

fn fatal(text: &str) -> String {
    tagged("FATAL", text)
}

/// glibc's text, which Debian's tini has, also where this is built with musl: of what fails here,
/// that says these otherwise. The rest is alike; std puts the number behind it.
fn strerror(errno: Errno) -> String {
    match errno {
        Errno::EIO => "Input/output error".into(),
        Errno::ELOOP => "Too many levels of symbolic links".into(),
        Errno::ENAMETOOLONG => "File name too long".into(),
        Errno::ENOMEM => "Cannot allocate memory".into(),
        Errno::ENOTTY => "Inappropriate ioctl for device".into(),
        other => {
            let text = std::io::Error::from(other).to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

fn out(text: &str) {
    // Who reads no more wants no more of it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn err(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// tini's own words: programs and people look for them.
fn tini_usage(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    format!(
        "\
{name} ({TINI_VERSION})
Usage: {name} [OPTIONS] PROGRAM -- [ARGS] | --version

Execute a program under the supervision of a valid init process ({name})

Command line options:

  --version: Show version and exit.
  -h: Show this help message and exit.
  -s: Register as a process subreaper (requires Linux >= 3.4).
  -p SIGNAL: Trigger SIGNAL when parent dies, e.g. \"-p SIGKILL\".
  -v: Generate more verbose output. Repeat up to 3 times.
  -w: Print a warning when processes are getting reaped.
  -g: Send signals to the child's process group.
  -e EXIT_CODE: Remap EXIT_CODE (from 0 to 255) to 0.
  -l: Show license and exit.

Environment variables:

  TINI_SUBREAPER: Register as a process subreaper (requires Linux >= 3.4).
  TINI_VERBOSITY: Set the verbosity level (default: 1).
  TINI_KILL_PROCESS_GROUP: Send signals to the child's process group.

"
    )
}

const OWN_USAGE: &str = "\
Run a command under an init that reaps orphans and passes signals on

Usage: minirun init [OPTIONS] [--] COMMAND [ARGS...]

Options (tini's, and --wait):
  -s                Reap orphans also where this is not PID 1 (as child subreaper)
  -g                Pass signals on to the command's whole process group
  -e CODE           Exit with 0 where the command exits with CODE; repeatable
  -p SIGNAL         Get SIGNAL when the parent process ends
  -w                Warn of every orphan that is reaped
  -v                Say more; up to three times
      --wait[=SECONDS]
                    When the command has ended after SIGTERM or SIGINT, ask the other processes to
                    end too (SIGTERM), wait for them until SECONDS after that signal, then kill
                    them; -1 waits for ever; another SIGINT or SIGQUIT ends the wait; implies -s
                    [default without a value: 10]
  -l                Print the license
  -h, --help        Print help
      --version     Print version

Environment: TINI_SUBREAPER and TINI_KILL_PROCESS_GROUP, set to anything, are -s and -g;
TINI_VERBOSITY is how much is said: 0 nothing, 1 warnings, 4 everything.

The exit code is the command's, 128 + N where signal N ended it; 127 where it was not found, 126
where it cannot be executed, 125 where the init failed. Called by the name of tini (a link to
minirun), this takes tini's command line and says what tini says.
";
