//! Which hosts serve a reference, in the order in which they are asked. Pure.
//!
//! 1. `--mirror`, as typed
//! 2. containerd's `hosts.toml`
//! 3. the mirrors of podman's `registries.conf`
//! 4. the registry: where `hosts.toml` has its `server`, else at the `location` of
//!    `registries.conf`, else by its own name
//!
//! The peers know one of these only; here the later ones stay as what is left when the earlier
//! fail.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};

use super::config::{
    ApiUrl, Capabilities, ConfiguredHost, ConfiguredRegistry, HostsToml, TlsFiles,
};
use crate::host::RegistryHost;
use crate::reference::ImageReference;

/// A host that serves the image's repository.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Whose credentials and certificates count.
    pub(crate) name: RegistryHost,
    pub(crate) scheme: Scheme,
    /// Below which the API answers: `/v2`.
    pub(crate) api_path: String,
    pub(crate) repository: String,
    /// The registry that it stands in for, told to it as containerd does.
    pub(crate) namespace: Option<String>,
    pub(crate) can: Capabilities,
    pub(crate) tls: TlsFiles,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Option<Duration>,
    /// Who says that it serves the image; `None` for the registry under its own name.
    pub(crate) told_by: Option<String>,
}

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Https,
    Http,
    /// TLS, and without it where nothing there speaks TLS.
    Either,
}

impl Scheme {
    /// In the order in which they are tried.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::Https => &["https"],
            Self::Http => &["http"],
            Self::Either => &["https", "http"],
        }
    }
}

/// What the command line and the files say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said<'a> {
    pub(crate) mirrors: &'a [RegistryHost],
    /// For the registry and `mirrors`.
    pub(crate) plain_http: bool,
    /// For the registry and `mirrors`.
    pub(crate) insecure: bool,
    pub(crate) hosts_toml: Option<(&'a Path, &'a HostsToml)>,
    pub(crate) registries_conf: Option<&'a ConfiguredRegistry>,
}

/// The hosts that serve `reference`. There is always one; each stands there once.
pub(crate) fn hosts(reference: &ImageReference, said: &Said<'_>) -> Vec<Host> {
    let plan = Plan { reference, said };
    let mut hosts: Vec<Host> = said.mirrors.iter().map(|mirror| plan.typed(mirror)).collect();
    if let Some((file, toml)) = said.hosts_toml {
        hosts.extend(toml.hosts.iter().filter_map(|host| plan.containerd(host, file)));
    }
    if let Some(registry) = said.registries_conf {
        hosts.extend(plan.podman_mirrors(registry));
    }
    hosts.push(plan.registry());
    let mut once: Vec<Host> = Vec::new();
    for host in hosts {
        if !once.iter().any(|earlier| earlier.is_same(&host)) {
            once.push(host);
        }
    }
    once
}

impl Host {
    /// `name` under its own name, with the API where the specification has it.
    pub(crate) fn plain(name: &RegistryHost, repository: &str, scheme: Scheme) -> Self {
        Self {
            name: name.clone(),
            scheme,
            api_path: "/v2".into(),
            repository: repository.into(),
            namespace: None,
            can: Capabilities::default(),
            tls: TlsFiles::default(),
            headers: Vec::new(),
            dial_timeout: None,
            told_by: None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let place = |host: &Self| (host.api_path.clone(), host.repository.clone(), host.scheme);
        self.name == other.name && place(self) == place(other)
    }
}

/// The scheme of a host that is named without one.
pub(crate) fn scheme(host: &RegistryHost, plain_http: bool) -> Scheme {
    match (plain_http, host.is_loopback()) {
        (true, _) => Scheme::Http,
        (false, true) => Scheme::Either,
        (false, false) => Scheme::Https,
    }
}

struct Plan<'a> {
    reference: &'a ImageReference,
    said: &'a Said<'a>,
}

impl Plan<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.reference.registry(), self.reference.repository())
    }

    /// `host`, and whether it stands in for the registry.
    fn by_name(&self, host: &RegistryHost) -> Host {
        let registry = self.reference.registry();
        // docker.io answers under another name; both are docker.io.
        let is_registry = host == registry || host.as_str() == registry.api_host();
        let name = if is_registry { registry } else { host };
        let scheme = scheme(name, self.said.plain_http);
        Host {
            namespace: (!is_registry).then(|| registry.to_string()),
            ..Host::plain(name, self.reference.repository(), scheme)
        }
    }

    fn typed(&self, mirror: &RegistryHost) -> Host {
        let mut host = self.by_name(mirror);
        host.tls.skip_verify = self.said.insecure;
        host.told_by = Some("--mirror".into());
        host
    }

    fn containerd(&self, configured: &ConfiguredHost, file: &Path) -> Option<Host> {
        let ApiUrl { https, host, path } = configured.url.as_ref()?;
        let mut made = self.by_name(host);
        made.scheme = match https {
            true => Scheme::Https,
            // As containerd: TLS settings for a host without TLS ask for a try with it.
            false if !configured.tls.is_empty() => Scheme::Either,
            false => Scheme::Http,
        };
        made.api_path = path.clone();
        made.told_by = Some(file.display().to_string());
        settings(&mut made, configured);
        Some(made)
    }

    fn podman_mirrors(&self, registry: &ConfiguredRegistry) -> Vec<Host> {
        let name = self.name();
        let by_digest = self.reference.digest().is_some();
        let mirrors = registry.mirrors(by_digest).map(|mirror| {
            let (host, repository) = registry.rewritten(&name, &mirror.location);
            let told_by = registry.file.display().to_string();
            podman(host, &repository, mirror.insecure, Some(told_by))
        });
        mirrors.collect()
    }

    fn registry(&self) -> Host {
        let registry = self.reference.registry();
        let mut host = self.under_its_name_or_location();
        if let Some((file, toml)) = self.said.hosts_toml {
            if let Some(server) = self.containerd(&toml.server, file) {
                host = server;
            } else {
                settings(&mut host, &toml.server);
            }
        }
        if host.name == *registry {
            host.told_by = None;
            host.tls.skip_verify |= self.said.insecure;
        }
        host
    }

    fn under_its_name_or_location(&self) -> Host {
        let own = self.by_name(self.reference.registry());
        let Some(configured) = self.said.registries_conf else { return own };
        match &configured.location {
            None => {
                let mut own = own;
                own.scheme = insecure(own.scheme, configured.insecure);
                own.tls.skip_verify = configured.insecure;
                own
            }
            Some(location) => {
                let (host, repository) = configured.rewritten(&self.name(), location);
                let told_by = configured.file.display().to_string();
                let mut made = podman(host, &repository, configured.insecure, Some(told_by));
                if made.name == own.name && self.said.plain_http {
                    made.scheme = Scheme::Http;
                }
                made
            }
        }
    }
}

fn podman(host: &RegistryHost, repository: &str, is_insecure: bool, by: Option<String>) -> Host {
    let scheme = insecure(scheme(host, false), is_insecure);
    let mut made = Host { told_by: by, ..Host::plain(host, repository, scheme) };
    made.tls.skip_verify = is_insecure;
    made
}

fn insecure(scheme: Scheme, is_insecure: bool) -> Scheme {
    if is_insecure && scheme == Scheme::Https { Scheme::Either } else { scheme }
}

fn settings(host: &mut Host, configured: &ConfiguredHost) {
    host.can = configured.can;
    host.tls.add(configured.tls.clone());
    host.headers.clone_from(&configured.headers);
    host.dial_timeout = configured.dial_timeout;
}

#[cfg(test)]
mod tests {
    use super::super::config::ConfigSources;
    use super::*;

    /// The hosts for `image`, as `scheme host api-path repository ns`.
    fn list(image: &str, mirrors: &[&str], toml: &str, conf: &str) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = home.path().join(".config").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("containerd/certs.d/_default/hosts.toml", toml);
        write("containers/registries.conf", conf);
        let sources = ConfigSources::of_user(|name| (name == "HOME").then(|| home.path().into()));
        let reference: ImageReference = image.parse().unwrap();
        let mirrors: Vec<RegistryHost> = mirrors.iter().map(|m| m.parse().unwrap()).collect();
        let toml = sources.hosts_toml(reference.registry()).unwrap();
        let conf = sources.registries().unwrap();
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let said = Said {
            mirrors: &mirrors,
            hosts_toml: toml.as_ref().map(|(path, toml)| (path.as_path(), toml)),
            registries_conf: conf.find(&name),
            ..Said::default()
        };
        let shown = |host: &Host| {
            let Host { scheme, name, api_path, repository, namespace, .. } = host;
            let namespace = namespace.as_deref().unwrap_or("-");
            format!("{scheme:?} {name} {api_path} {repository} {namespace}")
        };
        hosts(&reference, &said).iter().map(shown).collect()
    }

    #[test]
    fn without_a_word_it_is_the_registry() {
        assert_eq!(list("app", &[], "", ""), ["Https docker.io /v2 library/app -"]);
        assert_eq!(list("localhost:5000/a", &[], "", ""), ["Either localhost:5000 /v2 a -"]);
    }

    #[test]
    fn every_source_has_its_place_and_meaning() {
        let toml = "[host.\"https://b.example/x\"]\n[host.\"https://c.example\"]\n";
        let conf = "[[registry]]\nprefix = \"quay.io/team\"\nlocation = \"e.example/t\"\n\
                    [[registry.mirror]]\nlocation = \"d.example\"\ninsecure = true\n";
        assert_eq!(
            list("quay.io/team/app", &["a.example"], toml, conf),
            [
                "Https a.example /v2 team/app quay.io",
                "Https b.example /x/v2 team/app quay.io",
                "Https c.example /v2 team/app quay.io",
                "Either d.example /v2 app -",
                "Https e.example /v2 t/app -",
            ]
        );
        // containerd's server wins over podman's location.
        let toml = "server = \"https://s.example\"\n";
        let hosts = list("quay.io/team/app", &[], toml, conf);
        assert_eq!(hosts.last().unwrap(), "Https s.example /v2 team/app quay.io");
    }

    #[test]
    fn the_registry_itself_is_no_mirror() {
        // docker.io under the name by which it answers, and a host that is named twice.
        let toml = "[host.\"https://registry-1.docker.io\"]\n[host.\"https://m.example\"]\n";
        assert_eq!(
            list("app", &["docker.io", "m.example"], toml, ""),
            ["Https docker.io /v2 library/app -", "Https m.example /v2 library/app docker.io",]
        );
    }
}
