//! Unpacks an image from an OCI image layout, without a registry: the unpacker's whole interface
//! on a page.
//!
//! ```text
//! unpack auto|root|subuid|single LAYOUT TAG DEST
//! unpack auto|root|subuid|single rm DEST
//! ```

#![allow(clippy::print_stderr)]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedLayer, RecordedPlatform};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use ocipull::apply::{ApplyOptions, LayerSpec, Staging};
use ocipull::ownership::{self, OwnershipChoice};

const USAGE: &str = "usage: unpack auto|root|subuid|single LAYOUT TAG DEST | rm DEST";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unpack: {}", ctsys::report::escape(&ctsys::report::chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((choice, rest)) = args.split_first() else { return Err(USAGE.into()) };
    let choice = parse_choice(choice)?;
    // First of all: what follows may go on in a child process, inside a user namespace.
    let entered = ownership::enter(choice)?;
    if let Some(warning) = &entered.warning {
        eprintln!("warning: {warning}");
    }
    eprintln!("ownership: {:?}", entered.ownership);
    match rest {
        [rm, dest] if rm == "rm" => Ok(ocipull::apply::remove(Path::new(dest))?),
        [layout, tag, dest] => unpack(Path::new(layout), tag, Path::new(dest), entered.ownership),
        _ => Err(USAGE.into()),
    }
}

fn unpack(
    layout: &Path,
    tag: &str,
    dest: &Path,
    ownership: Ownership,
) -> Result<(), Box<dyn Error>> {
    let index = ImageIndex::from_file(layout.join("index.json"))?;
    let named = |d: &&Descriptor| {
        let names = d.annotations().as_ref();
        names.and_then(|a| a.get("org.opencontainers.image.ref.name")).is_some_and(|n| n == tag)
    };
    let found = index.manifests().iter().find(named).ok_or("no such tag")?;
    let manifest = ImageManifest::from_file(blob(layout, found))?;
    let config = ImageConfiguration::from_file(blob(layout, manifest.config()))?;

    let options = ApplyOptions::new(ownership, false);
    let mut staging = Staging::create(dest, options)?;
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
        ownership,
        keep_dirlinks: false,
        config: serde_json::to_value(&config)?,
    };
    for warning in staging.commit(&record)? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn parse_choice(text: &str) -> Result<OwnershipChoice, String> {
    match text {
        "auto" => Ok(OwnershipChoice::Auto),
        "root" => Ok(OwnershipChoice::Root),
        "subuid" => Ok(OwnershipChoice::Subuid),
        "single" => Ok(OwnershipChoice::Single),
        other => Err(format!("unknown ownership {other}")),
    }
}

fn blob(layout: &Path, descriptor: &Descriptor) -> std::path::PathBuf {
    let digest = descriptor.digest();
    layout.join("blobs").join(digest.algorithm().to_string()).join(digest.digest())
}
