//! One host that serves a repository: how it is reached, and as whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Mutex;
use url::Url;

use super::auth::{self, Asked, MAX_ERROR_BYTES};
use super::challenge::{self, Challenge};
use super::credentials::{CredentialSources, Found};
use super::error::{Problem, RegistryError, ServerWords};
use super::target::is_link_local;
use super::transport::{Answer, Ask, Method, Transport};
use crate::host::RegistryHost;

/// A host that serves the image's repository: the registry itself or a mirror.
pub(crate) struct Endpoint {
    pub(crate) host: RegistryHost,
    repository: String,
    /// The registry that a mirror stands in for, as containerd tells it.
    namespace: Option<String>,
    schemes: &'static [&'static str],
    insecure: bool,
    sources: Arc<CredentialSources>,
    /// What was found to be answered, of `schemes`.
    scheme: Mutex<Option<&'static str>>,
    login: Mutex<LoginState>,
    passed_over: AtomicBool,
}

/// The header in use, and who it stands for. Locked while a new one is had, so that requests that
/// fail together renew it once.
#[derive(Default)]
struct LoginState {
    header: Option<HeaderValue>,
    found: Option<Found>,
}

/// How an endpoint is to be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) plain_http: bool,
    pub(crate) insecure: bool,
}

impl Endpoint {
    pub(crate) fn new(
        host: RegistryHost,
        repository: &str,
        namespace: Option<String>,
        sources: CredentialSources,
        reach: Reach,
    ) -> Self {
        let schemes: &[&str] = match (reach.plain_http, host.is_loopback()) {
            (true, _) => &["http"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        };
        Self {
            host,
            repository: repository.to_owned(),
            namespace,
            schemes,
            insecure: reach.insecure,
            sources: Arc::new(sources),
            scheme: Mutex::default(),
            login: Mutex::default(),
            passed_over: AtomicBool::new(false),
        }
    }

    /// Whether an earlier request found the host unable to answer.
    pub(crate) fn is_passed_over(&self) -> bool {
        self.passed_over.load(Ordering::Relaxed)
    }

    /// Leaves the host out for the rest of the run.
    pub(crate) fn pass_over(&self) {
        self.passed_over.store(true, Ordering::Relaxed);
    }

    /// Asks for `path` below the repository (`manifests/latest`). Only a 200 is an answer, or a 206
    /// to a `range`.
    pub(crate) async fn send(
        &self,
        transport: &Transport,
        method: Method,
        path: &str,
        accept: Option<HeaderValue>,
        range: Option<HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        let mut header = self.login.lock().await.header.clone();
        let mut renewed = false;
        loop {
            let (ask, mut answer, elsewhere) =
                self.reach(transport, method, path, [&accept, &range, &header]).await?;
            if answer.status() == 200 || (answer.status() == 206 && range.is_some()) {
                return Ok(answer);
            }
            // An answer from where a redirect led says nothing about the registry's credentials.
            if answer.status() != 401 || elsewhere || renewed {
                return Err(self.failure(answer).await);
            }
            let challenges =
                challenge::parse(answer.headers(WWW_AUTHENTICATE.as_str()).collect::<Vec<_>>());
            // Read to its end, so that the connection can be used again.
            let _ = answer.collect("an error", MAX_ERROR_BYTES).await;
            drop(answer);
            header = Some(self.renew(transport, &ask, &challenges, header).await?);
            renewed = true;
        }
    }

    /// Sends the request by the scheme that is answered; the first request finds out which.
    async fn reach(
        &self,
        transport: &Transport,
        method: Method,
        path: &str,
        [accept, range, authorization]: [&Option<HeaderValue>; 3],
    ) -> Result<(Ask, Answer, bool), RegistryError> {
        let ask = |scheme: &str| -> Result<Ask, RegistryError> {
            Ok(Ask {
                method,
                url: self.url(scheme, method, path)?,
                accept: accept.clone(),
                range: range.clone(),
                authorization: authorization.clone(),
                insecure: self.insecure,
                foreign: false,
            })
        };
        let mut known = self.scheme.lock().await;
        if let Some(scheme) = *known {
            drop(known);
            let ask = ask(scheme)?;
            let (answer, elsewhere) = transport.follow(ask.clone()).await?;
            return Ok((ask, answer, elsewhere));
        }
        let last = self.schemes.len().saturating_sub(1);
        for (at, &scheme) in self.schemes.iter().enumerate() {
            let ask = ask(scheme)?;
            match transport.follow(ask.clone()).await {
                Ok((answer, elsewhere)) => {
                    *known = Some(scheme);
                    return Ok((ask, answer, elsewhere));
                }
                Err(RegistryError::Unreachable { cause, .. })
                    if at < last && cause.may_be_plain_http() => {}
                Err(other) => return Err(other),
            }
        }
        // There is always a scheme, and the last one's failure is returned above.
        Err(self.no_url(method))
    }

    fn url(&self, scheme: &str, method: Method, path: &str) -> Result<Url, RegistryError> {
        let text = format!("{scheme}://{}/v2/{}/{path}", self.host.api_host(), self.repository);
        let mut url = Url::parse(&text).map_err(|_| self.no_url(method))?;
        if is_link_local(&url) {
            return Err(RegistryError::Refused {
                method: method.as_str(),
                url: self.host.to_string(),
                problem: Problem::LinkLocal(self.host.to_string()),
            });
        }
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    fn no_url(&self, method: Method) -> RegistryError {
        let url = format!("{}/v2/{}", self.host, self.repository);
        RegistryError::Refused { method: method.as_str(), url, problem: Problem::Url }
    }

    /// A header other than the `refused` one: another request's, or a new one.
    async fn renew(
        &self,
        transport: &Transport,
        ask: &Ask,
        challenges: &[Challenge],
        refused: Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let mut state = self.login.lock().await;
        if let Some(header) = &state.header
            && state.header != refused
        {
            return Ok(header.clone());
        }
        if state.found.is_none() {
            state.found = self.find_login().await?;
        }
        let asked = Asked {
            ask,
            host: self.host.as_str(),
            challenges,
            repository: &self.repository,
            found: state.found.as_ref(),
        };
        let header = auth::authorize(transport, &asked).await?;
        state.header = Some(header.clone());
        Ok(header)
    }

    async fn find_login(&self) -> Result<Option<Found>, RegistryError> {
        let (sources, host) = (Arc::clone(&self.sources), self.host.clone());
        let repository = self.repository.clone();
        // Files are read and a helper may run: not on the threads that move data.
        let found = tokio::task::spawn_blocking(move || sources.find(&host, &repository)).await;
        match found {
            Ok(found) => Ok(found?),
            // The task was cancelled with the whole run.
            Err(_) => Ok(None),
        }
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
            404 => RegistryError::NotFound { method, url, words },
            _ => RegistryError::unexpected(&answer, words),
        }
    }
}
