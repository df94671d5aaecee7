//! What is to be forwarded, as typed: `[[BIND:]LOCAL:]REMOTE`. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ctsys::report::Explain;

/// One forward: where to listen, and the port in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The addresses to listen on.
    pub bind: Bind,
    /// The port to listen on; `None` for any free one.
    pub local: Option<u16>,
    /// The port in the target, never 0.
    pub remote: u16,
}

/// The addresses that a forward listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// 127.0.0.1 and ::1, with the same port.
    Loopback,
    /// This address alone.
    Address(IpAddr),
}

/// Why a text is no forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid forward {spec:?}: {fault}")]
pub struct SpecError {
    spec: String,
    fault: Fault,
}

/// The part of the text that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Bind(String),
    Local(String),
    Remote(String),
    Parts(usize),
}

impl Forward {
    /// `port` of the target under the same number here.
    pub fn same(port: u16) -> Self {
        Self { bind: Bind::Loopback, local: Some(port), remote: port }
    }
}

impl FromStr for Forward {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        parse(spec).map_err(|fault| SpecError { spec: spec.to_owned(), fault })
    }
}

impl Explain for SpecError {
    fn hint(&self) -> Option<String> {
        Some(
            match &self.fault {
                Fault::Bind(_) => {
                    "name the address to listen on by number, as 127.0.0.1:8080:80 or [::1]:8080:80"
                }
                _ => "want [[BIND:]LOCAL:]REMOTE, as 8080, 8080:80, :80 or 127.0.0.1:8080:80",
            }
            .to_owned(),
        )
    }

    fn exit_code(&self) -> u8 {
        2
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(got) => {
                write!(f, "bind address: got {got:?}, want an IPv4 or a bracketed IPv6 address")
            }
            Self::Local(got) => {
                write!(f, "local port: got {got:?}, want a number from 0 to 65535, or nothing")
            }
            Self::Remote(got) => {
                write!(f, "remote port: got {got:?}, want a number from 1 to 65535")
            }
            Self::Parts(got) => write!(f, "got {got} parts, want 1 to 3"),
        }
    }
}

fn parse(spec: &str) -> Result<Forward, Fault> {
    if let Some(rest) = spec.strip_prefix('[') {
        let bad = || Fault::Bind(spec.to_owned());
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address: Ipv6Addr = address.parse().map_err(|_| Fault::Bind(address.to_owned()))?;
        let (local, remote) =
            rest.strip_prefix(':').and_then(|r| r.split_once(':')).ok_or_else(bad)?;
        return forward(Bind::Address(address.into()), local, remote);
    }
    let parts: Vec<&str> = spec.split(':').collect();
    match parts[..] {
        [remote] => Ok(Forward::same(remote_port(remote)?)),
        [local, remote] => forward(Bind::Loopback, local, remote),
        [address, local, remote] => {
            let address: Ipv4Addr = address.parse().map_err(|_| Fault::Bind(address.to_owned()))?;
            forward(Bind::Address(address.into()), local, remote)
        }
        _ => Err(Fault::Parts(parts.len())),
    }
}

fn forward(bind: Bind, local: &str, remote: &str) -> Result<Forward, Fault> {
    let local = match local {
        "" => None,
        text => match number(text).ok_or_else(|| Fault::Local(text.to_owned()))? {
            0 => None,
            port => Some(port),
        },
    };
    Ok(Forward { bind, local, remote: remote_port(remote)? })
}

fn remote_port(text: &str) -> Result<u16, Fault> {
    number(text).filter(|&port| port != 0).ok_or_else(|| Fault::Remote(text.to_owned()))
}

/// A port in decimal digits alone: `u16::from_str` would also take `+80`.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(spec: &str) -> Forward {
        spec.parse().unwrap()
    }

    #[test]
    fn every_form_is_understood() {
        let bind = Bind::Loopback;
        assert_eq!(parsed("80"), Forward { bind, local: Some(80), remote: 80 });
        assert_eq!(parsed("8080:80"), Forward { bind, local: Some(8080), remote: 80 });
        assert_eq!(parsed(":80"), Forward { bind, local: None, remote: 80 });
        assert_eq!(parsed("0:80"), Forward { bind, local: None, remote: 80 });
        let bind = Bind::Address("10.0.0.1".parse().unwrap());
        assert_eq!(parsed("10.0.0.1:1:65535"), Forward { bind, local: Some(1), remote: 65535 });
        assert_eq!(parsed("10.0.0.1::2"), Forward { bind, local: None, remote: 2 });
        let bind = Bind::Address("::1".parse().unwrap());
        assert_eq!(parsed("[::1]:8080:80"), Forward { bind, local: Some(8080), remote: 80 });
        assert_eq!(parsed("[::1]::80"), Forward { bind, local: None, remote: 80 });
    }

    #[test]
    fn an_error_names_the_part() {
        for (spec, part) in [
            ("", "remote port: got \"\""),
            ("0", "remote port: got \"0\""),
            ("8080:0", "remote port: got \"0\""),
            ("8080:", "remote port: got \"\""),
            ("65536", "remote port: got \"65536\""),
            ("8080:+80", "remote port: got \"+80\""),
            ("80:http", "remote port: got \"http\""),
            ("x:80", "local port: got \"x\""),
            ("-1:80", "local port: got \"-1\""),
            ("65536:80", "local port: got \"65536\""),
            ("localhost:8080:80", "bind address: got \"localhost\""),
            ("[::g]:8080:80", "bind address: got \"::g\""),
            ("[::1:8080:80", "bind address: got \"[::1:8080:80\""),
            ("[::1]:80", "bind address: got \"[::1]:80\""),
            ("::1:8080:80", "got 5 parts"),
        ] {
            let error = spec.parse::<Forward>().unwrap_err();
            assert!(error.to_string().contains(part), "{spec}: {error}");
            assert_eq!(error.exit_code(), 2);
            assert!(error.hint().is_some());
        }
    }
}
