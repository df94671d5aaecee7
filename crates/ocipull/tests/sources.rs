//! Images that are on this machine: layouts and archives, as skopeo, buildah and docker write them,
//! and as somebody does who means harm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod local_images;

use std::fs;
use std::os::unix::fs::symlink;

use common::Place;
use local_images::{blob, docker_archive, image, layout, plain, skopeo, tool, tree};
use testkit::image::{Blob, Index, Platform};
use testkit::layers::{Compression, Layer, LayerBuilder};
use testkit::media;
use testkit::registry::{Registry, RegistryOptions};
use testkit::tree::assert_same;

#[test]
fn trees_are_equal_wherever_the_image_comes_from() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let built = image().push(&registry, "app", "v1");
    place.run(&[&format!("{}/app:v1", registry.host()), "want"]).succeeded();
    built.write_oci_layout(&place.path("testkit"), "v1");
    skopeo(&place, "oci:testkit:v1", "oci:layout:v1");
    skopeo(&place, "oci:testkit:v1", "docker-archive:docker.tar:app:v1");
    skopeo(&place, "oci:testkit:v1", "oci-archive:oci.tar:v1");
    tool(&place, "gzip", &["-k", "docker.tar"]);
    tool(&place, "zstd", &["-q", "oci.tar"]);
    fs::write(place.path("old.tar"), docker_archive(&built).tar()).unwrap();
    let sources = [
        "oci:testkit",
        "oci:testkit:v1",
        "oci:layout:v1",
        "docker-archive:docker.tar",
        "docker-archive:docker.tar:app:v1",
        "docker-archive:docker.tar:docker.io/library/app:v1",
        "docker-archive:docker.tar.gz",
        "oci-archive:oci.tar:v1",
        "oci-archive:oci.tar.zst",
        "docker-archive:oci.tar",
        "docker-archive:old.tar:r.io/team/app:v2",
    ];
    for (at, source) in sources.into_iter().enumerate() {
        let dest = format!("d{at}");
        place
            .run(&[source, &dest])
            .succeeded()
            .says(&format!("into {}", place.path(&dest).display()));
        assert_same(&tree(&place.path("want")), &tree(&place.path(&dest)));
        let (record, want) = (place.record(&dest), place.record("want"));
        assert_eq!(record["config"], want["config"], "{source}");
        assert_eq!(record["reference"], source);
        let (word, _) = source.split_once(':').unwrap();
        let word = if word == "oci-archive" { "docker-archive" } else { word };
        let canonical = record["canonicalReference"].as_str().unwrap();
        assert!(
            canonical.starts_with(&format!("{word}:{}", place.path("").display())),
            "{canonical}"
        );
        // What has a manifest keeps it: one image has one digest, wherever it is.
        if source.contains("oci") {
            assert_eq!(record["manifestDigest"], built.digest(), "{source}");
        }
        place.run(&[source, &dest]).succeeded().says("up to date");
    }
}

#[test]
fn what_buildah_pushes_is_read() {
    let place = Place::new();
    layout(&place, "layout", "v1");
    place.run(&["oci:layout", "want"]).succeeded();
    let storage = ["--root", "root", "--runroot", "run", "--storage-driver", "vfs"];
    let buildah = |arguments: &[&str]| tool(&place, "buildah", &[&storage[..], arguments].concat());
    let id = buildah(&["pull", "-q", "--policy", "always", "oci:layout:v1"]);
    let id = String::from_utf8(id).unwrap();
    for (to, from) in [
        ("oci:pushed:v1", "oci:pushed:v1"),
        ("docker-archive:pushed.tar:app:v1", "docker-archive:pushed.tar"),
    ] {
        buildah(&["push", "-q", id.trim(), to]);
        let dest = to.replace([':', '.'], "-");
        place.run(&[from, &dest]).succeeded();
        assert_same(&tree(&place.path("want")), &tree(&place.path(&dest)));
    }
}

/// Two images that share a layer, in one archive.
#[test]
fn what_podman_saves_is_read() {
    let place = Place::new();
    layout(&place, "one", "v1");
    let more = LayerBuilder::new().file("more", "x").build(Compression::Gzip);
    image().layer(more).build().write_oci_layout(&place.path("two"), "v1");
    let storage = ["--root", "root", "--runroot", "run", "--storage-driver", "vfs"];
    let podman = |arguments: &[&str]| tool(&place, "podman", &[&storage[..], arguments].concat());
    for name in ["one", "two"] {
        place.run(&[&format!("oci:{name}"), &format!("want-{name}")]).succeeded();
        let id = podman(&["pull", "-q", &format!("oci:{name}:v1")]);
        let id = String::from_utf8(id).unwrap();
        podman(&["tag", id.trim(), &format!("example.org/{name}:v1")]);
    }
    let names = ["example.org/one:v1", "example.org/two:v1"];
    podman(&[&["save", "-q", "-m", "-o", "both.tar"], &names[..]].concat());
    podman(&["save", "-q", "--format", "oci-archive", "-o", "two.tar", names[1]]);
    for (source, want) in [
        ("docker-archive:both.tar:example.org/one:v1", "one"),
        ("docker-archive:both.tar:example.org/two:v1", "two"),
        ("oci-archive:two.tar", "two"),
    ] {
        let dest = source.replace([':', '/', '.'], "-");
        place.run(&[source, &dest]).succeeded();
        assert_same(&tree(&place.path(&format!("want-{want}"))), &tree(&place.path(&dest)));
    }
    place.run(&["docker-archive:both.tar", "d"]).failed(1, &["several images", names[0], names[1]]);
}

/// Layers as links, as docker writes them where images share some; compressed ones; the same twice.
#[test]
fn archives_of_every_writing_are_read() {
    let place = Place::new();
    let built = image().build();
    layout(&place, "layout", "v1");
    place.run(&["oci:layout", "want"]).succeeded();
    let [lower, upper] = &built.layers[..] else { panic!("two layers") };
    let manifest = |layers: [&str; 2]| {
        let item = serde_json::json!([{ "Config": "c.json", "RepoTags": null, "Layers": layers }]);
        item.to_string()
    };
    let config = || LayerBuilder::new().file("c.json", &built.config.bytes);
    let linked = config()
        .file("one.tar", plain(&lower.bytes))
        .symlink("a/layer.tar", "../one.tar")
        .file("./two.tar", plain(&upper.bytes))
        .hardlink("b/layer.tar", "two.tar")
        .file("manifest.json", manifest(["a/layer.tar", "b/layer.tar"]));
    let compressed = |upper: &[u8]| {
        config()
            .file("one.tar", &lower.bytes)
            .file("two.tar", upper)
            .file("manifest.json", manifest(["one.tar", "two.tar"]))
    };
    let zstd = testkit::layers::zstd(&plain(&upper.bytes));
    let zstd = compressed(&zstd);
    for (name, tar) in [("linked", linked), ("gzip", compressed(&upper.bytes)), ("zstd", zstd)] {
        fs::write(place.path(&format!("{name}.tar")), tar.tar()).unwrap();
        place.run(&[&format!("docker-archive:{name}.tar"), name]).succeeded();
        assert_same(&tree(&place.path("want")), &tree(&place.path(name)));
        // And kept as an image that other tools read.
        place
            .run(&[&format!("docker-archive:{name}.tar"), &format!("oci:kept:{name}")])
            .succeeded();
        // umoci knows no zstd, skopeo does.
        let umoci = name != "zstd";
        let from = format!("kept:{name}");
        let to = format!("u-{name}");
        if umoci {
            tool(&place, "umoci", &["unpack", "--image", &from, &to]);
            assert_same(&tree(&place.path("want")), &tree(&place.path(&format!("{to}/rootfs"))));
        }
        skopeo(&place, &format!("oci:{from}"), &format!("oci:again:{name}"));
    }
}

/// docker save since 25: a layout in the archive, with an index for each image and whole names.
#[test]
fn an_archive_with_a_layout_inside_is_read_by_reference() {
    let place = Place::new();
    let built = image().build();
    let other = image().env("B=c").build();
    let mut index = Vec::new();
    let mut tar = LayerBuilder::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    for (image, name) in [(&built, "docker.io/library/app:v1"), (&other, "r.io/other:v1")] {
        let list = Index::new().image(image.clone()).build();
        let mut descriptor = list.descriptor();
        descriptor["annotations"] = serde_json::json!({
            "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "v1",
        });
        index.push(descriptor);
        for (digest, bytes) in [
            (&list.digest, &list.bytes),
            (&image.manifest.digest, &image.manifest.bytes),
            (&image.config.digest, &image.config.bytes),
            (&image.layers[0].digest, &image.layers[0].bytes),
            (&image.layers[1].digest, &image.layers[1].bytes),
        ] {
            tar = tar.file(format!("blobs/{}", digest.replace(':', "/")), bytes);
        }
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": index });
    let tar = tar.file("index.json", index.to_string()).file("manifest.json", "[]");
    fs::write(place.path("new.tar"), tar.tar()).unwrap();
    place.run(&["docker-archive:new.tar:app:v1", "d"]).succeeded();
    assert_eq!(place.record("d")["manifestDigest"], built.digest());
    place.run(&["docker-archive:new.tar:r.io/other:v1", "e"]).succeeded();
    assert_eq!(place.record("e")["manifestDigest"], other.digest());
    for ambiguous in ["docker-archive:new.tar", "docker-archive:new.tar:v1"] {
        place.run(&[ambiguous, "f"]).failed(1, &["holds several images"]).hints("name one of them");
    }
    place.run(&["docker-archive:new.tar:v2", "f"]).failed(1, &["no image \"v2\""]);
}

#[test]
fn an_archive_comes_through_a_pipe() {
    let place = Place::new();
    let built = image().build();
    fs::write(place.path("old.tar"), docker_archive(&built).tar()).unwrap();
    let mut command = place.command(&["docker-archive:/dev/stdin", "d"]);
    let mut cat = std::process::Command::new("cat");
    let mut cat =
        cat.arg(place.path("old.tar")).stdout(std::process::Stdio::piped()).spawn().unwrap();
    command.stdin(cat.stdout.take().unwrap()).env("TMPDIR", place.path(""));
    common::Run::of(command).succeeded();
    assert!(cat.wait().unwrap().success());
    assert!(place.path("d/etc/alias").exists());
    // Nothing of the copy is left.
    assert_eq!(place.names(), ["d", "d.image.json", "old.tar"]);
}

/// In a user namespace, confined by Landlock, with files that only the user can read.
#[test]
fn an_ordinary_user_unpacks_and_keeps_images_too() {
    use testkit::user::TestUser;
    for user in [TestUser::with_subids(), TestUser::without_subids()] {
        let dir = user.tempdir();
        image().build().write_oci_layout(&dir.path().join("layout"), "v1");
        fs::write(dir.path().join("old.tar"), docker_archive(&image().build()).tar()).unwrap();
        user.own_tree(dir.path());
        let ocipull = |arguments: &[&str]| {
            let mut command = user.command(env!("CARGO_BIN_EXE_ocipull"));
            command.args(arguments).current_dir(dir.path());
            common::Run::of(command).succeeded();
        };
        ocipull(&["oci:layout", "d"]);
        ocipull(&["docker-archive:old.tar", "e"]);
        ocipull(&["docker-archive:old.tar", "oci:kept"]);
        ocipull(&["verify", "-q", "d"]);
        assert_same(&tree(&dir.path().join("d")), &tree(&dir.path().join("e")));
        let index = fs::metadata(dir.path().join("kept/index.json")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&index), user.uid());
    }
}

/// `ocipull verify` looks where the image came from, whatever has that name there now.
#[test]
fn a_tree_is_verified_against_its_layout_or_archive() {
    let place = Place::new();
    let built = layout(&place, "l", "v1");
    fs::write(place.path("a.tar"), docker_archive(&built).tar()).unwrap();
    for (source, dest) in [("oci:l:v1", "d"), ("docker-archive:a.tar:app:v1", "e")] {
        place.run(&[source, dest]).succeeded();
        place.run(&["verify", dest]).succeeded().says("matches");
        fs::write(place.path(dest).join("etc/name"), "changed").unwrap();
        let run = place.run(&["verify", dest]);
        assert_eq!(run.code, Some(1), "{run}");
        assert!(run.stdout.contains("M etc/name"), "{run}");
    }
    place.run(&["oci:l:v1", "--force", "d"]).succeeded();
    let other = testkit::image::Image::new().build();
    let kept = blob(&place, "l", built.digest());
    other.write_oci_layout(&place.path("l"), "v1");
    place.run(&["verify", "d"]).succeeded();
    fs::remove_file(kept).unwrap();
    place.run(&["verify", "d"]).failed(7, &["not there"]);
}

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
    place.run(&["oci:l:v2", "d"]).failed(1, &["no image \"v2\"", "got \"v1\""]).hints(":v1");
    place.run(&[&format!("oci:l@{}", built.digest()), "by-digest"]).succeeded();
    fs::write(place.path("l/oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["version \"2.0.0\""]);
    fs::write(place.path("l/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(place.path("l/index.json"), "{").unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["cannot understand index.json"]);
    let sparse = fs::File::create(place.path("l/index.json")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    place.run(&["oci:l", "d"]).failed(1, &["index.json", "larger than"]);
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
    place.run(&["oci:l", "d"]).failed(1, &["larger than 4194304 bytes"]);
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

/// An image in an index in an index, in a registry and in a layout.
#[test]
fn the_platform_is_found_through_indexes() {
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let of =
        |platform: &str| image().platform(Platform::linux(platform)).label("p", platform).build();
    let (arm6, arm7, amd) = (of("arm/v6"), of("arm/v7"), of("amd64"));
    for built in [&arm6, &arm7, &amd] {
        built.push(&registry, "app", built.digest());
    }
    let inner = Index::new().image(arm6.clone()).image(arm7.clone()).build();
    let nested = inner.descriptor();
    let attestation = amd.manifest.descriptor();
    let outer = Index::new()
        .image(amd.clone())
        .edit(move |index| {
            let manifests = index["manifests"].as_array_mut().unwrap();
            manifests.insert(0, nested.clone());
            let mut about = attestation.clone();
            about["platform"] = serde_json::json!({"os": "unknown", "architecture": "unknown"});
            manifests.insert(0, about);
        })
        .build();
    let put = |tag: &str, blob: &Blob| {
        registry.put_manifest("app", tag, &blob.media_type, blob.bytes.clone());
    };
    put(&inner.digest, &inner);
    put("v1", &outer);
    let name = format!("{}/app:v1", registry.host());
    skopeo(&place, &format!("docker://{name}"), "oci:amd");
    place.run(&[&name, "oci:all:v1", "--all-platforms"]).succeeded();
    for (source, at) in [(name.as_str(), "r"), ("oci:all:v1", "l")] {
        for (wanted, built) in [
            ("linux/arm/v8", &arm7),
            ("linux/arm/v7", &arm7),
            ("linux/arm/v6", &arm6),
            ("linux/amd64/v3", &amd),
        ] {
            let dest = format!("{at}-{}", wanted.replace('/', "-"));
            place.run(&["--platform", wanted, source, &dest]).succeeded();
            let record = place.record(&dest);
            assert_eq!(record["manifestDigest"], built.digest(), "{source} {wanted}");
            assert_eq!(record["resolvedDigest"], outer.digest.as_str());
        }
        place
            .run(&["--platform", "linux/s390x", source, "no"])
            .failed(1, &["no image for platform linux/s390x: got linux/amd64, linux/arm/v6"])
            .hints("--platform linux/amd64");
    }
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

/// What a descriptor brings along is not asked for.
#[test]
fn embedded_data_is_taken_and_checked() {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let registry = Registry::start(RegistryOptions::default());
    let place = Place::new();
    let built = image().build();
    let (config, layers) = (encode(&built.config.bytes), built.layers.clone());
    let embed = move |manifest: &mut serde_json::Value, layers: &[Layer]| {
        manifest["config"]["data"] = config.clone().into();
        for (at, layer) in layers.iter().enumerate() {
            manifest["layers"][at]["data"] = encode(&layer.bytes).into();
        }
    };
    let right = {
        let (embed, layers) = (embed.clone(), layers.clone());
        image().edit_manifest(move |manifest| embed(manifest, &layers)).build()
    };
    let put = |tag: &str, built: &testkit::image::BuiltImage| {
        let Blob { media_type, bytes, .. } = &built.manifest;
        registry.put_manifest("app", tag, media_type, bytes.clone());
    };
    // No blob is there to be had.
    put("v1", &right);
    let name = |tag: &str| format!("{}/app:{tag}", registry.host());
    place.run(&[&name("v1"), "d"]).succeeded();
    assert_eq!(registry.walk().len(), 2, "HEAD and GET: {:?}", registry.walk());
    layout(&place, "same", "v1");
    place.run(&["oci:same", "e"]).succeeded();
    assert_same(&tree(&place.path("d")), &tree(&place.path("e")));
    let wrong = image()
        .edit_manifest(move |manifest| {
            embed(manifest, &layers);
            manifest["layers"][1]["data"] = "AAAA".into();
        })
        .build();
    put("v2", &wrong);
    place.run(&[&name("v2"), "f"]).failed(4, &["embedded", &built.layers[1].digest]);
    common::assert_absent(&place.path("f"));
}
