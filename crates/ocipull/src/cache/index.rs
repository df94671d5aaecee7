//! The layout's index.json: which references stand for what.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use oci_spec::image::{Descriptor, Digest, ImageIndex, ImageIndexBuilder, MediaType};

use super::place;

/// Longest index.json, in bytes: some fifty thousand images.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// The annotation that names an image in a layout (image-spec, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that says which index a manifest was chosen from. The manifest is what is named,
/// as umoci cannot choose and skopeo would look for what was never fetched.
const RESOLVED: &str = "ocipull.resolved";

/// As it was read, or nothing where there is none that can be read: it is only a cache's.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) images: Vec<Descriptor>,
}

impl Index {
    pub(super) fn read(root: &Path) -> Self {
        Self::try_read(&root.join("index.json")).unwrap_or_default()
    }

    fn try_read(path: &Path) -> Option<Self> {
        let file = place::options(false).open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return None;
        }
        let index: ImageIndex = serde_json::from_slice(&bytes).ok()?;
        Some(Self { images: index.manifests().clone() })
    }

    /// What `reference` stood for: an index, or a manifest where there is none.
    pub(super) fn lookup(&self, reference: &str) -> Option<Digest> {
        self.images.iter().find(|image| name(image) == Some(reference)).map(resolved)
    }

    pub(super) fn has(&self, image: &Descriptor) -> bool {
        self.images.contains(image)
    }

    /// Puts an image in the place of the one of its name.
    pub(super) fn set(&mut self, image: Descriptor) {
        self.images.retain(|known| name(known) != name(&image));
        self.images.push(image);
    }

    pub(super) fn write(&self, root: &Path) -> io::Result<()> {
        let index = ImageIndexBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageIndex)
            .manifests(self.images.clone())
            .build()
            .map_err(io::Error::other)?;
        place::write_whole(&root.join("index.json"), &serde_json::to_vec(&index)?)
    }
}

/// A manifest's descriptor with its name, and the digest that the name stands for.
pub(super) fn named(reference: &str, manifest: &Descriptor, resolved: &Digest) -> Descriptor {
    let mut annotations = HashMap::from([(REF_NAME.into(), reference.into())]);
    if resolved != manifest.digest() {
        annotations.insert(RESOLVED.into(), resolved.to_string());
    }
    let mut image = manifest.clone();
    image.set_annotations(Some(annotations));
    image
}

/// The index that an image was chosen from, else its own digest.
pub(super) fn resolved(image: &Descriptor) -> Digest {
    let noted = image.annotations().as_ref().and_then(|all| all.get(RESOLVED));
    noted.and_then(|text| text.parse().ok()).unwrap_or_else(|| image.digest().clone())
}

/// The reference that an image is noted under.
pub(super) fn name(image: &Descriptor) -> Option<&str> {
    image.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}
