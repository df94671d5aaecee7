//! What to do about a registry's failure, and how the program ends with it.

use ctsys::report::Explain;

use crate::exit::{
    EXIT_DAMAGED, EXIT_DENIED, EXIT_NOT_FOUND, EXIT_NOT_TRUSTED, EXIT_OVER_LIMIT,
    EXIT_RATE_LIMITED, EXIT_TIMED_OUT,
};

use super::super::dns::DnsError;
use super::{Cause, Missing, Phase, Problem, RegistryError};

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
                format!("give --creds USER:PASS, or log in with: ocipull login {host}")
            }
            Self::Denied { .. } => "check that the repository exists and that the user may pull \
                                    from it; --creds USER:PASS gives another user"
                .into(),
            Self::NotFound { missing, .. } => missing_hint(missing),
            Self::Status { status: 500.., .. } => "the registry has a problem: try later".into(),
            Self::Status { .. } => "check that the host is a container registry".into(),
            Self::Refused { problem: Problem::TooLarge { .. }, .. } => {
                "no image in use has one as large: name another image, or ask who publishes it"
                    .into()
            }
            Self::Refused { .. } => {
                "the registry or its mirror is misconfigured, or not to be trusted".into()
            }
            Self::Content { .. } => {
                "the registry, a mirror or a proxy on the way damages content: \
                                     try again or from elsewhere"
                    .into()
            }
            Self::Credentials(error) => return Some(error.hint()),
            Self::Tls(_) => "check the CA and client certificates: they must be in PEM".into(),
            Self::Everywhere { source, .. } => return source.hint(),
            Self::NoneLeft { .. } => {
                "each failed several times: try later, or name another host with --mirror".into()
            }
            Self::NoHost { capability, .. } => {
                format!("add {capability:?} to the capabilities of a host in hosts.toml")
            }
            Self::Blocked { file, .. } => {
                format!("pull another image, or have \"blocked\" taken out of {}", file.display())
            }
            Self::Config(error) => error.hint(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Busy { status: 429, .. } => EXIT_RATE_LIMITED,
            Self::Content { .. } => EXIT_DAMAGED,
            Self::NotFound { .. } => EXIT_NOT_FOUND,
            Self::LoginNeeded { .. } | Self::Denied { .. } => EXIT_DENIED,
            Self::Refused { problem: Problem::TooLarge { .. }, .. } => EXIT_OVER_LIMIT,
            Self::Unreachable { cause, .. } | Self::Broken { cause, .. } => match cause {
                Cause::TimedOut { .. }
                | Cause::Slow { .. }
                | Cause::Dns(DnsError::TimedOut { .. }) => EXIT_TIMED_OUT,
                Cause::PlainHttp | Cause::UnknownIssuer(_) | Cause::Certificate(_) => {
                    EXIT_NOT_TRUSTED
                }
                _ => 1,
            },
            Self::Everywhere { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}

fn missing_hint(missing: &Missing) -> String {
    match missing {
        Missing::Unknown => "check the repository's name and the tag".into(),
        Missing::Repository(_) => {
            "check the repository's name; a private one may be hidden from who is not logged in"
                .into()
        }
        Missing::Tag { some, .. } if some.is_empty() => "the repository has no tags".into(),
        Missing::Tag { some, .. } => format!("tags that are there: {}", some.join(", ")),
    }
}

fn unreachable_hint(cause: &Cause, host: &str) -> String {
    match cause {
        Cause::Dns(_) | Cause::TimedOut { phase: Phase::LookUp, .. } => {
            "check the registry's name, and the network's name servers".into()
        }
        Cause::UnknownIssuer(_) => format!(
            "trust the CA: --ca-cert FILE, or keep it as ~/.config/containers/certs.d/{host}/ca.crt; \
             --insecure skips the check"
        ),
        Cause::Certificate(_) => {
            "check the certificate's names and dates; --insecure skips the check".into()
        }
        Cause::PlainHttp | Cause::NotTls(_) => {
            "if the registry has no TLS, say --plain-http".into()
        }
        Cause::TimedOut { .. } => format!(
            "check that {host} can be reached from here; --timeout, or its dial_timeout in \
             hosts.toml, gives it more time"
        ),
        _ => format!(
            "check that the registry runs, that {host} is its address, and HTTPS_PROXY if it is set"
        ),
    }
}
