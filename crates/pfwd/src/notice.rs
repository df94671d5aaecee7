//! What happens to single connections while the forwards run, told to whoever runs them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ctsys::SysError;

use crate::dial::DialError;

/// Lines about connections that are told in one [`WINDOW`]: a client that retries fast would
/// otherwise fill a terminal or a log.
const MAX_IN_WINDOW: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// Something worth a line. `Display` is the line.
#[derive(Debug)]
pub enum Notice {
    /// A forward listens.
    Forwarding {
        /// Where, as `127.0.0.1:8080 and [::1]:8080`.
        local: String,
        /// The target's name.
        target: String,
        /// The port in it.
        remote: u16,
    },
    /// One of a forward's two addresses could not be bound.
    Missing {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: SysError,
    },
    /// A connection could not be made in the target; the client was told by RST.
    Refused {
        /// The target's name.
        target: String,
        /// The port in it.
        remote: u16,
        /// Why.
        error: DialError,
    },
    /// Descriptors or memory ran out; accepting pauses.
    Exhausted(std::io::Error),
    /// Lines that were left out.
    LeftOut(u64),
}

/// Tells notices, those about single connections a few a second only.
pub struct Notices {
    tell: Box<dyn Fn(&Notice) -> bool + Send + Sync>,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    told: u32,
    left_out: u64,
}

impl Notices {
    /// Calls `tell` for each notice, from any thread. It must not block, as connections wait for it,
    /// and returns whether the notice was taken.
    pub fn new(tell: impl Fn(&Notice) -> bool + Send + Sync + 'static) -> Self {
        let window = Window { start: Instant::now(), told: 0, left_out: 0 };
        Self { tell: Box::new(tell), window: Mutex::new(window) }
    }

    /// Tells `notice` however many were told just now.
    pub fn tell(&self, notice: &Notice) {
        (self.tell)(notice);
    }

    /// Tells `notice` unless many were told just now; those left out, or not taken, are counted in a
    /// later line.
    pub fn tell_some(&self, notice: &Notice) {
        let Some(left_out) = self.window().admit(Instant::now()) else { return };
        if left_out > 0 && !(self.tell)(&Notice::LeftOut(left_out)) {
            self.window().left_out += left_out;
        }
        if !(self.tell)(notice) {
            self.window().left_out += 1;
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Whether one more may be told, and then how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.start) >= WINDOW {
            self.start = now;
            self.told = 0;
        }
        if self.told == MAX_IN_WINDOW {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding { local, target, remote } => {
                write!(f, "forwarding {local} -> {target}:{remote}")
            }
            Self::Missing { address, error } => write!(f, "not listening on {address}: {error}"),
            Self::Refused { target, remote, error } => {
                write!(f, "cannot connect to {target}:{remote}: {error}")
            }
            Self::Exhausted(error) => write!(f, "accepting no connections for now: {error}"),
            Self::LeftOut(count) => write!(f, "{count} more messages left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_a_second_are_told_and_the_rest_counted() {
        let start = Instant::now();
        let mut window = Window { start, told: 0, left_out: 0 };
        let told = (0..100).filter(|_| window.admit(start).is_some()).count();
        assert_eq!(told, 5);
        assert_eq!(window.admit(start + WINDOW), Some(95));
        assert_eq!(window.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn what_is_not_taken_is_counted() {
        let notices = Notices::new(|_| false);
        let notice = Notice::Exhausted(std::io::ErrorKind::Other.into());
        (0..3).for_each(|_| notices.tell_some(&notice));
        assert_eq!(notices.window().left_out, 3);
    }
}
