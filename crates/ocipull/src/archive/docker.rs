//! The older form of `docker save`: manifest.json names a config and the layers' tar files, and
//! there is no manifest as a registry has it. One is made, in OCI's form; its digest is that of no
//! registry's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ctsys::report::chain;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
};
use oci_spec::image::{Descriptor, Digest};
use serde::Deserialize;

use super::{Archive, Stoppable};
use crate::decompress;
use crate::image::{Config, MAX_CONFIG_BYTES};
use crate::local::{Blobs, Local, LocalBlob, LocalError, MAX_INDEX_BYTES, NamedImage, choose};
use crate::verify;

/// The file that says what is in the archive (moby, image/spec).
const MANIFEST_FILE: &str = "manifest.json";
/// oci-client has none.
const ZSTD_LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// From where, and how many bytes.
type Extent = (u64, u64);
/// A layer's media type and digest.
type Compressed = (&'static str, Digest);

/// One image of an archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// All images of an archive.
pub(super) fn images(archive: &Archive<'_>) -> Result<Vec<NamedImage<Item>>, LocalError> {
    if !archive.entries.has(MANIFEST_FILE) {
        let reason = if archive.entries.has("repositories") {
            "it is of docker's form before 1.10, which is not supported"
        } else {
            "it has neither a manifest.json nor an index.json"
        };
        let path = archive.path.to_path_buf();
        return Err(LocalError::NoArchive { path, reason: reason.into() });
    }
    let json = archive.read(MANIFEST_FILE, MAX_INDEX_BYTES)?;
    let items: Vec<Item> = serde_json::from_slice(&json).map_err(|source| LocalError::Json {
        name: MANIFEST_FILE,
        path: archive.path.to_path_buf(),
        source,
    })?;
    let named = items.into_iter().map(|item| NamedImage {
        names: item.repo_tags.clone().unwrap_or_default(),
        key: item.config.clone(),
        image: item,
    });
    Ok(named.collect())
}

/// The image of that name, or the only one.
pub(super) fn image(
    archive: Archive<'_>,
    shown: String,
    wanted: Option<&str>,
    stop: &AtomicBool,
) -> Result<Local, LocalError> {
    let item = choose(archive.path, &images(&archive)?, wanted)?.clone();
    let (config_bytes, config) = config(&archive, &item)?;
    let layers = layers(&archive, &item, &config, stop)?;
    let config = describe(IMAGE_CONFIG_MEDIA_TYPE, &config_bytes)?;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE_MEDIA_TYPE,
        "config": &config,
        "layers": layers.iter().map(|(layer, _)| layer).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let root = describe(OCI_IMAGE_MEDIA_TYPE, &manifest)?;
    let extents = layers.iter().map(|(layer, extent)| (layer.digest().clone(), *extent)).collect();
    let made = HashMap::from([
        (root.digest().clone(), manifest.into()),
        (config.digest().clone(), config_bytes.into()),
    ]);
    Ok(Local::new(shown, root, Blobs::Archive { file: archive.file, extents, made }))
}

/// The config, which its name has the digest of.
fn config(archive: &Archive<'_>, item: &Item) -> Result<(Vec<u8>, Config), LocalError> {
    let bytes = archive.read(&item.config, MAX_CONFIG_BYTES)?;
    if let Some(stated) = stated_digest(&item.config) {
        verify::verify(&bytes, &stated, None)
            .map_err(|cause| archive.failed(&item.config, LocalError::Content(cause)))?;
    }
    let refused = |reason: String| LocalError::NoArchive {
        path: archive.path.to_path_buf(),
        reason: format!("{:?}: {reason}", item.config),
    };
    let config = Config::parse(&bytes).map_err(|error| refused(chain(&error)))?;
    let (got, want) = (item.layers.as_ref().map_or(0, Vec::len), config.diff_ids.len());
    if got == want {
        return Ok((bytes, config));
    }
    Err(refused(format!("got {got} layers and {want} diff_ids")))
}

/// `HEX.json`, `blobs/sha256/HEX`.
fn stated_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    format!("sha256:{hex}").parse().ok()
}

/// What the manifest says of every layer, and where it lies.
fn layers(
    archive: &Archive<'_>,
    item: &Item,
    config: &Config,
    stop: &AtomicBool,
) -> Result<Vec<(Descriptor, Extent)>, LocalError> {
    let names = item.layers.iter().flatten();
    // One file may be many layers.
    let mut known: HashMap<Extent, Option<Compressed>> = HashMap::new();
    let each = names.zip(&config.diff_ids).map(|(name, diff_id)| {
        let missing = || archive.failed(name, LocalError::Missing);
        let extent = archive.entries.find(name).ok_or_else(missing)?;
        let compressed = match known.entry(extent) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(place) => {
                let found = compressed(&archive.file, extent, stop);
                let found = found.map_err(|e| archive.failed(name, LocalError::Read(e)))?;
                place.insert(found).clone()
            }
        };
        // One that is not compressed has its diff_id's digest, which is checked by who reads it.
        let plain = || (IMAGE_LAYER_MEDIA_TYPE, diff_id.clone());
        let (media_type, digest) = compressed.unwrap_or_else(plain);
        Ok((Descriptor::new(media_type.into(), extent.1, digest), extent))
    });
    each.collect()
}

/// What a layer is compressed with, and its digest, which has to be found; `None` for one that is not
/// compressed, as is the rule.
fn compressed(
    file: &Arc<File>,
    (start, length): Extent,
    stop: &AtomicBool,
) -> io::Result<Option<Compressed>> {
    let blob = || Stoppable { inner: LocalBlob::part(Arc::clone(file), start, length), stop };
    let mut head = [0; 6];
    let read = decompress::read_full(&mut blob(), &mut head)?;
    let media_type = match decompress::name_of(head.get(..read).unwrap_or_default()) {
        None => return Ok(None),
        Some("zstd") => ZSTD_LAYER_MEDIA_TYPE,
        // What is none of an image's is refused where it is unpacked.
        Some(_) => IMAGE_LAYER_GZIP_MEDIA_TYPE,
    };
    Ok(Some((media_type, verify::sha256_of(&mut blob())?)))
}

fn describe(media_type: &str, bytes: &[u8]) -> Result<Descriptor, LocalError> {
    let digest = verify::sha256(bytes).map_err(LocalError::Content)?;
    Ok(Descriptor::new(media_type.into(), bytes.len() as u64, digest))
}
