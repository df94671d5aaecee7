//! Where one image's layers are kept while it is pulled.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::image::{Descriptor, Digest};

use super::Cache;
use crate::event::Observer;

/// So much of DEST's name stands in a temporary name, in bytes; as staging directories have it.
const MAX_SHOWN_NAME_BYTES: usize = 200;

/// The user's cache. Without that, a temporary one for the layers that an image has more than once,
/// so that they are fetched once all the same.
#[derive(Debug)]
pub struct LayerCaches {
    user: Option<Arc<Cache>>,
    own: Option<Arc<Cache>>,
    repeated: HashSet<Digest>,
}

impl LayerCaches {
    /// For `layers`, which are unpacked into `dest`: that is where the space is.
    pub fn new(
        user: Option<&Arc<Cache>>,
        layers: &[Descriptor],
        dest: &Path,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let mut seen = HashSet::new();
        let is_repeated = |layer: &&Descriptor| !seen.insert(layer.digest().clone());
        let repeated: HashSet<Digest> =
            layers.iter().filter(is_repeated).map(|layer| layer.digest().clone()).collect();
        let own = match user {
            None if !repeated.is_empty() => {
                // Without it they are fetched once each.
                Cache::temporary(&beside(dest), Arc::clone(observer)).ok().map(Arc::new)
            }
            _ => None,
        };
        Self { user: user.cloned(), own, repeated }
    }

    /// Where this layer is kept, if anywhere.
    pub fn of(&self, layer: &Digest) -> Option<&Arc<Cache>> {
        let own = || self.own.as_ref().filter(|_| self.repeated.contains(layer));
        self.user.as_ref().or_else(own)
    }
}

/// A name as staging directories have it: one that a killed run leaves is removed by the next.
fn beside(dest: &Path) -> PathBuf {
    let name = dest.file_name().unwrap_or_default().as_bytes();
    let shown = name.get(..MAX_SHOWN_NAME_BYTES).unwrap_or(name);
    let random = RandomState::new().hash_one(SystemTime::now());
    let suffix = format!(".ocipull-{random:016x}");
    dest.with_file_name(OsStr::from_bytes(&[b".", shown, suffix.as_bytes()].concat()))
}
