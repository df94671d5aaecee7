//! Which failures are worth another attempt, and after how long.
//!
//! Capped exponential backoff with full jitter: so many clients that failed together do not come
//! back together. What a registry asks for by `Retry-After` is added to it.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use ctsys::Errno;

use super::error::{Cause, RegistryError};
use crate::event::{Event, Observer};
use crate::verify::VerifyError;

/// The backoff before the first retry is at most this long; before each further one twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// No backoff is longer.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A registry that wants to be left alone for longer is not waited for: the user is told until when.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(60);

/// How often a request that failed is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first one. A blob's count starts again with every piece of it that came.
    pub retries: u32,
}

impl Default for RetryPolicy {
    /// Five times: 15 seconds at the most, so that a registry can be restarted meanwhile.
    fn default() -> Self {
        Self { retries: 5 }
    }
}

/// One request's or one blob's attempts.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    failed: u32,
    /// Whether the host was there before.
    answered: bool,
}

/// Asks until there is an answer or a failure that will stay.
pub(crate) async fn insist<T, F>(
    attempts: &mut Attempts,
    observer: &dyn Observer,
    mut ask: impl FnMut() -> F,
) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    loop {
        match ask().await {
            Ok(answer) => {
                attempts.answered = true;
                return Ok(answer);
            }
            Err(error) => attempts.after(error, observer).await?,
        }
    }
}

impl Attempts {
    /// For a host that `answered` something before, or did not.
    pub(crate) fn new(policy: RetryPolicy, answered: bool) -> Self {
        Self { policy, failed: 0, answered }
    }

    /// Waits until the next attempt is due; gives `error` back where there is to be none.
    pub(crate) async fn after(
        &mut self,
        error: RegistryError,
        observer: &dyn Observer,
    ) -> Result<(), RegistryError> {
        let Some(wait) = self.next(&error, fraction()) else { return Err(error) };
        observer.observe(&Event::Retry {
            why: &ctsys::report::chain(&error),
            attempt: self.failed,
            attempts: self.policy.retries,
            wait,
        });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Enough came that what failed before does not count any more.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// The wait before the next attempt, where `fraction` of the longest backoff is drawn.
    fn next(&mut self, error: &RegistryError, fraction: f64) -> Option<Duration> {
        if self.failed >= self.policy.retries || !may_pass(error, self.answered) {
            return None;
        }
        let asked = error.busy_until().map_or(Duration::ZERO, |until| {
            until.duration_since(SystemTime::now()).unwrap_or_default()
        });
        if asked > MAX_ASKED_WAIT {
            return None;
        }
        let wait = asked + longest_backoff(self.failed).mul_f64(fraction);
        self.failed += 1;
        Some(wait)
    }
}

fn longest_backoff(failed: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX)).min(MAX_BACKOFF)
}

/// From 0 to 1, another one each time: the standard library keys its hash maps at random.
fn fraction() -> f64 {
    let random = RandomState::new().hash_one(SystemTime::now());
    random as f64 / u64::MAX as f64
}

/// Whether the same request may fare better later. No answer of 4xx does, but for those that say so.
fn may_pass(error: &RegistryError, answered: bool) -> bool {
    match error {
        RegistryError::Busy { .. } => true,
        RegistryError::Status { status, .. } => {
            matches!(status, 408 | 425 | 500..=599) && !matches!(status, 501 | 505 | 511)
        }
        RegistryError::Broken { cause, .. } => !matches!(cause, Cause::Certificate(_)),
        RegistryError::Unreachable { cause, .. } => match cause {
            Cause::TimedOut { .. } => true,
            Cause::Io(errno) => match Errno::from_raw(*errno) {
                Errno::ECONNRESET | Errno::ECONNABORTED => true,
                // A host that was never there will not be there in a second; one that was may be
                // starting again.
                Errno::ECONNREFUSED => answered,
                _ => false,
            },
            _ => false,
        },
        RegistryError::Content { cause, .. } => matches!(cause, VerifyError::Truncated { .. }),
        RegistryError::Everywhere { second, .. } => may_pass(second, answered),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Phase;

    fn status(status: u16) -> RegistryError {
        RegistryError::Status { method: "GET", url: "u".into(), status, words: None }
    }

    fn busy(seconds: u64) -> RegistryError {
        let until = Some(SystemTime::now() + Duration::from_secs(seconds));
        RegistryError::Busy { method: "GET", url: "u".into(), status: 429, until, words: None }
    }

    fn unreachable(cause: Cause) -> RegistryError {
        RegistryError::Unreachable { host: "h".into(), cause }
    }

    fn broken(cause: Cause) -> RegistryError {
        RegistryError::Broken { method: "GET", url: "u".into(), cause }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        let timeout = || Cause::TimedOut { phase: Phase::Connect, after: Duration::ZERO };
        for error in [
            busy(1),
            status(408),
            status(500),
            status(502),
            status(503),
            status(504),
            status(599),
            broken(timeout()),
            broken(Cause::Io(Errno::ECONNRESET as i32)),
            broken(Cause::Other("the connection was closed early".into())),
            unreachable(timeout()),
            unreachable(Cause::Io(Errno::ECONNRESET as i32)),
        ] {
            assert!(may_pass(&error, false), "{error:?}");
        }
        for error in [
            status(400),
            status(405),
            status(410),
            status(416),
            status(501),
            unreachable(Cause::Io(Errno::ECONNREFUSED as i32)),
            unreachable(Cause::Certificate("expired".into())),
            broken(Cause::Certificate("expired".into())),
            RegistryError::NotFound { method: "GET", url: "u".into(), words: None },
        ] {
            assert!(!may_pass(&error, false), "{error:?}");
        }
    }

    #[test]
    fn a_host_that_was_there_may_be_starting_again() {
        let refused = unreachable(Cause::Io(Errno::ECONNREFUSED as i32));
        assert!(may_pass(&refused, true));
    }

    #[test]
    fn the_backoff_doubles_up_to_its_cap_and_is_drawn_from_all_of_it() {
        let mut attempts = Attempts::new(RetryPolicy { retries: 200 }, false);
        let ms: Vec<u128> =
            (0..8).map(|_| attempts.next(&status(500), 1.0).unwrap().as_millis()).collect();
        assert_eq!(ms, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(attempts.next(&status(500), 0.0), Some(Duration::ZERO));
        for _ in 0..100 {
            assert!(attempts.next(&status(500), 1.0) == Some(MAX_BACKOFF));
            assert!((0.0..=1.0).contains(&fraction()));
        }
        assert_ne!(fraction().to_bits(), fraction().to_bits());
    }

    #[test]
    fn attempts_end_and_begin_again_with_progress() {
        let mut attempts = Attempts::new(RetryPolicy { retries: 2 }, false);
        for _ in 0..2 {
            assert!(attempts.next(&status(500), 0.5).is_some());
            assert!(attempts.next(&status(500), 0.5).is_some());
            assert_eq!(attempts.next(&status(500), 0.5), None);
            attempts.progressed();
        }
        assert_eq!(Attempts::new(RetryPolicy { retries: 0 }, false).next(&status(500), 0.5), None);
    }

    #[test]
    fn what_a_registry_asks_for_is_waited_out_unless_it_is_too_long() {
        let mut attempts = Attempts::new(RetryPolicy::default(), false);
        let wait = attempts.next(&busy(30), 0.0).unwrap();
        assert!(wait > Duration::from_secs(28) && wait <= Duration::from_secs(30), "{wait:?}");
        assert_eq!(attempts.next(&busy(3600), 0.0), None);
    }
}
