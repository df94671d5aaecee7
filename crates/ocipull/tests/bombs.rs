//! Images that would fill the memory, the disk or the day: each ends in one line, in bounded time and
//! memory, with nothing left. The real binary is run, and its peak memory taken from wait4(2).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::process::Command;

use common::{Place, Run};
use testkit::image::{Image, Index};
use testkit::layers::{Compression, Entry, GNU, Layer, LayerBuilder};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};

/// What a pull may take at its peak: the 32 MB of the design, and as much again for a build without
/// optimisation and the allocator's slack.
const MAX_PEAK_KIB: u64 = 64 << 10;

/// A zstd frame's largest window comes on top (128 MiB), with the decoder's buffer of the same size.
const MAX_PEAK_WITH_WINDOW_KIB: u64 = MAX_PEAK_KIB + (272 << 10);

/// Runs a program, and writes its peak memory in KiB to the file named first.
const MEASURE: &str = "
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], 'w') as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
";

struct Pull {
    run: Run,
    peak_kib: u64,
}

/// Pulls `app:v1`.
fn pull(registry: &Registry) -> Pull {
    let place = Place::new();
    let inner = place.command(&[&format!("{}/app:v1", registry.host()), "d"]);
    let report = tempfile::NamedTempFile::new().unwrap();
    // Thirty times what the slowest takes: a bomb that is not stopped runs into it.
    let mut command = Command::new("timeout");
    command.args(["300", "python3", "-c", MEASURE]).arg(report.path());
    command.arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.current_dir(inner.get_current_dir().unwrap());
    let run = Run::of(command);
    let peak_kib = std::fs::read_to_string(report.path()).unwrap().parse();
    let peak_kib = peak_kib.unwrap_or_else(|e| panic!("no peak memory ({e}): {run}"));
    if run.code != Some(0) {
        let mut left = place.names();
        left.retain(|name| name != ".cache");
        assert_eq!(left, [""; 0], "{run}");
    }
    Pull { run, peak_kib }
}

/// The layer is refused with this code and these words.
#[track_caller]
fn refused(layer: Layer, code: i32, words: &[&str], max_peak_kib: u64) {
    let registry = Registry::start(RegistryOptions::default());
    Image::new().layer(layer).push(&registry, "app", "v1");
    let Pull { run, peak_kib } = pull(&registry);
    let run = run.failed(code, words);
    assert!(peak_kib <= max_peak_kib, "took {peak_kib} KiB, want {max_peak_kib} at most: {run}");
}

fn plain(builder: &LayerBuilder) -> Layer {
    builder.build(Compression::None)
}

/// A small archive, then `count` times 64 MiB of zeros.
fn zeros(count: usize, compress: fn(&[u8]) -> Vec<u8>, media_type: &str) -> Layer {
    let mut blob = compress(&LayerBuilder::new().file("f", "1").tar());
    blob.extend(compress(&vec![0; 64 << 20]).repeat(count));
    Layer::from_parts(blob, &testkit::digest(b"never computed"), media_type)
}

#[test]
fn a_gzip_bomb_is_stopped() {
    let bomb = zeros(80, testkit::layers::gzip, testkit::media::OCI_LAYER_GZIP);
    refused(bomb, 12, &["the layer expands too far"], MAX_PEAK_KIB);
}

#[test]
fn a_zstd_bomb_is_stopped() {
    let bomb = zeros(80, testkit::layers::zstd, testkit::media::OCI_LAYER_ZSTD);
    refused(bomb, 12, &["the layer expands too far"], MAX_PEAK_KIB);
}

#[test]
fn a_zstd_window_costs_what_the_limit_says() {
    let tar = LayerBuilder::new().file("f", vec![7; 1 << 20]).tar();
    let layer = |log: u32| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        let blob = encoder.finish().unwrap();
        Layer::from_parts(blob, &testkit::digest(&tar), testkit::media::OCI_LAYER_ZSTD)
    };
    let registry = Registry::start(RegistryOptions::default());
    Image::new().layer(layer(27)).push(&registry, "app", "v1");
    let Pull { run, peak_kib } = pull(&registry);
    let run = run.succeeded();
    assert!(peak_kib <= MAX_PEAK_WITH_WINDOW_KIB, "took {peak_kib} KiB: {run}");
    for log in [28, 31] {
        refused(layer(log), 1, &["cannot read layer"], MAX_PEAK_KIB);
    }
}

#[test]
fn headers_that_announce_too_much_are_refused_before_they_are_read() {
    let announced = |typeflag, size| Entry { size: Some(size), ..Entry::new(typeflag, "x") };
    for typeflag in [b'x', b'g', b'L', b'K'] {
        for size in [(1 << 20) + 1, (1 << 33) - 1] {
            let builder = LayerBuilder::new().entry(announced(typeflag, size));
            refused(plain(&builder), 12, &["is too large", "want at most 1048576"], MAX_PEAK_KIB);
        }
    }
}

#[test]
fn sparse_maps_without_end_are_refused() {
    // Old GNU: extension blocks that always announce another.
    let mut header = Entry { magic: GNU, ..Entry::new(b'S', "sparse") };
    header.size = Some(0);
    let mut tar = Vec::new();
    header.write(&mut tar);
    tar[482] = 1;
    let sum: u32 = tar[..512]
        .iter()
        .enumerate()
        .map(|(at, b)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*b),
        })
        .sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut extension = [0; 512];
    extension[504] = 1;
    tar.extend(extension.repeat(20_000));
    refused(
        Layer::from_tar(&tar, Compression::Gzip),
        12,
        &["sparse map is too large"],
        MAX_PEAK_KIB,
    );
    // PAX 1.0: a map of millions of numbers before the data.
    let text = LayerBuilder::new()
        .file("sparse", "262144\n".to_owned() + &"1\n".repeat(4 << 20))
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "9");
    refused(text.build(Compression::Gzip), 1, &["sparse map"], MAX_PEAK_KIB);
    // A file larger than any disk.
    let vast = LayerBuilder::new()
        .file("sparse", "")
        .pax("GNU.sparse.size", (1_u64 << 62).to_string())
        .pax("GNU.sparse.numblocks", "1")
        .pax("GNU.sparse.map", "0,0");
    refused(plain(&vast), 12, &["size of a sparse file is too large"], MAX_PEAK_KIB);
}

#[test]
fn paths_ten_thousand_deep_are_refused() {
    for depth in [10_000, 100_000] {
        let deep = LayerBuilder::new().file("d/".repeat(depth) + "x", "");
        refused(deep.build(Compression::Gzip), 12, &["the path is too long"], MAX_PEAK_KIB);
    }
    // By links, from one to the next.
    let mut links = LayerBuilder::new();
    for n in 0..60 {
        links = links.symlink(format!("l{n}"), format!("l{}/{}", n + 1, "d/".repeat(100)));
    }
    refused(plain(&links.file("l0/x", "")), 12, &["on the way"], MAX_PEAK_KIB);
}

/// A few kilobytes that imply seventy thousand directories with long paths.
#[test]
fn few_deep_paths_take_little_memory() {
    let deep = |n: usize| format!("{n}/") + &"d/".repeat(990) + "x";
    let layer = (0..70).fold(LayerBuilder::new(), |layer, n| layer.file(deep(n), ""));
    refused(layer.build(Compression::Gzip), 12, &["the paths together are longer"], MAX_PEAK_KIB);
}

/// Each path leads over twenty links, each of which goes up and down a thousand times.
#[test]
fn links_that_take_days_to_follow_are_refused() {
    let deep = "d/".repeat(1000);
    let mut layer = LayerBuilder::new().dir(&deep, 0o755).dir("x19", 0o755);
    for n in 0..19 {
        let up_and_down = format!("/{deep}{}", "../d/".repeat(390));
        layer = layer.symlink(format!("l{n}"), up_and_down);
        layer = layer.symlink(format!("x{n}"), format!("l{n}/{}x{}", "../".repeat(1100), n + 1));
    }
    // Many, and in another directory each time.
    for n in 0..2_000 {
        layer = layer.file(format!("x0/y{n}/f"), "1");
    }
    refused(layer.build(Compression::Gzip), 12, &["bytes to resolve"], MAX_PEAK_KIB);
}

#[test]
fn manifests_and_configs_above_their_limit_are_refused() {
    let padding = "x".repeat(5 << 20);
    let pad = move |value: &mut serde_json::Value| {
        value["annotations"] = serde_json::json!({ "padding": padding });
    };
    for in_config in [false, true] {
        let registry = Registry::start(RegistryOptions::default());
        let image = Image::new();
        let image = if in_config {
            image.edit_config(pad.clone())
        } else {
            image.edit_manifest(pad.clone())
        };
        image.push(&registry, "app", "v1");
        let Pull { run, peak_kib } = pull(&registry);
        run.failed(12, &["4194304"]);
        assert!(peak_kib <= MAX_PEAK_KIB, "took {peak_kib} KiB");
    }
    // And one that never ends.
    let registry = Registry::start(RegistryOptions::default());
    common::small_image().push(&registry, "app", "v1");
    registry.inject(Rule::new(Fault::Endless(None)).method("GET").path("/manifests/"));
    let Pull { run, peak_kib } = pull(&registry);
    run.failed(12, &["4194304"]);
    assert!(peak_kib <= MAX_PEAK_KIB, "took {peak_kib} KiB");
}

#[test]
fn an_index_in_an_index_ends_after_a_few_requests() {
    let registry = Registry::start(RegistryOptions::default());
    let platform = |value: &serde_json::Value| value["manifests"][0]["platform"].clone();
    // It lists itself, as far as a digest can: by one that is not its own.
    let image = common::small_image().build();
    let forged = testkit::digest(b"itself");
    let (of_entry, own) = (forged.clone(), testkit::media::OCI_INDEX);
    let index = Index::new().image(image).edit(move |value| {
        let platform = platform(value);
        value["manifests"] = serde_json::json!([
            { "mediaType": own, "digest": of_entry, "size": 500, "platform": platform },
        ]);
    });
    let built = index.build();
    index.push(&registry, "app", "v1");
    registry.put_manifest("app", &forged, own, built.bytes.clone());
    let Pull { run, .. } = pull(&registry);
    run.failed(4, &["content is", &forged]);
    assert!(registry.requests().len() < 10, "{:?}", registry.walk());
    // Another index, by its true digest, which is read as well.
    let inner = registry.put_manifest("app", "inner", own, built.bytes.clone());
    let size = built.bytes.len();
    let outer = Index::new().image(common::small_image().build()).edit(move |value| {
        let platform = value["manifests"][0]["platform"].clone();
        value["manifests"] = serde_json::json!([
            { "mediaType": own, "digest": inner, "size": size, "platform": platform },
        ]);
    });
    outer.push(&registry, "app", "v1");
    registry.clear_requests();
    let Pull { run, .. } = pull(&registry);
    run.failed(4, &["content is", &forged]);
    assert!(registry.requests().len() < 10, "{:?}", registry.walk());
}

/// A small text that grows a hundred times when it is written with an indent: it once made a record
/// that no later run could read.
#[test]
fn a_config_that_grows_by_its_indent_gives_a_record_that_can_be_read() {
    let registry = Registry::start(RegistryOptions::default());
    let image = Image::new().edit_config(|config| {
        let numbers = serde_json::Value::from(vec![0; 200_000]);
        config["deep"] = (0..100).fold(numbers, |inner, _| serde_json::json!([inner]));
    });
    image.push(&registry, "app", "v1");
    let place = Place::new();
    let name = format!("{}/app:v1", registry.host());
    place.run(&[&name, "d"]).succeeded();
    place.run(&[&name, "d"]).succeeded().says("up to date");
    place.run(&["rm", "d"]).succeeded();
    let Pull { run, peak_kib } = pull(&registry);
    run.succeeded();
    assert!(peak_kib <= MAX_PEAK_KIB, "took {peak_kib} KiB");
}
