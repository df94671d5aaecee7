//! What can be typed, and what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod environment;
mod exec;
mod ids;
mod limits;
mod mounts;
mod network;
mod rights;
mod run;

pub use exec::ExecArgs;
pub use run::RunArgs;

const AFTER_HELP: &str = "\
A command's name wins over a root filesystem of that name: ./list is the directory.

Exit codes:
  N      the command's own
  125    minirun failed or was used wrongly
  126    the command cannot be executed
  127    the command was not found
  128+N  the command died by signal N
spec, list, state, kill and delete end with 0, or 1 on failure.";

/// Run a command in a rootless container, from a root filesystem or an OCI bundle.
#[derive(Debug, Parser)]
#[command(
    name = "minirun",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "minirun [--rootless] [OPTIONS] [ROOTFS | --bundle DIR] [-- COMMAND...]\n       \
                      minirun <spec|list|state|kill|delete|exec> ...",
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

/// The subcommands, which take runc's arguments.
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
    /// Reserved for the init as a program of its own
    #[command(hide = true)]
    Init {
        /// Whatever it will take.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
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

/// `list`, as typed.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub format: ListFormat,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// How containers are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests;
