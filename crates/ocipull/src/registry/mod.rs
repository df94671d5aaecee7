//! The registry client: the only part of ocipull that talks HTTP.
//!
//! ```text
//! config/      hosts.toml, registries.conf, certs.d -> what they say
//! hosts        reference + what is said -> hosts in the order in which they are asked
//! auth_file    docker's and podman's credential files, taken apart and put together
//! helper       docker-credential-NAME
//! credentials  registry -> login, from --creds, files and helpers
//! challenge    WWW-Authenticate -> ways in
//! target       what may be asked of a URL, and how it is shown
//! timing       how long each step of a request took
//! dns          host name -> addresses
//! retry_after  how long a registry wants to be left alone
//! pace         whether a body comes fast enough to end
//! range        the rest of a blob
//! tls          CAs and client certificates of a host
//! client       the HTTP clients, one for each TLS set-up
//! notices      what a registry says beside its answers
//! transport    one request with its redirects -> an answer, told to the observer
//! auth         a 401 -> Authorization
//! breaker      whether a host is still asked
//! endpoint     one host: TLS or not, logged in or not
//! breaks       which hosts break off in the middle
//! retry        which failures are worth another attempt, and when
//! failover     the next host where one fails, the last one again
//! tags         what a 404 may have meant
//! tag_list     a repository's tags, page by page
//! login        a login tried, kept and forgotten
//! ```

mod auth;
mod auth_file;
mod breaker;
mod breaks;
mod challenge;
mod client;
mod config;
mod credentials;
mod dns;
mod endpoint;
mod error;
mod failover;
mod helper;
mod hosts;
pub mod login;
mod notices;
mod pace;
mod range;
mod retry;
mod retry_after;
mod tag_list;
mod tags;
mod target;
mod timing;
mod tls;
mod transport;

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::Digest;
use reqwest::header::{CONTENT_TYPE, HeaderValue};

pub use client::Timeouts;
pub use config::{ConfigError, ConfigSources, RegistriesFile};
pub use credentials::{AuthFile, CredentialError, CredentialSources, Login, Secret, default_files};
pub use dns::DnsError;
pub use error::{Cause, Missing, Phase, Problem, RegistryError, ServerWords};
pub use helper::HelperError;
pub(crate) use retry::Attempts;
pub use retry::RetryPolicy;
pub use tag_list::TagsProblem;
pub(crate) use transport::Answer;

use crate::event::Observer;
use crate::host::RegistryHost;
use crate::image::{MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES};
use crate::reference::{ImageReference, ReferenceError};
use crate::verify;
use endpoint::{Endpoint, Request, Shared};
use hosts::Said;
use range::Rest;
use transport::{CONTENT_DIGEST, Method, Transport};

/// How a registry is to be reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Asked before all others, in this order.
    pub mirrors: Vec<RegistryHost>,
    /// Without TLS, also where the registry is not on this machine.
    pub plain_http: bool,
    /// Without a check of the registry's and the mirrors' certificates.
    pub insecure: bool,
    /// CA certificates to trust beside the system's, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Who the user is.
    pub credentials: CredentialSources,
    /// Where mirrors, certificates and the like are configured.
    pub config: ConfigSources,
    /// How often a request that failed is sent again.
    pub retry: RetryPolicy,
    /// How long the network may take.
    pub timeouts: Timeouts,
    /// Ask nobody: every request fails.
    pub offline: bool,
}

/// One repository of a registry.
pub struct Registry {
    shared: Arc<Shared>,
    /// Registry and repository, for messages.
    image: String,
    /// In the order in which they are asked; the registry itself is the last.
    endpoints: Vec<Endpoint>,
    retry: RetryPolicy,
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
        let RegistryOptions { plain_http, insecure, .. } = *options;
        let image = format!("{}/{}", reference.registry(), reference.repository());
        let registries = options.config.registries()?;
        let configured = registries.find(&image);
        if let Some(registry) = configured.filter(|registry| registry.blocked) {
            let (file, prefix) = (registry.file.clone(), registry.prefix().to_owned());
            return Err(RegistryError::Blocked { image, file, prefix });
        }
        let hosts_toml = options.config.hosts_toml(reference.registry())?;
        let said = Said {
            mirrors: &options.mirrors,
            plain_http,
            insecure,
            hosts_toml: hosts_toml.as_ref().map(|(path, toml)| (path.as_path(), toml)),
            registries_conf: configured,
        };
        let shared = Self::shared(options, observer)?;
        // `--creds` are meant for the registry that the user named, and for no other.
        let own = Arc::new(options.credentials.clone());
        let others = Arc::new(options.credentials.files_only());
        let endpoints = hosts::hosts(reference, &said).into_iter().map(|host| {
            let sources = if host.name == *reference.registry() { &own } else { &others };
            Endpoint::new(host, Arc::clone(sources), Arc::clone(&shared))
        });
        let (endpoints, retry, offline) = (endpoints.collect(), options.retry, options.offline);
        Ok(Self { shared, image, endpoints, retry, offline })
    }

    fn shared(
        options: &RegistryOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Arc<Shared>, RegistryError> {
        timing::install_crypto();
        let ca = match &options.ca_pem {
            None => None,
            Some(pem) => Some(tls::certificates("--ca-cert".as_ref(), pem.clone())?),
        };
        let transport = Transport::new(options.timeouts, observer);
        Ok(Arc::new(Shared { transport, config: options.config.clone(), ca }))
    }

    /// Asks what `selector`, a tag or a digest, stands for. `None` when the registry does not
    /// answer HEAD: then only [`Registry::get_manifest`] can tell.
    pub async fn head_manifest(&self, selector: &str) -> Result<Option<Head>, RegistryError> {
        let path = format!("manifests/{selector}");
        let (method, accept) = (Method::Head, accept_manifests());
        let request = Request { method, accept, ..Request::get(&path) };
        let answer = match self.send(&request, &mut self.attempts()).await {
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
        let request = Request { accept: accept_manifests(), ..Request::get(&path) };
        let (mut answer, bytes) = self.collect(&request, "a manifest", MAX_MANIFEST_BYTES).await?;
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
        let (mut answer, bytes) = self.collect(&Request::get(&path), what, limit_bytes).await?;
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
        let path = format!("blobs/{digest}");
        let rest = (from > 0).then_some(Rest { from, size_bytes });
        let request = Request { rest, ..Request::get(&path) };
        let mut answer = self.send(&request, attempts).await?;
        answer.expect_digest(digest);
        let surplus_bytes = if answer.status() == 200 { from } else { 0 };
        Ok(BlobBody { answer, surplus_bytes })
    }

    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.retry)
    }

    /// How long the network may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.shared.transport.timeouts()
    }

    /// Whether nobody is to be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Fetches a document whole; one that breaks off is fetched again.
    async fn collect(
        &self,
        request: &Request<'_>,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<(Answer, Vec<u8>), RegistryError> {
        let mut attempts = self.attempts();
        loop {
            let mut answer = self.send(request, &mut attempts).await?;
            match answer.collect(what, limit_bytes).await {
                Ok(bytes) => return Ok((answer, bytes)),
                Err(error) => {
                    drop(answer);
                    self.after_break(error, &mut attempts).await?;
                }
            }
        }
    }

    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        self.shared.transport.observer()
    }
}

/// What a short name, one without a registry, stands for by `config`, if it says anything: the
/// reference, and the file that says so.
pub fn expand(
    reference: &ImageReference,
    config: &ConfigSources,
) -> Result<Option<(ImageReference, PathBuf)>, ExpandError> {
    let Some(short) = reference.short_name() else { return Ok(None) };
    let registries = config.registries()?;
    match registries.expand(short) {
        None => Ok(None),
        Some((full, file)) => Ok(Some((reference.expanded(&full)?, file.to_path_buf()))),
    }
}

/// Why it cannot be said what a short name stands for.
#[derive(Debug, thiserror::Error)]
pub enum ExpandError {
    /// A configuration file cannot be used.
    #[error("bad configuration")]
    Config(#[from] ConfigError),
    /// What is configured for it is no reference.
    #[error("bad configuration of a short name")]
    Reference(#[from] ReferenceError),
}

impl ctsys::report::Explain for ExpandError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Config(error) => error.hint(),
            Self::Reference(_) => "correct the alias or search list in registries.conf".into(),
        })
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
