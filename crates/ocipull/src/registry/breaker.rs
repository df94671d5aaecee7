//! Whether a host is still asked: one that keeps failing is passed over, and tried again now and
//! then. Pure: the time comes from the caller.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many failures in a row, each after its own retries, and a host counts as down even where no
/// other one could answer in its place.
const DOWN_AFTER: u32 = 3;
/// How long a host that is down is left alone before one request tries it again. Shorter, and a
/// dead host costs its connection timeout all the time; longer, and one that restarted is missed.
pub(crate) const COOL_DOWN: Duration = Duration::from_secs(30);

/// The state of one host.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    passed_over: Option<PassedOver>,
}

#[derive(Debug)]
struct PassedOver {
    /// `None`: for the rest of the run.
    until: Option<Instant>,
    reason: String,
}

impl Breaker {
    /// Why the host is not to be asked now; `None` when it is. After the cool-down one caller is
    /// let through, and the others only once that one succeeded.
    pub(crate) fn closed_to(&self, now: Instant) -> Option<String> {
        let mut state = self.lock();
        let passed_over = state.passed_over.as_mut()?;
        match passed_over.until {
            Some(until) if until <= now => {
                passed_over.until = Some(now + COOL_DOWN);
                None
            }
            _ => Some(passed_over.reason.clone()),
        }
    }

    /// Whether the host would be asked now.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        match &self.lock().passed_over {
            None => true,
            Some(passed_over) => passed_over.until.is_some_and(|until| until <= now),
        }
    }

    /// The host answered as it should.
    pub(crate) fn succeeded(&self) {
        *self.lock() = State::default();
    }

    /// The host failed in a way that another request would meet as well.
    pub(crate) fn failed(&self, now: Instant, reason: &str) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= DOWN_AFTER && state.passed_over.is_none() {
            let (until, reason) = (Some(now + COOL_DOWN), reason.to_owned());
            state.passed_over = Some(PassedOver { until, reason });
        }
    }

    /// Another host answered where this one did not: that one is asked for so long, `None` when
    /// nothing but another configuration or image would change it. Tells whether that is news.
    pub(crate) fn pass_over(&self, now: Instant, reason: &str, rest: Option<Duration>) -> bool {
        let mut state = self.lock();
        let is_news = state.passed_over.is_none();
        let until = rest.and_then(|rest| now.checked_add(rest));
        state.passed_over = Some(PassedOver { until, reason: reason.to_owned() });
        is_news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_keeps_failing_is_left_alone_and_probed() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 1..DOWN_AFTER {
            breaker.failed(now, "down");
            assert_eq!(breaker.closed_to(now), None);
        }
        breaker.failed(now, "down");
        assert_eq!(breaker.closed_to(now).as_deref(), Some("down"));
        assert!(!breaker.is_open(now) && breaker.is_open(now + COOL_DOWN), "a look is no probe");
        let later = now + COOL_DOWN;
        assert_eq!(breaker.closed_to(later), None, "one probe");
        assert!(breaker.closed_to(later).is_some(), "and one only");
        breaker.failed(later, "still down");
        assert!(breaker.closed_to(later).is_some());
        assert_eq!(breaker.closed_to(later + COOL_DOWN), None);
        breaker.succeeded();
        assert_eq!(breaker.closed_to(later + COOL_DOWN), None);
        breaker.failed(later, "once");
        assert_eq!(breaker.closed_to(later), None, "the count starts anew");
    }

    #[test]
    fn one_that_lacks_the_image_is_not_asked_again() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        assert!(breaker.pass_over(now, "404", None));
        assert!(!breaker.pass_over(now, "404", None), "told once");
        assert!(breaker.closed_to(now + 100 * COOL_DOWN).is_some());
    }
}
