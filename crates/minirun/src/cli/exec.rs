//! One more command in a container.

use clap::Args;

use super::environment::EnvArgs;
/// `exec`, as typed.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The variables to set.
    #[command(flatten)]
    pub env: EnvArgs,
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
