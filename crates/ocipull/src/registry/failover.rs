//! One request to the first host that answers it: the next is asked where one fails, and the last
//! again and again, as often as the user wants.

use std::sync::atomic::Ordering;
use std::time::Instant;

use oci_spec::image::Digest;

use super::Registry;
use super::breaker::COOL_DOWN;
use super::endpoint::{Endpoint, Request};
use super::error::{Cause, RegistryError};
use super::retry::{self, Attempts};
use super::transport::{Answer, Method};
use crate::event::Event;

/// A host, and its place in the order in which hosts are asked.
type Placed<'r> = (usize, &'r Endpoint);

/// A host that failed, and with what.
struct Failure<'r> {
    host: Placed<'r>,
    error: RegistryError,
}

impl Registry {
    /// Asks the hosts in their order, as containerd does. Each once: there is somebody else to ask.
    /// When all failed, the last one that may yet answer is insisted on.
    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
    ) -> Result<Answer, RegistryError> {
        if self.offline {
            return Err(RegistryError::Offline(request.path.to_owned()));
        }
        let mut failures: Vec<Failure<'_>> = Vec::new();
        let mut passed_over: Vec<String> = Vec::new();
        for host in self.order(request.path, attempts)? {
            let (_, endpoint) = host;
            if let Some(reason) = endpoint.breaker.closed_to(Instant::now()) {
                passed_over.push(format!("{}: {reason}", describe(endpoint)));
                continue;
            }
            match endpoint.send(request).await {
                Ok(answer) => {
                    self.served(host, &failures, attempts);
                    return Ok(answer);
                }
                Err(error) if is_about_head(request, &error) => return Err(error),
                Err(error) => failures.push(Failure { host, error }),
            }
        }
        match self.insist(request, attempts, &mut failures).await? {
            Some(answer) => Ok(answer),
            None => self.nothing_left(request.path, failures, passed_over).await,
        }
    }

    /// Asks the most hopeful of the hosts that failed until it answers or its failure will stay,
    /// which is the last one of `failures` then.
    async fn insist(
        &self,
        request: &Request<'_>,
        attempts: &mut Attempts,
        failures: &mut Vec<Failure<'_>>,
    ) -> Result<Option<Answer>, RegistryError> {
        let Some(at) = most_hopeful(failures) else { return Ok(None) };
        let Failure { host, mut error } = failures.remove(at);
        let (_, endpoint) = host;
        let observer = self.observer().as_ref();
        loop {
            if let Err(error) = attempts.after(error, endpoint.has_answered(), observer).await {
                failures.push(Failure { host, error });
                return Ok(None);
            }
            error = match endpoint.send(request).await {
                Ok(answer) => {
                    self.served(host, failures, attempts);
                    return Ok(Some(answer));
                }
                Err(error) if is_about_head(request, &error) => return Err(error),
                Err(error) => error,
            };
        }
    }

    /// A body broke off with `error`: waits until it is to be asked for again, of which host
    /// [`Registry::send`] will see. Gives the error back where that would not help.
    pub(crate) async fn after_break(
        &self,
        error: RegistryError,
        attempts: &mut Attempts,
    ) -> Result<(), RegistryError> {
        if let Some(serving) = attempts.serving
            && retry::may_pass(&error, true)
            && self.is_another_open(serving)
            && attempts.breaks.note(serving, &error)
        {
            return Ok(());
        }
        attempts.after(error, true, self.observer().as_ref()).await
    }

    /// Whether a host other than that in this place could be asked for a blob.
    fn is_another_open(&self, place: usize) -> bool {
        let now = Instant::now();
        let mut others = self.endpoints.iter().enumerate().filter(|(other, _)| *other != place);
        others.any(|(_, endpoint)| endpoint.host.can.pull && endpoint.breaker.is_open(now))
    }

    /// The hosts for `path`, those that keep breaking off last.
    fn order(&self, path: &str, attempts: &Attempts) -> Result<Vec<Placed<'_>>, RegistryError> {
        let mut order = self.capable(path)?;
        order.sort_by_key(|(place, _)| attempts.breaks.postponed(*place).is_some());
        Ok(order)
    }

    /// The hosts that may be asked for `path`: what has no digest in it has to be resolved.
    fn capable(&self, path: &str) -> Result<Vec<Placed<'_>>, RegistryError> {
        let selector = path.rsplit('/').next().unwrap_or_default();
        let by_digest = Digest::try_from(selector).is_ok();
        let may = |(_, endpoint): &Placed<'_>| match by_digest {
            true => endpoint.host.can.pull,
            false => endpoint.host.can.resolve,
        };
        let capable: Vec<Placed<'_>> = self.endpoints.iter().enumerate().filter(may).collect();
        if capable.is_empty() {
            let capability = if by_digest { "pull" } else { "resolve" };
            return Err(RegistryError::NoHost { capability, image: self.image.clone() });
        }
        Ok(capable)
    }

    /// `host` answered where these failed, and where those that kept breaking off did not.
    fn served(&self, host: Placed<'_>, failures: &[Failure<'_>], attempts: &mut Attempts) {
        let (serving, endpoint) = host;
        endpoint.breaker.succeeded();
        attempts.serving = Some(serving);
        for Failure { host: (_, failed), error } in failures {
            let rest = (!lasts(error)).then(|| COOL_DOWN.max(error.asked_wait()));
            let reason = ctsys::report::chain(error);
            if failed.breaker.pass_over(Instant::now(), &reason, rest) {
                self.tell_failure(failed, &reason, endpoint);
            }
        }
        for (place, broken) in self.endpoints.iter().enumerate() {
            if place != serving
                && let Some(reason) = attempts.breaks.postponed(place)
                && broken.breaker.is_open(Instant::now())
                && broken.breaker.pass_over(Instant::now(), reason, Some(COOL_DOWN))
            {
                self.tell_failure(broken, reason, endpoint);
            }
        }
        self.tell_where_from(endpoint);
    }

    fn tell_failure(&self, failed: &Endpoint, reason: &str, serving: &Endpoint) {
        let serving = &serving.host.name;
        let notice = format!("{} failed: {reason}; asking {serving} now", describe(failed));
        self.observer().observe(&Event::Notice(&notice));
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
        for Failure { host: (_, endpoint), error } in &failures {
            if !lasts(error) {
                endpoint.breaker.failed(Instant::now(), &ctsys::report::chain(error));
            }
        }
        // Without a range it may have what others lack.
        if let Some(at) = failures.iter().position(|failure| failure.error.is_about_range()) {
            let without_ranges = failures.remove(at);
            failures.push(without_ranges);
        }
        let Some(Failure { host: (_, endpoint), error }) = failures.pop() else {
            let (image, reasons) = (self.image.clone(), passed_over.join("; "));
            return Err(RegistryError::NoneLeft { image, reasons });
        };
        let error = explained(endpoint, path, error).await;
        let earlier = failures
            .iter()
            .map(|f| format!("{}: {}", describe(f.host.1), ctsys::report::chain(&f.error)));
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

/// The last of the hosts that failed that may yet answer, unless a later one's word counts more: it
/// could be asked. The others may be closed off from here for good, as behind a firewall.
fn most_hopeful(failures: &[Failure<'_>]) -> Option<usize> {
    for (at, Failure { host: (_, endpoint), error }) in failures.iter().enumerate().rev() {
        if retry::may_pass(error, endpoint.has_answered()) {
            return Some(at);
        }
        if !matches!(error, RegistryError::Unreachable { .. }) {
            return None;
        }
    }
    None
}

/// A host that does not answer HEAD may still answer GET.
fn is_about_head(request: &Request<'_>, error: &RegistryError) -> bool {
    request.method == Method::Head
        && matches!(error, RegistryError::Status { status: 405 | 501, .. })
}

/// Whether the failure is about the image, the user or the configuration. Others are the host's or
/// the network's, and may be over in a while.
fn lasts(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unreachable { cause, .. } => {
            matches!(cause, Cause::UnknownIssuer(_) | Cause::Certificate(_))
        }
        RegistryError::Broken { .. } | RegistryError::Busy { .. } => false,
        RegistryError::Status { status, .. } => !matches!(status, 408 | 425 | 500..),
        _ => true,
    }
}

fn describe(endpoint: &Endpoint) -> String {
    let kind = if endpoint.host.told_by.is_some() { "mirror" } else { "registry" };
    format!("{kind} {}", endpoint.host.name)
}
