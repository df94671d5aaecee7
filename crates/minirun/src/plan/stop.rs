//! How a container is asked to stop, checked. A runtime spec has no field for it, so it stands in
//! the annotations.

use std::time::Duration;

use ctsys::signal;
use nix::libc;

use super::{PlanError, Result, invalid};
use crate::config::annotations::{STOP_SIGNAL, STOP_TIMEOUT};

/// How a container stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// What asks the main command to end; SIGTERM unless the image or an option says otherwise.
    pub signal: i32,
    /// How long the container may take from then on, before what is left of it is killed.
    /// [`Duration::MAX`] is for ever.
    pub timeout: Duration,
}

impl Stop {
    /// docker's and podman's.
    pub const DEFAULT: Self = Self { signal: libc::SIGTERM, timeout: Duration::from_secs(10) };

    /// By the annotations of a configuration or a container's state; `get` looks one up.
    ///
    /// The signal is a name or number; the time is in whole seconds, -1 for ever, as docker's
    /// `--stop-timeout`.
    pub fn new<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self> {
        Ok(Self {
            signal: get(STOP_SIGNAL).map_or(Ok(Self::DEFAULT.signal), parse_signal)?,
            timeout: get(STOP_TIMEOUT).map_or(Ok(Self::DEFAULT.timeout), parse_timeout)?,
        })
    }
}

fn parse_signal(text: &str) -> Result<i32> {
    signal::parse(text).ok_or_else(|| invalid("stop signal", text, "a name like TERM, or 1 to 64"))
}

fn parse_timeout(text: &str) -> Result<Duration> {
    if text == "-1" {
        return Ok(Duration::MAX);
    }
    // No sign but that: `+5` is a mistake somewhere.
    let seconds = text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or_else(|| refused(text))
}

fn refused(text: &str) -> PlanError {
    invalid("stop timeout", text, "seconds, or -1 for ever")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(signal: Option<&'static str>, timeout: Option<&'static str>) -> Result<Stop> {
        Stop::new(|key| match key {
            STOP_SIGNAL => signal,
            STOP_TIMEOUT => timeout,
            _ => None,
        })
    }

    #[test]
    fn signals_and_times_are_understood() {
        let seconds = Duration::from_secs;
        assert_eq!(stop(None, None), Ok(Stop { signal: 15, timeout: seconds(10) }));
        let (signal, timeout) = (3, seconds(0));
        assert_eq!(stop(Some("SIGQUIT"), Some("0")), Ok(Stop { signal, timeout }));
        let (signal, timeout) = (37, Duration::MAX);
        assert_eq!(stop(Some("RTMIN+3"), Some("-1")), Ok(Stop { signal, timeout }));
    }

    #[test]
    fn others_are_refused() {
        for timeout in ["", "-2", "+5", "1.5", "10s", "4294967296"] {
            assert_eq!(stop(None, Some(timeout)), Err(refused(timeout)));
        }
        let error = stop(Some("SIGSTOPP"), None).unwrap_err().to_string();
        let want = "config has an invalid stop signal: got \"SIGSTOPP\", want a name like TERM, or 1 to 64";
        assert_eq!(error, want);
    }
}
