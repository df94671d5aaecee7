//! `ocipull digest`, `inspect` and `tags`: data on standard output, and nothing else there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod local_images;

use std::fs;

use common::{Place, Run};
use local_images::{docker_archive, image, tool};
use serde_json::{Value, json};
use testkit::image::{BuiltImage, Index, Platform};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};

/// Two platforms under an index, `app:v1`.
fn serve() -> (Registry, testkit::image::Blob, BuiltImage, BuiltImage) {
    let registry = Registry::start(RegistryOptions::default());
    let of =
        |platform: &str| image().platform(Platform::linux(platform)).label("p", platform).build();
    let (amd, arm) = (of("amd64"), of("arm64"));
    let index = Index::docker().image(amd.clone()).image(arm.clone()).push(&registry, "app", "v1");
    (registry, index, amd, arm)
}

#[track_caller]
fn printed(run: &Run) -> &str {
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.stderr, "", "{run}");
    &run.stdout
}

#[track_caller]
fn parsed(run: &Run) -> Value {
    serde_json::from_str(printed(run)).unwrap_or_else(|e| panic!("{e}: {run}"))
}

#[test]
fn the_digest_is_what_the_name_stands_for_or_the_platforms() {
    let (registry, index, _, arm) = serve();
    let place = Place::new();
    let name = format!("{}/app:v1", registry.host());
    assert_eq!(printed(&place.run(&["digest", &name])), format!("{}\n", index.digest));
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
    let run = place.run(&["digest", "--platform", "linux/arm64", &name]);
    assert_eq!(printed(&run), format!("{}\n", arm.digest()));
    let run = place.run(&["digest", "--json", &name]);
    assert_eq!(parsed(&run), json!({ "reference": name, "digest": index.digest }));
    // The digest wins over the tag, whatever that is.
    let pinned = format!("{name}@{}", arm.digest()).replace(":v1@", ":none@");
    assert_eq!(printed(&place.run(&["digest", &pinned])), format!("{}\n", arm.digest()));
    place.run(&[&pinned, "d", "--platform", "linux/arm64"]).succeeded();
    assert_eq!(place.record("d")["reference"], pinned.as_str());
    assert!(place.record("d")["canonicalReference"].as_str().unwrap().contains(":none@sha256:"));
    place.run(&["digest", &format!("{}/app:no", registry.host())]).failed(8, &["not found"]);
    place.run(&["digest", "--platform", "x", &name]).failed(2, &["invalid platform"]);
    place.run(&["digest", "A"]).failed(2, &["invalid image reference"]);
    // Where there is no index, the config says for which platform the image is.
    arm.push(&registry, "app", "arm");
    let only = format!("{}/app:arm", registry.host());
    place.run(&["digest", "--platform", "linux/s390x", &only]).failed(10, &["got linux/arm64"]);
}

#[test]
fn hosts_are_names_and_addresses_with_ports() {
    let addr = "[::1]:0".parse().unwrap();
    let registry = Registry::start(RegistryOptions { addr, ..RegistryOptions::default() });
    let built = image().push(&registry, "app", "v1");
    let place = Place::new();
    let port = registry.addr().port();
    let name = format!("[::1]:{port}/app:v1");
    let run = place.run(&["digest", "--json", &name]);
    assert_eq!(parsed(&run), json!({ "reference": name, "digest": built.digest() }));
    place.run(&[&format!("[::1]:{port}/app@{}", built.digest()), "d"]).succeeded();
    assert_eq!(printed(&place.run(&["tags", &name])), "v1\n");
}

#[test]
fn what_is_shown_raw_is_byte_for_byte() {
    let (registry, index, amd, arm) = serve();
    let place = Place::new();
    let name = format!("{}/app:v1", registry.host());
    let raw = |arguments: &[&str]| {
        let run = place.run(&[&["inspect"], arguments].concat());
        printed(&run).to_owned().into_bytes()
    };
    assert_eq!(raw(&["--raw", &name]), index.bytes);
    for (platform, built) in [("linux/amd64", &amd), ("linux/arm64", &arm)] {
        assert_eq!(raw(&["--raw", "--platform", platform, &name]), built.manifest.bytes);
        let config = raw(&["--raw", "--config", "--platform", platform, &name]);
        assert_eq!(config, built.config.bytes);
        let pretty = raw(&["--config", "--platform", platform, &name]);
        assert_ne!(pretty, built.config.bytes);
        let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(value(&pretty), value(&built.config.bytes));
    }
    tool(&place, "true", &[]);
    let run = place.run(&["inspect", "--platform", "linux/s390x", &name]);
    run.failed(10, &["no image for platform"]);
}

#[test]
fn the_summary_says_what_the_image_is() {
    let (registry, index, _, arm) = serve();
    let place = Place::new();
    let name = format!("{}/app:v1", registry.host());
    let seen = parsed(&place.run(&["inspect", "--platform", "linux/arm64", &name]));
    assert_eq!(seen["reference"], name.as_str());
    assert_eq!(seen["digest"], index.digest.as_str());
    assert_eq!(seen["mediaType"], testkit::media::DOCKER_LIST);
    assert_eq!(seen["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(seen["manifest"]["digest"], arm.digest());
    assert_eq!(seen["manifest"]["platform"], "linux/arm64");
    assert_eq!(seen["config"]["Cmd"], json!(["/bin/tool"]));
    assert_eq!(seen["created"], "2023-11-14T22:13:20Z");
    let layers = seen["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0]["digest"], arm.layers[0].digest.as_str());
    assert_eq!(layers[1]["diffId"], arm.layers[1].diff_id.as_str());
    let total: u64 = arm.layers.iter().map(testkit::layers::Layer::size).sum();
    assert_eq!(seen["sizeBytes"], total);
    // The same of a layout, and of what skopeo says about it.
    place.run(&["--all-platforms", &name, "oci:l:v1"]).succeeded();
    let local = parsed(&place.run(&["inspect", "--platform", "linux/arm64", "oci:l:v1"]));
    assert_eq!(local["layers"], seen["layers"]);
    assert_eq!(local["digest"], seen["digest"]);
    arm.write_oci_layout(&place.path("o"), "v1");
    let theirs = tool(&place, "skopeo", &["--override-arch", "arm64", "inspect", "oci:o:v1"]);
    let theirs: Value = serde_json::from_slice(&theirs).unwrap();
    let ours = parsed(&place.run(&["inspect", "--platform", "linux/arm64", "oci:o:v1"]));
    assert_eq!(theirs["Layers"][0], ours["layers"][0]["digest"]);
    assert_eq!(theirs["Digest"], ours["digest"]);
    // No file is left behind, and nothing was unpacked.
    assert_eq!(place.names(), ["l", "o"]);
}

#[test]
fn tags_are_listed_page_by_page() {
    let registry = Registry::start(RegistryOptions { tags_page: 2, ..RegistryOptions::default() });
    let place = Place::new();
    let tags = ["a", "b", "c", "d", "e"];
    for tag in tags {
        image().push(&registry, "team/app", tag);
    }
    let name = format!("{}/team/app", registry.host());
    assert_eq!(printed(&place.run(&["tags", &name])), "a\nb\nc\nd\ne\n");
    let walk = registry.walk();
    assert_eq!(walk.len(), 3, "{walk:?}");
    assert_eq!(walk[0], "GET /v2/team/app/tags/list?n=1000 200");
    // A tag that is typed is no part of the repository.
    let run = place.run(&["tags", "--json", &format!("{name}:c")]);
    assert_eq!(parsed(&run), json!({ "repository": name, "tags": tags }));
    place.run(&["tags", &format!("{}/none", registry.host())]).failed(8, &["not found"]);
}

#[test]
fn a_page_elsewhere_or_without_end_is_refused() {
    let registry = Registry::start(RegistryOptions::default());
    let elsewhere = Registry::start(RegistryOptions::default());
    let place = Place::new();
    image().push(&registry, "app", "v1");
    image().push(&elsewhere, "app", "v1");
    let name = format!("{}/app", registry.host());
    let link = |target: &str| {
        registry.clear_faults();
        let header = Fault::Header("Link".into(), Some(format!("<{target}>; rel=\"next\"")));
        registry.inject(Rule::new(header).path("/tags/list"));
    };
    for target in [
        format!("{}/v2/app/tags/list?last=v1", elsewhere.base_url()),
        format!("//{}/v2/app/tags/list?last=v1", elsewhere.host()),
        "/v2/other/tags/list?last=v1".into(),
    ] {
        link(&target);
        place.run(&["tags", &name]).failed(1, &["next page", "want the same list"]);
    }
    assert_eq!(elsewhere.walk(), Vec::<String>::new());
    // The same page again and again.
    link("/v2/app/tags/list?last=0");
    place.run(&["tags", &name]).failed(1, &["pages without end"]);
    registry.clear_faults();
    for body in [r#"{"tags":["v1\nrm -rf"]}"#, "[]", r#"{"tags":["-x"]}"#] {
        let headers = vec![("Content-Type".into(), "application/json".into())];
        let fault = Fault::Status { code: 200, headers, body: body.into() };
        registry.inject(Rule::new(fault).path("/tags/list"));
        let run = place.run(&["tags", &name]).failed(1, &["tag"]);
        assert_eq!(run.stdout, "", "{run}");
        registry.clear_faults();
    }
}

#[test]
fn names_in_layouts_and_archives_are_listed() {
    let place = Place::new();
    let built = image().build();
    built.write_oci_layout(&place.path("l"), "v1");
    assert_eq!(printed(&place.run(&["tags", "oci:l"])), "v1\n");
    fs::write(place.path("a.tar"), docker_archive(&built).tar()).unwrap();
    let run = place.run(&["tags", "docker-archive:a.tar"]);
    assert_eq!(printed(&run), "app:v1\nr.io/team/app:v2\n");
    assert_eq!(printed(&place.run(&["digest", "oci:l:v1"])), format!("{}\n", built.digest()));
    let digest = place.run(&["digest", "docker-archive:a.tar:app:v1"]);
    // The same image has the same digest each time, though docker's form has no manifest.
    assert_eq!(
        printed(&digest),
        printed(&place.run(&["digest", "docker-archive:a.tar:r.io/team/app:v2"]))
    );
}

/// `ocipull inspect … | head -1` is no failure.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let place = Place::new();
    image().build().write_oci_layout(&place.path("l"), "v1");
    let mut command = place.command(&["inspect", "oci:l"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
