//! What a container is marked with, how it is stopped, and what stays of it.

use std::collections::BTreeMap;

use clap::Args;
use ctsys::signal;

use super::stop;
use crate::config::annotations;
use crate::launch::{DEFAULT_LOG_BYTES, MIN_LOG_BYTES};
use crate::prepare::{Error, Result};

/// The options of a container's life, as typed.
#[derive(Debug, Args)]
pub(super) struct LifeArgs {
    /// Leave nothing behind when the container ends, as one in the foreground never does
    #[arg(long)]
    rm: bool,
    /// Mark the container, for `list --filter` and `inspect`
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Signal that asks the command to stop [default: the image's, else TERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds after it until the container is killed; -1 for never [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<String>,
    /// Bound of the log of a container in the background: max-size=SIZE, -1 for none [default: 8m]
    #[arg(long, value_name = "max-size=SIZE")]
    log_opt: Vec<String>,
}

/// What they mean.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) remove: bool,
    pub(super) log_bytes: u64,
    pub(super) annotations: BTreeMap<String, String>,
}

impl LifeArgs {
    pub(super) fn into_life(self) -> Result<Life> {
        let labels = self.label.iter().map(|text| label(text));
        let mut annotations = labels.collect::<Result<BTreeMap<_, _>>>()?;
        if let Some(text) = self.stop_signal {
            signal::parse(&text).ok_or_else(|| Error::Signal(text.clone()))?;
            annotations.insert(annotations::STOP_SIGNAL.into(), text);
        }
        if let Some(text) = self.stop_timeout {
            stop::seconds(&text).map_err(|_| Error::Timeout(text.clone()))?;
            annotations.insert(annotations::STOP_TIMEOUT.into(), text);
        }
        let mut log_bytes = DEFAULT_LOG_BYTES;
        for text in &self.log_opt {
            log_bytes = log_bound(text).ok_or_else(|| Error::LogOption(text.clone()))?;
        }
        Ok(Life { remove: self.rm, log_bytes, annotations })
    }
}

/// As docker has it: without a value, an empty one. Minirun's own marks are not for the taking.
fn label(text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() || key.starts_with(annotations::OWN_PREFIX) {
        return Err(Error::Label(text.into()));
    }
    Ok((key.into(), value.into()))
}

/// Docker's and podman's option. `None` for another, for no size, and for one too small.
fn log_bound(text: &str) -> Option<u64> {
    let size = text.strip_prefix("max-size=")?;
    if size == "-1" {
        return Some(u64::MAX);
    }
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at_checked(digits)?;
    let shift = match unit.to_ascii_lowercase().trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes >= MIN_LOG_BYTES).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_size() {
        for (text, bytes) in [("10m", 10 << 20), ("8k", 8 << 10), ("1GB", 1 << 30), ("9000", 9000)]
        {
            assert_eq!(log_bound(&format!("max-size={text}")), Some(bytes), "{text}");
        }
        assert_eq!(log_bound("max-size=-1"), Some(u64::MAX));
        for bad in ["", "m", "10x", "1k", "-2", "1.5m", "99999999999g", " 10m"] {
            assert_eq!(log_bound(&format!("max-size={bad}")), None, "{bad}");
        }
        assert_eq!(log_bound("max-file=3"), None);
        assert_eq!(log_bound("10m"), None);
    }

    #[test]
    fn labels_are_dockers() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=x").is_err() && label("").is_err() && label("minirun.x=1").is_err());
    }
}
