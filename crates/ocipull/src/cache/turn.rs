//! Manifests, indexes and configs: small, so they are fetched whole, by one of those who want them.

use std::time::{Duration, Instant};

use oci_spec::image::Digest;

use super::{Cache, Claim, Partial};

/// How long somebody else's fetch of a document is waited for.
const MAX_TURN_WAIT: Duration = Duration::from_secs(10);
const TURN_POLL: Duration = Duration::from_millis(20);

/// Whose turn it is to fetch a document.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nobody's: here it is, checked.
    Here(Vec<u8>),
    /// Ours. Where there is a partial, the document is for [`Cache::store`].
    Fetch(Option<Partial>),
}

impl Cache {
    /// The document, or the right to fetch it.
    pub(crate) async fn turn(
        &self,
        digest: &Digest,
        size_bytes: Option<u64>,
        limit_bytes: u64,
    ) -> Turn {
        let end = Instant::now() + MAX_TURN_WAIT;
        loop {
            if let Some(bytes) = self.document(digest, size_bytes, limit_bytes) {
                return Turn::Here(bytes);
            }
            match self.claim(digest) {
                Some(Claim::Mine(partial)) => {
                    // Somebody may have finished it between the look and the claim.
                    let Some(bytes) = self.document(digest, size_bytes, limit_bytes) else {
                        return Turn::Fetch(Some(partial));
                    };
                    partial.discard();
                    return Turn::Here(bytes);
                }
                Some(Claim::Others(_)) if Instant::now() < end => {
                    tokio::time::sleep(TURN_POLL).await;
                }
                Some(Claim::Others(_)) | None => return Turn::Fetch(None),
            }
        }
    }

    /// Keeps a document that was fetched and checked.
    pub(crate) fn store(&self, digest: &Digest, mut partial: Partial, bytes: &[u8]) {
        match partial.clear().and_then(|()| partial.append(bytes)) {
            Ok(()) => self.publish(digest, partial),
            Err(error) => {
                partial.discard();
                self.give_up("a document", &error);
            }
        }
    }
}
