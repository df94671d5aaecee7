//! `Retry-After`: how long a registry wants to be left alone. Pure.
//!
//! RFC 9110, section 10.2.3, has seconds and dates. Registries send more: GHCR writes Go's durations
//! (`880.092µs`), Docker Hub the second of the epoch at which its limit is lifted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest value that is looked at, in bytes: a date has 29.
const MAX_VALUE_BYTES: usize = 64;
/// Seconds from which a number is a moment (of the year 2001 or later) and no length of time.
const FIRST_MOMENT_SECONDS: u64 = 1_000_000_000;
/// Larger numbers are this one: thirty million years, which a clock can still count.
const LAST_SECONDS: f64 = 1e15;
/// Longer waits than a year are told as a year.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The units of Go's `time.Duration`, in seconds. µ has two code points and, in ISO 8859-1, one
/// byte.
const UNITS: [(&[u8], f64); 9] = [
    (b"ns", 1e-9),
    (b"us", 1e-6),
    ("\u{b5}s".as_bytes(), 1e-6),
    ("\u{3bc}s".as_bytes(), 1e-6),
    (b"\xb5s", 1e-6),
    (b"ms", 1e-3),
    (b"s", 1.0),
    (b"m", 60.0),
    (b"h", 3600.0),
];

/// The time from `now` to when the registry may be asked again; `None` for what cannot be read.
pub(crate) fn parse(value: &[u8], now: SystemTime) -> Option<Duration> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > MAX_VALUE_BYTES {
        return None;
    }
    let wait = seconds(value, now).or_else(|| duration(value)).or_else(|| date(value, now))?;
    Some(wait.min(MAX_WAIT))
}

fn seconds(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds = Duration::try_from_secs_f64(text.parse::<f64>().ok()?.min(LAST_SECONDS)).ok()?;
    if seconds.as_secs() < FIRST_MOMENT_SECONDS {
        return Some(seconds);
    }
    Some(since(UNIX_EPOCH.checked_add(seconds)?, now))
}

fn date(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?;
    httpdate::parse_http_date(text).ok().map(|moment| since(moment, now))
}

/// A moment that is over is no time at all.
fn since(moment: SystemTime, now: SystemTime) -> Duration {
    moment.duration_since(now).unwrap_or_default()
}

/// `1m30.5s`
fn duration(mut rest: &[u8]) -> Option<Duration> {
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let is_number = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let (number, after) = rest.split_at(rest.iter().take_while(|b| is_number(b)).count());
        let number: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
        let end = after.iter().position(is_number).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number * length;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn every_form_that_registries_send() {
        // Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example.
        let now = at(784_111_777 - 90);
        for (value, want) in [
            ("120", Duration::from_secs(120)),
            (" 0 ", Duration::ZERO),
            ("1.5", Duration::from_millis(1500)),
            ("880.092µs", Duration::from_nanos(880_092)),
            ("880.092\u{3bc}s", Duration::from_nanos(880_092)),
            ("44.5ms", Duration::from_micros(44_500)),
            ("1m30.5s", Duration::from_millis(90_500)),
            ("1h0m0s", Duration::from_secs(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Duration::from_secs(90)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Duration::from_secs(90)),
            ("Sun Nov  6 08:49:37 1994", Duration::from_secs(90)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Duration::ZERO),
            ("99999999999999999999", MAX_WAIT),
            ("999999999", MAX_WAIT),
        ] {
            assert_eq!(parse(value.as_bytes(), now), Some(want), "{value}");
        }
        assert_eq!(parse(b"12\xb5s", now), Some(Duration::from_micros(12)));
        let epoch = parse(b"1700000060", at(1_700_000_000));
        assert_eq!(epoch, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        for value in [
            "", " ", "-1", "soon", "1 minute", "1m-1s", "NaN", "inf", "1e9s", "s", ".", "5x",
            "1.2.3",
        ] {
            assert_eq!(parse(value.as_bytes(), at(0)), None, "{value:?}");
        }
        assert_eq!(parse(&[b'1'; 65], at(0)), None);
        assert_eq!(parse(b"\xff\xfe", at(0)), None);
    }
}
