//! Why a registry did not give what it was asked for.

mod cause;
mod hint;

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::config::ConfigError;
use super::credentials::CredentialError;
use super::tag_list::TagsProblem;
use super::transport::Answer;
use crate::verify::VerifyError;

pub use cause::{Cause, Phase};

/// A server's own words are shown up to this many characters: enough for a sentence.
const MAX_SHOWN_MESSAGE_CHARS: usize = 300;

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
    #[error("{method} {url}: not found{}: got status 404{}", what(missing), said(words))]
    NotFound {
        /// What it is that is not there.
        missing: Box<Missing>,
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
    /// The HTTP client could not be made.
    #[error("cannot set up TLS")]
    Tls(#[source] Cause),
    /// All hosts that may serve the image failed.
    #[error("{earlier}; {last}")]
    Everywhere {
        /// All but the last, with what they failed with, as a line.
        earlier: String,
        /// The last: `registry quay.io`.
        last: String,
        /// What the last failed with.
        #[source]
        source: Box<RegistryError>,
    },
    /// Every host that could serve the image failed too often to be asked again.
    #[error("no host is left to ask for {image}: {reasons}")]
    NoneLeft {
        /// Registry and repository.
        image: String,
        /// The hosts, with what they failed with, as a line.
        reasons: String,
    },
    /// The configuration lets no host do what is needed.
    #[error("no host is configured to {capability} {image}")]
    NoHost {
        /// `pull` or `resolve`.
        capability: &'static str,
        /// Registry and repository.
        image: String,
    },
    /// A `registries.conf` forbids it.
    #[error("{image} is blocked: {file:?} says so for {prefix:?}")]
    Blocked {
        /// Registry and repository.
        image: String,
        /// The file.
        file: std::path::PathBuf,
        /// The file's `prefix`.
        prefix: String,
    },
    /// A configuration file cannot be used.
    #[error("bad configuration")]
    Config(#[from] ConfigError),
}

/// What it is that does not exist, if that could be found out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Missing {
    /// It was not asked, or not told.
    #[default]
    Unknown,
    /// The registry knows no such repository.
    Repository(String),
    /// The repository is there, the tag or digest is not.
    Tag {
        /// The repository.
        repository: String,
        /// What is not there.
        selector: String,
        /// Some tags that are.
        some: Vec<String>,
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
    /// Basic, where only an identity token is known.
    #[error("wants a password, but what is kept for it is an identity token")]
    NoPassword,
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
            Self::Everywhere { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// Whether a server does not serve the range that it was asked for: then the whole may do.
    pub(crate) fn is_about_range(&self) -> bool {
        match self {
            Self::Status { status: 416, .. } => true,
            Self::Refused { problem, .. } => matches!(problem, Problem::Range { .. }),
            Self::Everywhere { source, .. } => source.is_about_range(),
            _ => false,
        }
    }

    /// How long the registry wants to be left alone from now on; no time where it does not say.
    pub(crate) fn asked_wait(&self) -> Duration {
        match self {
            Self::Busy { until: Some(until), .. } => {
                until.duration_since(SystemTime::now()).unwrap_or_default()
            }
            Self::Everywhere { source, .. } => source.asked_wait(),
            _ => Duration::ZERO,
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

fn what(missing: &Missing) -> String {
    match missing {
        Missing::Unknown => String::new(),
        Missing::Repository(name) => format!(": there is no repository {name:?}"),
        Missing::Tag { repository, selector, .. } => {
            format!(": repository {repository:?} has no {selector:?}")
        }
    }
}

fn said(words: &Option<ServerWords>) -> String {
    match words {
        None => String::new(),
        Some(w) if w.message.is_empty() => format!(", {}", w.code),
        Some(w) => format!(", {} ({})", w.code, w.message),
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
}
