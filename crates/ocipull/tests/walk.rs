//! Which requests a pull makes, in which order, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Place, serve};
use testkit::image::{Image, Index};
use testkit::images::{CENTOS_LIST_BYTES, centos_recorded};
use testkit::media;
use testkit::registry::{Auth, Fault, Listener, Registry, RegistryOptions, Rule};

#[test]
fn centos_latest_through_a_mirror_step_by_step() {
    let registry = Registry::start(RegistryOptions::default());
    let centos = centos_recorded();
    centos.push(&registry, "library/centos", "latest");
    let place = Place::new();
    let mut command = place.command(&["-v", "--jobs", "1", "centos:latest", "rootfs"]);
    command.env("OCIPULL_MIRROR", registry.host());
    let run = common::Run::of(command).succeeded();

    let image = centos.host_image();
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let list = testkit::digest(&centos.list.bytes);
    let mut want = vec![
        "HEAD manifests/latest".to_owned(),
        format!("GET manifests/{list}"),
        format!("GET manifests/{}", image.digest()),
        format!("GET blobs/{}", manifest["config"]["digest"].as_str().unwrap()),
    ];
    for layer in manifest["layers"].as_array().unwrap() {
        want.push(format!("GET blobs/{}", layer["digest"].as_str().unwrap()));
    }
    let want: Vec<String> = want
        .iter()
        .map(|step| {
            let (method, path) = step.split_once(' ').unwrap();
            format!("{method} /v2/library/centos/{path}?ns=docker.io 200")
        })
        .collect();
    assert_eq!(registry.walk(), want, "{run}");

    // The request asks for all four types, and the answer is what containerd sees.
    let head = &registry.requests()[0];
    for media_type in
        [media::DOCKER_MANIFEST, media::DOCKER_LIST, media::OCI_MANIFEST, media::OCI_INDEX]
    {
        assert!(head.accept().contains(media_type), "{}", head.accept());
    }
    assert_eq!(CENTOS_LIST_BYTES, 762);
    let lines: Vec<&str> =
        run.stderr.lines().filter(|l| l.starts_with("HEAD ") || l.starts_with("GET ")).collect();
    assert_eq!(lines.len(), want.len(), "a line a request: {run}");
    let head = format!(
        "HEAD http://{}/v2/library/centos/manifests/latest?ns=docker.io 200 \
         application/vnd.docker.distribution.manifest.list.v2+json {list} 762 bytes ",
        registry.host()
    );
    assert!(lines[0].starts_with(&head) && lines[0].ends_with(" ms"), "{run}");
    for (line, step) in lines.iter().zip(&want) {
        let (method, rest) = step.split_once(' ').unwrap();
        let path = rest.strip_suffix(" 200").unwrap();
        assert!(line.starts_with(&format!("{method} http://{}{path} 200 ", registry.host())));
    }

    let record = place.record("rootfs");
    assert_eq!(record["reference"], "centos:latest");
    assert_eq!(record["canonicalReference"], "docker.io/library/centos:latest");
    assert_eq!(record["resolvedDigest"], list);
    assert_eq!(record["manifestDigest"], image.digest());
    assert_eq!(record["layers"].as_array().unwrap().len(), 2);
    assert_eq!(record["config"]["config"]["Cmd"][0], "/bin/bash");
    let release = std::fs::read_to_string(place.path("rootfs/etc/centos-release")).unwrap();
    assert!(release.contains("8.4.2105"));
    common::assert_absent(&place.path("rootfs/etc/removed"));
}

#[test]
fn a_second_pull_asks_once_and_leaves_dest_alone() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    place.run(&[&image, "d"]).succeeded().says("2 layers");
    let before = place.path("d").metadata().unwrap();
    registry.clear_requests();
    place.run(&[&image, "d"]).succeeded().says("up to date");
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
    assert_eq!(before.ino(), place.path("d").metadata().unwrap().ino());

    // By digest nothing can have changed: nobody is asked.
    let by_digest = place.record("d")["resolvedDigest"].as_str().unwrap().to_owned();
    registry.clear_requests();
    let image = format!("{}/app@{by_digest}", registry.host());
    place.run(&[&image, "d"]).succeeded().says("up to date");
    assert_eq!(registry.walk(), Vec::<String>::new());
}

#[test]
fn a_changed_tag_needs_force() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    place.run(&[&image, "d"]).succeeded();
    let old = place.record("d");
    common::small_image().env("NEW=1").push(&registry, "app", "v1");
    place.run(&[&image, "d"]).failed(1, &["not empty"]).hints("--force");
    assert_eq!(place.record("d"), old);
    place.run(&[&image, "d", "--force"]).succeeded();
    assert_ne!(place.record("d"), old);
}

#[test]
fn an_image_without_an_index_is_walked_without_one() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
    let walk = registry.walk();
    assert_eq!(walk[0], "HEAD /v2/app/manifests/v1 200");
    assert_eq!(walk[1], format!("GET /v2/app/manifests/{} 200", built.digest()));
    assert_eq!(walk.len(), 2 + 1 + 2, "{walk:?}");
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert_eq!((read("d/etc/name"), read("d/etc/more")), ("lower\n".into(), "upper\n".into()));
}

#[test]
fn without_head_the_tag_is_fetched_and_hashed() {
    let no_digest = Fault::Digest(None);
    for fault in [Fault::status(405, "UNSUPPORTED"), no_digest] {
        let (registry, built) = serve(RegistryOptions::default());
        registry.inject(Rule::new(fault.clone()).method("HEAD"));
        let place = Place::new();
        let run = place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
        let walk = registry.walk();
        assert_eq!(walk[1], "GET /v2/app/manifests/v1 200", "{fault:?}: {run}");
        assert_eq!(walk.len(), 2 + 1 + 2, "the manifest is not fetched twice: {walk:?}");
        assert_eq!(place.record("d")["resolvedDigest"], built.digest());
    }
}

#[test]
fn a_digest_is_asked_for_and_held_against_the_answer() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:ignored@{}", registry.host(), built.digest());
    place.run(&[&image, "d"]).succeeded();
    let head = format!("HEAD /v2/app/manifests/{} 200", built.digest());
    assert_eq!(registry.walk()[0], head);
    let other = format!("sha256:{}", "0".repeat(64));
    registry.inject(Rule::new(Fault::Digest(Some(other.clone()))).method("HEAD"));
    place.run(&[&image, "e"]).failed(1, &[&other, built.digest()]);
    assert_eq!(place.names(), ["d", "d.image.json"]);
}

#[test]
fn the_platform_is_chosen_and_may_be_named() {
    let registry = Registry::start(RegistryOptions::default());
    let build =
        |arch: &str| common::small_image().platform(testkit::image::Platform::linux(arch)).build();
    let index = Index::new().image(build("s390x")).image(build("arm64/v8")).image(build("arm/v6"));
    index.push(&registry, "app", "v1");
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    for (asked, got) in
        [("linux/aarch64", "arm64"), ("linux/arm/v7", "arm"), ("linux/s390x", "s390x")]
    {
        place.run(&[&image, got, "--platform", asked]).succeeded();
        assert_eq!(place.record(got)["platform"]["architecture"], got);
    }
    place
        .run(&[&image, "d", "--platform", "linux/riscv64"])
        .failed(10, &["linux/riscv64", "linux/s390x, linux/arm64, linux/arm/v6"])
        .hints("--platform linux/s390x");
}

#[test]
fn blobs_on_another_host_get_no_authorization() {
    let options =
        RegistryOptions { auth: Auth::bearer_user("u", "pw"), ..RegistryOptions::redirecting() };
    let (registry, _) = serve(options);
    let place = Place::new();
    // The store refuses a request that brings an Authorization, as S3 does.
    place
        .run(&["-v", "--creds", "u:pw", &format!("{}/app:v1", registry.host()), "d"])
        .succeeded()
        .says("/store/blobs/")
        .keeps_secret("testkit-signed")
        .keeps_secret("testkit-token");
    let to_store: Vec<_> =
        registry.requests().into_iter().filter(|r| r.listener == Listener::BlobStore).collect();
    assert_eq!(to_store.len(), 3);
    assert!(to_store.iter().all(|r| r.authorization().is_none()));
}

#[test]
fn a_mirror_that_fails_is_passed_over_with_one_message() {
    let (origin, _) = serve(RegistryOptions::default());
    let mirror = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", origin.host());
    let run = place.run(&["--mirror", &mirror.host(), &image, "d"]).succeeded();
    let messages = run.stderr.lines().filter(|line| line.starts_with("ocipull: ")).count();
    assert_eq!(messages, 1, "{run}");
    let run = run.says(&format!("mirror {} failed", mirror.host()));
    let ns = origin.host().replace(':', "%3A");
    assert_eq!(mirror.walk(), [format!("HEAD /v2/app/manifests/v1?ns={ns} 404")], "{run}");
    assert_eq!(origin.walk()[0], "HEAD /v2/app/manifests/v1 200");
}

#[test]
fn a_mirror_that_fails_half_way_is_passed_over() {
    let (origin, _) = serve(RegistryOptions::default());
    let (mirror, _) = serve(RegistryOptions::default());
    mirror.inject(Rule::new(Fault::status(503, "UNAVAILABLE")).path("/blobs/"));
    let place = Place::new();
    let image = format!("{}/app:v1", origin.host());
    place.run(&["--mirror", &mirror.host(), &image, "d"]).succeeded().says("status 503");
    assert!(origin.walk().iter().all(|line| line.contains("/blobs/")), "{:?}", origin.walk());
}

#[test]
fn when_mirror_and_registry_fail_both_are_named() {
    let mirror = common::free_port();
    Place::new()
        .run(&["--mirror", &mirror, "registry.invalid/app:v1", "d"])
        .failed(1, &[&mirror, "connection refused", "registry.invalid", "cannot resolve"]);
}

#[test]
fn a_bundle_gets_its_rootfs_and_the_record_beside_it() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    place.run(&[&image, "--bundle", "pod"]).succeeded();
    assert_eq!(place.names(), ["pod"]);
    assert_eq!(place.record("pod/rootfs")["reference"], image);
    place.run(&[&image, "--bundle", "pod"]).succeeded().says("up to date");
    // One that was made for nothing is gone again.
    place.run(&[&format!("{}/app:none", registry.host()), "--bundle", "other"]).failed(8, &["404"]);
    assert_eq!(place.names(), ["pod"]);
}

#[test]
fn an_image_without_layers_is_an_empty_root_filesystem() {
    let registry = Registry::start(RegistryOptions::default());
    Image::new().cmd(&["/bin/sh"]).push(&registry, "app", "v1");
    let place = Place::new();
    let image = format!("{}/app:v1", registry.host());
    place.run(&[&image, "d"]).succeeded().says("0 layers");
    assert_eq!(std::fs::read_dir(place.path("d")).unwrap().count(), 0);
    assert_eq!(place.record("d")["layers"], serde_json::json!([]));
    place.run(&[&image, "d"]).succeeded().says("up to date");
}

#[test]
fn a_layer_that_an_image_has_twice_is_applied_twice() {
    use testkit::layers::{Compression, LayerBuilder};
    let files = LayerBuilder::new().file("f", "1").build(Compression::Gzip);
    let hides = LayerBuilder::new().whiteout("f").file("g", "2").build(Compression::Zstd);
    let registry = Registry::start(RegistryOptions::default());
    let layers = [files.clone(), hides.clone(), files, hides.clone(), hides];
    layers.into_iter().fold(Image::new(), Image::layer).push(&registry, "app", "v1");
    let place = Place::new();
    place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
    assert!(place.path("d/g").exists());
    common::assert_absent(&place.path("d/f"));
    assert_eq!(place.record("d")["layers"].as_array().unwrap().len(), 5);
}

/// As registries and builders really mix them. Where a descriptor says that others have the blob
/// too, they are not asked: what they are is the image's word alone.
#[test]
fn mixed_types_make_an_image_and_foreign_urls_are_not_followed() {
    let registry = Registry::start(RegistryOptions::default());
    let elsewhere = Registry::start(RegistryOptions::default());
    for config_type in ["application/octet-stream", "text/plain", media::DOCKER_CONFIG] {
        let urls = [elsewhere.base_url(), "http://169.254.169.254/latest/meta-data".into()];
        common::small_image()
            .edit_manifest(move |manifest| {
                manifest["config"]["mediaType"] = config_type.into();
                manifest["layers"][0]["mediaType"] =
                    "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
                manifest["layers"][1]["mediaType"] =
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
                manifest["layers"][1]["urls"] = urls.clone().into();
            })
            .push(&registry, "app", "v1");
        let place = Place::new();
        place.run(&[&format!("{}/app:v1", registry.host()), "d"]).succeeded();
        assert_eq!(std::fs::read_to_string(place.path("d/etc/more")).unwrap(), "upper\n");
    }
    assert_eq!(elsewhere.connections(), 0);
}
