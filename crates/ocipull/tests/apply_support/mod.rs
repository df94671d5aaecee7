//! What the tests of the unpacker share.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use ctsys::record::{ImageRecord, Ownership, RECORD_VERSION, RecordedPlatform};
use oci_spec::image::Digest;
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
    let mut staging = Staging::create(dest, ApplyOptions::new(ownership, force))?;
    for layer in layers {
        apply(&mut staging, layer)?;
    }
    let warnings = staging.commit(&record(ownership, "sha256:0"))?;
    Ok(warnings.iter().map(ToString::to_string).collect())
}

/// As [`unpack`], all layers at once: the lowest one is only read when those above it are on their
/// way, and `pause` later.
pub(crate) fn unpack_at_once(
    dest: &Path,
    layers: &[Layer],
    ownership: Ownership,
    pause: Duration,
) -> Result<Vec<String>, ApplyError> {
    let staging = Staging::create(dest, ApplyOptions::new(ownership, false))?;
    let started = Barrier::new(layers.len());
    let apply = |(index, layer): (usize, &Layer)| {
        let bytes = layer.bytes.as_ref();
        let mut blob = Delayed { bytes, started: Some(&started), pause, is_lowest: index == 0 };
        staging.apply_layer_at(index, &spec(layer).borrowed(), &mut blob)
    };
    let results: Vec<Result<_, ApplyError>> = std::thread::scope(|scope| {
        let apply = &apply;
        let numbered = layers.iter().enumerate();
        let threads: Vec<_> = numbered.map(|layer| scope.spawn(move || apply(layer))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut failures: Vec<ApplyError> = results.into_iter().filter_map(Result::err).collect();
    if let Some(cause) = failures.iter().position(|e| !e.is_consequence()) {
        return Err(failures.swap_remove(cause));
    }
    assert!(failures.is_empty(), "a consequence without a cause: {failures:?}");
    let warnings = staging.commit(&record(ownership, "sha256:0"))?;
    Ok(warnings.iter().map(ToString::to_string).collect())
}

/// A blob whose first byte waits for all of them to be asked for.
struct Delayed<'a> {
    bytes: &'a [u8],
    started: Option<&'a Barrier>,
    pause: Duration,
    is_lowest: bool,
}

impl Read for Delayed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(started) = self.started.take() {
            started.wait();
            if self.is_lowest {
                std::thread::sleep(self.pause);
            }
        }
        self.bytes.read(buffer)
    }
}

/// What is known of a layer, parsed.
struct Spec {
    media_type: String,
    diff_id: Digest,
    digest: Digest,
}

impl Spec {
    fn borrowed(&self) -> LayerSpec<'_> {
        LayerSpec { media_type: &self.media_type, diff_id: &self.diff_id, digest: &self.digest }
    }
}

fn spec(layer: &Layer) -> Spec {
    Spec {
        media_type: layer.media_type.clone(),
        diff_id: layer.diff_id.parse().unwrap(),
        digest: layer.digest.parse().unwrap(),
    }
}

pub(crate) fn apply(staging: &mut Staging, layer: &Layer) -> Result<(), ApplyError> {
    staging.apply_layer(&spec(layer).borrowed(), &mut layer.bytes.as_ref()).map(drop)
}

/// Applies the lowest layer, whose bytes come from `blob`.
pub(crate) fn apply_from(
    staging: &Staging,
    layer: &Layer,
    blob: &mut (dyn Read + Send),
) -> Result<(), ApplyError> {
    staging.apply_layer_at(0, &spec(layer).borrowed(), blob).map(drop)
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
        keep_dirlinks: false,
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
