//! The HTTP clients: one for each way in which connections are made.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::dns::Resolver;
use super::error::{Cause, Phase, RegistryError};
use super::target::is_loopback;
use super::timing::TimedConnections;
use super::tls::Tls;

/// What may have come of all answers of an HTTP/2 connection that nobody has read yet: as much as there
/// can be (RFC 9113, section 6.9.1). Each answer has its own bound, of 2 MiB. A smaller one for all
/// would be used up by the layers that wait, and nothing would be left for the one they wait for.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// How long a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be made, TLS included, where no `dial_timeout` is configured.
    pub connect: Duration,
    /// For the next byte on a connection; one that comes later counts as broken.
    pub stall: Duration,
}

impl Default for Timeouts {
    /// 10 seconds to connect: three tries of a lost SYN; 60 for data, as proxies in front of
    /// registries have it.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), stall: Duration::from_secs(60) }
    }
}

impl Timeouts {
    /// What holds for the host of this set-up.
    pub(crate) fn for_host(self, tls: &Tls) -> Self {
        Self { connect: tls.connect_timeout.unwrap_or(self.connect), ..self }
    }
}

/// Makes and keeps HTTP clients. Each is made when first needed, as reading the system's CAs takes
/// longer than a second pull should.
pub(crate) struct Clients {
    timeouts: Timeouts,
    resolver: Arc<Resolver>,
    made: Mutex<Vec<(ClientKind, reqwest::Client)>>,
}

/// What tells two HTTP clients apart.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClientKind {
    /// Without proxies: they would look for their own loopback.
    direct: bool,
    /// Without TLS no CA needs to be read.
    https: bool,
    tls: Arc<Tls>,
    /// Whether the server's certificate is kept to be looked at.
    inspects: bool,
}

impl Clients {
    /// With timeouts for the hosts that have none of their own.
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        let (resolver, made) = Default::default();
        Self { timeouts, resolver, made }
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// The client of this kind.
    pub(crate) fn get(&self, kind: ClientKind) -> Result<reqwest::Client, RegistryError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = made.iter().find(|(known, _)| *known == kind) {
            return Ok(client.clone());
        }
        let client = kind.make(self)?;
        made.push((kind, client.clone()));
        Ok(client)
    }
}

impl ClientKind {
    /// For requests to `url`.
    pub(crate) fn of(url: &Url, tls: &Arc<Tls>) -> Self {
        let https = url.scheme() == "https";
        Self { direct: is_loopback(url), https, tls: Arc::clone(tls), inspects: false }
    }

    /// The same, with the server's certificate to be looked at.
    pub(crate) fn inspecting(self) -> Self {
        Self { inspects: true, ..self }
    }

    fn make(&self, clients: &Clients) -> Result<reqwest::Client, RegistryError> {
        if !self.https {
            return self.builder(clients)?.tls_certs_only([]).build().map_err(unusable);
        }
        let mut roots = Vec::new();
        for pem in &self.tls.roots {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(unusable)?);
        }
        let with_systems = self.builder(clients)?.tls_certs_merge(roots.clone()).build();
        // A machine without CA certificates can still pull without TLS; with it, the handshake
        // will say that the issuer is unknown.
        with_systems
            .or_else(|_| self.builder(clients)?.tls_certs_only(roots).build().map_err(unusable))
    }

    fn builder(&self, clients: &Clients) -> Result<reqwest::ClientBuilder, RegistryError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ocipull/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(clients.timeouts.for_host(&self.tls).connect)
            .tls_danger_accept_invalid_certs(self.tls.skip_verify)
            .tls_info(self.inspects)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .dns_resolver(Arc::clone(&clients.resolver))
            .connector_layer(TimedConnections);
        if let Some(pem) = self.tls.identity.as_ref().filter(|_| self.https) {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(unusable)?);
        }
        Ok(if self.direct { builder.no_proxy() } else { builder })
    }
}

fn unusable(error: reqwest::Error) -> RegistryError {
    // Nothing was waited for.
    RegistryError::Tls(Cause::of(error, Phase::Connect, Duration::ZERO))
}
