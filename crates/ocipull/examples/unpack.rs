//! Unpacks an image from an OCI image layout, without a registry: the unpacker's whole interface
//! on a page.
//!
//! ```text
//! unpack auto|root|subuid|single LAYOUT TAG DEST
//! ```

#![allow(clippy::print_stderr)]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use ctsys::record::{ImageRecord, RECORD_VERSION, RecordedLayer, RecordedPlatform};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use ocipull::apply::{ApplyOptions, LayerSpec, Staging};
use ocipull::ownership::{self, OwnershipChoice};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [choice, layout, tag, dest] = args.as_slice() else {
        return Err("usage: unpack auto|root|subuid|single LAYOUT TAG DEST".into());
    };
    let choice = match choice.as_str() {
        "auto" => OwnershipChoice::Auto,
        "root" => OwnershipChoice::Root,
        "subuid" => OwnershipChoice::Subuid,
        "single" => OwnershipChoice::Single,
        other => return Err(format!("unknown ownership {other}").into()),
    };
    // First of all: what follows may go on in a child process, inside a user namespace.
    let entered = ownership::enter(choice)?;
    if let Some(warning) = &entered.warning {
        eprintln!("warning: {warning}");
    }
    eprintln!("ownership: {:?}", entered.ownership);
    if dest == "-" {
        return ocipull::apply::remove(Path::new(tag)).map_err(Into::into);
    }

    let layout = Path::new(layout);
    let index = ImageIndex::from_file(layout.join("index.json"))?;
    let named = |d: &&Descriptor| {
        let names = d.annotations().as_ref();
        names.is_some_and(|a| a.get("org.opencontainers.image.ref.name") == Some(tag))
    };
    let found = index.manifests().iter().find(named).ok_or("no such tag")?;
    let manifest = ImageManifest::from_file(blob(layout, found))?;
    let config = ImageConfiguration::from_file(blob(layout, manifest.config()))?;

    let options = ApplyOptions { ownership: entered.ownership, force: false };
    let mut staging = Staging::create(Path::new(dest), options)?;
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers().iter().zip(config.rootfs().diff_ids()) {
        let diff_id = diff_id.parse()?;
        let spec = LayerSpec {
            media_type: layer.media_type().as_ref(),
            diff_id: &diff_id,
            digest: layer.digest(),
        };
        staging.apply_layer(&spec, &mut File::open(blob(layout, layer))?)?;
        let digest = layer.digest().to_string();
        layers.push(RecordedLayer { digest, diff_id: diff_id.to_string() });
    }
    let record = ImageRecord {
        version: RECORD_VERSION,
        reference: format!("oci:{}:{tag}", layout.display()),
        canonical_reference: found.digest().to_string(),
        manifest_digest: found.digest().to_string(),
        resolved_digest: found.digest().to_string(),
        platform: RecordedPlatform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone(),
        },
        layers,
        ownership: entered.ownership,
        config: serde_json::to_value(&config)?,
    };
    for warning in staging.commit(&record)? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn blob(layout: &Path, descriptor: &Descriptor) -> std::path::PathBuf {
    let digest = descriptor.digest();
    layout.join("blobs").join(digest.algorithm().to_string()).join(digest.digest())
}
