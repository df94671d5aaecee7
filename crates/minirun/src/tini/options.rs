//! The init's options: tini's, and one more of minirun's own. Pure.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use ctsys::report::Explain;
use nix::sys::signal::Signal;

use crate::plan::Stop;

/// How the init is to behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// `-s`: be the parent of orphans also where this is not PID 1.
    pub(super) subreaper: bool,
    /// `-p`: what this process gets at its parent's end.
    pub(super) parent_death_signal: Option<Signal>,
    /// `-v`: 0 says nothing but what is fatal, 1 warns, 4 says all.
    pub(super) verbosity: u32,
    /// `-w`: warn of every orphan that is reaped.
    pub(super) warn_on_reap: bool,
    /// `-g`: signals go to the child's process group.
    pub(super) kill_process_group: bool,
    /// `-e`: exit codes that become 0.
    pub(super) remapped: Vec<u8>,
    /// `--wait`: how long the rest may take once it was asked to stop; tini has no such option.
    pub(super) wait: Option<Duration>,
}

impl Options {
    const NONE: Self = Self {
        subreaper: false,
        parent_death_signal: None,
        verbosity: 1,
        warn_on_reap: false,
        kill_process_group: false,
        remapped: Vec::new(),
        wait: None,
    };
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Command and arguments; not empty.
    Run(Vec<OsString>),
    Help,
    Version,
    License,
}

/// Why a command line makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    #[error("init: unknown option -{}", char::from(*.0))]
    Unknown(u8),
    #[error("init: unknown option {0}")]
    UnknownLong(String),
    #[error("init: option -{} needs an argument", char::from(*.0))]
    NoArgument(u8),
    #[error("init: -p: got {0:?}, want a signal's name like SIGTERM, or 1 to 31")]
    Signal(String),
    #[error("init: -e: got {0:?}, want an exit code, 0 to 255")]
    Code(String),
    #[error("init: --wait: got {0:?}, want seconds, or -1 for ever")]
    Seconds(String),
    #[error("init: no command to run")]
    NoCommand,
}

impl Explain for Misuse {
    fn hint(&self) -> Option<String> {
        Some("see minirun init --help".into())
    }

    fn exit_code(&self) -> u8 {
        125
    }
}

type Result<T> = std::result::Result<T, Misuse>;

/// As tini takes its command line. Options may stand behind the command unless `--` stands before:
/// glibc's getopt(3) is Debian's tini's, with its POSIXLY_CORRECT.
pub(super) fn parse_tini(
    args: &[OsString],
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<(Options, Asked)> {
    if matches!(args, [only] if only == "--version") {
        return Ok((Options::NONE, Asked::Version));
    }
    let signal = |text: &str| {
        let known = TINI_SIGNALS.iter().find(|signal| signal.as_str() == text);
        known.copied().ok_or_else(|| Misuse::Signal(text.into()))
    };
    let rest = args.iter().cloned().collect();
    let permutes = lookup("POSIXLY_CORRECT").is_none();
    Parser { rest, permutes, has_long: false, signal: &signal, options: Options::NONE }.run(lookup)
}

/// As `minirun init` takes it: what is no option, or follows `--`, is the command.
pub(super) fn parse_own(
    args: &[OsString],
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<(Options, Asked)> {
    let signal = |text: &str| {
        let number = ctsys::signal::parse(text);
        let known = number.and_then(|number| Signal::try_from(number).ok());
        known.ok_or_else(|| Misuse::Signal(text.into()))
    };
    let rest = args.iter().cloned().collect();
    Parser { rest, permutes: false, has_long: true, signal: &signal, options: Options::NONE }
        .run(lookup)
}

/// Those that tini knows the name of.
const TINI_SIGNALS: [Signal; 28] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGKILL,
    Signal::SIGUSR1,
    Signal::SIGSEGV,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGSTOP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGURG,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGSYS,
];

struct Parser<'a> {
    rest: VecDeque<OsString>,
    permutes: bool,
    has_long: bool,
    signal: &'a dyn Fn(&str) -> Result<Signal>,
    options: Options,
}

impl Parser<'_> {
    /// One word after the other: what comes first counts, be it a mistake or `-h`.
    fn run(mut self, lookup: impl Fn(&str) -> Option<OsString>) -> Result<(Options, Asked)> {
        let mut command = Vec::new();
        while let Some(word) = self.rest.pop_front() {
            match word.as_bytes() {
                b"--" => break,
                [b'-', b'-', ..] if self.has_long => {
                    if let Some(asked) = self.long(&word.to_string_lossy())? {
                        return Ok((self.options, asked));
                    }
                }
                [b'-', cluster @ ..] if !cluster.is_empty() => {
                    if let Some(asked) = self.cluster(cluster)? {
                        return Ok((self.options, asked));
                    }
                }
                _ => {
                    command.push(word);
                    if !self.permutes {
                        break;
                    }
                }
            }
        }
        command.extend(self.rest);
        if command.is_empty() {
            return Err(Misuse::NoCommand);
        }
        self.options.take_environment(lookup);
        Ok((self.options, Asked::Run(command)))
    }

    /// The letters of one word.
    fn cluster(&mut self, mut letters: &[u8]) -> Result<Option<Asked>> {
        while let [letter, behind @ ..] = letters {
            letters = behind;
            match letter {
                b's' => self.options.subreaper = true,
                b'v' => self.options.verbosity = self.options.verbosity.saturating_add(1),
                b'w' => self.options.warn_on_reap = true,
                b'g' => self.options.kill_process_group = true,
                b'h' => return Ok(Some(Asked::Help)),
                b'l' => return Ok(Some(Asked::License)),
                b'p' | b'e' => {
                    let value = self.value(*letter, behind)?;
                    self.take_value(*letter, &value)?;
                    return Ok(None);
                }
                other => return Err(Misuse::Unknown(*other)),
            }
        }
        Ok(None)
    }

    /// What stands behind the letter, else the next word, whatever that is.
    fn value(&mut self, letter: u8, behind: &[u8]) -> Result<String> {
        if !behind.is_empty() {
            return Ok(String::from_utf8_lossy(behind).into_owned());
        }
        let next = self.rest.pop_front().ok_or(Misuse::NoArgument(letter))?;
        Ok(next.to_string_lossy().into_owned())
    }

    fn take_value(&mut self, letter: u8, value: &str) -> Result<()> {
        if letter == b'p' {
            self.options.parent_death_signal = Some((self.signal)(value)?);
        } else {
            self.options.remapped.push(exit_code(value)?);
        }
        Ok(())
    }

    fn long(&mut self, word: &str) -> Result<Option<Asked>> {
        match word {
            "--help" => return Ok(Some(Asked::Help)),
            "--version" => return Ok(Some(Asked::Version)),
            "--wait" => self.options.wait_for(Stop::DEFAULT.timeout),
            _ => match word.strip_prefix("--wait=") {
                Some("-1") => self.options.wait_for(Duration::MAX),
                Some(text) => {
                    let seconds: u32 = text.parse().map_err(|_| Misuse::Seconds(text.into()))?;
                    self.options.wait_for(Duration::from_secs(seconds.into()));
                }
                None => return Err(Misuse::UnknownLong(word.into())),
            },
        }
        Ok(None)
    }
}

impl Options {
    /// The rest can only be waited for by its parent.
    fn wait_for(&mut self, timeout: Duration) {
        self.wait = Some(timeout);
        self.subreaper = true;
    }

    /// tini's variables, which count more than the options.
    fn take_environment(&mut self, lookup: impl Fn(&str) -> Option<OsString>) {
        self.subreaper |= lookup("TINI_SUBREAPER").is_some();
        self.kill_process_group |= lookup("TINI_KILL_PROCESS_GROUP").is_some();
        if let Some(text) = lookup("TINI_VERBOSITY") {
            let (number, _) = leading_number(&text.to_string_lossy());
            // An int that is made unsigned: -1 says all.
            self.verbosity = u32::try_from(number & 0xffff_ffff).unwrap_or(u32::MAX);
        }
    }
}

/// As tini has it, by strtol(3): blanks, a sign and nothing at all are taken too.
fn exit_code(text: &str) -> Result<u8> {
    let (number, used) = leading_number(text);
    let number = u8::try_from(number).ok().filter(|_| used == text.len());
    number.ok_or_else(|| Misuse::Code(text.into()))
}

/// strtol(3) to the base of ten: the number that a text begins with, and how many bytes that took;
/// (0, 0) where it begins with none.
fn leading_number(text: &str) -> (i64, usize) {
    let is_blank = |c: char| matches!(c, ' ' | '\t'..='\r');
    let unsigned = text.trim_start_matches(is_blank);
    let blanks = text.len() - unsigned.len();
    let sign = usize::from(unsigned.starts_with(['+', '-']));
    let digits: String = unsigned.chars().skip(sign).take_while(char::is_ascii_digit).collect();
    if digits.is_empty() {
        return (0, 0);
    }
    let magnitude = digits.parse().unwrap_or(i64::MAX);
    let number = if unsigned.starts_with('-') { -magnitude } else { magnitude };
    (number, blanks + sign + digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn own(text: &str) -> Result<(Options, Asked)> {
        parse_own(&words(text), |_| None)
    }

    #[test]
    fn the_first_word_that_is_no_option_is_the_command() {
        let (options, asked) = own("-sg -e 3 -e4 cmd -v -- -x").unwrap();
        assert_eq!(asked, Asked::Run(words("cmd -v -- -x")));
        let want = Options {
            subreaper: true,
            kill_process_group: true,
            remapped: vec![3, 4],
            ..Options::NONE
        };
        assert_eq!(options, want);
        assert_eq!(own("-- -x").unwrap().1, Asked::Run(words("-x")));
    }

    #[test]
    fn by_the_name_of_tini_options_are_looked_for_behind_it_too() {
        let parse = |text, posix: bool| {
            parse_tini(&words(text), |name| {
                (posix && name == "POSIXLY_CORRECT").then(OsString::new)
            })
        };
        let (options, asked) = parse("cmd a -s b -- -x", false).unwrap();
        assert_eq!((options.subreaper, asked), (true, Asked::Run(words("cmd a b -x"))));
        let (options, asked) = parse("cmd a -s -- -x", true).unwrap();
        assert_eq!((options.subreaper, asked), (false, Asked::Run(words("cmd a -s -- -x"))));
    }

    #[test]
    fn waiting_has_a_limit_and_needs_the_orphans() {
        for (text, want) in [
            ("--wait true", Duration::from_secs(10)),
            ("--wait=0 true", Duration::ZERO),
            ("--wait=-1 true", Duration::MAX),
        ] {
            let (options, _) = own(text).unwrap();
            assert_eq!((options.wait, options.subreaper), (Some(want), true), "{text}");
        }
        assert_eq!(own("--wait=x true"), Err(Misuse::Seconds("x".into())));
        assert_eq!(own("--weight true"), Err(Misuse::UnknownLong("--weight".into())));
    }

    #[test]
    fn numbers_are_read_as_by_strtol() {
        for (text, want) in [("", (0, 0)), (" +5", (5, 3)), ("-7x", (-7, 2)), ("- 1", (0, 0))] {
            assert_eq!(leading_number(text), want, "{text:?}");
        }
        assert_eq!(leading_number("99999999999999999999").0, i64::MAX);
    }

    #[test]
    fn the_environment_counts_more_than_the_options() {
        for (text, want) in [("3", 3), ("x", 0), ("-1", u32::MAX), ("2.5", 2)] {
            let lookup = |name: &str| (name == "TINI_VERBOSITY").then(|| OsString::from(text));
            let (options, _) = parse_tini(&words("-vv true"), lookup).unwrap();
            assert_eq!(options.verbosity, want, "{text}");
        }
    }
}
