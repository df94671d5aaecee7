//! What a container in the background has written.

use clap::Args;

use crate::lifecycle::LogOptions;

/// `logs`, as typed.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines; all of them with `all` or a negative number
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", hide_default_value = true,
          allow_negative_numbers = true, value_parser = tail)]
    tail: Tail,
    /// Id, name, or unique start of an id
    pub container: String,
}

/// `None` is all.
type Tail = Option<u64>;

impl LogsArgs {
    /// What was typed, as it is meant.
    pub fn options(&self) -> LogOptions {
        LogOptions { follow: self.follow, tail: self.tail }
    }
}

fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err("want a number of lines, or all".into()),
    }
}
