//! What may be asked of a URL before a request goes there, and how it is shown. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Query members that are ours or the token protocol's, and no secrets.
const SHOWN_QUERY: [&str; 3] = ["ns", "scope", "service"];

/// Whether the URL's host is this machine: `localhost`, 127.0.0.0/8, `::1`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether the URL's host is an address that only this link knows. Clouds serve a machine's own
/// credentials there (169.254.169.254), so no server may send us there. Names are looked at when
/// they are resolved.
pub(crate) fn is_link_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_link_local_address(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => is_link_local_address(IpAddr::V6(address)),
        Some(Host::Domain(_)) | None => false,
    }
}

/// 169.254.0.0/16, fe80::/10, the first one's forms inside IPv6, and the IPv6 address at which
/// EC2 serves the same as at 169.254.169.254.
pub(crate) fn is_link_local_address(address: IpAddr) -> bool {
    const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6 == EC2_METADATA
                || v6.to_ipv4().is_some_and(|v4| v4.is_link_local())
                || nat64(v6).is_some_and(|v4| v4.is_link_local())
        }
    }
}

/// The IPv4 address inside 64:ff9b::/96 (RFC 6052).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

/// Scheme, host and port: what credentials are bound to.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// The URL for people: no user, no password, no fragment, of the query only what is known to be
/// harmless. `foreign` ones, which a server made up, lose all of their query: it may be a signature.
pub(crate) fn shown(url: &Url, foreign: bool) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("{}://{host}{port}{}", url.scheme(), url.path());
    if foreign {
        if url.query().is_some() {
            text.push_str("?...");
        }
        return text;
    }
    let mut separator = '?';
    for (key, value) in url.query_pairs() {
        if SHOWN_QUERY.contains(&key.as_ref()) {
            text.push(separator);
            text.push_str(&format!("{key}={value}"));
            separator = '&';
        }
    }
    text
}

/// Host and port, for messages.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn link_local_in_every_writing() {
        for text in [
            "http://169.254.169.254/latest",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
        ] {
            assert!(is_link_local(&url(text)), "{text}");
        }
        for text in ["http://169.253.1.1/", "https://[fd00::1]/", "http://127.0.0.1/"] {
            assert!(!is_link_local(&url(text)), "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let signed = url("https://user:pw@cdn.example/blob?X-Amz-Signature=s3cret&ns=a#frag");
        assert_eq!(shown(&signed, true), "https://cdn.example/blob?...");
        assert_eq!(shown(&signed, false), "https://cdn.example/blob?ns=a");
        let token = url("https://auth/token?service=r&scope=repository:a:pull&account=me");
        assert_eq!(shown(&token, false), "https://auth/token?service=r&scope=repository:a:pull");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        for other in ["http://a/x", "https://a:444/x", "https://b/x", "https://a.b/x"] {
            assert!(!same_origin(&url("https://a/x"), &url(other)), "{other}");
        }
    }
}
