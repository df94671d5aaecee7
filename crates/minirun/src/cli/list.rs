//! Which containers there are.

use clap::{Args, ValueEnum};

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
    /// Only those with this label, name, id or status: label=KEY[=VALUE], name=PART, status=running
    #[arg(long, value_name = "KIND=WORD")]
    pub filter: Vec<String>,
    /// Accepted for habit's sake: stopped ones are always shown
    #[arg(short, long)]
    all: bool,
}

/// How containers are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}
