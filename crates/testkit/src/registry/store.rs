//! What the registry holds: blobs by digest, manifests and tags by repository.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// A manifest as it was put: its bytes are served unchanged.
#[derive(Clone, Debug)]
pub(crate) struct StoredManifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// One repository.
#[derive(Default)]
pub(crate) struct Repository {
    /// By digest.
    pub(crate) manifests: HashMap<String, StoredManifest>,
    /// Tag to digest; sorted, as the tag list is.
    pub(crate) tags: BTreeMap<String, String>,
}

/// The content of a registry. Blobs are shared by all repositories.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) blobs: HashMap<String, Bytes>,
    pub(crate) repositories: HashMap<String, Repository>,
    /// Uploads that have begun, by id.
    pub(crate) uploads: HashMap<String, Vec<u8>>,
    pub(crate) next_upload: u64,
}

impl Store {
    /// Makes the repository when it is not there.
    pub(crate) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// Stores a manifest by digest, and by tag when `reference` is one.
    pub(crate) fn put_manifest(
        &mut self,
        name: &str,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> String {
        let digest = crate::digest(&bytes);
        let repository = self.repository(name);
        let manifest = StoredManifest { media_type: media_type.to_owned(), bytes };
        if reference.contains(':') {
            // Stored under the name that was asked for: tests put wrong ones on purpose.
            repository.manifests.insert(reference.to_owned(), manifest.clone());
        } else {
            repository.tags.insert(reference.to_owned(), digest.clone());
        }
        repository.manifests.insert(digest.clone(), manifest);
        digest
    }

    /// The manifest of a tag or digest, with the digest it is stored by.
    pub(crate) fn manifest(&self, name: &str, reference: &str) -> Option<(String, StoredManifest)> {
        let repository = self.repositories.get(name)?;
        let digest = match repository.tags.get(reference) {
            Some(digest) => digest.as_str(),
            None => reference,
        };
        repository.manifests.get(digest).map(|m| (digest.to_owned(), m.clone()))
    }
}
