//! Bad input and bad registries: one line with the cause, one hint, the right exit code, nothing
//! half made.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::time::Duration;

use common::{Place, serve};
use serde_json::json;
use testkit::media;
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};

fn image(registry: &Registry) -> String {
    format!("{}/app:v1", registry.host())
}

fn nothing_is_left(place: &Place) {
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_name_that_is_no_reference() {
    let place = Place::new();
    place.run(&["Centos:latest", "d"]).failed(2, &["\"Centos\"", "lower case"]).hints("try centos");
    place.run(&["https://quay.io/a", "d"]).failed(2, &["scheme \"https\""]).hints("leave https://");
    place.run(&["a@sha256:12", "d"]).failed(2, &["digest \"sha256:12\""]).hints("REPOSITORY");
    place.run(&["a\u{1b}[31mb", "d"]).failed(2, &["\\u{1b}"]);
    nothing_is_left(&place);
}

#[test]
fn an_unknown_tag_and_an_unknown_repository() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let host = registry.host();
    place
        .run(&[&format!("{host}/app:nope"), "d"])
        .failed(8, &["not found", "repository \"app\" has no \"nope\"", "404"])
        .hints("tags that are there: v1");
    place
        .run(&[&format!("{host}/nothing:v1"), "d"])
        .failed(8, &["not found", "no repository \"nothing\"", "404"])
        .hints("repository's name");
    // A registry that keeps its tags to itself.
    registry.inject(Rule::new(Fault::status(401, "UNAUTHORIZED")).path("/tags/list"));
    place
        .run(&[&format!("{host}/app:nope"), "d"])
        .failed(8, &["not found: got status 404"])
        .hints("repository's name and the tag");
    nothing_is_left(&place);
}

#[test]
fn a_registry_that_is_not_there() {
    let place = Place::new();
    let gone = common::free_port();
    place
        .run(&[&format!("{gone}/app:v1"), "d"])
        .failed(1, &["cannot reach registry", &gone, "connection refused"])
        .hints("check that the registry runs");
    place
        .run(&["registry.invalid/app:v1", "d"])
        .failed(1, &["cannot resolve \"registry.invalid\"", "no such host"])
        .hints("registry's name");
    nothing_is_left(&place);
}

#[test]
fn a_damaged_layer() {
    let (registry, built) = serve(RegistryOptions::default());
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let size = manifest["layers"][1]["size"].as_u64().unwrap();
    let digest = manifest["layers"][1]["digest"].as_str().unwrap();
    let long = format!("want {size}");
    for (fault, code, words) in [
        (
            Fault::TruncateAt(size - 1),
            4,
            vec!["truncated".to_owned(), format!("got {} bytes", size - 1)],
        ),
        (Fault::WrongBytes, 4, vec!["altered".to_owned(), format!("want {digest}")]),
        (Fault::Body(vec![0; 1]), 4, vec!["truncated".to_owned(), long.clone()]),
        (Fault::Endless(None), 4, vec!["too long".to_owned(), long.clone()]),
        (Fault::Endless(Some(1 << 40)), 4, vec!["too long".to_owned(), long]),
        (Fault::Close, 1, vec!["closed".to_owned()]),
        (
            Fault::status(404, "BLOB_UNKNOWN"),
            8,
            vec!["not found".to_owned(), "BLOB_UNKNOWN".to_owned()],
        ),
        (Fault::status(429, "TOOMANYREQUESTS"), 3, vec!["429".to_owned()]),
        (Fault::status(500, "UNKNOWN"), 1, vec!["500".to_owned(), "as the test asked".to_owned()]),
    ] {
        registry.inject(Rule::new(fault.clone()).path(digest));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let place = Place::new();
        place.run(&["--retries", "0", &image(&registry), "d"]).failed(code, &words);
        registry.clear_faults();
        nothing_is_left(&place);
        // What was kept of it does not keep the next pull from being right.
        place.run(&[&image(&registry), "d"]).succeeded();
    }
}

#[test]
fn a_damaged_manifest_or_config() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    for part in [built.digest(), config] {
        for (fault, code, words) in [
            (Fault::WrongBytes, 4, "altered"),
            (Fault::Body(b"{}".to_vec()), 4, "truncated"),
            (Fault::Endless(None), 12, "too large"),
            (Fault::Endless(Some(1 << 40)), 12, "too large"),
        ] {
            registry.inject(Rule::new(fault).path(part).method("GET"));
            place.run(&[&image(&registry), "d"]).failed(code, &[words, part]);
            registry.clear_faults();
        }
    }
    nothing_is_left(&place);
}

#[test]
fn what_a_registry_says_is_no_terminals_command() {
    let (registry, _) = serve(RegistryOptions::default());
    let body = json!({"errors": [{"code": "X\u{1b}[31m", "message": "a\nocipull: b\u{202e}"}]});
    let fault = Fault::Status {
        code: 400,
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: body.to_string().into_bytes(),
    };
    registry.inject(Rule::new(fault).method("GET"));
    Place::new()
        .run(&["-v", &image(&registry), "d"])
        .failed(1, &["X\\u{1b}[31m", "a\\nocipull: b\\u{202e}"])
        .keeps_secret("\u{1b}");
}

#[test]
fn what_is_no_image() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let config = registry.put_blob("{}");
    let manifest = |config_type: &str, layer_type: &str| {
        json!({
            "schemaVersion": 2,
            "config": {"mediaType": config_type, "size": 2, "digest": config},
            "layers": [{"mediaType": layer_type, "size": 2, "digest": config}],
        })
    };
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    for (value, media_type, words) in [
        (
            manifest("application/vnd.cncf.helm.config.v1+json", layer),
            media::OCI_MANIFEST,
            "artifact of type \"application/vnd.cncf.helm.config.v1+json\"",
        ),
        (
            manifest(media::OCI_CONFIG, &format!("{layer}+encrypted")),
            media::OCI_MANIFEST,
            "encrypted",
        ),
        (manifest(media::OCI_CONFIG, layer), media::OCI_MANIFEST, "config without a rootfs"),
        (
            json!({"schemaVersion": 1, "fsLayers": [], "history": []}),
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "schema 1",
        ),
        (json!({}), "text/html", "unsupported media type \"text/html\""),
    ] {
        registry.put_manifest("app", "v1", media_type, value.to_string());
        place.run(&[&image(&registry), "d"]).failed(1, &[words]);
        nothing_is_left(&place);
    }
}

#[test]
fn layers_and_diff_ids_must_be_as_many_and_equal() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let other = format!("sha256:{}", "1".repeat(64));
    common::small_image().diff_ids(&[&other]).push(&registry, "app", "v1");
    place.run(&[&image(&registry), "d"]).failed(1, &["got 2 layers and 1 diff_ids"]);
    common::small_image().diff_ids(&[&other, &other]).push(&registry, "app", "v1");
    place.run(&[&image(&registry), "d"]).failed(4, &["diff_id", &other]);
    nothing_is_left(&place);
}

#[test]
fn another_platforms_image_without_an_index() {
    let registry = Registry::start(RegistryOptions::default());
    let platform = testkit::image::Platform::linux("s390x");
    common::small_image().platform(platform).push(&registry, "app", "v1");
    let place = Place::new();
    place
        .run(&[&image(&registry), "d", "--platform", "linux/arm64"])
        .failed(10, &["no image for platform linux/arm64: got linux/s390x"])
        .hints("--platform linux/s390x");
    nothing_is_left(&place);
}

#[test]
fn a_dest_that_is_in_use_is_said_before_the_network_is_asked() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    std::fs::create_dir(place.path("d")).unwrap();
    std::fs::write(place.path("d/mine"), "precious").unwrap();
    place.run(&[&image(&registry), "d"]).failed(1, &["not empty"]).hints("--force");
    assert_eq!(registry.connections(), 0);
    // A failed pull leaves it as it was, even by force.
    registry.inject(Rule::new(Fault::WrongBytes).path("/blobs/").skip(1));
    place.run(&[&image(&registry), "d", "--force"]).failed(4, &["altered"]);
    assert_eq!(std::fs::read_to_string(place.path("d/mine")).unwrap(), "precious");
    assert_eq!(place.names(), ["d"]);
    registry.clear_faults();
    place.run(&[&image(&registry), "d", "--force"]).succeeded();
    common::assert_absent(&place.path("d/mine"));
    // Where no directory can be made, that is said with what helps.
    for dest in ["/dev/null/d", "/proc/d"] {
        place.run(&[&image(&registry), dest]).failed(1, &["cannot"]).hints("check the path");
    }
}

#[test]
fn certificates_are_checked() {
    let (registry, _) = serve(RegistryOptions::tls());
    let place = Place::new();
    place
        .run(&[&image(&registry), "d"])
        .failed(11, &["TLS certificate is not trusted"])
        .hints("--ca-cert");
    let ca = registry.ca_file().to_str().unwrap();
    place.run(&["--ca-cert", ca, &image(&registry), "d"]).succeeded();
    place.run(&["--insecure", &image(&registry), "e"]).succeeded();
    place.run(&["--plain-http", &image(&registry), "f"]).failed(1, &[]);
    place.run(&["--ca-cert", "/nonexistent", &image(&registry), "f"]).failed(1, &["CA file"]);
    std::fs::write(place.path("empty.pem"), "").unwrap();
    place.run(&["--ca-cert", "empty.pem", &image(&registry), "f"]).failed(1, &["no certificate"]);
}

#[test]
fn an_interrupted_pull_leaves_nothing() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (registry, built) = serve(RegistryOptions::default());
        let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        registry.inject(Rule::new(Fault::StallAt(10)).path(layer));
        let place = Place::new();
        let mut command = place.command(&[&image(&registry), "d"]);
        command.stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let asked =
            || registry.requests().iter().any(|r| r.path.contains(layer) && r.status == 200);
        let mut tries = 0;
        while !asked() {
            tries += 1;
            assert!(tries < 1000, "the layer was never asked for: {:?}", registry.walk());
            std::thread::sleep(Duration::from_millis(20));
        }
        let kill = std::process::Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(&format!("interrupted by SIG{signal}")), "{stderr}");
        nothing_is_left(&place);
    }
}
