//! What can be typed, and what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod doctor;
mod environment;
mod exec;
mod ids;
mod life;
mod limits;
mod list;
mod logs;
mod mounts;
mod network;
mod remove;
mod rights;
mod run;
mod security;
mod stop;

pub use doctor::DoctorArgs;
pub use exec::ExecArgs;
pub use list::{ListArgs, ListFormat};
pub use logs::LogsArgs;
pub use remove::RmArgs;
pub use run::RunArgs;
pub use security::SecurityArgs;
pub use stop::StopArgs;

const AFTER_HELP: &str = "\
A command's name wins over a root filesystem of that name: ./list is the directory.

Exit codes:
  N      the command's own
  125    minirun failed or was used wrongly
  126    the command cannot be executed
  127    the command was not found
  128+N  the command died by signal N (docs/EXIT-CODES.md: how to tell one 137 from another)
The other subcommands but exec end with 0, or 1 on failure; doctor with 1 where no container can
run.

The newest 8 MiB that a container in the background writes are kept (--log-opt max-size=SIZE).";

/// Run a command in a rootless container, from a root filesystem or an OCI bundle.
#[derive(Debug, Parser)]
#[command(
    name = "minirun",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "minirun [--rootless] [OPTIONS] [ROOTFS | --bundle DIR] [-- COMMAND...]\n       \
                      minirun <list|logs|exec|top|inspect|stop|wait|rm|init|doctor|spec|state|kill|delete> ...",
    after_help = AFTER_HELP
)]
pub struct Cli {
    /// What to do with containers that exist.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a subcommand: what to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The developer's form alone.
#[derive(Debug, Parser)]
#[command(name = "minirun", disable_help_flag = true)]
struct RunOnly {
    #[command(flatten)]
    run: RunArgs,
}

impl Cli {
    /// What was typed; the first argument is the program's name.
    ///
    /// Starting a container is what has to be quick, so it is tried without building all the
    /// subcommands; whatever that does not understand, help too, is for the whole to say.
    pub fn parse_from_args(args: Vec<OsString>) -> std::result::Result<Self, clap::Error> {
        let options = args.iter().skip(1).take_while(|word| *word != "--");
        let names_a_subcommand =
            options.filter_map(|word| word.to_str()).any(Command::has_subcommand);
        if !names_a_subcommand && let Ok(RunOnly { run }) = RunOnly::try_parse_from(&args) {
            return Ok(Self { command: None, run });
        }
        Self::try_parse_from(args)
    }
}

/// The subcommands, which take the arguments of runc's, else of docker's.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the config.json that runc would
    Spec(SpecArgs),
    /// List containers
    List(ListArgs),
    /// Print a container's state as JSON
    State {
        /// Id, name, or unique start of an id
        container: String,
    },
    /// Send a signal to a container's command
    Kill {
        /// Id, name, or unique start of an id
        container: String,
        /// Name or number
        #[arg(default_value = "TERM")]
        signal: String,
    },
    /// Remove a container that has stopped
    Delete {
        /// Id, name, or unique start of an id
        container: String,
        /// Kill it first if it runs
        #[arg(short, long)]
        force: bool,
    },
    /// Run one more command in a container
    Exec(ExecArgs),
    /// Print what a container in the background has written
    Logs(LogsArgs),
    /// Ask containers to end, wait for it, and kill those that do not
    Stop(StopArgs),
    /// Wait until containers have ended and print their exit codes
    Wait {
        /// Ids, names, or unique starts of ids
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Remove containers that have stopped
    Rm(RmArgs),
    /// Print all that is known of containers as JSON
    Inspect {
        /// Ids, names, or unique starts of ids
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Show a container's processes
    Top {
        /// Id, name, or unique start of an id
        container: String,
    },
    /// Check what containers need of this machine, and say what to do about the rest
    Doctor(DoctorArgs),
    /// Run a command under an init that reaps orphans: for images, see `minirun init --help`
    #[command(disable_help_flag = true)]
    Init {
        /// What its own parser takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION|COMMAND")]
        args: Vec<OsString>,
    },
}

/// `spec`, as typed.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// For a caller without privileges
    #[arg(long)]
    pub rootless: bool,
    /// Bundle to write it in
    #[arg(short, long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    pub bundle: PathBuf,
}

#[cfg(test)]
mod tests;
