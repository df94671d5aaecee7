//! Misbehaviour on request.

use super::log::{Listener, Request};
use std::time::Duration;

/// What goes wrong. [`Rule`] says when.
///
/// The first group acts on any request, before it is handled (so also before authentication); the
/// second changes answers of success (2xx) only, and is not used up by other ones.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer instead of the registry's. `Content-Length` is added.
    Status {
        /// The status code.
        code: u16,
        /// Headers, such as `("Retry-After", "1")`.
        headers: Vec<(String, String)>,
        /// The body, sent as it is.
        body: Vec<u8>,
    },
    /// Waits, then goes on as usual.
    Delay(Duration),
    /// Takes the request and never answers.
    Hang,
    /// Closes the connection without an answer.
    Close,
    /// Resets the connection (RST) without an answer.
    Reset,
    /// Answers a request with `Range` by 200 and the whole body.
    IgnoreRange,

    /// Other bytes of the same length, all other things as they should be.
    WrongBytes,
    /// This body, with its own length, under the headers of the right one.
    Body(Vec<u8>),
    /// The right headers; the connection closes after so many bytes of the body.
    TruncateAt(u64),
    /// The right headers; the connection is reset after so many bytes of the body.
    ResetAt(u64),
    /// The right headers; after so many bytes of the body nothing more comes, the connection stays.
    StallAt(u64),
    /// Another `Content-Length`; when it is larger, the connection closes where the bytes end.
    ContentLength(u64),
    /// No `Content-Length`: a chunked body.
    Chunked,
    /// The body, then zeros until the client goes away. Announced as that many bytes, or chunked.
    Endless(Option<u64>),
    /// The body in pieces of `bytes` with `pause` between.
    Trickle {
        /// Length of a piece.
        bytes: usize,
        /// Time between two pieces.
        pause: Duration,
    },
    /// Another `Docker-Content-Digest`, or none.
    Digest(Option<String>),
    /// Another `Content-Range`.
    ContentRange(String),
    /// Sets a header (`Some`) or takes it away (`None`).
    Header(String, Option<String>),
}

impl Fault {
    /// An answer of `code` with an OCI error envelope that has `error` as its code.
    pub fn status(code: u16, error: &str) -> Self {
        let body = super::answer::envelope(error, "as the test asked");
        let headers = vec![("Content-Type".into(), "application/json".into())];
        Self::Status { code, headers, body: body.into_bytes() }
    }

    /// [`Fault::status`] with one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        match &mut self {
            Self::Status { headers, .. } => headers.push((name.into(), value.into())),
            other => panic!("only Fault::Status takes headers, not {other:?}"),
        }
        self
    }

    /// A redirect: 307 to `location`.
    pub fn redirect(location: &str) -> Self {
        let headers = vec![("Location".into(), location.into())];
        Self::Status { code: 307, headers, body: Vec::new() }
    }

    /// Whether it acts before the request is handled.
    pub(crate) fn is_before(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::Delay(_)
                | Self::Hang
                | Self::Close
                | Self::Reset
                | Self::IgnoreRange
        )
    }
}

/// A fault and the requests it strikes. Without conditions: every request.
///
/// ```no_run
/// # use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
/// # let registry = Registry::start(RegistryOptions::default());
/// registry.inject(Rule::new(Fault::TruncateAt(100)).method("GET").path("/blobs/").times(1));
/// ```
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    listener: Option<Listener>,
    method: Option<String>,
    path: Option<String>,
    with_range: Option<bool>,
    skip: usize,
    times: usize,
}

impl Rule {
    /// Strikes every request until narrowed.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            listener: None,
            method: None,
            path: None,
            with_range: None,
            skip: 0,
            times: usize::MAX,
        }
    }

    /// Only on this listener.
    pub fn on(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Only this method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only where the path contains this. Blobs of the second listener have `/blobs/` in their path
    /// as those of the registry do.
    pub fn path(mut self, part: &str) -> Self {
        self.path = Some(part.to_owned());
        self
    }

    /// Only requests with (`true`) or without a `Range` header.
    pub fn with_range(mut self, range: bool) -> Self {
        self.with_range = Some(range);
        self
    }

    /// Leaves the first `n` requests that match alone.
    pub fn skip(mut self, n: usize) -> Self {
        self.skip = n;
        self
    }

    /// Strikes `n` times, then never again.
    pub fn times(mut self, n: usize) -> Self {
        self.times = n;
        self
    }

    fn matches(&self, request: &Request) -> bool {
        self.listener.is_none_or(|l| l == request.listener)
            && self.method.as_ref().is_none_or(|m| *m == request.method)
            && self.path.as_ref().is_none_or(|p| request.path.contains(p.as_str()))
            && self.with_range.is_none_or(|r| r == request.range().is_some())
    }

    fn strike(&mut self, request: &Request) -> Option<Fault> {
        if !self.matches(request) || self.times == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.fault.clone())
    }
}

/// The faults that strike `request` now, of the group that acts before or after its handling.
pub(crate) fn strike(rules: &mut [Rule], request: &Request, before: bool) -> Vec<Fault> {
    let rules = rules.iter_mut().filter(|r| r.fault.is_before() == before);
    rules.filter_map(|r| r.strike(request)).collect()
}
