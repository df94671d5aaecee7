//! Images kept in an OCI layout: byte for byte, beside others, whole or not at all.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod local_images;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{Place, wait_until};
use local_images::{blob, image, skopeo, tool, tree};
use testkit::image::{BuiltImage, Image, Index, Platform};
use testkit::media;
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
use testkit::tree::assert_same;

fn serve() -> (Registry, BuiltImage, String) {
    let registry = Registry::start(RegistryOptions::default());
    let built = image().push(&registry, "app", "v1");
    let name = format!("{}/app:v1", registry.host());
    (registry, built, name)
}

fn index(place: &Place, layout: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(place.path(layout).join("index.json")).unwrap()).unwrap()
}

/// All that is in a layout that nobody is writing.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn skopeo_and_umoci_read_what_is_kept() {
    let (_registry, built, name) = serve();
    let place = Place::new();
    place.run(&[&name, "want"]).succeeded();
    place
        .run(&[&name, "oci:l"])
        .succeeded()
        .says(&format!("@{} (1 manifest, 3 blobs", built.digest()));
    assert_eq!(fs::read(blob(&place, "l", built.digest())).unwrap(), built.manifest.bytes);
    let raw = tool(&place, "skopeo", &["inspect", "--raw", "oci:l:v1"]);
    assert_eq!(raw, built.manifest.bytes);
    skopeo(&place, "oci:l:v1", "oci:again:v1");
    tool(&place, "umoci", &["unpack", "--image", "l:v1", "bundle"]);
    assert_same(&tree(&place.path("want")), &tree(&place.path("bundle/rootfs")));
    place.run(&["oci:l:v1", "back"]).succeeded();
    assert_same(&tree(&place.path("want")), &tree(&place.path("back")));
    assert_eq!(place.record("back")["manifestDigest"], built.digest());
    assert_eq!(files(&place.path("l")), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn a_layout_of_another_tool_is_added_to() {
    let (registry, built, name) = serve();
    let place = Place::new();
    tool(&place, "umoci", &["init", "--layout", "l"]);
    tool(&place, "umoci", &["new", "--image", "l:theirs"]);
    place.run(&[&name, "oci:l:ours"]).succeeded();
    let other = image().env("B=c").push(&registry, "app", "v2");
    place.run(&[&format!("{}/app:v2", registry.host()), "oci:l:v2"]).succeeded();
    let tags = |place: &Place| {
        let listed = String::from_utf8(tool(place, "umoci", &["list", "--layout", "l"])).unwrap();
        let mut tags: Vec<String> = listed.lines().map(str::to_owned).collect();
        tags.sort();
        tags
    };
    assert_eq!(tags(&place), ["ours", "theirs", "v2"]);
    // Layers that are there already are not asked for.
    let fetched =
        |walk: Vec<String>, digest: &str| walk.iter().filter(|l| l.contains(digest)).count();
    for layer in &built.layers {
        assert_eq!(fetched(registry.walk(), &layer.digest), 1, "{:?}", registry.walk());
    }
    // A name that is given again is another image's.
    place.run(&[&format!("{}/app:v2", registry.host()), "oci:l:ours"]).succeeded();
    assert_eq!(tags(&place), ["ours", "theirs", "v2"]);
    place.run(&["oci:l:ours", "d"]).succeeded();
    assert_eq!(place.record("d")["manifestDigest"], other.digest());
    tool(&place, "umoci", &["gc", "--layout", "l"]);
    place.run(&["oci:l:v2", "e"]).succeeded();
}

#[test]
fn all_platforms_come_with_their_index_as_it_is() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let of =
        |platform: &str| image().platform(Platform::linux(platform)).label("p", platform).build();
    let (amd, arm) = (of("amd64"), of("arm64"));
    // An attestation: a manifest of an empty config and of layers that are none.
    let statement =
        testkit::layers::Layer::from_parts("{}", "sha256:0", "application/vnd.in-toto+json");
    let attestation = Image::new()
        .layer(statement)
        .platform(Platform { os: "unknown".into(), ..Platform::linux("unknown") })
        .diff_ids(&[])
        .build();
    let index = Index::new().image(amd.clone()).image(arm.clone()).image(attestation.clone());
    let list = index.push(&registry, "app", "v1");
    let name = format!("{}/app:v1", registry.host());
    place.run(&["--all-platforms", &name, "oci:l:all"]).succeeded().says("4 manifests");
    let raw = tool(&place, "skopeo", &["inspect", "--raw", "oci:l:all"]);
    assert_eq!(raw, list.bytes);
    for built in [&amd, &arm, &attestation] {
        assert_eq!(fs::read(blob(&place, "l", built.digest())).unwrap(), built.manifest.bytes);
        assert!(blob(&place, "l", &built.config.digest).exists());
        assert!(built.layers.iter().all(|layer| blob(&place, "l", &layer.digest).exists()));
    }
    tool(
        &place,
        "skopeo",
        &["copy", "-q", "--insecure-policy", "--all", "oci:l:all", "oci:again:all"],
    );
    // One platform's, from the registry and from the layout.
    for (at, source) in [name.as_str(), "oci:l:all"].into_iter().enumerate() {
        let dest = format!("oci:one{at}:arm");
        place.run(&["--platform", "linux/arm64", source, &dest]).succeeded().says("1 manifest,");
        let digest = tool(&place, "skopeo", &["inspect", "--raw", &dest]);
        assert_eq!(digest, arm.manifest.bytes);
        assert!(!blob(&place, &format!("one{at}"), amd.digest()).exists());
    }
    place.run(&["--all-platforms", &name, "d"]).failed(2, &["--all-platforms"]).hints("oci:");
}

#[test]
fn what_is_no_layout_is_left_alone_and_nobody_is_asked() {
    let (registry, _, name) = serve();
    let place = Place::new();
    fs::create_dir(place.path("mine")).unwrap();
    fs::write(place.path("mine/file"), "text").unwrap();
    place.run(&[&name, "oci:mine"]).failed(1, &["no OCI layout"]).hints("a new directory");
    assert_eq!(files(&place.path("mine")), ["file"]);
    place.run(&[&name, "oci:l:a b"]).failed(2, &["name \"a b\""]);
    let digest = format!("oci:l@sha256:{}", "a".repeat(64));
    place.run(&[&name, &digest]).failed(2, &["invalid destination"]);
    assert_eq!(registry.walk(), Vec::<String>::new());
    // An image that is not there leaves no layout behind.
    place.run(&[&format!("{}/app:none", registry.host()), "oci:l"]).failed(8, &["not found"]);
    common::assert_absent(&place.path("l"));
    // A directory of that very name can still be meant.
    place.run(&[&name, "./oci:l"]).succeeded();
    assert!(place.path("oci:l/etc/name").exists());
}

/// A blob that does not come, or comes wrong: what index.json named before is all that it names.
#[test]
fn half_an_image_is_never_named() {
    let (registry, built, name) = serve();
    let place = Place::new();
    let first = Image::new().build();
    first.push(&registry, "first", "v1");
    place.run(&["--no-cache", &format!("{}/first:v1", registry.host()), "oci:l:first"]).succeeded();
    let before = index(&place, "l");
    let layer = &built.layers[0].digest;
    let faults = [
        (Fault::TruncateAt(10), 4),
        (Fault::WrongBytes, 4),
        (Fault::status(404, "BLOB_UNKNOWN"), 8),
    ];
    for (fault, code) in faults {
        registry.inject(Rule::new(fault).method("GET").path(layer));
        let run = place.run(&["--no-cache", "--retries", "0", &name, "oci:l:second"]);
        assert_eq!(run.code, Some(code), "{run}");
        registry.clear_faults();
        assert_eq!(index(&place, "l"), before);
        assert_eq!(files(&place.path("l")), ["blobs", "index.json", "oci-layout"]);
        assert!(!blob(&place, "l", layer).exists());
    }
    place.run(&["--no-cache", &name, "oci:l:second"]).succeeded();
    place.run(&["oci:l:first", "d"]).succeeded();
    place.run(&["oci:l:second", "e"]).succeeded();
}

#[test]
fn the_cache_is_used_and_not_believed() {
    let (registry, built, name) = serve();
    let place = Place::new();
    place.run(&[&name, "d"]).succeeded();
    let cached = |digest: &str| place.cache().join("blobs").join(digest.replace(':', "/"));
    let path = cached(&built.layers[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    registry.clear_requests();
    place.run(&[&name, "oci:l"]).succeeded();
    for layer in &built.layers {
        assert_eq!(fs::read(blob(&place, "l", &layer.digest)).unwrap(), layer.bytes);
    }
    let blobs: Vec<String> =
        registry.walk().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(blobs, [format!("GET /v2/app/blobs/{} 200", built.layers[0].digest)]);
}

#[test]
fn an_interrupted_copy_leaves_no_part_behind() {
    let (registry, built, name) = serve();
    let place = Place::new();
    let slow = Fault::Trickle { bytes: 1, pause: Duration::from_millis(200) };
    registry.inject(Rule::new(slow).path(&built.layers[0].digest));
    let mut command = place.command(&["--no-cache", &name, "oci:l"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("the layer is on its way", || {
        place.path("l").exists()
            && files(&place.path("l")).iter().any(|n| n.starts_with(".ocipull-"))
    });
    tool(&place, "kill", &["-TERM", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!place.path("l/index.json").exists());
    assert!(files(&place.path("l")).iter().all(|name| !name.starts_with(".ocipull-")));
    registry.clear_faults();
    // One that is killed leaves a part, which the next run removes.
    fs::write(place.path("l/.ocipull-0123456789abcdef"), "half").unwrap();
    place.run(&["--no-cache", &name, "oci:l"]).succeeded();
    assert_eq!(files(&place.path("l")), ["blobs", "index.json", "oci-layout"]);
}

#[test]
fn many_at_once_into_one_layout_all_arrive() {
    let (registry, _, _) = serve();
    let place = Place::new();
    let children: Vec<_> = (0..6)
        .map(|n| {
            let tag = format!("v{n}");
            image().env(&format!("N={n}")).push(&registry, "app", &tag);
            let name = format!("{}/app:{tag}", registry.host());
            place.command(&["-q", &name, "oci:l"]).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(index(&place, "l")["manifests"].as_array().unwrap().len(), 6);
    for n in 0..6 {
        place.run(&[&format!("oci:l:v{n}"), &format!("d{n}")]).succeeded();
    }
    assert_eq!(index(&place, "l")["mediaType"], media::OCI_INDEX);
}

/// Each is as large as one may be; all together would be kept in memory.
#[test]
fn manifests_that_are_too_large_together_are_refused() {
    let registry = Registry::start(RegistryOptions::default());
    let padding = "x".repeat((4 << 20) - 1000);
    let put = |reference: &str, manifests: Vec<serde_json::Value>, padding: &str| {
        let body = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_INDEX,
            "manifests": manifests,
            "annotations": { "number": reference, "padding": padding },
        });
        let body = body.to_string();
        let size = body.len();
        let digest = registry.put_manifest("app", reference, media::OCI_INDEX, body);
        serde_json::json!({ "mediaType": media::OCI_INDEX, "digest": digest, "size": size })
    };
    let inner = (0..17).map(|n| put(&format!("n{n}"), Vec::new(), &padding)).collect();
    put("v1", inner, "");
    let place = Place::new();
    let name = format!("{}/app:v1", registry.host());
    let words = ["manifests", "more than 67108864 bytes"];
    place.run(&["--all-platforms", "--no-cache", &name, "oci:l:all"]).failed(1, &words);
    assert!(!place.path("l").exists());
}
