//! The `pfwd` command.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use ctsys::report::{self, Usage, escape};
use pfwd::cli::Arguments;
use pfwd::notice::{Notice, Notices};
use pfwd::serve::Ended;
use pfwd::{Options, run};

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
    let notices = Arc::new(Notices::new(|notice| match notice {
        Notice::Forwarding { .. } => say(&notice.to_string()),
        _ => say(&format!("pfwd: {notice}")),
    }));
    match run(&options, notices) {
        Ok(ended) => {
            if ended == Ended::Target {
                say(&format!("pfwd: target {} ended", options.target));
            }
            ExitCode::from(ended.exit_code())
        }
        Err(error) => report::report("pfwd", &error),
    }
}

/// One write a line, so that lines of several threads do not mix. A closed standard error leaves
/// nobody to tell.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{}\n", escape(line)).as_bytes());
}
