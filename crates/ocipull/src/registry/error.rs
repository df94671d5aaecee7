//! Why a registry did not give what it was asked for.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use ctsys::report::Explain;
use serde::Deserialize;

use super::credentials::CredentialError;
use super::dns::DnsError;
use super::tag_list::TagsProblem;
use super::transport::Answer;
use crate::host::RegistryHost;
pub use crate::verify::EXIT_DAMAGED;
use crate::verify::VerifyError;

/// A server's own words are shown up to this many characters: enough for a sentence.
const MAX_SHOWN_MESSAGE_CHARS: usize = 300;

/// The program's exit code when a registry wants to be left alone.
pub const EXIT_RATE_LIMITED: u8 = 3;
/// The program's exit code when a network takes too long.
pub const EXIT_TIMED_OUT: u8 = 5;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or none that speaks TLS as it should.
    #[error("cannot reach registry {host}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A connection that broke after the request was sent.
    #[error("{method} {url} failed")]
    Broken {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The registry wants to know who asks, and nothing is known to tell it.
    #[error("{method} {url}: registry {host} wants a login")]
    LoginNeeded {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// The registry.
        host: String,
    },
    /// The registry, or its token service, refuses.
    #[error("{method} {url}: access denied to {who}: got status {status}{}", said(words))]
    Denied {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// `user "NAME" (from FILE)`, `an anonymous user`.
        who: String,
        /// 401 or 403.
        status: u16,
        /// What the registry says about it.
        words: Option<ServerWords>,
    },
    /// There is no such thing.
    #[error("{method} {url}: not found: got status 404{}", said(words))]
    NotFound {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// What the registry says about it.
        words: Option<ServerWords>,
    },
    /// Any other status than was hoped for.
    #[error("{method} {url}: got status {status}, want 200{}", said(words))]
    Status {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// Of the answer.
        status: u16,
        /// What the registry says about it.
        words: Option<ServerWords>,
    },
    /// Too many requests, or a registry that has no time and says until when.
    #[error("{method} {url}: {}got status {status}{}", limited(*status, *until), said(words))]
    Busy {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// 429, or one of 5xx.
        status: u16,
        /// When it may be asked again, if it says that.
        until: Option<SystemTime>,
        /// What the registry says about it.
        words: Option<ServerWords>,
    },
    /// It would have to be fetched, and that is not wanted.
    #[error("{0} is not in the cache, and --offline keeps from fetching it")]
    Offline(String),
    /// A redirect, a realm or an answer that is not to be followed or believed.
    #[error("{method} {url}: {problem}")]
    Refused {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The body is not the one that was asked for.
    #[error("{method} {url}")]
    Content {
        /// Of the request.
        method: &'static str,
        /// Of the request, without secrets.
        url: String,
        /// How it differs.
        #[source]
        cause: VerifyError,
    },
    /// Credentials that are configured could not be had.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The HTTP client could not be made: a `--ca-cert` that is none, for instance.
    #[error("cannot set up TLS")]
    Tls(#[source] Cause),
    /// Both the mirror and the registry failed.
    #[error("mirror {mirror}: {first}; registry {origin}")]
    Everywhere {
        /// The mirror.
        mirror: RegistryHost,
        /// What the mirror failed with, as a line.
        first: String,
        /// The registry.
        origin: RegistryHost,
        /// What the registry failed with.
        #[source]
        second: Box<RegistryError>,
    },
}

/// What a server asked for or answered that no registry should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Round and round.
    #[error("redirected more than {0} times")]
    TooManyRedirects(usize),
    /// A redirect without a target, or with one that is no URL.
    #[error("redirected without a valid Location")]
    NoLocation,
    /// From TLS to none.
    #[error("redirected from https to {0}, which is not encrypted")]
    Downgrade(String),
    /// To an address that only this machine's link knows.
    #[error("sent to the link-local address {0}, where clouds keep secrets")]
    LinkLocal(String),
    /// A token service that credentials must not go to.
    #[error("names the token service {0}, want one with https")]
    Realm(String),
    /// A challenge without a known scheme.
    #[error("got status 401 without a Bearer or Basic challenge in WWW-Authenticate")]
    NoChallenge,
    /// A token answer without a token.
    #[error("the token service's answer holds no usable token")]
    NoToken,
    /// Another part of a blob than was asked for.
    #[error("got Content-Range {got:?}, want {want}")]
    Range {
        /// As sent, or `none`.
        got: String,
        /// What it should have been.
        want: String,
    },
    /// A body past its limit.
    #[error("the answer is too large: want at most {limit} bytes of {what}")]
    TooLarge {
        /// What it should have been.
        what: &'static str,
        /// In bytes.
        limit: u64,
    },
    /// A digest header that is no digest, or another digest than the one asked for.
    #[error("got Docker-Content-Digest {got:?}, want {want}")]
    DigestHeader {
        /// As sent.
        got: String,
        /// What it should have been.
        want: String,
    },
    /// A URL that cannot be asked.
    #[error("not a URL that can be requested")]
    Url,
    /// A list of tags.
    #[error(transparent)]
    Tags(#[from] TagsProblem),
}

/// Why a connection failed, boiled down from the layers of an HTTP client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The name has no address.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The system says; its errno.
    #[error("{}", system_words(&std::io::Error::from_raw_os_error(*.0)))]
    Io(i32),
    /// Nothing came for so long.
    #[error("timed out {phase}: nothing came for {} s", .after.as_secs_f32())]
    TimedOut {
        /// What was waited for.
        phase: Phase,
        /// How long.
        after: Duration,
    },
    /// Something came, but so slowly that it will not end.
    #[error("timed out {}: less than {want} bytes came in {} s", Phase::Body, .after.as_secs_f32())]
    Slow {
        /// In bytes, what should have come.
        want: u64,
        /// In how long.
        after: Duration,
    },
    /// A TLS server with a certificate that cannot be trusted.
    #[error("TLS certificate is not trusted: {0}")]
    Certificate(String),
    /// What answers does not speak TLS.
    #[error("TLS handshake failed: {0}")]
    NotTls(String),
    /// Whatever else.
    #[error("{0}")]
    Other(String),
}

/// What a connection was waited on for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For itself, TLS included.
    Connect,
    /// For the answer to a request.
    Answer,
    /// For more of the answer's body.
    Body,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "while connecting",
            Self::Answer => "waiting for the answer",
            Self::Body => "within the answer",
        })
    }
}

/// A registry's error body (distribution-spec, "Error Codes"): the first error's code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerWords {
    /// `MANIFEST_UNKNOWN`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl RegistryError {
    /// An answer of another status than was hoped for.
    pub(crate) fn unexpected(answer: &Answer, words: Option<ServerWords>) -> Self {
        let (method, url, status) = (answer.method(), answer.url().to_owned(), answer.status());
        let until = answer.busy_until().filter(|_| status >= 500 || status == 429);
        if status == 429 || until.is_some() {
            return Self::Busy { method, url, status, until, words };
        }
        Self::Status { method, url, status, words }
    }

    /// Whether all came, and was not what was asked for.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Content { cause, .. } => !matches!(cause, VerifyError::Truncated { .. }),
            Self::Everywhere { second, .. } => second.is_damage(),
            _ => false,
        }
    }

    /// When the registry may be asked again, where it says that.
    pub(crate) fn busy_until(&self) -> Option<SystemTime> {
        match self {
            Self::Busy { until, .. } => *until,
            Self::Everywhere { second, .. } => second.busy_until(),
            _ => None,
        }
    }
}

impl ServerWords {
    /// From an error's body; `None` when it is not in the specification's form.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            errors: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(default)]
            code: String,
            message: Option<String>,
        }
        let envelope: Envelope = serde_json::from_slice(body).ok()?;
        let first = envelope.errors.into_iter().next()?;
        let cut = |text: String| text.chars().take(MAX_SHOWN_MESSAGE_CHARS).collect();
        Some(Self { code: cut(first.code), message: cut(first.message.unwrap_or_default()) })
    }
}

fn limited(status: u16, until: Option<SystemTime>) -> String {
    match (status, until) {
        (429, Some(until)) => format!("rate limited until {}: ", httpdate::fmt_http_date(until)),
        (429, None) => "rate limited: ".into(),
        (_, Some(until)) => format!("busy until {}: ", httpdate::fmt_http_date(until)),
        (_, None) => String::new(),
    }
}

fn said(words: &Option<ServerWords>) -> String {
    match words {
        None => String::new(),
        Some(w) if w.message.is_empty() => format!(", {}", w.code),
        Some(w) => format!(", {} ({})", w.code, w.message),
    }
}

impl Cause {
    /// Looks through the layers of the client's error for the one that says it.
    pub(crate) fn of(error: reqwest::Error, phase: Phase, after: Duration) -> Self {
        // Its own text has the whole URL in it.
        let error = error.without_url();
        let mut deepest = error.to_string();
        let mut timed_out = error.is_timeout();
        let mut next: Option<&(dyn StdError + 'static)> = error.source();
        while let Some(layer) = next {
            if let Some(dns) = layer.downcast_ref::<DnsError>() {
                return Self::Dns(dns.clone());
            }
            if let Some(tls) = tls_error(layer) {
                return Self::of_tls(tls);
            }
            if let Some(io) = layer.downcast_ref::<std::io::Error>() {
                timed_out |= io.kind() == std::io::ErrorKind::TimedOut;
                if let Some(errno) = io.raw_os_error() {
                    return Self::Io(errno);
                }
                if io.kind() == std::io::ErrorKind::UnexpectedEof {
                    deepest = "the connection was closed early".into();
                    break;
                }
            }
            deepest = layer.to_string();
            next = layer.source();
        }
        if timed_out { Self::TimedOut { phase, after } } else { Self::Other(deepest) }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(reason) => Self::Certificate(reason.to_string()),
            other => Self::NotTls(other.to_string()),
        }
    }

    /// Whether a server without TLS may be behind it: for registries on this machine, which are
    /// then asked without. A certificate that is not trusted is not such a case.
    pub(crate) fn may_be_plain_http(&self) -> bool {
        !matches!(self, Self::Certificate(_) | Self::Dns(_))
    }
}

/// The TLS error in a layer, also inside I/O errors, whose `source` skips what they hold.
fn tls_error<'a>(layer: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut layer = layer;
    while let Some(io) = layer.downcast_ref::<std::io::Error>() {
        layer = io.get_ref()?;
    }
    layer.downcast_ref()
}

/// `connection refused` instead of `Connection refused (os error 111)`.
fn system_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

impl Explain for RegistryError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { cause, host } => unreachable_hint(cause, host),
            Self::Broken { cause: Cause::TimedOut { .. } | Cause::Slow { .. }, .. } => {
                "check the network; --timeout gives a slow one more time".into()
            }
            Self::Broken { .. } => "check the network, then try again".into(),
            Self::Busy { status: 429, until, .. } => format!(
                "wait{}, or give --creds for a higher limit",
                if until.is_some() { " until then" } else { "" }
            ),
            Self::Busy { .. } => "the registry has no time: try again then".into(),
            Self::Offline(_) => "pull it once without --offline".into(),
            Self::LoginNeeded { host, .. } => {
                format!("give --creds USER:PASS, or log in with: podman login {host}")
            }
            Self::Denied { .. } => "check that the repository exists and that the user may pull \
                                    from it; --creds USER:PASS gives another user"
                .into(),
            Self::NotFound { .. } => "check the repository's name and the tag".into(),
            Self::Status { status: 500.., .. } => "the registry has a problem: try later".into(),
            Self::Status { .. } => "check that the host is a container registry".into(),
            Self::Refused { .. } => {
                "the registry or its mirror is misconfigured, or not to be trusted".into()
            }
            Self::Content { .. } => {
                "the registry, a mirror or a proxy on the way damages content: \
                                     try again or from elsewhere"
                    .into()
            }
            Self::Credentials(error) => return Some(error.hint()),
            Self::Tls(_) => "check the file of --ca-cert: it must hold certificates in PEM".into(),
            Self::Everywhere { second, .. } => return second.hint(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Busy { status: 429, .. } => EXIT_RATE_LIMITED,
            Self::Content { .. } => EXIT_DAMAGED,
            Self::Unreachable { cause, .. } | Self::Broken { cause, .. } => match cause {
                Cause::TimedOut { .. } | Cause::Slow { .. } => EXIT_TIMED_OUT,
                _ => 1,
            },
            Self::Everywhere { second, .. } => second.exit_code(),
            _ => 1,
        }
    }
}

fn unreachable_hint(cause: &Cause, host: &str) -> String {
    match cause {
        Cause::Dns(_) => "check the registry's name, and the network's name servers".into(),
        Cause::Certificate(_) => {
            "name the registry's CA with --ca-cert FILE, or skip the check with --insecure".into()
        }
        Cause::NotTls(_) => "if the registry has no TLS, say --plain-http".into(),
        Cause::TimedOut { .. } => {
            format!("check that {host} can be reached from here; --timeout gives it more time")
        }
        _ => format!("check that the registry runs and that {host} is its address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_taken_and_cut() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        let words = ServerWords::parse(body);
        assert_eq!(said(&words), ", MANIFEST_UNKNOWN (manifest unknown)");
        assert_eq!(said(&ServerWords::parse(b"<html>")), "");
        assert_eq!(said(&ServerWords::parse(br#"{"errors":[]}"#)), "");
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "y".repeat(9999));
        assert!(said(&ServerWords::parse(long.as_bytes())).len() < 400);
    }

    #[test]
    fn system_errors_read_as_words() {
        assert_eq!(system_words(&std::io::Error::from_raw_os_error(111)), "connection refused");
    }
}
