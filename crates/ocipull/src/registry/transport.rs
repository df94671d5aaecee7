//! One request, its redirects, and the answer as it comes: the only place that talks HTTP.
//!
//! Every exchange is told to the observer. A connection that stalls, or nearly does, has failed.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use url::Url;

use super::dns::Resolver;
use super::error::{Cause, Phase, Problem, RegistryError};
use super::pace::Pace;
use super::retry_after;
use super::target::{authority, is_link_local, is_loopback, same_origin, shown};
use crate::event::{Event, Exchange, Observer};

/// How long a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be made, TLS included.
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

/// How often one request may be redirected; registries use one or two.
const MAX_REDIRECTS: usize = 10;
/// Longest header value that is kept to be shown, in bytes.
const MAX_SHOWN_HEADER_BYTES: usize = 512;
/// The header in which registries state a manifest's digest.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";

/// What ocipull asks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Get,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
        }
    }
}

/// A request as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) accept: Option<HeaderValue>,
    /// `Range`, also after a redirect.
    pub(crate) range: Option<HeaderValue>,
    /// Stays with the URL's origin: no redirect carries it elsewhere.
    pub(crate) authorization: Option<HeaderValue>,
    /// Whether the host's certificate is taken as it is (`--insecure`). Stays with the origin too.
    pub(crate) insecure: bool,
    /// Whether the URL came from a server, so that its query may be secret.
    pub(crate) foreign: bool,
}

/// Makes and keeps the HTTP clients.
pub(crate) struct Transport {
    extra_roots: Vec<reqwest::Certificate>,
    timeouts: Timeouts,
    observer: Arc<dyn Observer>,
    resolver: Arc<Resolver>,
    /// By whether proxies are used and whether certificates are checked: made when first needed, as
    /// reading the system's CAs takes longer than a second pull should.
    clients: [OnceLock<reqwest::Client>; 4],
}

impl Transport {
    /// With more CAs than the system's, in PEM.
    pub(crate) fn new(
        ca_pem: Option<&[u8]>,
        timeouts: Timeouts,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, RegistryError> {
        let extra_roots = match ca_pem {
            None => Vec::new(),
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|e| RegistryError::Tls(Cause::of(e, Phase::Connect, timeouts.connect)))?,
        };
        if ca_pem.is_some() && extra_roots.is_empty() {
            let reason = "the CA file holds no certificate".to_owned();
            return Err(RegistryError::Tls(Cause::Other(reason)));
        }
        let (resolver, clients) = Default::default();
        Ok(Self { extra_roots, timeouts, observer, resolver, clients })
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    /// Sends `ask` and follows redirects. Tells whether they led to another origin: an answer from
    /// there has no say about the registry's credentials.
    pub(crate) async fn follow(&self, mut ask: Ask) -> Result<(Answer, bool), RegistryError> {
        let origin = ask.url.clone();
        let mut redirects = 0;
        loop {
            let answer = self.exchange(&ask).await?;
            if !matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, !same_origin(&origin, &ask.url)));
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(refused(&ask, Problem::TooManyRedirects(MAX_REDIRECTS)));
            }
            ask = redirected(&ask, answer.header(LOCATION.as_str()))?;
        }
    }

    /// One request, one answer; redirects are answers.
    pub(crate) async fn exchange(&self, ask: &Ask) -> Result<Answer, RegistryError> {
        let client = self.client(is_loopback(&ask.url), ask.insecure)?;
        let mut request = match ask.method {
            Method::Head => client.head(ask.url.clone()),
            Method::Get => client.get(ask.url.clone()),
        };
        if let Some(accept) = &ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(range) = &ask.range {
            request = request.header(RANGE, range);
        }
        if let Some(authorization) = &ask.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let started = Instant::now();
        let url = shown(&ask.url, ask.foreign);
        let method = ask.method.as_str();
        // The connecting has a limit of its own.
        let limit = self.timeouts.connect + self.timeouts.stall;
        let cause = match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => return Ok(Answer::new(response, ask.method, url, started, self)),
            // Nothing was asked yet: the error is all there is to tell.
            Ok(Err(error)) if error.is_connect() => {
                return Err(RegistryError::Unreachable {
                    host: authority(&ask.url),
                    cause: Cause::of(error, Phase::Connect, self.timeouts.connect),
                });
            }
            Ok(Err(error)) => Cause::of(error, Phase::Answer, self.timeouts.stall),
            Err(_) => Cause::TimedOut { phase: Phase::Answer, after: self.timeouts.stall },
        };
        self.observer.observe(&Event::Exchange(&Exchange {
            method,
            url: url.clone(),
            status: Err(cause.to_string()),
            content_type: None,
            digest: None,
            bytes: 0,
            elapsed: started.elapsed(),
        }));
        Err(RegistryError::Broken { method, url, cause })
    }

    fn client(&self, direct: bool, insecure: bool) -> Result<&reqwest::Client, RegistryError> {
        let [a, b, c, d] = &self.clients;
        let slot = match (direct, insecure) {
            (false, false) => a,
            (false, true) => b,
            (true, false) => c,
            (true, true) => d,
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let made = self
            .builder(direct, insecure)
            .tls_certs_merge(self.extra_roots.clone())
            .build()
            // A machine without CA certificates can still pull without TLS; with it, the
            // handshake will say that the issuer is unknown.
            .or_else(|_| {
                self.builder(direct, insecure).tls_certs_only(self.extra_roots.clone()).build()
            })
            .map_err(|e| RegistryError::Tls(Cause::of(e, Phase::Connect, self.timeouts.connect)))?;
        Ok(slot.get_or_init(|| made))
    }

    fn builder(&self, direct: bool, insecure: bool) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("ocipull/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.timeouts.connect)
            .tls_danger_accept_invalid_certs(insecure)
            .dns_resolver(Arc::clone(&self.resolver));
        // A proxy would look for its own loopback.
        if direct { builder.no_proxy() } else { builder }
    }
}

/// The request that a redirect asks for, if it is one to follow.
fn redirected(ask: &Ask, location: Option<&str>) -> Result<Ask, RegistryError> {
    let mut url = location
        .and_then(|location| ask.url.join(location).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| refused(ask, Problem::NoLocation))?;
    // The client would make an Authorization header of them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if is_link_local(&url) {
        return Err(refused(ask, Problem::LinkLocal(authority(&url))));
    }
    let stays_here = is_loopback(&ask.url) && is_loopback(&url);
    if ask.url.scheme() == "https" && url.scheme() == "http" && !stays_here {
        return Err(refused(ask, Problem::Downgrade(authority(&url))));
    }
    let stays = same_origin(&ask.url, &url);
    Ok(Ask {
        method: ask.method,
        url,
        accept: ask.accept.clone(),
        range: ask.range.clone(),
        authorization: ask.authorization.clone().filter(|_| stays),
        insecure: ask.insecure && stays,
        foreign: true,
    })
}

fn refused(ask: &Ask, problem: Problem) -> RegistryError {
    let url = shown(&ask.url, ask.foreign);
    RegistryError::Refused { method: ask.method.as_str(), url, problem }
}

/// An answer whose body is still to be read. Told to the observer when it is dropped.
pub(crate) struct Answer {
    response: reqwest::Response,
    exchange: Exchange,
    started: Instant,
    pace: Pace,
    stall: Duration,
    observer: Arc<dyn Observer>,
}

impl Answer {
    fn new(
        response: reqwest::Response,
        method: Method,
        url: String,
        started: Instant,
        transport: &Transport,
    ) -> Self {
        let exchange = Exchange {
            method: method.as_str(),
            url,
            status: Ok(response.status().as_u16()),
            content_type: None,
            digest: None,
            bytes: 0,
            elapsed: Duration::ZERO,
        };
        let stall = transport.timeouts.stall;
        let (pace, observer) = (Pace::new(stall), Arc::clone(&transport.observer));
        let mut answer = Self { response, exchange, started, pace, stall, observer };
        let short = |text: &str| text.chars().take(MAX_SHOWN_HEADER_BYTES).collect();
        answer.exchange.content_type = answer.header(CONTENT_TYPE.as_str()).map(short);
        answer.exchange.digest = answer.header(CONTENT_DIGEST).map(short);
        if method == Method::Head {
            answer.exchange.bytes = answer.stated_length().unwrap_or_default();
        }
        answer
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(crate) fn method(&self) -> &'static str {
        self.exchange.method
    }

    /// The URL that was answered, without secrets.
    pub(crate) fn url(&self) -> &str {
        &self.exchange.url
    }

    /// A header's value, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// All values of a header that may stand several times.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// `Content-Length`, also a HEAD's.
    pub(crate) fn stated_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// When the server may be asked again, if it says so.
    pub(crate) fn busy_until(&self) -> Option<SystemTime> {
        let now = SystemTime::now();
        let value = self.response.headers().get(RETRY_AFTER)?;
        retry_after::parse(value.as_bytes(), now).and_then(|wait| now.checked_add(wait))
    }

    /// Notes the digest that the body is checked against, where the answer states none.
    pub(crate) fn expect_digest(&mut self, digest: &Digest) {
        self.exchange.digest.get_or_insert_with(|| digest.to_string());
    }

    /// The next piece of the body, `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let asked = Instant::now();
        let after = self.stall;
        let chunk = match tokio::time::timeout(after, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(self.broken(Cause::of(error, Phase::Body, after))),
            Err(_) => return Err(self.broken(Cause::TimedOut { phase: Phase::Body, after })),
        };
        let length = chunk.as_ref().map_or(0, Bytes::len) as u64;
        self.exchange.bytes = self.exchange.bytes.saturating_add(length);
        if chunk.is_some()
            && let Err(cause) = self.pace.note(length, asked.elapsed())
        {
            return Err(self.broken(cause));
        }
        Ok(chunk)
    }

    fn broken(&self, cause: Cause) -> RegistryError {
        RegistryError::Broken { method: self.method(), url: self.url().to_owned(), cause }
    }

    /// All of the body, which is a `what`, if it has at most `limit` bytes.
    pub(crate) async fn collect(
        &mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(self.refused(Problem::TooLarge { what, limit }));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// This answer is not to be believed.
    pub(crate) fn refused(&self, problem: Problem) -> RegistryError {
        RegistryError::Refused { method: self.method(), url: self.url().to_owned(), problem }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.elapsed = self.started.elapsed();
        self.observer.observe(&Event::Exchange(&self.exchange));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &str) -> Ask {
        Ask {
            method: Method::Get,
            url: Url::parse(url).unwrap(),
            accept: None,
            range: None,
            authorization: Some(HeaderValue::from_static("Bearer t")),
            insecure: true,
            foreign: false,
        }
    }

    #[test]
    fn what_is_the_origins_stays_with_the_origin() {
        let same = redirected(&ask("https://a/v2/x"), Some("/v3/x")).unwrap();
        assert_eq!(same.url.as_str(), "https://a/v3/x");
        assert!(same.authorization.is_some() && same.insecure && same.foreign);
        for other in ["https://b/x", "https://a:8443/x", "//cdn.a/x", "https://u:p@a.b/x"] {
            let other = redirected(&ask("https://a/v2/x"), Some(other)).unwrap();
            assert!(other.authorization.is_none() && !other.insecure, "{}", other.url);
            assert_eq!((other.url.username(), other.url.password()), ("", None));
        }
    }

    #[test]
    fn no_redirect_leads_to_secrets_or_out_of_tls() {
        let problem = |from: &str, to: Option<&str>| match redirected(&ask(from), to) {
            Err(RegistryError::Refused { problem, .. }) => problem,
            other => panic!("{from} -> {to:?}: got {other:?}"),
        };
        let link_local = problem("http://a/x", Some("http://169.254.169.254/latest"));
        assert_eq!(link_local, Problem::LinkLocal("169.254.169.254".into()));
        assert!(matches!(problem("https://a/x", Some("http://a/x")), Problem::Downgrade(_)));
        for to in
            [None, Some("file:///etc/passwd"), Some("ftp://a/x"), Some("http://"), Some("data:,")]
        {
            assert_eq!(problem("https://a/x", to), Problem::NoLocation, "{to:?}");
        }
    }
}
