//! Reads an image out of an OCI layout directory.

use super::Registry;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The annotation that gives a manifest in `index.json` its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(crate) fn load(registry: &Registry, dir: &Path, repository: &str, tag: &str) -> String {
    let index = json(&read(&dir.join("index.json")));
    let manifests = index["manifests"].as_array().expect("index.json has manifests");
    let tagged = manifests.iter().find(|m| m["annotations"][REF_NAME] == *tag);
    let descriptor = match (tagged, manifests.as_slice()) {
        (Some(descriptor), _) => descriptor,
        (None, [only]) => only,
        (None, all) => panic!("{}: none of {} images is tagged {tag}", dir.display(), all.len()),
    };
    take(registry, dir, repository, descriptor, tag)
}

/// Stores what a descriptor points at, and all below it.
fn take(
    registry: &Registry,
    dir: &Path,
    repository: &str,
    descriptor: &Value,
    tag: &str,
) -> String {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    let bytes = blob(dir, digest);
    let manifest = json(&bytes);
    for child in manifest["manifests"].as_array().into_iter().flatten() {
        // Layouts may be sparse: skopeo copies one platform of several on request.
        let digest = child["digest"].as_str().expect("a descriptor has a digest");
        if blob_path(dir, digest).exists() {
            take(registry, dir, repository, child, digest);
        }
    }
    let config = manifest.get("config").into_iter();
    for child in config.chain(manifest["layers"].as_array().into_iter().flatten()) {
        let digest = child["digest"].as_str().expect("a descriptor has a digest");
        registry.put_blob_as(digest, blob(dir, digest));
    }
    let media_type = descriptor["mediaType"].as_str().unwrap_or(crate::media::OCI_MANIFEST);
    registry.put_manifest(repository, tag, media_type, bytes)
}

fn blob(dir: &Path, digest: &str) -> Vec<u8> {
    read(&blob_path(dir, digest))
}

fn blob_path(dir: &Path, digest: &str) -> std::path::PathBuf {
    dir.join("blobs").join(digest.replace(':', "/"))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("a manifest is JSON")
}
