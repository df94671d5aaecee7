//! One request, its redirects, and the answer as it comes: the only place that talks HTTP.
//!
//! Every exchange is told to the observer. A connection that stalls, or nearly does, has failed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
    RETRY_AFTER,
};
use reqwest::tls::TlsInfo;
use url::Url;

use super::client::{ClientKind, Clients, Timeouts};
use super::error::{Cause, Phase, Problem, RegistryError};
use super::notices::Notices;
use super::pace::Pace;
use super::retry_after;
use super::target::{authority, is_link_local, is_loopback, same_origin, shown};
use super::timing::Clock;
use super::tls::Tls;
use crate::event::{Event, Exchange, Observer};

/// How often one request may be redirected; registries use one or two.
const MAX_REDIRECTS: usize = 10;
/// Longest header value that is kept to be shown, in bytes.
const MAX_SHOWN_HEADER_BYTES: usize = 512;
/// How a form is sent (HTML, "application/x-www-form-urlencoded").
const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// The header in which registries state a manifest's digest.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";

/// What ocipull asks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Head,
    Get,
    /// Of a form, to a token service.
    Post,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// A request as it is sent.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) accept: Option<HeaderValue>,
    /// `Range`, also after a redirect.
    pub(crate) range: Option<HeaderValue>,
    /// Stays with the URL's origin: no redirect carries it elsewhere.
    pub(crate) authorization: Option<HeaderValue>,
    /// What is configured to be sent along. Stays with the origin too.
    pub(crate) headers: Arc<[(HeaderName, HeaderValue)]>,
    /// The body, URL-encoded. Only ever sent to the URL itself.
    pub(crate) form: Option<String>,
    /// The origin's. Elsewhere nothing holds of it but its CAs.
    pub(crate) tls: Arc<Tls>,
    /// Whether the URL came from a server, so that its query may be secret.
    pub(crate) foreign: bool,
}

/// Sends requests, and tells what becomes of them.
pub(crate) struct Transport {
    observer: Arc<dyn Observer>,
    notices: Notices,
    clients: Clients,
}

impl Transport {
    pub(crate) fn new(timeouts: Timeouts, observer: Arc<dyn Observer>) -> Self {
        Self { observer, notices: Notices::default(), clients: Clients::new(timeouts) }
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        self.clients.timeouts()
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
        let client = self.clients.get(ClientKind::of(&ask.url, &ask.tls))?;
        let mut request = match ask.method {
            Method::Head => client.head(ask.url.clone()),
            Method::Get => client.get(ask.url.clone()),
            Method::Post => client.post(ask.url.clone()),
        };
        for (name, value) in ask.headers.iter() {
            // What was asked for by a challenge counts more.
            if *name != AUTHORIZATION || ask.authorization.is_none() {
                request = request.header(name, value);
            }
        }
        if let Some(form) = &ask.form {
            request = request.header(CONTENT_TYPE, FORM_TYPE).body(form.clone());
        }
        if let Some(accept) = &ask.accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(range) = &ask.range {
            request = request.header(RANGE, range);
        }
        if let Some(authorization) = &ask.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let clock = Clock::start();
        let url = shown(&ask.url, ask.foreign);
        let method = ask.method.as_str();
        let Timeouts { connect, stall } = self.timeouts().for_host(&ask.tls);
        // The connecting has a limit of its own.
        let sending = clock.scope(request.send());
        let cause = match tokio::time::timeout(connect + stall, sending).await {
            Ok(Ok(response)) => {
                if !ask.foreign {
                    let host = authority(&ask.url);
                    self.notices.tell(&host, response.headers(), self.observer.as_ref());
                }
                return Ok(Answer::new(response, ask.method, url, &clock, self));
            }
            Ok(Err(error)) if error.is_connect() => {
                let cause = Cause::of(error, clock.waits_for(), connect);
                let exchange = unanswered(method, &url, &cause, &clock);
                self.observer.observe(&Event::Unreached(&exchange));
                return Err(RegistryError::Unreachable { host: authority(&ask.url), cause });
            }
            Ok(Err(error)) => Cause::of(error, Phase::Answer, stall),
            Err(_) => Cause::TimedOut { phase: Phase::Answer, after: stall },
        };
        let exchange = unanswered(method, &url, &cause, &clock);
        self.observer.observe(&Event::Exchange(&exchange));
        Err(RegistryError::Broken { method, url, cause })
    }

    /// Who issued the certificate of the host that `ask` could not be sent to, by the certificate's
    /// own word. Asks for nothing but the API's root, and without credentials: the host is not
    /// trusted.
    pub(crate) async fn issuer(&self, ask: &Ask) -> Option<String> {
        let tls = Tls { skip_verify: true, identity: None, ..(*ask.tls).clone() };
        let url = ask.url.join("/v2/").ok()?;
        let (headers, form, authorization) = (Arc::default(), None, None);
        let ask = Ask { url, tls: Arc::new(tls), headers, form, authorization, ..ask.clone() };
        let kind = ClientKind::of(&ask.url, &ask.tls).inspecting();
        let client = self.clients.get(kind).ok()?;
        let limit = self.timeouts().for_host(&ask.tls).connect;
        let response = client.head(ask.url).timeout(limit).send().await.ok()?;
        let certificate = response.extensions().get::<TlsInfo>()?.peer_certificate()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let name = certificate.issuer().to_string();
        Some(name.chars().take(MAX_SHOWN_HEADER_BYTES).collect())
    }
}

/// What is to be told of a request without an answer.
fn unanswered(method: &'static str, url: &str, cause: &Cause, clock: &Clock) -> Exchange {
    Exchange {
        method,
        url: url.to_owned(),
        status: Err(cause.to_string()),
        content_type: None,
        digest: None,
        bytes: 0,
        elapsed: clock.started().elapsed(),
        timing: clock.unanswered(),
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
        headers: if stays { Arc::clone(&ask.headers) } else { Arc::default() },
        form: None,
        tls: if stays { Arc::clone(&ask.tls) } else { Arc::new(ask.tls.elsewhere()) },
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
        clock: &Clock,
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
            timing: clock.answered(),
        };
        let (started, stall) = (clock.started(), transport.timeouts().stall);
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
            headers: Arc::new([(
                HeaderName::from_static("x-key"),
                HeaderValue::from_static("s3cret"),
            )]),
            form: None,
            tls: Arc::new(Tls {
                skip_verify: true,
                roots: vec![Arc::new([1])],
                identity: Some(Arc::new([2])),
                connect_timeout: None,
            }),
            foreign: false,
        }
    }

    #[test]
    fn what_is_the_origins_stays_with_the_origin() {
        let same = redirected(&ask("https://a/v2/x"), Some("/v3/x")).ok().unwrap();
        assert_eq!(same.url.as_str(), "https://a/v3/x");
        assert!(same.authorization.is_some() && same.tls.skip_verify && same.foreign);
        assert!(same.tls.identity.is_some() && same.headers.len() == 1);
        for other in ["https://b/x", "https://a:8443/x", "//cdn.a/x", "https://u:p@a.b/x"] {
            let other = redirected(&ask("https://a/v2/x"), Some(other)).ok().unwrap();
            assert!(other.authorization.is_none() && other.headers.is_empty(), "{}", other.url);
            assert!(!other.tls.skip_verify && other.tls.identity.is_none(), "{}", other.url);
            assert_eq!(other.tls.roots.len(), 1, "its CAs are good there too");
            assert_eq!((other.url.username(), other.url.password()), ("", None));
        }
    }

    #[test]
    fn no_redirect_leads_to_secrets_or_out_of_tls() {
        let problem = |from: &str, to: Option<&str>| match redirected(&ask(from), to) {
            Err(RegistryError::Refused { problem, .. }) => problem,
            Ok(ask) => panic!("{from} -> {to:?}: got {}", ask.url),
            Err(other) => panic!("{from} -> {to:?}: got {other:?}"),
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
