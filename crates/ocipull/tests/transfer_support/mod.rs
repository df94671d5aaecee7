//! What tests of a bad network share: layers of noise, and what was asked of whom for them.

#![allow(dead_code, reason = "every test file uses its part")]

use std::path::PathBuf;
use std::process::{Child, Stdio};

use testkit::image::{BuiltImage, Image};
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Registry, RegistryOptions};

use crate::common::Place;

/// So much of a layer comes before the network fails, in bytes.
pub(crate) const FIRST_BYTES: u64 = 70_000;

pub(crate) fn image(registry: &Registry) -> String {
    format!("{}/app:v1", registry.host())
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(&mut next).take(length / 8 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// An image of layers of about these sizes, in bytes, and the layers' digests.
pub(crate) fn serve(sizes: &[usize]) -> (Registry, Vec<String>) {
    let registry = Registry::start(RegistryOptions::default());
    let digests = push(&registry, sizes);
    (registry, digests)
}

pub(crate) fn push(registry: &Registry, sizes: &[usize]) -> Vec<String> {
    let built = sizes.iter().enumerate().fold(Image::new(), |image, (n, size)| {
        let layer = LayerBuilder::new().file(format!("f{n}"), noise(*size, n as u64 + 7));
        image.layer(layer.build(Compression::Gzip))
    });
    layers(&built.push(registry, "app", "v1"))
}

fn layers(built: &BuiltImage) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// Of every GET of the blob: its status and its Range.
pub(crate) fn fetches(registry: &Registry, digest: &str) -> Vec<(u16, Option<String>)> {
    let requests = registry.requests();
    let of_blob = requests.iter().filter(|r| r.method == "GET" && r.path.ends_with(digest));
    of_blob.map(|request| (request.status, request.range().map(str::to_owned))).collect()
}

pub(crate) fn from(position: u64) -> Option<String> {
    Some(format!("bytes={position}-"))
}

pub(crate) fn right(place: &Place, dest: &str, sizes: &[usize]) {
    for (n, size) in sizes.iter().enumerate() {
        let got = std::fs::read(place.path(&format!("{dest}/f{n}"))).unwrap();
        assert!(got == noise(*size, n as u64 + 7), "{dest}/f{n} differs");
    }
}

pub(crate) fn partial(place: &Place, digest: &str) -> PathBuf {
    place.cache().join("partial").join(digest.replace(':', "-"))
}

pub(crate) fn blob(place: &Place, digest: &str) -> PathBuf {
    place.cache().join("blobs").join(digest.replace(':', "/"))
}

pub(crate) fn spawn(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
pub(crate) fn ended_well(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    stderr
}
