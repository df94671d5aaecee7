//! How long each step of a request took, as curl's `--write-out` tells it.
//!
//! ```text
//! Layer      the HTTP client asks for a connection ─────────────────────────▶ it is made
//! Resolver     └─ the name has addresses ─┐
//! Handshakes                              └─ TCP stands, TLS begins (its first random bytes)
//! ```
//!
//! The HTTP client makes TCP and TLS connections in one step. What tells them apart is the moment at
//! which TLS asks for the random bytes of its ClientHello (RFC 8446, section 4.1.2). A connection that
//! was open already has none of these steps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, ring};
use tower_layer::Layer;
use tower_service::Service;

use super::error::Phase;
use crate::event::Timing;

tokio::task_local! {
    /// Of the request that the task is working on.
    static CLOCK: Arc<Clock>;
}

/// Notes the steps of one request.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    steps: Mutex<Steps>,
}

/// Which steps have begun, and when they were done, since the request began.
#[derive(Debug, Clone, Copy, Default)]
struct Steps {
    is_connecting: bool,
    is_looking_up: bool,
    looked_up: Option<Duration>,
    tls_began: Option<Duration>,
    connected: Option<Duration>,
}

impl Clock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), steps: Mutex::default() })
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Notes what `work` does for its request.
    pub(crate) async fn scope<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        CLOCK.scope(Arc::clone(self), work).await
    }

    /// The steps so far; the answer's head has just come.
    pub(crate) fn answered(&self) -> Timing {
        Timing { first_byte: Some(self.started.elapsed()), ..self.unanswered() }
    }

    /// The steps so far, without an answer.
    pub(crate) fn unanswered(&self) -> Timing {
        let Steps { looked_up, tls_began, connected, .. } = self.steps();
        Timing {
            name_lookup: looked_up,
            connect: tls_began.or(connected),
            tls: connected.filter(|_| tls_began.is_some()),
            first_byte: None,
        }
    }

    /// What is waited for, while there is no connection yet.
    pub(crate) fn waits_for(&self) -> Phase {
        match self.steps() {
            Steps { tls_began: Some(_), .. } => Phase::Handshake,
            Steps { is_looking_up: true, looked_up: None, .. } => Phase::LookUp,
            _ => Phase::Connect,
        }
    }

    fn steps(&self) -> Steps {
        *self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, step: impl FnOnce(&mut Steps, Duration)) {
        let now = self.started.elapsed();
        step(&mut self.steps.lock().unwrap_or_else(PoisonError::into_inner), now);
    }
}

/// The addresses of a name are asked for, for this task's request.
pub(crate) fn looks_up() {
    let _ = CLOCK.try_with(|clock| clock.note(|steps, _| steps.is_looking_up = true));
}

/// They are there.
pub(crate) fn looked_up() {
    let _ = CLOCK.try_with(|clock| clock.note(|steps, now| steps.looked_up = Some(now)));
}

/// TLS asks for random bytes: first for its ClientHello.
fn random_wanted() {
    let _ = CLOCK.try_with(|clock| {
        clock.note(|steps, now| {
            if steps.is_connecting {
                steps.tls_began.get_or_insert(now);
            }
        });
    });
}

/// Put around what makes the HTTP client's connections.
#[derive(Clone)]
pub(crate) struct TimedConnections;

impl<S> Layer<S> for TimedConnections {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed(inner)
    }
}

/// What [`TimedConnections`] makes of it.
#[derive(Clone)]
pub(crate) struct Timed<S>(S);

impl<S, T> Service<T> for Timed<S>
where
    S: Service<T>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, to: T) -> Self::Future {
        let connecting = self.0.call(to);
        // Connecting may go on in a task of its own, when another connection is free earlier.
        let Ok(clock) = CLOCK.try_with(Arc::clone) else { return Box::pin(connecting) };
        // A connection that was closed in the moment of its use is made again.
        clock.note(|steps, _| *steps = Steps { is_connecting: true, ..Steps::default() });
        Box::pin(async move {
            let made = clock.scope(connecting).await;
            let is_made = made.is_ok();
            clock.note(|steps, now| {
                steps.is_connecting = false;
                steps.connected = is_made.then_some(now);
            });
            made
        })
    }
}

/// Makes ring what TLS computes with, where the program has not chosen something else. With a choice
/// of its own TLS is not told from TCP.
pub(crate) fn install_crypto() {
    if CryptoProvider::get_default().is_none() {
        let provider = CryptoProvider { secure_random: &TimedRandom, ..ring::default_provider() };
        // Fails when another thread was quicker, which is as good.
        let _ = provider.install_default();
    }
}

/// ring's random bytes, as they are.
struct TimedRandom;

impl SecureRandom for TimedRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        random_wanted();
        rings().fill(bytes)
    }

    fn fips(&self) -> bool {
        rings().fips()
    }
}

impl fmt::Debug for TimedRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rings().fmt(f)
    }
}

fn rings() -> &'static dyn SecureRandom {
    static RINGS: OnceLock<&'static dyn SecureRandom> = OnceLock::new();
    *RINGS.get_or_init(|| ring::default_provider().secure_random)
}
