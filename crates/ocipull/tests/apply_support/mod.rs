//! What the tests of the unpacker share.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedPlatform};
use ocipull::apply::{ApplyError, ApplyOptions, LayerSpec, Staging};
use testkit::layers::{Compression, Layer, LayerBuilder};
use testkit::tree::{Options, Tree};

/// A scratch directory with room for a host side and a destination.
pub(crate) struct Scratch {
    pub(crate) dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(crate) fn dest(&self) -> PathBuf {
        self.dir.path().join("dest")
    }

    /// Unpacks as root.
    pub(crate) fn unpack(&self, layers: &[Layer]) -> Result<Vec<String>, ApplyError> {
        unpack(&self.dest(), layers, Ownership::Root, false)
    }

    /// What is in the scratch directory beside the destination and its record.
    pub(crate) fn beside(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|n| n != "dest" && n != "dest.image.json");
        names.sort();
        names
    }
}

pub(crate) fn unpack(
    dest: &Path,
    layers: &[Layer],
    ownership: Ownership,
    force: bool,
) -> Result<Vec<String>, ApplyError> {
    let mut staging = Staging::create(dest, ApplyOptions { ownership, force })?;
    for layer in layers {
        apply(&mut staging, layer)?;
    }
    let warnings = staging.commit(&record(ownership, "sha256:0"))?;
    Ok(warnings.iter().map(ToString::to_string).collect())
}

pub(crate) fn apply(staging: &mut Staging, layer: &Layer) -> Result<(), ApplyError> {
    let spec = LayerSpec {
        media_type: &layer.media_type,
        diff_id: &layer.diff_id.parse().unwrap(),
        digest: &layer.digest.parse().unwrap(),
    };
    staging.apply_layer(&spec, &mut layer.bytes.as_ref()).map(drop)
}

pub(crate) fn record(ownership: Ownership, digest: &str) -> ImageRecord {
    ImageRecord {
        version: RECORD_VERSION,
        reference: "test".into(),
        canonical_reference: "registry.test/test:latest".into(),
        manifest_digest: digest.into(),
        resolved_digest: digest.into(),
        platform: RecordedPlatform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        },
        layers: Vec::new(),
        ownership,
        config: serde_json::json!({}),
    }
}

/// A plain layer.
pub(crate) fn plain(builder: &LayerBuilder) -> Layer {
    builder.build(Compression::None)
}

/// The tree's shape and content, an entry a line: `d etc`, `f etc/x=text`, `l bin>usr/bin`; hard
/// links say of which first name.
pub(crate) fn listing(dest: &Path) -> Vec<String> {
    let tree = Tree::of(dest, &Options::default());
    let line = |path: &str| {
        let line = tree.get(path).unwrap();
        let on_disk = dest.join(path);
        let link = line.split(' ').find_map(|w| w.strip_prefix("hardlink-of="));
        let link = link.map(|l| format!(" ({l})")).unwrap_or_default();
        match line.split(' ').next().unwrap() {
            "file" => {
                let text = String::from_utf8(fs::read(on_disk).unwrap()).unwrap();
                format!("f {path}={text}{link}")
            }
            "symlink" => {
                let target = fs::read_link(on_disk).unwrap();
                format!("l {path}>{}{link}", target.as_os_str().as_bytes().escape_ascii())
            }
            "dir" | "directory" => format!("d {path}"),
            "fifo" => format!("p {path}{link}"),
            other => format!("? {path}{link} {other}"),
        }
    };
    tree.paths().into_iter().filter(|p| *p != ".").map(line).collect()
}

/// Unpacks and lists; panics with the report of a failure.
pub(crate) fn listed(layers: &[LayerBuilder]) -> Vec<String> {
    let scratch = Scratch::new();
    let layers: Vec<Layer> = layers.iter().map(plain).collect();
    if let Err(error) = scratch.unpack(&layers) {
        panic!("{}", ctsys::report::render("unpack", &error));
    }
    assert_eq!(scratch.beside(), [""; 0], "rubbish beside the destination");
    listing(&scratch.dest())
}

/// The message of an unpacking that has to fail, after which nothing may be left.
pub(crate) fn refused(layers: &[LayerBuilder]) -> String {
    let scratch = Scratch::new();
    let layers: Vec<Layer> = layers.iter().map(plain).collect();
    match scratch.unpack(&layers) {
        Ok(_) => panic!("unpacked, but should have been refused: {:?}", listing(&scratch.dest())),
        Err(error) => {
            assert!(!scratch.dest().exists(), "a failed unpacking left a destination");
            assert_eq!(scratch.beside(), [""; 0], "a failed unpacking left something");
            ctsys::report::chain(&error)
        }
    }
}
