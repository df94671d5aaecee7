//! Removing containers by docker's name for it.

use clap::Args;

/// `rm`, as typed.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill those that run first, and forgive those that do not exist
    #[arg(short, long)]
    pub force: bool,
    /// All that have stopped; with --force, all
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Ids, names, or unique starts of ids
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    pub containers: Vec<String>,
}
