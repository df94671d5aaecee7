//! One request to the first host that answers it: the next is asked where one fails.

use std::sync::atomic::Ordering;
use std::time::Instant;

use oci_spec::image::Digest;
use reqwest::header::HeaderValue;

use super::Registry;
use super::endpoint::Endpoint;
use super::error::{Cause, RegistryError};
use super::transport::{Answer, Method};
use crate::event::Event;

/// A host that failed, and with what.
struct Failure<'r> {
    endpoint: &'r Endpoint,
    error: RegistryError,
}

impl Registry {
    /// Asks for `path` below the repository: the hosts in their order, as containerd does.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        accept: Option<HeaderValue>,
    ) -> Result<Answer, RegistryError> {
        let capable = self.capable(path)?;
        let mut failures: Vec<Failure<'_>> = Vec::new();
        let mut passed_over: Vec<String> = Vec::new();
        for endpoint in capable {
            if let Some(reason) = endpoint.breaker.closed_to(Instant::now()) {
                passed_over.push(format!("{}: {reason}", describe(endpoint)));
                continue;
            }
            match endpoint.send(method, path, accept.clone()).await {
                Ok(answer) => {
                    endpoint.breaker.succeeded();
                    self.turn_away_from(&failures, endpoint);
                    self.tell_where_from(endpoint);
                    return Ok(answer);
                }
                // A host that does not answer HEAD may still answer GET.
                Err(error @ RegistryError::Status { status: 405 | 501, .. })
                    if method == Method::Head =>
                {
                    return Err(error);
                }
                Err(error) => {
                    if may_pass(&error) {
                        let reason = ctsys::report::chain(&error);
                        endpoint.breaker.failed(Instant::now(), &reason);
                    }
                    failures.push(Failure { endpoint, error });
                }
            }
        }
        self.nothing_left(path, failures, passed_over).await
    }

    /// The hosts that may be asked for `path`: what has no digest in it has to be resolved.
    fn capable(&self, path: &str) -> Result<Vec<&Endpoint>, RegistryError> {
        let selector = path.rsplit('/').next().unwrap_or_default();
        let by_digest = Digest::try_from(selector).is_ok();
        let may = |endpoint: &&Endpoint| match by_digest {
            true => endpoint.host.can.pull,
            false => endpoint.host.can.resolve,
        };
        let capable: Vec<&Endpoint> = self.endpoints.iter().filter(may).collect();
        if capable.is_empty() {
            let capability = if by_digest { "pull" } else { "resolve" };
            return Err(RegistryError::NoHost { capability, image: self.image.clone() });
        }
        Ok(capable)
    }

    /// What failed where `serving` did not is not asked again.
    fn turn_away_from(&self, failures: &[Failure<'_>], serving: &Endpoint) {
        for Failure { endpoint, error } in failures {
            let reason = ctsys::report::chain(error);
            let lasting = !may_pass(error);
            if endpoint.breaker.pass_over(Instant::now(), &reason, lasting) {
                let notice = format!(
                    "{} failed: {reason}; asking {} now",
                    describe(endpoint),
                    serving.host.name
                );
                self.observer().observe(&Event::Notice(&notice));
            }
        }
    }

    /// Says once that the image comes from elsewhere than its name has it.
    fn tell_where_from(&self, endpoint: &Endpoint) {
        let Some(told_by) = &endpoint.host.told_by else { return };
        if !endpoint.is_told.swap(true, Ordering::Relaxed) {
            let notice = format!("{} is served by {} ({told_by})", self.image, endpoint.host.name);
            self.observer().observe(&Event::Notice(&notice));
        }
    }

    async fn nothing_left(
        &self,
        path: &str,
        mut failures: Vec<Failure<'_>>,
        passed_over: Vec<String>,
    ) -> Result<Answer, RegistryError> {
        let Some(Failure { endpoint, error }) = failures.pop() else {
            let (image, reasons) = (self.image.clone(), passed_over.join("; "));
            return Err(RegistryError::NoneLeft { image, reasons });
        };
        let error = explained(endpoint, path, error).await;
        let earlier = failures
            .iter()
            .map(|f| format!("{}: {}", describe(f.endpoint), ctsys::report::chain(&f.error)));
        let earlier: Vec<String> = passed_over.into_iter().chain(earlier).collect();
        if earlier.is_empty() {
            return Err(error);
        }
        Err(RegistryError::Everywhere {
            earlier: earlier.join("; "),
            last: describe(endpoint),
            source: Box::new(error),
        })
    }
}

/// Finds out what exactly a manifest's 404 means.
async fn explained(endpoint: &Endpoint, path: &str, error: RegistryError) -> RegistryError {
    match (path.strip_prefix("manifests/"), error) {
        (Some(selector), RegistryError::NotFound { method, url, words, .. }) => {
            let missing = Box::new(endpoint.missing(selector).await);
            RegistryError::NotFound { missing, method, url, words }
        }
        (_, error) => error,
    }
}

/// Whether the failure is the host's or the network's, and may be over in a while. Others are about
/// the image, the user or the configuration.
fn may_pass(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unreachable {
            cause: Cause::UnknownIssuer(_) | Cause::Certificate(_),
            ..
        } => false,
        RegistryError::Unreachable { .. } | RegistryError::Broken { .. } => true,
        RegistryError::Status { status, .. } => matches!(status, 408 | 429 | 500..),
        _ => false,
    }
}

fn describe(endpoint: &Endpoint) -> String {
    let kind = if endpoint.host.told_by.is_some() { "mirror" } else { "registry" };
    format!("{kind} {}", endpoint.host.name)
}
