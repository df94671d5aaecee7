//! The push side: what `skopeo copy` and `buildah push` need.

use super::Shared;
use super::answer::Answer;
use super::log::Request;
use super::routes::Route;
use bytes::Bytes;
use std::mem;

/// Answers every method but GET and HEAD, and GET of an upload.
pub(crate) fn handle(shared: &Shared, request: &Request, route: &Route<'_>, body: Bytes) -> Answer {
    match (request.method.as_str(), route) {
        ("POST", Route::Upload { name, id: "" }) => begin(shared, request, name, body),
        ("PATCH", Route::Upload { name, id }) => append(shared, name, id, &body),
        ("PUT", Route::Upload { name, id }) => finish(shared, request, name, id, &body),
        ("GET", Route::Upload { name, id }) => progress(shared, name, id),
        ("DELETE", Route::Upload { id, .. }) => {
            shared.store.lock().unwrap().uploads.remove(*id);
            Answer::empty(204)
        }
        ("PUT", Route::Manifest { name, reference }) => {
            put_manifest(shared, request, name, reference, body)
        }
        ("DELETE", Route::Manifest { name, reference }) => delete(shared, name, reference),
        _ => Answer::error(405, "UNSUPPORTED", "the operation is unsupported"),
    }
}

fn begin(shared: &Shared, request: &Request, name: &str, body: Bytes) -> Answer {
    let mut store = shared.store.lock().unwrap();
    let mount = request.query_param("mount").filter(|digest| store.blobs.contains_key(digest));
    if let Some(digest) = mount {
        store.repository(name);
        return created(&format!("/v2/{name}/blobs/{digest}"), &digest);
    }
    if request.query_param("digest").is_some() {
        drop(store);
        return store_blob(shared, request, name, body);
    }
    store.next_upload += 1;
    let id = format!("upload-{}", store.next_upload);
    store.uploads.insert(id.clone(), Vec::new());
    store.repository(name);
    accepted(name, &id, 0)
}

fn append(shared: &Shared, name: &str, id: &str, body: &[u8]) -> Answer {
    match shared.store.lock().unwrap().uploads.get_mut(id) {
        None => unknown_upload(),
        Some(upload) => {
            upload.extend_from_slice(body);
            accepted(name, id, upload.len())
        }
    }
}

fn progress(shared: &Shared, name: &str, id: &str) -> Answer {
    match shared.store.lock().unwrap().uploads.get(id) {
        None => unknown_upload(),
        Some(upload) => {
            let mut answer = accepted(name, id, upload.len());
            answer.status = 204;
            answer.headers.retain(|(k, _)| k != "Content-Length");
            answer
        }
    }
}

fn finish(shared: &Shared, request: &Request, name: &str, id: &str, body: &[u8]) -> Answer {
    let mut store = shared.store.lock().unwrap();
    let Some(upload) = store.uploads.get_mut(id) else { return unknown_upload() };
    let mut bytes = mem::take(upload);
    store.uploads.remove(id);
    drop(store);
    bytes.extend_from_slice(body);
    store_blob(shared, request, name, bytes.into())
}

fn store_blob(shared: &Shared, request: &Request, name: &str, bytes: Bytes) -> Answer {
    let wanted = request.query_param("digest").unwrap_or_default();
    let digest = crate::digest(&bytes);
    if digest != wanted {
        return Answer::error(400, "DIGEST_INVALID", "provided digest did not match the content");
    }
    let mut store = shared.store.lock().unwrap();
    store.repository(name);
    store.blobs.insert(digest.clone(), bytes);
    created(&format!("/v2/{name}/blobs/{digest}"), &digest)
}

fn put_manifest(
    shared: &Shared,
    request: &Request,
    name: &str,
    reference: &str,
    body: Bytes,
) -> Answer {
    if reference.contains(':') && reference != crate::digest(&body) {
        return Answer::error(400, "DIGEST_INVALID", "provided digest did not match the content");
    }
    let media_type = request.header("content-type").unwrap_or(crate::media::OCI_MANIFEST);
    let digest = shared.store.lock().unwrap().put_manifest(name, reference, media_type, body);
    created(&format!("/v2/{name}/manifests/{digest}"), &digest)
}

fn delete(shared: &Shared, name: &str, reference: &str) -> Answer {
    let mut store = shared.store.lock().unwrap();
    let repository = store.repository(name);
    let tag = repository.tags.remove(reference).is_some();
    if !tag && repository.manifests.remove(reference).is_none() {
        return Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    }
    repository.tags.retain(|_, digest| digest != reference);
    Answer::empty(202)
}

fn created(location: &str, digest: &str) -> Answer {
    Answer::empty(201).with("Location", location).with("Docker-Content-Digest", digest)
}

fn accepted(name: &str, id: &str, len: usize) -> Answer {
    Answer::empty(202)
        .with("Location", &format!("/v2/{name}/blobs/uploads/{id}"))
        .with("Docker-Upload-UUID", id)
        .with("Range", &format!("0-{}", len.saturating_sub(1)))
}

fn unknown_upload() -> Answer {
    Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}
