//! The `pfwd` command.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser as _;
use ctsys::report::{self, Usage, escape};
use nix::poll::{PollFd, PollFlags, poll};
use pfwd::cli::Arguments;
use pfwd::notice::{Notice, Notices};
use pfwd::serve::Ended;
use pfwd::{Error, Options, run};

/// How long a line that is said once, at the beginning or the end, waits for standard error.
const PATIENCE_MILLISECONDS: u16 = 1000;

fn main() -> ExitCode {
    let typed = match Arguments::try_parse() {
        Ok(typed) => typed,
        Err(error) if error.use_stderr() => {
            let said = error.render().to_string();
            return report::report("pfwd", &Usage::new("pfwd", &said, 2));
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    let options = match Options::try_from(typed) {
        Ok(options) => options,
        Err(error) => return report::report("pfwd", &error),
    };
    let one_at_a_time = Mutex::new(());
    let notices = Arc::new(Notices::new(move |notice| {
        let _held = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Forwarding { .. } => say(&notice.to_string(), PATIENCE_MILLISECONDS),
            Notice::Missing { .. } => say(&format!("pfwd: {notice}"), PATIENCE_MILLISECONDS),
            _ => say(&format!("pfwd: {notice}"), 0),
        }
    }));
    match run(&options, notices) {
        Ok(ended) => {
            if ended == Ended::Target {
                say(&format!("pfwd: target {} ended", options.target), PATIENCE_MILLISECONDS);
            }
            ExitCode::from(ended.exit_code())
        }
        Err(error) => {
            // Signals are caught by now: a write that waits for ever could be ended by none.
            if matches!(error, Error::Serve(_)) && !takes_a_line(PATIENCE_MILLISECONDS) {
                return ExitCode::from(report::Explain::exit_code(&error));
            }
            report::report("pfwd", &error)
        }
    }
}

/// Says `line` if standard error takes it within so many milliseconds; returns whether it did. A
/// terminal that was stopped by Ctrl-S, or a pipe that nobody reads, must not stop connections. A
/// closed one leaves nobody to tell.
fn say(line: &str, milliseconds: u16) -> bool {
    // One write, so that lines do not mix with those of other programs. It is shorter than PIPE_BUF,
    // which fits whenever a pipe is said to be writable (pipe(7)).
    takes_a_line(milliseconds)
        && std::io::stderr().write_all(format!("{}\n", escape(line)).as_bytes()).is_ok()
}

fn takes_a_line(milliseconds: u16) -> bool {
    let stderr = std::io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, milliseconds).is_ok_and(|ready| ready > 0)
}
