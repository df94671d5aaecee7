//! Whether a body comes fast enough to end some day. Pure.
//!
//! A server that sends a byte now and then never lets a read time out, and would hold a pull for
//! ever. Only the time spent waiting for the server counts, not that in which nobody reads.

use std::time::Duration;

use super::error::Cause;

/// Slower than this, in bytes a second, an image will not arrive: a tenth of a modem's speed.
const MIN_BYTES_PER_SECOND: u64 = 512;

/// Counts what came in the current stretch of waiting.
#[derive(Debug)]
pub(crate) struct Pace {
    stretch: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Judges by stretches of this length.
    pub(crate) fn new(stretch: Duration) -> Self {
        Self { stretch, waited: Duration::ZERO, bytes: 0 }
    }

    /// So many bytes came after so long a wait.
    pub(crate) fn note(&mut self, bytes: u64, waited: Duration) -> Result<(), Cause> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.stretch {
            return Ok(());
        }
        let want = MIN_BYTES_PER_SECOND.saturating_mul(self.waited.as_secs().max(1));
        let after = std::mem::take(&mut self.waited);
        if std::mem::take(&mut self.bytes) < want {
            return Err(Cause::Slow { want, after });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_found_and_a_slow_line_is_not() {
        let second = Duration::from_secs(1);
        let mut slow = Pace::new(10 * second);
        assert_eq!((0..9).find(|_| slow.note(1, second).is_err()), None);
        let trickle = slow.note(1, second).unwrap_err();
        assert_eq!(trickle, Cause::Slow { want: 5120, after: 10 * second });
        let mut modem = Pace::new(10 * second);
        assert_eq!((0..1000).find(|_| modem.note(600, second).is_err()), None);
    }

    #[test]
    fn a_late_start_is_forgiven_where_much_follows() {
        let mut pace = Pace::new(Duration::from_secs(10));
        pace.note(0, Duration::from_secs(9)).unwrap();
        pace.note(1 << 20, Duration::from_secs(2)).unwrap();
    }
}
