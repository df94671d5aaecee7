//! What can be typed, and what it means.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::overrides::{Net, Overrides};
use crate::config::volume::Volume;
use crate::prepare::{Error, Result, RunOptions, Target};

/// HOST_NAME_MAX of Linux (uname(2)).
const MAX_HOSTNAME_BYTES: usize = 64;

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

/// The developer's form, as typed.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Root filesystem to run; without one, the current directory is the bundle
    #[arg(value_name = "ROOTFS", conflicts_with = "bundle")]
    rootfs: Option<PathBuf>,
    /// Bundle to run: a directory with rootfs/, and config.json where somebody wrote one
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Run without privileges, in a user namespace; containers always do
    #[arg(long)]
    rootless: bool,
    /// Name of the container [default: the bundle's directory, else a drawn one]
    #[arg(long)]
    name: Option<String>,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable; without a value, to the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Show a file or directory of the host inside the container
    #[arg(short, long, value_name = "SRC:DST[:ro|rw]")]
    volume: Vec<String>,
    /// Network: one of its own with loopback only, or the host's [default: the config's, else none]
    #[arg(long, visible_alias = "network", value_enum)]
    net: Option<NetArg>,
    /// Host name inside the container [default: the name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Give the command a terminal [default: if there is one]
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    tty: Option<bool>,
    /// Accepted for habit's sake: standard input is always connected
    #[arg(short, long)]
    interactive: bool,
    /// Accepted for habit's sake: a container in the foreground leaves nothing behind
    #[arg(long, conflicts_with = "detach")]
    rm: bool,
    /// Do not let the root filesystem be written
    #[arg(long)]
    read_only: bool,
    /// Command in place of the image's entrypoint and default arguments; empty for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Command and arguments [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which network, as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetArg {
    None,
    Host,
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

/// `exec`, as typed.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Set an environment variable; without a value, to the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, visible_alias = "cwd", value_name = "DIR")]
    pub workdir: Option<String>,
    /// User to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the command a terminal [default: if there is one]
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub tty: Option<bool>,
    /// Accepted for habit's sake: standard input is always connected
    #[arg(short, long)]
    interactive: bool,
    /// Id, name, or unique start of an id
    pub container: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, required = true)]
    pub command: Vec<String>,
}

impl RunArgs {
    /// What was typed, as it is meant. `dir` is the caller's directory, `lookup` the caller's
    /// environment.
    pub fn into_options(
        self,
        dir: &Path,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<RunOptions> {
        let target = match (self.rootfs, self.bundle) {
            (Some(path), _) => Target::Rootfs(dir.join(path)),
            (None, Some(path)) => Target::Bundle(dir.join(path)),
            (None, None) => Target::Here,
        };
        let volumes = self.volume.iter().map(|text| Volume::parse(text, dir));
        let overrides = Overrides {
            command: self.command,
            entrypoint: self.entrypoint,
            env: environment(&self.env, lookup)?,
            workdir: self.workdir.map(workdir).transpose()?.map(PathBuf::from),
            user: self.user.map(|text| text.parse()).transpose().map_err(Error::User)?,
            volumes: volumes.collect::<std::result::Result<_, _>>().map_err(Error::Volume)?,
            net: self.net.map(|net| match net {
                NetArg::None => Net::None,
                NetArg::Host => Net::Host,
            }),
            hostname: self.hostname.map(hostname).transpose()?,
            read_only: self.read_only,
        };
        Ok(RunOptions {
            target,
            name: self.name,
            detach: self.detach,
            terminal: self.tty,
            overrides,
        })
    }
}

impl ExecArgs {
    /// The variables to set, as `NAME=value`.
    pub fn environment(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
        environment(&self.env, lookup)
    }
}

/// As docker has it: a name alone takes the caller's value, and nothing when there is none.
fn environment(typed: &[String], lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut env = Vec::with_capacity(typed.len());
    for entry in typed {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), lookup(entry)),
        };
        if name.is_empty() {
            return Err(Error::Variable(entry.clone()));
        }
        env.extend(value.map(|value| format!("{name}={value}")));
    }
    Ok(env)
}

fn workdir(text: String) -> Result<String> {
    if text.starts_with('/') { Ok(text) } else { Err(Error::Workdir(text)) }
}

fn hostname(text: String) -> Result<String> {
    let fits = (1..=MAX_HOSTNAME_BYTES).contains(&text.len());
    if fits { Ok(text) } else { Err(Error::Hostname(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(["minirun"].iter().chain(words))
    }

    fn options(words: &[&str]) -> RunOptions {
        let run = parse(words).unwrap().run;
        let lookup = |name: &str| (name == "LANG").then(|| "C".to_owned());
        run.into_options(Path::new("/d"), lookup).unwrap()
    }

    fn error(words: &[&str]) -> Error {
        parse(words).unwrap().run.into_options(Path::new("/d"), |_| None).unwrap_err()
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn targets_are_told_apart() {
        assert_eq!(options(&["--rootless"]).target, Target::Here);
        assert_eq!(options(&["--bundle", "b"]).target, Target::Bundle("/d/b".into()));
        assert_eq!(options(&["r"]).target, Target::Rootfs("/d/r".into()));
        assert_eq!(options(&["./list"]).target, Target::Rootfs("/d/./list".into()));
        assert!(matches!(parse(&["list"]).unwrap().command, Some(Command::List(_))));
        assert!(parse(&["r", "--bundle", "b"]).is_err());
    }

    #[test]
    fn words_after_the_dashes_are_the_command() {
        let here = options(&["--", "list", "-e", "x"]);
        assert_eq!(here.target, Target::Here);
        assert_eq!(here.overrides.command, ["list", "-e", "x"]);
        assert_eq!(options(&["r", "--", "sh"]).overrides.command, ["sh"]);
        assert!(parse(&["r", "sh"]).is_err(), "without dashes it would be a guess");
    }

    #[test]
    fn flags_mean_what_dockers_do() {
        let o = options(&[
            "-d",
            "-e",
            "A=b=c",
            "-e",
            "LANG",
            "-e",
            "NONE",
            "-w",
            "/srv",
            "-u",
            "1:2",
            "--net",
            "host",
            "--hostname",
            "h",
            "-v",
            "./a:/b",
            "--read-only",
            "--name",
            "n",
            "--entrypoint",
            "",
        ]);
        assert!(o.detach && o.overrides.read_only);
        assert_eq!(o.overrides.env, ["A=b=c", "LANG=C"]);
        assert_eq!(o.overrides.workdir.as_deref(), Some(Path::new("/srv")));
        assert_eq!(o.overrides.user.unwrap().to_string(), "1:2");
        assert_eq!(o.overrides.net, Some(Net::Host));
        assert_eq!(o.overrides.volumes[0].source, Path::new("/d/a"));
        assert_eq!(o.overrides.entrypoint.as_deref(), Some(""));
        assert_eq!(options(&["--network", "none"]).overrides.net, Some(Net::None));
    }

    #[test]
    fn a_terminal_is_asked_for_or_refused() {
        assert_eq!(options(&[]).terminal, None);
        for words in [&["-t"][..], &["-it"], &["-ti"], &["--tty", "r"], &["--tty=true"]] {
            assert_eq!(options(words).terminal, Some(true), "{words:?}");
        }
        assert_eq!(options(&["--tty=false"]).terminal, Some(false));
        assert_eq!(options(&["-t=false"]).terminal, Some(false));
    }

    #[test]
    fn bad_values_are_named() {
        assert!(matches!(error(&["-e", "=x"]), Error::Variable(_)));
        assert!(matches!(error(&["-e", ""]), Error::Variable(_)));
        assert!(matches!(error(&["-u", "4294967295"]), Error::User(_)));
        assert!(matches!(error(&["-v", "a:/b"]), Error::Volume(_)));
        assert!(matches!(error(&["-w", "srv"]), Error::Workdir(_)));
        assert!(matches!(error(&["--hostname", ""]), Error::Hostname(_)));
        assert!(parse(&["--net", "bridge"]).is_err());
    }

    #[test]
    fn exec_leaves_the_commands_flags_alone() {
        let Some(Command::Exec(exec)) =
            parse(&["exec", "-u", "1", "pod", "ls", "-t"]).unwrap().command
        else {
            unreachable!("exec was parsed as something else")
        };
        assert_eq!((exec.container.as_str(), exec.command.len()), ("pod", 2));
        assert_eq!(exec.tty, None);
    }
}
