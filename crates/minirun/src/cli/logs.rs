//! What a container in the background has written.

use clap::Args;

/// `logs`, as typed.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines; all of them with `all` or a negative number
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", hide_default_value = true,
          allow_negative_numbers = true, value_parser = tail)]
    pub tail: Lines,
    /// Id, name, or unique start of an id
    pub container: String,
}

/// How many lines; `None` is all.
type Lines = Option<u64>;

fn tail(text: &str) -> Result<Lines, String> {
    if text == "all" {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) => Err("want a number of lines, or all".into()),
    }
}
