//! Why a connection failed, boiled down from the layers of an HTTP client.

use std::error::Error as StdError;
use std::time::Duration;

use super::super::dns::DnsError;

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
    /// A TLS server with a certificate of a CA that is not known here.
    #[error("TLS certificate is not trusted: {}", issuer(.0))]
    UnknownIssuer(Option<String>),
    /// A server that answers without TLS.
    #[error("it speaks plain HTTP, no TLS")]
    PlainHttp,
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
    /// For the addresses of its host's name.
    LookUp,
    /// For TCP, and for what a proxy does.
    Connect,
    /// For TLS.
    Handshake,
    /// For the answer to a request.
    Answer,
    /// For more of the answer's body.
    Body,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LookUp => "looking up the name",
            Self::Connect => "while connecting",
            Self::Handshake => "within the TLS handshake",
            Self::Answer => "waiting for the answer",
            Self::Body => "within the answer",
        })
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
            // A bad signature is that of a CA with the name of one that is trusted: of one that was
            // made anew, mostly.
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            ) => Self::UnknownIssuer(None),
            rustls::Error::InvalidCertificate(reason) => Self::Certificate(reason.to_string()),
            // What a TLS client makes of the H of HTTP/1.1.
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                Self::PlainHttp
            }
            other => Self::NotTls(other.to_string()),
        }
    }

    /// Whether a server without TLS may be behind it: for registries on this machine, which are
    /// then asked without. A certificate that is not trusted is not such a case.
    pub(crate) fn may_be_plain_http(&self) -> bool {
        !matches!(self, Self::Certificate(_) | Self::UnknownIssuer(_) | Self::Dns(_))
    }
}

fn issuer(name: &Option<String>) -> String {
    match name {
        Some(name) => format!("it is issued by {name:?}, which is no CA that is trusted here"),
        None => "it is issued by a CA that is not known here".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_read_as_words() {
        assert_eq!(system_words(&std::io::Error::from_raw_os_error(111)), "connection refused");
    }
}
