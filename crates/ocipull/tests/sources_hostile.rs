//! Layouts and archives that are damaged, or made by somebody who means harm: refused with a word on
//! why, nothing outside is reached, and no tree is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod local_images;

use std::fs;
use std::os::unix::fs::symlink;

use common::Place;
use local_images::{blob, docker_archive, image, layout, plain, tool};
use testkit::image::Blob;
use testkit::layers::{Compression, LayerBuilder};
use testkit::media;

#[test]
fn blobs_that_are_not_what_they_should_be_are_refused() {
    let place = Place::new();
    let built = layout(&place, "good", "v1");
    let damage = |name: &str, digest: &str, change: &dyn Fn(&std::path::Path)| {
        layout(&place, name, "v1");
        change(&blob(&place, name, digest));
        place.run(&[&format!("oci:{name}"), "d"])
    };
    let flip = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let append = |path: &std::path::Path| {
        fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap()
    };
    let cut = |path: &std::path::Path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap();
    for (what, digest) in [("manifest", built.digest()), ("config", &built.config.digest)] {
        damage(&format!("flip-{what}"), digest, &flip).failed(4, &["altered", digest]);
        damage(&format!("long-{what}"), digest, &append).failed(4, &[digest]);
        damage(&format!("short-{what}"), digest, &cut).failed(4, &["truncated", digest]);
    }
    let layer = &built.layers[1].digest;
    damage("long-layer", layer, &append).failed(4, &["too long", layer]);
    damage("short-layer", layer, &cut).failed(4, &["truncated", layer]);
    // Another layer's content: the right size by chance, the wrong tree.
    let other = LayerBuilder::new().file("evil", "x").build(Compression::Gzip);
    let pad = |path: &std::path::Path| {
        let size = fs::metadata(path).unwrap().len() as usize;
        let mut bytes = other.bytes.to_vec();
        bytes.resize(size, 0);
        fs::write(path, bytes).unwrap();
    };
    let run = damage("other-layer", layer, &pad);
    assert_ne!(run.code, Some(0), "{run}");
    common::assert_absent(&place.path("d"));
}

#[test]
fn nothing_outside_of_a_layout_is_reached() {
    let place = Place::new();
    let built = layout(&place, "good", "v1");
    let (manifest, layer) = (built.digest(), built.layers[0].digest.as_str());
    // The very bytes, but elsewhere.
    for (name, digest) in [("linked-manifest", manifest), ("linked-layer", layer)] {
        layout(&place, name, "v1");
        let path = blob(&place, name, digest);
        fs::remove_file(&path).unwrap();
        symlink(blob(&place, "good", digest), &path).unwrap();
        place
            .run(&[&format!("oci:{name}"), "d"])
            .failed(1, &["no regular file", digest])
            .hints("cp -rL");
    }
    for name in ["blobs", "blobs/sha256", "index.json", "oci-layout"] {
        let dir = format!("linked-{}", name.replace('/', "-"));
        layout(&place, &dir, "v1");
        let path = place.path(&dir).join(name);
        fs::rename(&path, place.path(&format!("away-{dir}"))).unwrap();
        symlink(place.path(&format!("away-{dir}")), &path).unwrap();
        place.run(&[&format!("oci:{dir}"), "d"]).failed(1, &["no regular file"]);
    }
    // One that would never end.
    layout(&place, "fifo", "v1");
    fs::remove_file(blob(&place, "fifo", layer)).unwrap();
    let fifo = blob(&place, "fifo", layer);
    tool(&place, "mkfifo", &[fifo.to_str().unwrap()]);
    place.run(&["oci:fifo", "d"]).failed(1, &["no regular file"]);
    // A link to the layout itself is the user's own.
    symlink(place.path("good"), place.path("way")).unwrap();
    place.run(&["oci:way", "d"]).succeeded();
}

#[test]
fn what_is_no_layout_is_said_to_be_none() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    place.run(&["oci:empty", "d"]).failed(1, &["no OCI layout", "oci-layout"]).hints("skopeo");
    place.run(&["oci:none", "d"]).failed(1, &["cannot open \"none\"", "ENOENT"]);
    let built = layout(&place, "l", "v1");
    place.run(&["oci:l:v2", "d"]).failed(8, &["no image \"v2\"", "got \"v1\""]).hints(":v1");
    place.run(&[&format!("oci:l@{}", built.digest()), "by-digest"]).succeeded();
    fs::write(place.path("l/oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["version \"2.0.0\""]);
    fs::write(place.path("l/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(place.path("l/index.json"), "{").unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["cannot understand index.json"]);
    let sparse = fs::File::create(place.path("l/index.json")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    place.run(&["oci:l", "d"]).failed(12, &["index.json", "larger than"]);
    for typed in ["oci:", "docker-archive:"] {
        place.run(&[typed, "d"]).failed(2, &["want a path"]).hints("oci:DIR");
    }
}

#[test]
fn a_huge_manifest_is_not_read() {
    let place = Place::new();
    let digest = format!("sha256:{}", "a".repeat(64));
    layout(&place, "l", "v1");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": media::OCI_MANIFEST, "digest": digest, "size": 1_u64 << 40 }
    ]});
    fs::write(place.path("l/index.json"), index.to_string()).unwrap();
    fs::File::create(blob(&place, "l", &digest)).unwrap().set_len(1 << 40).unwrap();
    place.run(&["oci:l", "d"]).failed(12, &["larger than 4194304 bytes"]);
}

#[test]
fn hostile_archives_reach_nothing_outside() {
    let place = Place::new();
    let built = image().build();
    let refused = |name: &str, tar: LayerBuilder, words: &[&str]| {
        fs::write(place.path(name), tar.tar()).unwrap();
        place.run(&[&format!("docker-archive:{name}"), "d"]).failed(1, words);
        common::assert_absent(&place.path("d"));
    };
    fs::write(place.path("secret"), plain(&built.layers[0].bytes)).unwrap();
    let secret = place.path("secret").display().to_string();
    let archive = |layer: &str| {
        let item = serde_json::json!([{ "Config": "c.json", "Layers": [layer, layer] }]);
        LayerBuilder::new()
            .file("c.json", &built.config.bytes)
            .file("manifest.json", item.to_string())
    };
    for layer in [secret.as_str(), "../secret", "a/../../secret", "secret"] {
        refused("named.tar", archive(layer), &["cannot read", "not there"]);
    }
    for target in [secret.as_str(), "../secret", "layer.tar", "nothing"] {
        let tar = archive("layer.tar").symlink("layer.tar", target);
        refused("linked.tar", tar, &["layer.tar", "not there"]);
    }
    let tar = archive("layer.tar").hardlink("layer.tar", secret.trim_start_matches('/'));
    refused("hardlinked.tar", tar, &["layer.tar", "not there"]);
    let two = LayerBuilder::new()
        .file("c.json", &built.config.bytes)
        .file("manifest.json", r#"[{"Config":"c.json","Layers":["c.json"]}]"#);
    refused("one-layer.tar", two, &["got 1 layers and 2 diff_ids"]);
    let nothing = LayerBuilder::new().file("other", "x");
    refused("nothing.tar", nothing, &["neither a manifest.json nor an index.json"]);
    let old = LayerBuilder::new().file("repositories", "{}");
    refused("old.tar", old, &["before 1.10"]);
}

#[test]
fn damaged_archives_are_refused() {
    let place = Place::new();
    let built = image().build();
    let whole = docker_archive(&built).tar();
    for (name, bytes) in [
        ("cut.tar", whole[..whole.len() / 2].to_vec()),
        ("cut.tar.gz", {
            let gz = testkit::layers::gzip(&whole);
            gz[..gz.len() / 2].to_vec()
        }),
        ("text", b"this is no archive at all".to_vec()),
        ("empty", Vec::new()),
    ] {
        fs::write(place.path(name), bytes).unwrap();
        let run = place.run(&[&format!("docker-archive:{name}"), "d"]);
        assert_eq!(run.code, Some(1), "{run}");
        common::assert_absent(&place.path("d"));
    }
    let hex = built.config.digest.trim_start_matches("sha256:");
    let swapped = docker_archive(&image().env("EVIL=1").build());
    // Another config under the first one's name.
    let evil = image().env("EVIL=1").build();
    let tar = swapped.file(format!("{hex}.json"), &evil.config.bytes).file(
        "manifest.json",
        serde_json::json!([{ "Config": format!("{hex}.json"), "Layers": ["a", "b"] }]).to_string(),
    );
    fs::write(place.path("swapped.tar"), tar.tar()).unwrap();
    place.run(&["docker-archive:swapped.tar", "d"]).failed(4, &["altered"]);
    // Another layer under the first one's name: the config says what has to come out of it.
    let hex = built.layers[0].diff_id.trim_start_matches("sha256:").to_owned();
    let other = LayerBuilder::new().file("evil", "x").tar();
    let tar = docker_archive(&built).file(format!("{hex}/layer.tar"), other);
    fs::write(place.path("layer.tar"), tar.tar()).unwrap();
    place.run(&["docker-archive:layer.tar", "d"]).failed(4, &["diff_id"]);
    place.run(&["docker-archive:layer.tar", "oci:out"]).failed(4, &["altered"]);
}

/// Bytes changed here and there, in headers most of all: opened or refused, and what is opened is
/// the image that was saved.
#[test]
fn an_archive_with_any_byte_changed_is_the_image_or_refused() {
    use ocipull::archive;
    use ocipull::location::ArchiveName;
    let place = Place::new();
    let built = image().build();
    let whole = docker_archive(&built).tar();
    let path = place.path("a.tar");
    let name = ArchiveName { path: path.clone(), name: None };
    let open = || archive::open(&name, "a".into(), &false.into());
    fs::write(&path, &whole).unwrap();
    let right = open().unwrap().root;
    // A linear congruential generator: the same numbers with every run.
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        for _ in 0..=random(3) {
            let block = random(bytes.len() / 512) * 512;
            bytes[block + random(512)] = random(256) as u8;
        }
        bytes.truncate(bytes.len() - random(2) * random(whole.len()));
        fs::write(&path, &bytes).unwrap();
        match open() {
            Ok(local) => {
                // Layers are named by what has to come out of them, so they are seen there.
                assert_eq!(local.root, right);
                assert!(local.document(right.digest(), None, 1 << 20).is_ok());
                opened += 1;
            }
            Err(error) => {
                assert!(!ctsys::report::chain(&error).contains('\n'));
                refused += 1;
            }
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
}

/// An index that names itself has to be named by a digest that it cannot have.
#[test]
fn an_index_that_loops_is_refused() {
    let place = Place::new();
    layout(&place, "l", "v1");
    let digest = format!("sha256:{}", "b".repeat(64));
    let loops = serde_json::json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [
        { "mediaType": media::OCI_INDEX, "digest": digest, "size": 400 }
    ]});
    let text = format!("{:400}", loops.to_string());
    fs::write(blob(&place, "l", &digest), &text).unwrap();
    fs::write(place.path("l/index.json"), loops.to_string()).unwrap();
    place.run(&["oci:l", "d"]).failed(4, &["altered"]);
    // Right digests all the way down, but too deep.
    let mut inner = Blob::new(media::OCI_INDEX, r#"{"schemaVersion":2,"manifests":[]}"#);
    for _ in 0..20 {
        fs::write(blob(&place, "l", &inner.digest), &inner.bytes).unwrap();
        let outer = serde_json::json!({
            "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [inner.descriptor()]
        });
        inner = Blob::new(media::OCI_INDEX, outer.to_string());
    }
    fs::write(blob(&place, "l", &inner.digest), &inner.bytes).unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [inner.descriptor()] });
    fs::write(place.path("l/index.json"), index.to_string()).unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["nested more than 8 deep"]);
}
