//! One host that serves a repository: how it is reached, and as whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::header::{CONTENT_RANGE, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::auth::{self, Asked, MAX_ERROR_BYTES};
use super::breaker::Breaker;
use super::challenge::{self, Challenge};
use super::config::{ConfigError, ConfigSources};
use super::credentials::{CredentialSources, Found};
use super::error::{Cause, Missing, Problem, RegistryError, ServerWords};
use super::hosts::Host;
use super::range::Rest;
use super::target::is_link_local;
use super::tls::Tls;
use super::transport::{Answer, Ask, Method, Transport};

/// What the endpoints of a run share.
pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) config: ConfigSources,
    /// `--ca-cert`.
    pub(crate) ca: Option<Arc<[u8]>>,
}

/// A host that serves the image's repository: the registry itself or a mirror.
pub(crate) struct Endpoint {
    pub(crate) host: Host,
    pub(crate) breaker: Breaker,
    /// Whether it was told that the image comes from here.
    pub(crate) is_told: AtomicBool,
    shared: Arc<Shared>,
    sources: Arc<CredentialSources>,
    tls: OnceCell<Arc<Tls>>,
    /// What was found to be answered, of the host's schemes.
    scheme: Mutex<Option<&'static str>>,
    login: Mutex<LoginState>,
    /// Whether the header in use was good once: then a refusal may mean that its time is over.
    is_proven: AtomicBool,
    has_answered: AtomicBool,
}

/// What is asked for, below a host's repository.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// `manifests/latest`
    pub(crate) path: &'a str,
    pub(crate) accept: Option<HeaderValue>,
    /// Of a blob of which some is known.
    pub(crate) rest: Option<Rest>,
}

impl<'a> Request<'a> {
    /// For `path` as it is.
    pub(crate) fn get(path: &'a str) -> Self {
        Self { method: Method::Get, path, accept: None, rest: None }
    }
}

/// The header in use, and who it stands for. Locked while a new one is had, so that requests that
/// fail together renew it once.
#[derive(Default)]
struct LoginState {
    header: Option<HeaderValue>,
    found: Option<Found>,
    /// The ways in as last told, for refusals that do not tell.
    challenges: Vec<Challenge>,
}

/// A request and what came of it.
struct Reached {
    ask: Ask,
    answer: Answer,
    /// Whether the answer is from another origin.
    elsewhere: bool,
}

impl Endpoint {
    pub(crate) fn new(host: Host, sources: Arc<CredentialSources>, shared: Arc<Shared>) -> Self {
        Self {
            host,
            breaker: Breaker::default(),
            is_told: AtomicBool::new(false),
            shared,
            sources,
            tls: OnceCell::new(),
            scheme: Mutex::default(),
            login: Mutex::default(),
            is_proven: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
        }
    }

    /// Whether something came from the host before, if only an error.
    pub(crate) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Sends a request. Only a 200 is an answer, or a 206 with the rest that was asked for.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Answer, RegistryError> {
        let mut header = self.login.lock().await.header.clone();
        let mut renewed = false;
        loop {
            let Reached { ask, mut answer, elsewhere } =
                self.reach(request, header.clone()).await?;
            self.has_answered.store(true, Ordering::Relaxed);
            if let (200, _) | (206, Some(_)) = (answer.status(), request.rest) {
                self.is_proven.store(header.is_some(), Ordering::Relaxed);
                return joined(answer, request.rest);
            }
            // An answer from where a redirect led says nothing about the registry's credentials.
            if renewed || elsewhere || !self.may_be_answered(answer.status(), header.is_some()) {
                return Err(self.failure(answer).await);
            }
            let challenges =
                challenge::parse(answer.headers(WWW_AUTHENTICATE.as_str()).collect::<Vec<_>>());
            let Some(new) = self.renew(&ask, challenges, header).await? else {
                return Err(self.failure(answer).await);
            };
            // Read to its end, so that the connection can be used again.
            let _ = answer.collect("an error", MAX_ERROR_BYTES).await;
            header = Some(new);
            renewed = true;
        }
    }

    /// Asks for the API's root. Tells whether the registry wanted to know who asks.
    pub(crate) async fn ping(&self) -> Result<bool, RegistryError> {
        self.send(&Request::get("")).await?;
        Ok(self.is_proven.load(Ordering::Relaxed))
    }

    /// Whether the repository is there, where `selector` in it is not.
    pub(crate) async fn missing(&self, selector: &str) -> Missing {
        let repository = self.host.repository.clone();
        match self.send(&Request::get(super::tags::PATH)).await {
            Err(RegistryError::NotFound { .. }) => Missing::Repository(repository),
            Err(_) => Missing::Unknown,
            Ok(mut answer) => {
                let body = answer.collect("a list of tags", super::tags::MAX_BYTES).await;
                let some = super::tags::some(&body.unwrap_or_default());
                Missing::Tag { repository, selector: selector.to_owned(), some }
            }
        }
    }

    /// ECR says 403 of a token that is over.
    fn may_be_answered(&self, status: u16, with_header: bool) -> bool {
        status == 401 || (status == 403 && with_header && self.is_proven.load(Ordering::Relaxed))
    }

    /// Sends the request by the scheme that is answered; the first request finds out which.
    async fn reach(
        &self,
        request: &Request<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Reached, RegistryError> {
        let method = request.method;
        let tls = self.tls().await?;
        let ask = |scheme: &str| -> Result<Ask, RegistryError> {
            Ok(Ask {
                method,
                url: self.url(scheme, method, request.path)?,
                accept: request.accept.clone(),
                range: request.rest.and_then(Rest::header),
                authorization: authorization.clone(),
                headers: self.host.headers.as_slice().into(),
                form: None,
                tls: Arc::clone(tls),
                foreign: false,
            })
        };
        let transport = &self.shared.transport;
        let mut known = self.scheme.lock().await;
        if let Some(scheme) = *known {
            drop(known);
            let ask = ask(scheme)?;
            let (answer, elsewhere) = transport.follow(ask.clone()).await?;
            return Ok(Reached { ask, answer, elsewhere });
        }
        let schemes = self.host.scheme.names();
        let last = schemes.len().saturating_sub(1);
        for (at, &scheme) in schemes.iter().enumerate() {
            let ask = ask(scheme)?;
            match transport.follow(ask.clone()).await {
                Ok((answer, elsewhere)) => {
                    *known = Some(scheme);
                    return Ok(Reached { ask, answer, elsewhere });
                }
                Err(RegistryError::Unreachable { cause, .. })
                    if at < last && cause.may_be_plain_http() => {}
                Err(RegistryError::Unreachable { host, cause: Cause::UnknownIssuer(None) }) => {
                    let cause = Cause::UnknownIssuer(transport.issuer(&ask).await);
                    return Err(RegistryError::Unreachable { host, cause });
                }
                Err(other) => return Err(other),
            }
        }
        // There is always a scheme, and the last one's failure is returned above.
        Err(self.no_url(method))
    }

    async fn tls(&self) -> Result<&Arc<Tls>, ConfigError> {
        self.tls
            .get_or_try_init(async || {
                let Host { name, tls, dial_timeout, .. } = &self.host;
                let Shared { config, ca, .. } = self.shared.as_ref();
                Tls::load(name, tls, config, ca.as_ref(), *dial_timeout).map(Arc::new)
            })
            .await
    }

    fn url(&self, scheme: &str, method: Method, path: &str) -> Result<Url, RegistryError> {
        let Host { name, api_path, repository, namespace, .. } = &self.host;
        let below = match path {
            "" => String::new(),
            path => format!("{repository}/{path}"),
        };
        let text = format!("{scheme}://{}{api_path}/{below}", name.api_host());
        let mut url = Url::parse(&text).map_err(|_| self.no_url(method))?;
        if is_link_local(&url) {
            return Err(RegistryError::Refused {
                method: method.as_str(),
                url: name.to_string(),
                problem: Problem::LinkLocal(name.to_string()),
            });
        }
        if let Some(namespace) = namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    fn no_url(&self, method: Method) -> RegistryError {
        let url = format!("{}{}/{}", self.host.name, self.host.api_path, self.host.repository);
        RegistryError::Refused { method: method.as_str(), url, problem: Problem::Url }
    }

    /// A header other than the `refused` one: another request's, or a new one. `None` when all that
    /// can be had is the refused one again.
    async fn renew(
        &self,
        ask: &Ask,
        challenges: Vec<Challenge>,
        refused: Option<HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut state = self.login.lock().await;
        if let Some(header) = &state.header
            && state.header != refused
        {
            return Ok(Some(header.clone()));
        }
        // Also when one is known: a helper that made it may make a fresh one.
        state.found = self.sources.find(&self.host.name, &self.host.repository).await?;
        if !challenges.is_empty() {
            state.challenges = challenges;
        }
        let asked = Asked {
            ask,
            host: self.host.name.as_str(),
            challenges: &state.challenges,
            repository: &self.host.repository,
            found: state.found.as_ref(),
        };
        let header = auth::authorize(&self.shared.transport, &asked).await?;
        if refused.as_ref() == Some(&header) {
            return Ok(None);
        }
        state.header = Some(header.clone());
        Ok(Some(header))
    }

    async fn failure(&self, mut answer: Answer) -> RegistryError {
        let body = answer.collect("an error", MAX_ERROR_BYTES).await.unwrap_or_default();
        let words = ServerWords::parse(&body);
        let (method, url, status) = (answer.method(), answer.url().to_owned(), answer.status());
        match status {
            401 | 403 => {
                let state = self.login.lock().await;
                let who = auth::who(state.found.as_ref());
                RegistryError::Denied { method, url, who, status, words }
            }
            404 => RegistryError::NotFound { method, url, words, missing: Box::default() },
            _ => RegistryError::unexpected(&answer, words),
        }
    }
}

/// `answer` if it is whole or the `rest`: another part is not to be taken for it.
fn joined(answer: Answer, rest: Option<Rest>) -> Result<Answer, RegistryError> {
    let Some(rest) = rest.filter(|_| answer.status() == 206) else { return Ok(answer) };
    let got = answer.header(CONTENT_RANGE.as_str()).unwrap_or("none");
    if rest.is(got) {
        return Ok(answer);
    }
    let (got, want) = (got.to_owned(), rest.content_range());
    Err(answer.refused(Problem::Range { got, want }))
}
