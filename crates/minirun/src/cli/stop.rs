//! Asking containers to end, and waiting for it.

use std::time::Duration;

use clap::Args;

/// `stop`, as typed.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until a container is killed; -1 for never [default: the container's, else 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS",
          allow_negative_numbers = true, value_parser = seconds)]
    pub time: Option<Duration>,
    /// All that run
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Ids, names, or unique starts of ids
    #[arg(required_unless_present = "all", value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Docker's and podman's way to say it: -1 is no limit, which is [`Duration::MAX`].
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    if text == "-1" {
        return Ok(Duration::MAX);
    }
    let seconds = text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let seconds = seconds.ok_or("want seconds, or -1 for no limit")?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_seconds() {
        assert_eq!(seconds("-1"), Ok(Duration::MAX));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for bad in ["", "-2", "+1", "1s", "1.5", "4294967296"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }
}
