//! The developer's form: what to run, and how.

use std::path::{Path, PathBuf};

use clap::Args;

use super::environment::EnvArgs;
use super::ids::IdArgs;
use super::life::LifeArgs;
use super::limits::LimitArgs;
use super::mounts::MountArgs;
use super::network::{NET_VARIABLE, NetworkArgs};
use super::rights::RightsArgs;
use super::security::SecurityArgs;
use crate::config::overrides::Overrides;
use crate::prepare::{Error, Result, RunOptions, Target};

/// HOST_NAME_MAX of Linux (uname(2)).
const MAX_HOSTNAME_BYTES: usize = 64;

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
    #[command(flatten)]
    env: EnvArgs,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[command(flatten)]
    mounts: MountArgs,
    #[command(flatten)]
    rights: RightsArgs,
    #[command(flatten)]
    ids: IdArgs,
    #[command(flatten)]
    network: NetworkArgs,
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
    #[command(flatten)]
    life: LifeArgs,
    /// Print the config.json that would run, and neither run nor write anything
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    security: SecurityArgs,
    /// Command in place of the image's entrypoint and default arguments; empty for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Command and arguments [default: the image's]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
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
        let life = self.life.into_life()?;
        let overrides = Overrides {
            command: self.command,
            entrypoint: self.entrypoint,
            env: self.env.read(&lookup)?,
            workdir: self.workdir.map(workdir).transpose()?.map(PathBuf::from),
            user: self.user.map(|text| text.parse()).transpose().map_err(Error::User)?,
            mounts: self.mounts.changes(dir).map_err(Error::Value)?,
            rights: self.rights.changes()?,
            hostname: self.hostname.map(hostname).transpose()?,
            security: self.security.into_security(dir)?,
            read_only: self.mounts.read_only,
            ephemeral: self.mounts.ephemeral().map_err(Error::Value)?,
            limits: self.limits.limits().map_err(Error::Limit)?,
            annotations: life.annotations,
        };
        Ok(RunOptions {
            target,
            name: self.name,
            detach: self.detach,
            remove: life.remove,
            log_bytes: life.log_bytes,
            dry_run: self.dry_run,
            terminal: self.tty,
            network: self.network.into_options(dir),
            default_net: lookup(NET_VARIABLE),
            ids: self.ids.choice().map_err(Error::Value)?,
            overrides,
        })
    }
}

fn workdir(text: String) -> Result<String> {
    if text.starts_with('/') { Ok(text) } else { Err(Error::Workdir(text)) }
}

fn hostname(text: String) -> Result<String> {
    let fits = (1..=MAX_HOSTNAME_BYTES).contains(&text.len());
    if fits { Ok(text) } else { Err(Error::Hostname(text)) }
}
