//! A registry's host. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The registry that a name without a registry means.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where docker.io's registry API answers.
const DEFAULT_REGISTRY_API: &str = "registry-1.docker.io";
/// The name of docker.io in old references and in docker's credential file.
const DEFAULT_REGISTRY_LEGACY: &str = "index.docker.io";
/// Longest host name, in bytes (RFC 1035, section 2.3.4), with brackets and a port.
const MAX_HOST_BYTES: usize = 255 + 8;

/// A registry's host, with a port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryHost {
    name: String,
}

/// A text that is no registry's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry {host:?}: {reason}")]
pub struct HostError {
    host: String,
    reason: &'static str,
}

impl RegistryHost {
    /// As it stands in a reference: `docker.io`, `localhost:5000`.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The host that answers the registry API, with the port if there is one.
    pub fn api_host(&self) -> &str {
        if self.is_default() { DEFAULT_REGISTRY_API } else { &self.name }
    }

    /// Whether this is docker.io.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT_REGISTRY
    }

    /// Whether it is on this machine: `localhost`, 127.0.0.0/8 or `::1`.
    pub fn is_loopback(&self) -> bool {
        let (host, _) = split_port(&self.name);
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for RegistryHost {
    type Err = HostError;

    /// Parses `HOST[:PORT]`. Host names are case-insensitive and kept in lower case, but for one
    /// that nothing else than its capitals tells from a repository's first component: `HUB/app`
    /// written out as `hub/app` would be docker.io's.
    fn from_str(text: &str) -> Result<Self, HostError> {
        let wrong = |reason| Err(HostError { host: text.into(), reason });
        if text.len() > MAX_HOST_BYTES {
            return wrong("longer than a host name may be");
        }
        let (host, port) = split_port(text);
        if let Some(port) = port
            && !(port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|p| p != 0))
        {
            return wrong("want a port from 1 to 65535 after the colon");
        }
        if let Some(address) = host.strip_prefix('[') {
            let address = address.strip_suffix(']').map(str::parse::<Ipv6Addr>);
            if !matches!(address, Some(Ok(_))) {
                return wrong("want an IPv6 address between the brackets");
            }
        } else if !host.split('.').all(is_label) {
            return wrong("want a host name or an address, IPv6 ones in brackets");
        }
        let lower = text.to_ascii_lowercase();
        let is_plain_host = lower.contains(['.', ':', '[']) || lower == "localhost";
        let name = if is_plain_host { lower } else { text.to_owned() };
        let name = if name == DEFAULT_REGISTRY_LEGACY { DEFAULT_REGISTRY.into() } else { name };
        Ok(Self { name })
    }
}

/// `host` and `port` of `host:port`; the colons inside brackets are the address's.
fn split_port(text: &str) -> (&str, Option<&str>) {
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    match text.get(after_bracket..).and_then(|t| t.rfind(':')) {
        Some(at) => {
            let (host, port) = text.split_at(after_bracket + at);
            (host, port.get(1..))
        }
        None => (text, None),
    }
}

fn is_label(label: &str) -> bool {
    let plain = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    plain(label.bytes().next())
        && plain(label.bytes().last())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in
            ["localhost", "localhost:1", "127.3.2.1:5000", "[::1]", "[::1]:2", "x.localhost"]
        {
            assert!(host.parse::<RegistryHost>().unwrap().is_loopback(), "{host}");
        }
        for host in ["docker.io", "127.0.0.1.example.org", "[::2]", "10.0.0.1", "mylocalhost"] {
            assert!(!host.parse::<RegistryHost>().unwrap().is_loopback(), "{host}");
        }
    }

    /// Found by fuzzing: `C0/a` was written out as `c0/a`, which is docker.io's.
    #[test]
    fn capitals_that_alone_make_a_host_are_kept() {
        for (typed, want) in [
            ("C0", "C0"),
            ("Quay.IO", "quay.io"),
            ("HUB:5000", "hub:5000"),
            ("LocalHost", "localhost"),
        ] {
            assert_eq!(typed.parse::<RegistryHost>().unwrap().as_str(), want);
        }
        let reference: crate::reference::ImageReference = "C0/a".parse().unwrap();
        assert_eq!(reference.to_string(), "C0/a:latest");
    }

    #[test]
    fn docker_io_answers_elsewhere() {
        for name in ["docker.io", "index.docker.io"] {
            let host: RegistryHost = name.parse().unwrap();
            assert_eq!((host.as_str(), host.api_host()), ("docker.io", "registry-1.docker.io"));
        }
    }
}
