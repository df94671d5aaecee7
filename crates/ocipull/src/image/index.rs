//! The entries of an index or manifest list. Pure.

use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::Value;

use super::{ImageError, fill_null, from_value, is_index_type};
use crate::platform::Platform;

/// Where buildx says that an entry is about another one (docker buildx, "Image attestation storage").
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The images of an index.
#[derive(Debug)]
pub struct Index {
    entries: Vec<Entry>,
}

/// What an index leads to: an image, or more of them.
#[derive(Debug, Clone)]
pub struct Entry {
    /// For which platform, if it says so.
    pub platform: Option<Platform>,
    /// Of the manifest, or of the index where it is one.
    pub descriptor: Descriptor,
}

impl Entry {
    /// Whether it is an index itself.
    pub fn is_index(&self) -> bool {
        is_index_type(self.descriptor.media_type().as_ref())
    }
}

impl Index {
    pub(super) fn from_json(mut value: Value) -> Result<Self, ImageError> {
        // Go writes an empty list as null.
        fill_null(&mut value, "manifests");
        let index: ImageIndex = from_value(value, "index")?;
        Ok(Self { entries: index.manifests().iter().filter_map(entry).collect() })
    }

    /// In their order, without those that are known to be no images.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// `None` for an attestation, or anything else that is about an image and none.
fn entry(descriptor: &Descriptor) -> Option<Entry> {
    let annotations = descriptor.annotations().as_ref();
    let is_about_another = annotations.is_some_and(|a| a.contains_key(REFERENCE_TYPE));
    if is_about_another || descriptor.artifact_type().is_some() {
        return None;
    }
    let platform = descriptor.platform().as_ref().map(|platform| {
        let (os, architecture) = (platform.os().to_string(), platform.architecture().to_string());
        Platform::new(&os, &architecture, platform.variant().as_deref())
    });
    if platform.as_ref().is_some_and(Platform::is_unknown) {
        return None;
    }
    Some(Entry { platform, descriptor: descriptor.clone() })
}
