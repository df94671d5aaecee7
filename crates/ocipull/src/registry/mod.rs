//! The registry client: the only part of ocipull that talks HTTP.
//!
//! ```text
//! challenge    WWW-Authenticate -> ways in
//! credentials  registry -> login, from --creds and the files of podman and docker
//! target       what may be asked of a URL, and how it is shown
//! dns          host name -> addresses
//! retry_after  how long a registry wants to be left alone
//! pace         whether a body comes fast enough to end
//! transport    one request with its redirects -> an answer, told to the observer
//! auth         a 401 -> Authorization
//! endpoint     one host: TLS or not, logged in or not
//! retry        which failures are worth another attempt, and when
//! Registry     mirror first, then the registry itself
//! tag_list     a repository's tags, page by page
//! ```

mod auth;
mod challenge;
mod credentials;
mod dns;
mod endpoint;
mod error;
mod pace;
mod retry;
mod retry_after;
mod tag_list;
mod target;
mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::image::Digest;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue};

pub use credentials::{AuthFile, CredentialError, CredentialSources, Login, default_files};
pub use dns::DnsError;
pub use error::{
    Cause, EXIT_DAMAGED, EXIT_RATE_LIMITED, EXIT_TIMED_OUT, Phase, Problem, RegistryError,
    ServerWords,
};
pub(crate) use retry::Attempts;
pub use retry::RetryPolicy;
pub use tag_list::TagsProblem;
pub(crate) use transport::Answer;
pub use transport::Timeouts;

use crate::event::{Event, Observer};
use crate::host::RegistryHost;
use crate::image::{MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES};
use crate::reference::ImageReference;
use crate::verify;
use endpoint::{Endpoint, Reach};
use transport::{CONTENT_DIGEST, Method, Transport};

/// How a registry is to be reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Asked before the registry itself.
    pub mirror: Option<RegistryHost>,
    /// Without TLS, also where the registry is not on this machine.
    pub plain_http: bool,
    /// Without a check of the registry's and the mirror's certificates.
    pub insecure: bool,
    /// CA certificates to trust beside the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Who the user is.
    pub credentials: CredentialSources,
    /// How often a request that failed is sent again.
    pub retry: RetryPolicy,
    /// How long the network may take.
    pub timeouts: Timeouts,
    /// Ask nobody: every request fails.
    pub offline: bool,
}

/// One repository of a registry.
pub struct Registry {
    transport: Transport,
    /// In the order in which they are asked: the mirror if there is one, then the registry.
    mirror: Option<Endpoint>,
    origin: Endpoint,
    retry: RetryPolicy,
    /// Whether the registry itself answered something.
    answered: AtomicBool,
    offline: bool,
}

/// What a tag or a digest stands for, by a registry's word.
#[derive(Debug)]
pub struct Head {
    /// The manifest's or index's digest, if the registry states it.
    pub digest: Option<Digest>,
    /// Its media type, if stated.
    pub media_type: Option<String>,
    /// Its size in bytes, if stated.
    pub size_bytes: Option<u64>,
}

/// A manifest or an index as it was served.
#[derive(Debug)]
pub struct Body {
    /// All of it.
    pub bytes: Vec<u8>,
    /// `Content-Type`, empty if there is none.
    pub media_type: String,
}

/// A blob, or the rest of one, whose body is still to be read and checked.
pub(crate) struct BlobBody {
    pub(crate) answer: Answer,
    /// So many of its first bytes were not asked for: the server does not know ranges.
    pub(crate) surplus_bytes: u64,
}

impl Registry {
    /// The repository of `reference`.
    pub fn new(
        reference: &ImageReference,
        options: &RegistryOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, RegistryError> {
        // Fails when it is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let transport = Transport::new(options.ca_pem.as_deref(), options.timeouts, observer)?;
        let reach = Reach { plain_http: options.plain_http, insecure: options.insecure };
        let registry = reference.registry().clone();
        let repository = reference.repository();
        let mirror = options.mirror.clone().filter(|mirror| *mirror != registry).map(|mirror| {
            let namespace = Some(registry.to_string());
            let sources = options.credentials.files_only();
            Endpoint::new(mirror, repository, namespace, sources, reach)
        });
        let origin = Endpoint::new(registry, repository, None, options.credentials.clone(), reach);
        let (retry, offline) = (options.retry, options.offline);
        Ok(Self { transport, mirror, origin, retry, answered: AtomicBool::new(false), offline })
    }

    /// Asks what `selector`, a tag or a digest, stands for. `None` when the registry does not
    /// answer HEAD: then only [`Registry::get_manifest`] can tell.
    pub async fn head_manifest(&self, selector: &str) -> Result<Option<Head>, RegistryError> {
        let path = format!("manifests/{selector}");
        let mut attempts = self.attempts();
        let head = self.send(Method::Head, &path, accept_manifests(), None, &mut attempts);
        let answer = match head.await {
            Err(RegistryError::Status { status: 405 | 501, .. }) => return Ok(None),
            other => other?,
        };
        let digest = match answer.header(CONTENT_DIGEST) {
            None => None,
            Some(text) => Some(Digest::try_from(text).map_err(|_| {
                let want = "a digest".to_owned();
                answer.refused(Problem::DigestHeader { got: text.to_owned(), want })
            })?),
        };
        Ok(Some(Head {
            digest,
            media_type: answer.header(CONTENT_TYPE.as_str()).map(str::to_owned),
            size_bytes: answer.stated_length(),
        }))
    }

    /// Fetches the manifest or index that `selector` stands for. Only what is fetched by a digest
    /// is checked, against that digest and the `size_bytes` known of it.
    pub async fn get_manifest(
        &self,
        selector: &str,
        size_bytes: Option<u64>,
    ) -> Result<Body, RegistryError> {
        let path = format!("manifests/{selector}");
        let (mut answer, bytes) =
            self.collect(&path, accept_manifests(), "a manifest", MAX_MANIFEST_BYTES).await?;
        if let Ok(digest) = Digest::try_from(selector) {
            check(&mut answer, &bytes, &digest, size_bytes)?;
        }
        let media_type = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        Ok(Body { bytes, media_type })
    }

    /// Fetches a small blob, a `what`, whole, and checks it.
    pub async fn get_blob(
        &self,
        digest: &Digest,
        size_bytes: u64,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{digest}");
        if size_bytes > limit_bytes {
            let problem = Problem::TooLarge { what, limit: limit_bytes };
            return Err(RegistryError::Refused { method: "GET", url: path, problem });
        }
        let (mut answer, bytes) = self.collect(&path, None, what, limit_bytes).await?;
        check(&mut answer, &bytes, digest, Some(size_bytes))?;
        Ok(bytes)
    }

    /// Starts to fetch a blob of `size_bytes` from its byte `from` on.
    pub(crate) async fn open_blob(
        &self,
        digest: &Digest,
        from: u64,
        size_bytes: u64,
        attempts: &mut Attempts,
    ) -> Result<BlobBody, RegistryError> {
        let range = Some(from).filter(|from| *from > 0);
        let range = range.and_then(|from| HeaderValue::from_str(&format!("bytes={from}-")).ok());
        let path = format!("blobs/{digest}");
        let mut answer = self.send(Method::Get, &path, None, range, attempts).await?;
        answer.expect_digest(digest);
        if answer.status() == 200 {
            return Ok(BlobBody { answer, surplus_bytes: from });
        }
        // RFC 9110, section 15.3.7: a part of another place or another blob is not to be joined.
        let got = answer.header(CONTENT_RANGE.as_str()).unwrap_or("none").to_owned();
        let want = format!("bytes {from}-{}/{size_bytes}", size_bytes.saturating_sub(1));
        if got.trim() == want || got.trim() == want.replace(&format!("/{size_bytes}"), "/*") {
            return Ok(BlobBody { answer, surplus_bytes: 0 });
        }
        Err(answer.refused(Problem::Range { got, want }))
    }

    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.retry, self.answered.load(Ordering::Relaxed))
    }

    /// How long the network may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.transport.timeouts()
    }

    /// Whether nobody is to be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        self.transport.observer()
    }

    /// Fetches `path` whole; one that breaks off is fetched again.
    async fn collect(
        &self,
        path: &str,
        accept: Option<HeaderValue>,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<(Answer, Vec<u8>), RegistryError> {
        let mut attempts = self.attempts();
        loop {
            let mut answer =
                self.send(Method::Get, path, accept.clone(), None, &mut attempts).await?;
            match answer.collect(what, limit_bytes).await {
                Ok(bytes) => return Ok((answer, bytes)),
                Err(error) => {
                    drop(answer);
                    attempts.after(error, &**self.observer()).await?;
                }
            }
        }
    }

    /// Asks the mirror, and the registry where the mirror fails, as containerd does.
    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: Option<HeaderValue>,
        range: Option<HeaderValue>,
        attempts: &mut Attempts,
    ) -> Result<Answer, RegistryError> {
        if self.offline {
            return Err(RegistryError::Offline(path.to_owned()));
        }
        let Some(mirror) = self.mirror.as_ref().filter(|mirror| !mirror.is_passed_over()) else {
            return self.insist(&self.origin, method, path, (accept, range), attempts).await;
        };
        // Once: there is somebody else to ask.
        let asked = mirror.send(&self.transport, method, path, accept.clone(), range.clone());
        let first = match asked.await {
            Ok(answer) => return Ok(answer),
            // A mirror that does not answer HEAD may still answer GET.
            Err(error @ RegistryError::Status { status: 405 | 501, .. })
                if method == Method::Head =>
            {
                return Err(error);
            }
            Err(error) => ctsys::report::chain(&error),
        };
        let origin = &self.origin.host;
        match self.insist(&self.origin, method, path, (accept, range), attempts).await {
            Ok(answer) => {
                mirror.pass_over();
                let notice = format!("mirror {} failed: {first}; asking {origin} now", mirror.host);
                self.observer().observe(&Event::Notice(&notice));
                Ok(answer)
            }
            Err(second) => Err(RegistryError::Everywhere {
                mirror: mirror.host.clone(),
                first,
                origin: origin.clone(),
                second: Box::new(second),
            }),
        }
    }

    /// Asks one host until it answers or fails for good.
    async fn insist(
        &self,
        host: &Endpoint,
        method: Method,
        path: &str,
        (accept, range): (Option<HeaderValue>, Option<HeaderValue>),
        attempts: &mut Attempts,
    ) -> Result<Answer, RegistryError> {
        let ask = || host.send(&self.transport, method, path, accept.clone(), range.clone());
        let answer = retry::insist(attempts, &**self.observer(), ask).await?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }
}

fn accept_manifests() -> Option<HeaderValue> {
    HeaderValue::from_str(&MANIFEST_MEDIA_TYPES.join(", ")).ok()
}

fn check(
    answer: &mut Answer,
    bytes: &[u8],
    digest: &Digest,
    size_bytes: Option<u64>,
) -> Result<(), RegistryError> {
    answer.expect_digest(digest);
    verify::verify(bytes, digest, size_bytes).map_err(|cause| RegistryError::Content {
        method: answer.method(),
        url: answer.url().to_owned(),
        cause,
    })
}
