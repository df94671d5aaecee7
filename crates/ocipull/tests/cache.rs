//! What is kept from pull to pull: who uses it, what of it is believed, and what goes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Place, Run, serve};
use testkit::image::{Image, Index};
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
use testkit::tree::{Options, Tree, assert_same};

fn image(registry: &Registry) -> String {
    format!("{}/app:v1", registry.host())
}

fn layers(built: &testkit::image::BuiltImage) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

fn blob(place: &Place, digest: &str) -> PathBuf {
    place.cache().join("blobs").join(digest.replace(':', "/"))
}

/// The GETs that were answered.
fn gets(registry: &Registry) -> Vec<String> {
    registry.walk().into_iter().filter(|line| line.starts_with("GET ")).collect()
}

fn tree(path: &Path) -> Tree {
    Tree::of(path, &Options::default())
}

/// Flips a bit in the middle, and leaves size and time as they are.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_destination_costs_one_head() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    registry.clear_requests();
    place.run(&[&image(&registry), "e"]).succeeded();
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
    assert_same(&tree(&place.path("d")), &tree(&place.path("e")));
    assert_eq!(place.record("d"), place.record("e"));
    // Without the cache nothing of it is used.
    registry.clear_requests();
    place.run(&["--no-cache", &image(&registry), "f"]).succeeded();
    assert_eq!(gets(&registry).len(), 4);
}

#[test]
fn a_changed_image_costs_what_changed() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let top = LayerBuilder::new().file("etc/top", "new\n").build(Compression::Gzip);
    let changed = common::small_image().layer(top).push(&registry, "app", "v1");
    registry.clear_requests();
    place.run(&[&image(&registry), "e"]).succeeded();
    let paths: Vec<String> = gets(&registry);
    assert_eq!(paths.len(), 3, "manifest, config, one layer: {paths:?}");
    for layer in layers(&built) {
        assert!(layers(&changed).contains(&layer));
        assert!(!paths.iter().any(|path| path.contains(&layer)), "{paths:?}");
    }
}

#[test]
fn offline_what_was_pulled_can_be_had_and_nothing_else() {
    let registry = Registry::start(RegistryOptions::default());
    let built = common::small_image().build();
    Index::new().image(built).push(&registry, "app", "v1");
    let place = Place::new();
    let name = image(&registry);
    place.run(&[&name, "d"]).succeeded();
    registry.clear_requests();
    place.run(&["--offline", &name, "e"]).succeeded();
    assert_same(&tree(&place.path("d")), &tree(&place.path("e")));
    assert_eq!(place.record("e")["resolvedDigest"], place.record("d")["resolvedDigest"]);
    place.run(&["--offline", &name, "e"]).succeeded().says("up to date");
    // The same by its digest, which no reference has in the cache.
    let digest = place.record("d")["resolvedDigest"].as_str().unwrap().to_owned();
    place.run(&["--offline", &format!("{}/app@{digest}", registry.host()), "f"]).succeeded();
    place
        .run(&["--offline", &format!("{}/app:v2", registry.host()), "g"])
        .failed(1, &["app:v2 is not in the cache", "--offline"])
        .hints("without --offline");
    std::fs::remove_file(blob(&place, &layers_of(&place, "d")[0])).unwrap();
    place.run(&["--offline", &name, "g"]).failed(1, &["not in the cache", "blobs/sha256:"]);
    assert_eq!(registry.walk(), Vec::<String>::new());
    assert_eq!(place.run(&["--offline", "--no-cache", &name, "g"]).code, Some(2));
}

fn layers_of(place: &Place, dest: &str) -> Vec<String> {
    let record = place.record(dest);
    let layers = record["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_damaged_blob_is_found_and_fetched_again() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let want = tree(&place.path("d"));
    let config: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let config = config["config"]["digest"].as_str().unwrap().to_owned();
    let all = [layers(&built), vec![config, built.digest().to_owned()]].concat();
    // A flipped bit, and what a loss of power leaves.
    for way in ["flipped", "empty", "zeros"] {
        for digest in &all {
            let path = blob(&place, digest);
            let right = std::fs::read(&path).unwrap();
            match way {
                "flipped" => damage(&path),
                "empty" => std::fs::write(&path, "").unwrap(),
                _ => std::fs::write(&path, vec![0; right.len()]).unwrap(),
            }
            registry.clear_requests();
            let run = place.run(&[&image(&registry), "e", "--force"]).succeeded();
            assert_same(&want, &tree(&place.path("e")));
            let fetched = gets(&registry);
            assert_eq!(fetched.len(), 1, "{way}: only what was damaged: {fetched:?}\n{run}");
            assert!(fetched[0].contains(digest), "{way}: {fetched:?}");
            assert_eq!(std::fs::read(&path).unwrap(), right, "{way}");
        }
    }
}

#[test]
fn an_image_that_is_itself_wrong_fails_from_the_cache_as_well() {
    let registry = Registry::start(RegistryOptions::default());
    let other = format!("sha256:{}", "1".repeat(64));
    common::small_image().diff_ids(&[&other, &other]).push(&registry, "app", "v1");
    let place = Place::new();
    for _ in 0..2 {
        place.run(&["--jobs", "1", &image(&registry), "d"]).failed(4, &["diff_id", &other]);
    }
    // What is as it was in the registry is not fetched again in the hope of better.
    assert_eq!(gets(&registry).len(), 4 - 1, "manifest, config, the first layer");
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn a_layer_that_comes_twice_is_fetched_once() {
    let layer = || LayerBuilder::new().file("same", "x".repeat(5000)).build(Compression::Gzip);
    let between = LayerBuilder::new().whiteout("same").build(Compression::Gzip);
    let registry = Registry::start(RegistryOptions::default());
    let built =
        Image::new().layer(layer()).layer(between).layer(layer()).push(&registry, "app", "v1");
    let repeated = layers(&built)[0].clone();
    for options in [&[][..], &["--no-cache"]] {
        let place = Place::new();
        registry.clear_requests();
        place.run(&[options, &[&image(&registry), "d"]].concat()).succeeded();
        let count = gets(&registry).iter().filter(|line| line.contains(&repeated)).count();
        assert_eq!(count, 1, "{options:?}: {:?}", registry.walk());
        assert_eq!(std::fs::read_to_string(place.path("d/same")).unwrap(), "x".repeat(5000));
        assert_eq!(place.names(), ["d", "d.image.json"]);
        // And nothing is kept where nothing is to be kept.
        assert_eq!(place.cache().exists(), options.is_empty());
    }
}

#[test]
fn a_cache_that_cannot_be_used_is_a_notice_and_no_failure() {
    let (registry, _) = serve(RegistryOptions::default());
    let user = testkit::user::TestUser::without_subids();
    for words in ["another user's", "can be written by others", "no directory"] {
        let place = Place::new();
        match words {
            "no directory" => std::fs::write(place.cache(), "").unwrap(),
            _ => std::fs::create_dir(place.cache()).unwrap(),
        }
        if words == "another user's" {
            user.own(&place.cache());
        } else {
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(place.cache(), open).unwrap();
        }
        let run = place.run(&[&image(&registry), "d"]).succeeded().says(words);
        let notices = run.stderr.lines().filter(|line| line.contains("ocipull: note: ")).count();
        assert_eq!(notices, 1, "{run}");
        if place.cache().is_dir() {
            assert_eq!(std::fs::read_dir(place.cache()).unwrap().count(), 0);
        }
    }
    let mut homeless = Place::new().command(&[&image(&registry), "d"]);
    let place = Place::new();
    homeless.env_remove("HOME").env_remove("XDG_CACHE_HOME").current_dir(place.path(""));
    Run::of(homeless).succeeded().says("XDG_CACHE_HOME");
}

#[test]
fn a_read_only_cache_is_read_and_said() {
    // Modes mean nothing to root.
    let user = testkit::user::TestUser::without_subids();
    let (registry, built) = serve(RegistryOptions::default());
    let dir = user.tempdir();
    let run = |arguments: &[&str]| {
        let mut command = user.command(env!("CARGO_BIN_EXE_ocipull"));
        command.args(arguments).current_dir(dir.path());
        command.env("XDG_CACHE_HOME", dir.path().join("cache"));
        Run::of(command)
    };
    run(&[&image(&registry), "d"]).succeeded();
    let modes = |mode: &str| {
        let cache = dir.path().join("cache");
        let status = Command::new("chmod").args(["-R", mode]).arg(cache).status().unwrap();
        assert!(status.success());
    };
    modes("u-w");
    registry.clear_requests();
    run(&[&image(&registry), "e"]).succeeded();
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
    // Nor can what is damaged be removed.
    let layer = dir.path().join("cache/ocipull/blobs").join(layers(&built)[1].replace(':', "/"));
    damage(&layer);
    registry.clear_requests();
    run(&[&image(&registry), "g"]).succeeded().says("note: cannot write");
    assert_eq!(gets(&registry).len(), 1);
    // What is new cannot be kept.
    common::small_image().env("NEW=1").push(&registry, "app", "v1");
    let said = run(&[&image(&registry), "f"]).succeeded().says("note: cannot write");
    let notices = said.stderr.lines().filter(|line| line.contains("ocipull: note: ")).count();
    assert_eq!(notices, 1, "{said}");
    modes("u+w");
}

#[test]
fn a_cache_without_room_is_a_notice_and_no_failure() {
    let registry = Registry::start(RegistryOptions::default());
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let layer = LayerBuilder::new().file("noise", noise.clone()).build(Compression::None);
    Image::new().layer(layer).push(&registry, "app", "v1");
    let place = Place::new();
    // A file system of one megabyte in the cache's place, for this process alone.
    let mut inner = place.command(&[&image(&registry), "d"]);
    inner.env("XDG_CACHE_HOME", "/mnt");
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs -o size=1m,mode=700 tmpfs /mnt && \"$@\" && du -s /mnt >used",
        "sh",
    ]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(place.path(""));
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(command).succeeded().says("note: cannot write a blob into the cache").says("No space");
    assert_eq!(std::fs::read(place.path("d/noise")).unwrap(), noise);
    // What was written of it does not keep the room.
    let used = std::fs::read_to_string(place.path("used")).unwrap();
    assert!(used.split_whitespace().next().unwrap().parse::<u32>().unwrap() < 200, "{used}");
}

#[test]
fn the_cache_is_its_owners_alone() {
    let (registry, _) = serve(RegistryOptions::default());
    let place = Place::new();
    let mut command = place.command(&[&image(&registry), "d"]);
    command.env("XDG_CACHE_HOME", place.path("deep/down"));
    Run::of(command).succeeded();
    let mut pending = vec![place.path("deep/down")];
    let mut files = 0;
    while let Some(path) = pending.pop() {
        let found = path.symlink_metadata().unwrap();
        let want = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.mode() & 0o7777, want, "{path:?}");
        if found.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    // oci-layout, index.json, lock, manifest, config, two layers.
    assert_eq!(files, 7);
}

#[test]
fn users_have_their_cache_inside_the_namespace_too() {
    for user in [testkit::user::TestUser::with_subids(), testkit::user::TestUser::without_subids()]
    {
        let (registry, _) = serve(RegistryOptions::default());
        let dir = user.tempdir();
        let run = |dest: &str| {
            let mut command = user.command(env!("CARGO_BIN_EXE_ocipull"));
            command.args([&image(&registry), dest]).current_dir(dir.path());
            command.env("XDG_CACHE_HOME", dir.path().join("cache"));
            Run::of(command).succeeded()
        };
        let first = run("d");
        assert!(!first.stderr.contains("note: "), "{first}");
        registry.clear_requests();
        run("e");
        assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);
        let index = dir.path().join("cache/ocipull/index.json").metadata().unwrap();
        assert_eq!((index.uid(), index.mode() & 0o777), (user.uid(), 0o600));
    }
}

#[test]
fn skopeo_and_umoci_read_the_cache() {
    // Not zstd: umoci does not know it.
    let layer =
        LayerBuilder::new().dir("etc", 0o755).file("etc/name", "x").build(Compression::Gzip);
    let registry = Registry::start(RegistryOptions::default());
    let other = Image::new().platform(testkit::image::Platform::linux("s390x"));
    let own = Image::new().layer(layer.clone()).build();
    let list = Index::new().image(other.layer(layer).build()).image(own.clone());
    let list = list.push(&registry, "app", "v1");
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let layout = format!("{}:{}", place.cache().display(), image(&registry));
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        output.stdout
    };
    let raw = run("skopeo", &["inspect", "--raw", &format!("oci:{layout}")]);
    assert_eq!(testkit::digest(&raw), own.digest());
    let bundle = place.path("bundle");
    run("umoci", &["unpack", "--image", &layout, bundle.to_str().unwrap()]);
    assert_same(&tree(&bundle.join("rootfs")), &tree(&place.path("d")));
    // What the reference stands for is known all the same.
    place.run(&["--offline", &image(&registry), "e"]).succeeded();
    assert_eq!(place.record("e")["resolvedDigest"], testkit::digest(&list.bytes));
}

fn listed(place: &Place) -> serde_json::Value {
    let run = place.run(&["cache", "ls", "--json"]);
    assert_eq!(run.code, Some(0), "{run}");
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn ls_tells_images_and_blobs() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    assert_eq!(listed(&place)["images"].as_array().unwrap().len(), 0);
    place.run(&[&image(&registry), "d"]).succeeded();
    let all = listed(&place);
    assert_eq!(all["images"][0]["reference"], image(&registry));
    assert_eq!(all["images"][0]["digest"], built.digest());
    let blobs = all["blobs"].as_array().unwrap();
    assert_eq!(blobs.len(), 4);
    let bytes: u64 = blobs.iter().map(|blob| blob["bytes"].as_u64().unwrap()).sum();
    assert_eq!(all["images"][0]["bytes"], bytes);
    assert!(blobs.iter().all(|blob| blob["ofImage"] == true));
    let run = place.run(&["cache", "ls"]);
    assert!(run.stdout.contains(&image(&registry)), "{run}");
    assert!(run.stdout.contains("of images: 4 blobs"), "{run}");
}

#[test]
fn prune_takes_what_no_image_has_and_what_is_asked() {
    let (registry, old) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let top = LayerBuilder::new().file("etc/top", "new\n").build(Compression::Gzip);
    common::small_image().layer(top).push(&registry, "app", "v1");
    place.run(&[&image(&registry), "e"]).succeeded();
    std::fs::write(place.cache().join("partial/sha256-0"), "left").unwrap();
    // The old manifest and its config have lost their name; its layers are the new one's as well.
    let run = place.run(&["cache", "prune"]);
    assert!(run.stdout.contains("removed 0 images, 2 blobs, 1 unfinished"), "{run}");
    assert!(!blob(&place, old.digest()).exists());
    registry.clear_requests();
    place.run(&[&image(&registry), "f"]).succeeded();
    assert_eq!(registry.walk(), ["HEAD /v2/app/manifests/v1 200"]);

    let run = place.run(&["cache", "prune", "--older-than", "1h", "--max-size", "1G"]);
    assert!(run.stdout.contains("removed 0 images, 0 blobs, 0 unfinished"), "{run}");
    let manifest = place.record("f")["manifestDigest"].as_str().unwrap().to_owned();
    let file = std::fs::File::open(blob(&place, &manifest)).unwrap();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    file.set_modified(before).unwrap();
    let run = place.run(&["cache", "prune", "--older-than", "1h"]);
    assert!(run.stdout.contains("removed 1 images, 5 blobs"), "{run}");
    place.run(&[&image(&registry), "g"]).succeeded();
    let run = place.run(&["cache", "prune", "--max-size", "10"]);
    assert!(run.stdout.contains("removed 1 images, 5 blobs"), "{run}");
    place.run(&[&image(&registry), "h"]).succeeded();
    let run = place.run(&["cache", "prune", "--all"]);
    assert!(run.stdout.contains("removed 1 images, 5 blobs"), "{run}");
    for wrong in [["--older-than", "soon"], ["--max-size", "big"]] {
        assert_eq!(place.run(&[&["cache", "prune"][..], &wrong].concat()).code, Some(2));
    }
}

#[test]
fn prune_leaves_what_a_pull_is_using() {
    let (registry, built) = serve(RegistryOptions::default());
    let [lower, upper] = <[String; 2]>::try_from(layers(&built)).unwrap();
    registry.inject(Rule::new(Fault::StallAt(20)).path(&upper));
    let place = Place::new();
    let mut pull = place.command(&[&image(&registry), "d"]).spawn().unwrap();
    let partial = place.cache().join("partial").join(upper.replace(':', "-"));
    common::wait_until("the upper layer comes", || {
        partial.metadata().is_ok_and(|found| found.len() == 20)
    });
    let run = place.run(&["cache", "prune", "--all"]);
    assert!(run.stdout.contains("removed 0 images, 0 blobs, 0 unfinished"), "{run}");
    assert!(run.stdout.contains("left 4 that a pull is using"), "{run}");
    assert!(blob(&place, &lower).exists() && partial.exists());
    // A lock goes with its process, also when that has no time to give it back.
    pull.kill().unwrap();
    pull.wait().unwrap();
    let run = place.run(&["cache", "prune", "--all"]);
    assert!(run.stdout.contains("removed 0 images, 3 blobs, 1 unfinished"), "{run}");
}

#[test]
fn verify_removes_what_is_damaged_and_says_so() {
    let (registry, built) = serve(RegistryOptions::default());
    let place = Place::new();
    place.run(&[&image(&registry), "d"]).succeeded();
    let run = place.run(&["cache", "verify"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "4 blobs are right\n"), "{run}");
    let layer = layers(&built)[1].clone();
    damage(&blob(&place, &layer));
    let run = place.run(&["cache", "verify"]).failed(1, &["1 of 4 blobs were damaged"]);
    assert_eq!(run.stdout, format!("removed {layer}\n"));
    assert!(!blob(&place, &layer).exists());
    registry.clear_requests();
    place.run(&[&image(&registry), "e"]).succeeded();
    assert_eq!(gets(&registry).len(), 1);
    assert_eq!(place.run(&["cache", "verify"]).code, Some(0));
}
