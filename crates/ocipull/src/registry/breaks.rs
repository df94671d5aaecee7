//! Which hosts break off in the middle of a body. Pure.

use super::error::{Cause, RegistryError};

/// A host that broke off so often, with little in between, is asked after all others.
const MAX_BREAKS: u32 = 2;

/// One body's.
#[derive(Debug, Default)]
pub(crate) struct Breaks(Vec<Break>);

#[derive(Debug)]
struct Break {
    /// Its place among the hosts.
    host: usize,
    times: u32,
    why: String,
}

impl Breaks {
    /// Notes how `host` broke off. Tells whether it had its place before the others until now: then
    /// the body is to be asked for at once, as it is somebody else's turn or soon will be.
    pub(crate) fn note(&mut self, host: usize, error: &RegistryError) -> bool {
        // Waiting once more for one that is silent would take as long again.
        let times = if is_slow(error) { MAX_BREAKS } else { 1 };
        let why = ctsys::report::chain(error);
        match self.0.iter_mut().find(|known| known.host == host) {
            None => self.0.push(Break { host, times, why }),
            Some(known) if known.times >= MAX_BREAKS => return false,
            Some(known) => {
                known.times += times;
                known.why = why;
            }
        }
        true
    }

    /// Why `host` is asked after all others; `None` for one that is asked in its turn.
    pub(crate) fn postponed(&self, host: usize) -> Option<&str> {
        let known = self.0.iter().find(|known| known.host == host && known.times >= MAX_BREAKS);
        known.map(|known| known.why.as_str())
    }

    /// Enough came that what broke before does not count any more.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

fn is_slow(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Broken { cause: Cause::TimedOut { .. } | Cause::Slow { .. }, .. }
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::Phase;

    fn broken(cause: Cause) -> RegistryError {
        RegistryError::Broken { method: "GET", url: "u".into(), cause }
    }

    #[test]
    fn a_host_that_keeps_breaking_off_comes_last() {
        let error = || broken(Cause::Other("closed early".into()));
        let mut breaks = Breaks::default();
        for _ in 0..MAX_BREAKS {
            assert_eq!(breaks.postponed(0), None);
            assert!(breaks.note(0, &error()));
        }
        assert_eq!(breaks.postponed(0), Some("GET u failed: closed early"));
        assert_eq!(breaks.postponed(1), None);
        assert!(breaks.note(1, &error()), "the other one has its own count");
        assert!(!breaks.note(0, &error()), "it was asked as the last: others are no help");
        breaks.forget();
        assert_eq!(breaks.postponed(0), None);
    }

    #[test]
    fn one_that_is_silent_is_not_waited_for_twice() {
        let after = Duration::from_secs(60);
        let mut breaks = Breaks::default();
        assert!(breaks.note(3, &broken(Cause::TimedOut { phase: Phase::Body, after })));
        assert!(breaks.postponed(3).is_some());
    }
}
