//! containerd's `hosts.toml`: which hosts serve a registry's images (docs/hosts.md there). Pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

use super::certs::{ClientPair, TlsFiles};
use super::document::{self, Mistake, Section, Value};
use crate::host::RegistryHost;

/// Below this path a registry answers, unless `override_path` says otherwise.
const API_PATH: &str = "/v2";
/// Longest `dial_timeout` that is kept; a longer one is as good as none.
const MAX_DIAL_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a `hosts.toml` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostsToml {
    /// Asked in this order.
    pub(crate) hosts: Vec<ConfiguredHost>,
    /// Asked last. Without a URL: the registry itself, with these settings.
    pub(crate) server: ConfiguredHost,
}

/// A host and what holds for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConfiguredHost {
    pub(crate) url: Option<ApiUrl>,
    pub(crate) can: Capabilities,
    pub(crate) tls: TlsFiles,
    /// Sent to this host only.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Option<Duration>,
}

/// Where a host answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiUrl {
    pub(crate) https: bool,
    pub(crate) host: RegistryHost,
    /// With `/v2`, without a slash at its end; empty for the root.
    pub(crate) path: String,
}

/// What a host is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// May serve what is asked for by digest.
    pub(crate) pull: bool,
    /// May say what a tag stands for.
    pub(crate) resolve: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { pull: true, resolve: true }
    }
}

/// Parses the file in `dir`, which its relative paths start from.
pub(crate) fn parse(text: &str, dir: &Path) -> Result<HostsToml, Mistake> {
    document::parse(text, |root| {
        let mut server = settings(root, dir)?;
        if let Some(value) = root.get("server") {
            server.url = Some(url(value, value.string()?, root.flag("override_path")?)?);
        }
        let mut hosts = Vec::new();
        if let Some(table) = root.get("host") {
            for entry in table.section()?.entries() {
                let section = entry.section()?;
                let mut host = settings(section, dir)?;
                host.url = Some(url(entry, entry.name, section.flag("override_path")?)?);
                hosts.push(host);
            }
        }
        Ok(HostsToml { hosts, server })
    })
}

fn settings(section: Section<'_>, dir: &Path) -> Result<ConfiguredHost, Mistake> {
    let ca = section.get("ca").map(|value| value.strings()).transpose()?.unwrap_or_default();
    Ok(ConfiguredHost {
        url: None,
        can: capabilities(section)?,
        tls: TlsFiles {
            skip_verify: section.flag("skip_verify")?,
            ca: ca.into_iter().map(|path| dir.join(path)).collect(),
            client: clients(section, dir)?,
        },
        headers: headers(section)?,
        dial_timeout: match section.get("dial_timeout") {
            None => None,
            Some(value) => match value.string()? {
                "" => None,
                text => Some(duration(text).ok_or_else(|| value.wrong("want a time as in 5s"))?),
            },
        },
    })
}

fn url(value: Value<'_>, text: &str, override_path: bool) -> Result<ApiUrl, Mistake> {
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let wrong = || value.wrong("want a URL as in \"https://mirror.example\"");
    let url = Url::parse(&with_scheme).map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain {
        return Err(wrong());
    }
    let host = super::super::target::authority(&url).parse().map_err(|e| value.wrong(e))?;
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !override_path && !path.ends_with(API_PATH) {
        path.push_str(API_PATH);
    }
    Ok(ApiUrl { https: url.scheme() == "https", host, path })
}

fn capabilities(section: Section<'_>) -> Result<Capabilities, Mistake> {
    let Some(value) = section.get("capabilities") else { return Ok(Capabilities::default()) };
    let names = value.strings()?;
    if names.is_empty() {
        return Ok(Capabilities::default());
    }
    let mut can = Capabilities { pull: false, resolve: false };
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => can.pull = true,
            "resolve" => can.resolve = true,
            // Nothing is pushed, and referrers are not asked for.
            "push" | "referrers" => {}
            other => {
                let reason = format!("unknown capability {other:?}: want pull, resolve or push");
                return Err(value.wrong(reason));
            }
        }
    }
    Ok(can)
}

/// `"both.pem"`, `["both.pem"]`, or `[["cert.pem", "key.pem"]]`.
fn clients(section: Section<'_>, dir: &Path) -> Result<Vec<ClientPair>, Mistake> {
    let Some(value) = section.get("client") else { return Ok(Vec::new()) };
    let pair = |cert: &str, key: Option<&str>| ClientPair {
        cert: dir.join(cert),
        key: key.filter(|key| !key.is_empty()).map(|key| dir.join(key)),
    };
    let Some(elements) = value.elements() else { return Ok(vec![pair(value.string()?, None)]) };
    elements
        .map(|element| match element.elements() {
            None => Ok(pair(element.string()?, None)),
            Some(_) => match element.strings()?.as_slice() {
                [cert, key] => Ok(pair(cert, Some(key))),
                _ => Err(element.wrong("want a pair: [\"CERT\", \"KEY\"]")),
            },
        })
        .collect()
}

fn headers(section: Section<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Mistake> {
    let Some(table) = section.get("header") else { return Ok(Vec::new()) };
    let mut headers = Vec::new();
    for entry in table.section()?.entries() {
        let name: HeaderName =
            entry.name.parse().map_err(|_| entry.wrong("is no name of an HTTP header"))?;
        for text in entry.strings()? {
            let mut value: HeaderValue =
                text.parse().map_err(|_| entry.wrong("is no value of an HTTP header"))?;
            // Some send a token this way.
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
    }
    Ok(headers)
}

/// A time as Go writes it: `5s`, `1m30s`, `1.5s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total.min(MAX_DIAL_TIMEOUT)).filter(|_| !text.is_empty())
}

/// The directories below a `certs.d` that may hold a host's file, in containerd's order.
pub(crate) fn directories(root: &Path, host: &RegistryHost) -> Vec<PathBuf> {
    let name = host.as_str();
    // `host:5000` may be written `host_5000_`, for file systems without colons.
    let port = name.rfind(':').filter(|at| *at > name.rfind(']').unwrap_or_default());
    let without_colon =
        port.map(|at| format!("{}_{}_", &name[..at], name.get(at + 1..).unwrap_or_default()));
    let names = without_colon.into_iter().chain([name.to_owned(), "_default".to_owned()]);
    names.map(|name| root.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HostsToml {
        parse(text, Path::new("/c/quay.io")).unwrap()
    }

    #[test]
    fn hosts_come_in_the_files_order_and_the_server_last() {
        let file = read(
            r#"
            server = "https://upstream.example"
            [host."https://z.example"]
              capabilities = ["pull"]
              ca = "z.crt"
              client = [["c.cert", "c.key"], "/both.pem"]
              dial_timeout = "1m0.5s"
              [host."https://z.example".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."http://a.example:5000/cache"]
              skip_verify = true
              ca = ["/a.crt", "b.crt"]
            [host."m.example/api/v2/proj"]
              override_path = true
            "#,
        );
        let urls: Vec<String> = file
            .hosts
            .iter()
            .chain([&file.server])
            .map(|host| {
                let url = host.url.as_ref().unwrap();
                format!("{} {} {}", url.https, url.host, url.path)
            })
            .collect();
        assert_eq!(
            urls,
            [
                "true z.example /v2",
                "false a.example:5000 /cache/v2",
                "true m.example /api/v2/proj",
                "true upstream.example /v2"
            ]
        );
        let z = &file.hosts[0];
        assert_eq!(z.can, Capabilities { pull: true, resolve: false });
        assert_eq!(z.tls.ca, [Path::new("/c/quay.io/z.crt")]);
        assert_eq!(z.tls.client[0].key.as_deref(), Some(Path::new("/c/quay.io/c.key")));
        assert_eq!(z.tls.client[1], ClientPair { cert: "/both.pem".into(), key: None });
        assert_eq!(z.dial_timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(z.headers.len(), 3);
        assert!(!format!("{z:?}").contains("\"3\""), "{z:?}");
        assert!(file.hosts[1].tls.skip_verify);
        assert_eq!(file.hosts[1].tls.ca, [Path::new("/a.crt"), Path::new("/c/quay.io/b.crt")]);
    }

    #[test]
    fn settings_without_a_server_are_the_registrys_own() {
        let file = read("ca = \"r.crt\"\n");
        assert!(file.server.url.is_none() && file.hosts.is_empty());
        assert_eq!(file.server.tls.ca, [Path::new("/c/quay.io/r.crt")]);
    }

    #[test]
    fn mistakes_name_line_and_key() {
        for (text, line, words) in [
            ("[host.\"https://a\"]\ncapabilities = [\"fly\"]", 2, "capabilities: unknown"),
            ("[host.\"ftp://a\"]", 1, "ftp://a: want a URL"),
            ("server = \"https://u:secret@a\"", 1, "server: want a URL"),
            ("\nclient = [[\"a\"]]", 2, "client: want a pair"),
            ("dial_timeout = \"5 parsecs\"", 1, "dial_timeout: want a time"),
            ("[header]\nx = \"a\\nsecret\"", 2, "x: is no value"),
            ("ca = 3", 1, "ca: want a string"),
            ("host = 1", 1, "host: want a table"),
            ("[host", 1, "no TOML"),
        ] {
            let mistake = parse(text, Path::new("/c")).unwrap_err();
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
            assert!(mistake.reason.starts_with(words), "{text:?}: {mistake:?}");
            assert!(!mistake.reason.contains("secret"), "{mistake:?}");
        }
    }

    #[test]
    fn times_as_go_writes_them() {
        for (text, ms) in [("5s", 5000), ("1m30s", 90_000), ("1.5s", 1500), ("300ms", 300)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("999999h"), Some(MAX_DIAL_TIMEOUT));
        for text in ["", "5", "s", "-5s", "5x", "1e400s", "9".repeat(400).as_str()] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_may_be_written_without_its_colon() {
        let names = |host: &str| directories(Path::new("/c"), &host.parse().unwrap());
        assert_eq!(
            names("r.example:5000"),
            [
                Path::new("/c/r.example_5000_"),
                Path::new("/c/r.example:5000"),
                Path::new("/c/_default")
            ]
        );
        assert_eq!(names("docker.io"), [Path::new("/c/docker.io"), Path::new("/c/_default")]);
        assert_eq!(names("[::1]")[0], Path::new("/c/[::1]"));
    }
}
