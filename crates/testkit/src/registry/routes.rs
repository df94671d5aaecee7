//! The pull side of the distribution specification, and the way to the push side.

use super::answer::Answer;
use super::log::{Listener, Request};
use super::{Shared, upload};
use bytes::Bytes;

/// A path below `/v2/`, taken apart.
pub(crate) enum Route<'a> {
    Base,
    Manifest {
        name: &'a str,
        reference: &'a str,
    },
    Blob {
        name: &'a str,
        digest: &'a str,
    },
    Tags {
        name: &'a str,
    },
    /// The id is empty where an upload begins.
    Upload {
        name: &'a str,
        id: &'a str,
    },
}

/// Where the second listener keeps blobs. A signature stands in the query, as in real stores.
pub(crate) const STORE_PREFIX: &str = "/store/blobs/";

/// The query that the blob store wants.
pub(crate) const STORE_QUERY: &str = "X-Signature=testkit-signed";

/// Answers a request that no fault has answered.
pub(crate) fn handle(shared: &Shared, request: &Request, body: Bytes) -> Answer {
    if request.listener == Listener::BlobStore {
        return blob_store(shared, request);
    }
    let tokens_here = match request.listener {
        Listener::Tokens => true,
        _ => !shared.options.separate_tokens,
    };
    if request.path == "/token" && tokens_here {
        return shared.tokens.lock().unwrap().give(&shared.options.auth, request, &body);
    }
    let route = parse(&request.path).filter(|_| request.listener == Listener::Registry);
    let Some(route) = route else {
        return Answer::error(404, "UNSUPPORTED", "no such endpoint");
    };
    let reads = request.method == "GET" || request.method == "HEAD";
    let action = if reads { "pull" } else { "pull,push" };
    let tokens = shared.tokens.lock().unwrap();
    let auth = &shared.options.auth;
    if let Some(refusal) = tokens.check(auth, request, &shared.token_base(), route.name(), action) {
        return refusal;
    }
    drop(tokens);
    let answer = match &route {
        _ if !reads => upload::handle(shared, request, &route, body),
        Route::Base => Answer::new(200, "application/json", "{}"),
        Route::Manifest { name, reference } => manifest(shared, name, reference),
        Route::Blob { name, digest } => blob(shared, request, name, digest),
        Route::Tags { name } => tags(shared, request, name),
        Route::Upload { .. } => upload::handle(shared, request, &route, body),
    };
    answer.with("Docker-Distribution-Api-Version", "registry/2.0")
}

impl Route<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Base => "",
            Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::Tags { name }
            | Self::Upload { name, .. } => name,
        }
    }
}

fn parse(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v2")?;
    let rest = match rest {
        "" | "/" => return Some(Route::Base),
        _ => rest.strip_prefix('/')?,
    };
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Some(Route::Tags { name });
    }
    if let Some((name, id)) = rest.split_once("/blobs/uploads") {
        return Some(Route::Upload { name, id: id.trim_start_matches('/') });
    }
    if let Some((name, digest)) = rest.rsplit_once("/blobs/") {
        return Some(Route::Blob { name, digest });
    }
    let (name, reference) = rest.rsplit_once("/manifests/")?;
    Some(Route::Manifest { name, reference })
}

fn manifest(shared: &Shared, name: &str, reference: &str) -> Answer {
    let store = shared.store.lock().unwrap();
    if !store.repositories.contains_key(name) {
        return unknown_name();
    }
    match store.manifest(name, reference) {
        None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        Some((digest, manifest)) => Answer::new(200, &manifest.media_type, manifest.bytes)
            .with("Docker-Content-Digest", &digest)
            .with("ETag", &format!("\"{digest}\"")),
    }
}

fn blob(shared: &Shared, request: &Request, name: &str, digest: &str) -> Answer {
    let store = shared.store.lock().unwrap();
    if !store.repositories.contains_key(name) {
        return unknown_name();
    }
    let Some(bytes) = store.blobs.get(digest) else {
        return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    if let Some(base) = shared.blob_store_base() {
        let location = format!("{base}{STORE_PREFIX}{digest}?{STORE_QUERY}");
        return Answer::empty(307).with("Location", &location);
    }
    blob_bytes(bytes.clone(), digest, request)
}

/// As S3: a request that brings an Authorization besides its signature is refused.
fn blob_store(shared: &Shared, request: &Request) -> Answer {
    if request.authorization().is_some() {
        return Answer::new(400, "application/xml", "<Error><Code>InvalidArgument</Code></Error>");
    }
    let digest = request.path.strip_prefix(STORE_PREFIX).unwrap_or("");
    match shared.store.lock().unwrap().blobs.get(digest) {
        _ if request.query != STORE_QUERY => {
            Answer::new(403, "application/xml", "<Error><Code>AccessDenied</Code></Error>")
        }
        None => Answer::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        Some(bytes) => blob_bytes(bytes.clone(), digest, request),
    }
}

fn blob_bytes(bytes: Bytes, digest: &str, request: &Request) -> Answer {
    let mut answer = Answer::new(200, "application/octet-stream", bytes);
    if request.listener == Listener::Registry {
        answer.set("Docker-Content-Digest", digest);
    }
    answer.ranged(request.range())
}

/// `n` entries after `last`, and a `Link` to the rest.
fn tags(shared: &Shared, request: &Request, name: &str) -> Answer {
    let store = shared.store.lock().unwrap();
    let Some(repository) = store.repositories.get(name) else { return unknown_name() };
    let last = request.query_param("last").unwrap_or_default();
    let asked = request.query_param("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let page = asked.min(shared.options.tags_page);
    let mut rest = repository.tags.keys().filter(|tag| **tag > last);
    let shown: Vec<&String> = rest.by_ref().take(page).collect();
    let body = serde_json::json!({ "name": name, "tags": shown });
    let answer = Answer::new(200, "application/json", body.to_string());
    match (rest.next(), shown.last()) {
        (Some(_), Some(last)) => {
            let link = format!("</v2/{name}/tags/list?last={last}&n={page}>; rel=\"next\"");
            answer.with("Link", &link)
        }
        _ => answer,
    }
}

fn unknown_name() -> Answer {
    Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry")
}
