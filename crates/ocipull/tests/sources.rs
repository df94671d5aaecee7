//! Images that are on this machine: layouts and archives, as skopeo, buildah, podman and docker write
//! them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod local_images;

use std::fs;

use common::Place;
use local_images::{blob, docker_archive, image, layout, plain, skopeo, tool, tree};
use testkit::image::{Blob, Index, Platform};
use testkit::layers::{Compression, Layer, LayerBuilder};
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
    place.run(&["docker-archive:new.tar:v2", "f"]).failed(8, &["no image \"v2\""]);
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
            .failed(10, &["no image for platform linux/s390x: got linux/amd64, linux/arm/v6"])
            .hints("--platform linux/amd64");
    }
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
