//! Images as other tools write them, for the tests of local sources.

#![allow(dead_code, reason = "every test file uses its part")]

use std::path::Path;
use std::process::Command;

use testkit::image::{BuiltImage, Image};
use testkit::layers::{Compression, LayerBuilder};
use testkit::tree::{Options, Tree};

use crate::common::Place;

/// An image whose layers need each other: whiteouts, links, owners, modes, times.
pub(crate) fn image() -> Image {
    let lower = LayerBuilder::new()
        .dir("etc", 0o755)
        .file("etc/name", "lower\n")
        .owner(3, 4)
        .file("etc/gone", "x")
        .dir("bin", 0o755)
        .program("bin/tool", "#!/bin/sh\n")
        .symlink("sh", "bin/tool");
    let upper = LayerBuilder::new()
        .dir("etc", 0o750)
        .whiteout("etc/gone")
        .file("etc/name", "upper\n")
        .mtime(1_000_000_007, 0)
        .hardlink("etc/alias", "etc/name");
    Image::new()
        .layer(lower.build(Compression::Gzip))
        .layer(upper.build(Compression::Gzip))
        .cmd(&["/bin/tool"])
        .env("A=b")
}

/// Runs a program that has to succeed.
#[track_caller]
pub(crate) fn tool(place: &Place, program: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(place.path("")).env("HOME", place.path(""));
    let output = command.output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output.stdout
}

#[track_caller]
pub(crate) fn skopeo(place: &Place, from: &str, to: &str) {
    tool(place, "skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", from, to]);
}

pub(crate) fn tree(path: &Path) -> Tree {
    Tree::of(path, &Options::default())
}

/// Writes a layout with this image under the tag, and gives the path of one of its blobs.
pub(crate) fn layout(place: &Place, name: &str, tag: &str) -> BuiltImage {
    let built = image().build();
    built.write_oci_layout(&place.path(name), tag);
    built
}

pub(crate) fn blob(place: &Place, layout: &str, digest: &str) -> std::path::PathBuf {
    place.path(layout).join("blobs").join(digest.replace(':', "/"))
}

/// `docker save`'s older form: the tar file's entries.
pub(crate) fn docker_archive(built: &BuiltImage) -> LayerBuilder {
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let config = format!("{}.json", hex(&built.config.digest));
    let mut tar = LayerBuilder::new().file(&config, &built.config.bytes);
    let mut layers = Vec::new();
    for layer in &built.layers {
        let name = format!("{}/layer.tar", hex(&layer.diff_id));
        tar = tar.dir(hex(&layer.diff_id), 0o755).file(&name, plain(&layer.bytes));
        layers.push(name);
    }
    let manifest = serde_json::json!([
        { "Config": config, "RepoTags": ["app:v1", "r.io/team/app:v2"], "Layers": layers }
    ]);
    tar.file("manifest.json", manifest.to_string())
}

/// A layer without its gzip.
pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes), &mut plain).unwrap();
    plain
}
