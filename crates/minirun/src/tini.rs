//! The init as a program of its own: `minirun init [OPTIONS] [--] COMMAND`, for images and outside
//! of containers; called by the name tini, that one's command line, texts and codes (tini 0.19).
//!
//! ```text
//! who calls (Form) -> options and TINI_* -> signals, subreaper -> child -> reap
//! ```
//!
//! Stands apart from the launcher's command line: it is to start at once, and tini's texts are not
//! those of a parser's.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use ctsys::error::{Context, SysError};
use ctsys::report::Explain;
use nix::libc;
use nix::sys::prctl;

use crate::reap::{self, Duty};

mod child;
mod options;
mod report;

use options::{Asked, Options};
use report::{Level, Report};

/// The names that call for tini's command line.
const TINIS: [&str; 2] = ["tini", "tini-static"];

/// The subcommand of minirun's that is the init.
const SUBCOMMAND: &str = "init";

/// How this program was called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// By tini's name, which is this.
    Tini(OsString),
    /// As minirun's subcommand.
    Minirun,
}

/// A command line of the init's: this program was called by tini's name, or with `init` as its
/// first argument.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    form: Form,
    args: Vec<OsString>,
}

impl CommandLine {
    /// `None` when the program was called for something else. `all` begins with the program's name.
    pub fn recognise(mut all: impl Iterator<Item = OsString>) -> Option<Self> {
        let name = all.next()?;
        if TINIS.iter().any(|tini| base_name(&name) == OsStr::new(tini)) {
            return Some(Self { form: Form::Tini(name), args: all.collect() });
        }
        (all.next()? == SUBCOMMAND).then(|| Self { form: Form::Minirun, args: all.collect() })
    }

    /// Is the init that was asked for; returns the code to exit with.
    ///
    /// Must be called before any thread is started.
    pub fn run(self) -> u8 {
        let lookup = |name: &str| std::env::var_os(name);
        let parsed = match &self.form {
            Form::Tini(_) => options::parse_tini(&self.args, lookup),
            Form::Minirun => options::parse_own(&self.args, lookup),
        };
        let report =
            Report::new(&self.form, parsed.as_ref().map_or(1, |(options, _)| options.verbosity));
        match parsed {
            Ok((_, Asked::Help)) => report.usage_on_request(),
            Ok((_, Asked::Version)) => report.version(),
            Ok((_, Asked::License)) => report.license(),
            Ok((options, Asked::Run(command))) => {
                run(&options, &command, &report).unwrap_or_else(|failure| report.fatal(&failure))
            }
            Err(error) => report.misused(&error),
        }
    }
}

/// A step of the init's own that failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot tie this init's end to its parent's")]
    ParentDeath(#[source] SysError),
    #[error("cannot register as child subreaper")]
    Subreaper(#[source] SysError),
    #[error("cannot {0}")]
    Signals(&'static str, #[source] SysError),
    #[error("cannot start a process")]
    Fork(#[source] SysError),
    #[error("cannot pass a signal on")]
    Forward(#[source] SysError),
    #[error("cannot wait for children")]
    Reap(#[source] SysError),
}

impl Explain for Failure {
    fn exit_code(&self) -> u8 {
        125
    }
}

fn run(options: &Options, command: &[OsString], report: &Report<'_>) -> Result<u8, Failure> {
    let signals = child::Signals::take()?;
    if let Some(signal) = options.parent_death_signal {
        prctl::set_pdeathsig(signal)
            .call("prctl", || format!("PR_SET_PDEATHSIG, {signal}"))
            .map_err(Failure::ParentDeath)?;
    }
    if options.subreaper {
        prctl::set_child_subreaper(true)
            .call("prctl", || "PR_SET_CHILD_SUBREAPER, 1".into())
            .map_err(Failure::Subreaper)?;
        report.say(Level::Trace, || "Registered as child subreaper".into());
    }
    if !gets_orphans() {
        report.not_the_reaper();
    }
    let words: Vec<CString> = command.iter().filter_map(word_of).collect();
    let main = child::start(&words, &signals, report)?;
    report.say(Level::Info, || {
        format!("Spawned child process '{}' with pid '{main}'", shown(command))
    });
    let duty = Duty {
        main,
        to_group: options.kill_process_group,
        strict: report.is_tini(),
        stop: options.wait.map(|timeout| reap::Stop { signal: libc::SIGTERM, timeout }),
    };
    let mut tell = |event| report.event(event, options.warn_on_reap);
    let code = reap::run(&duty, &mut tell).map_err(|error| match error.call() {
        "kill" => Failure::Forward(error),
        _ => Failure::Reap(error),
    })?;
    report.say(Level::Trace, || "Exiting: child has exited".into());
    Ok(if options.remapped.contains(&code) { 0 } else { code })
}

/// Whether processes whose parent has ended become this one's children.
fn gets_orphans() -> bool {
    std::process::id() == 1 || prctl::get_child_subreaper().is_ok_and(|set| set)
}

/// A word of the command line has no NUL in it: the kernel ends it there.
fn word_of(word: &OsString) -> Option<CString> {
    CString::new(word.clone().into_vec()).ok()
}

fn shown(command: &[OsString]) -> String {
    command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

fn base_name(name: &OsStr) -> &OsStr {
    Path::new(name).file_name().unwrap_or(name)
}
