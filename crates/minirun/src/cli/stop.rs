//! Asking containers to end, and waiting for it.

use std::time::Duration;

use clap::Args;

use crate::config::annotations;

/// `stop`, as typed.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until a container is killed; -1 for never [default: the container's, else 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS",
          allow_negative_numbers = true, value_parser = seconds)]
    pub time: Option<Seconds>,
    /// All that run
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Ids, names, or unique starts of ids
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// How long to wait; without limit where it is `None`.
type Seconds = Option<Duration>;

fn seconds(text: &str) -> Result<Seconds, String> {
    let number = text.parse().ok().and_then(annotations::parse_timeout);
    number.ok_or_else(|| "want seconds, or -1 for no limit".into())
}
