//! Several layers on their way at once.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Place, Run};
use testkit::image::{BuiltImage, Image};
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Fault, Registry, RegistryOptions, Rule};
use testkit::tree::{Options, Tree, assert_same};

/// Four layers that meet in their directories, hide each other's files and link to them.
fn image() -> Image {
    let layer = LayerBuilder::new;
    let layers = [
        layer().dir("etc", 0o755).file("etc/a", "1").file("etc/b", "1").file("old/x", "1"),
        layer().dir("etc", 0o750).file("etc/b", "2").file("opt/tool/bin", "2").whiteout("old"),
        layer().hardlink("etc/linked", "etc/a").opaque("opt").file("opt/new", "3"),
        layer().whiteout("etc/a").symlink("opt/tool", "new").file("old", "4"),
    ];
    layers.iter().fold(Image::new(), |image, layer| image.layer(layer.build(Compression::Gzip)))
}

fn serve() -> (Registry, String, Vec<String>) {
    let registry = Registry::start(RegistryOptions::default());
    let built = image().push(&registry, "app", "v1");
    let layers = digests(&built);
    let name = format!("{}/app:v1", registry.host());
    (registry, name, layers)
}

fn digests(built: &BuiltImage) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&built.manifest.bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// The layers' places in the order in which they were asked for.
fn asked(registry: &Registry, layers: &[String]) -> Vec<usize> {
    let walk = registry.requests().into_iter();
    walk.filter_map(|r| layers.iter().position(|digest| r.path.contains(digest))).collect()
}

#[test]
fn a_slow_layer_holds_up_none_above_it_and_the_tree_is_the_same() {
    let (registry, name, layers) = serve();
    let place = Place::new();
    place.run(&["--jobs", "1", &name, "one"]).succeeded();
    assert_eq!(asked(&registry, &layers), [0, 1, 2, 3], "one after the other");
    for (number, slow) in layers.iter().enumerate() {
        let delay = Fault::Delay(Duration::from_millis(300));
        registry.inject(Rule::new(delay).path(slow).times(1));
        let dest = format!("slow-{number}");
        let run = place.run(&["-v", "--no-cache", "--jobs", "4", &name, &dest]).succeeded();
        let last = run.stderr.lines().rfind(|line| line.contains("/blobs/")).unwrap();
        assert!(last.contains(slow), "want the slow layer's answer last: {run}");
        let options = Options::default();
        let trees = [place.path("one"), place.path(&dest)].map(|tree| Tree::of(&tree, &options));
        assert_same(&trees[0], &trees[1]);
    }
}

#[test]
fn the_layer_that_fails_is_named_whichever_it_is() {
    let (registry, name, layers) = serve();
    for (round, bad) in (0..layers.len()).cycle().take(20).enumerate() {
        registry.clear_faults();
        registry.inject(Rule::new(Fault::WrongBytes).path(&layers[bad]));
        let place = Place::new();
        let jobs = ["2", "4"][round % 2];
        place.run(&["--jobs", jobs, &name, "d"]).failed(4, &[&layers[bad]]);
        assert!(!place.names().iter().any(|n| n.contains("ocipull-") || n.starts_with('d')));
    }
}

/// Landlock's effect is the matter of a test beside the code; here is whether it is in force where
/// it should be: a thread that confines itself gives up to gain privileges first.
#[test]
fn the_threads_that_read_an_image_are_confined_and_the_others_are_not() {
    let (registry, name, layers) = serve();
    layers.iter().for_each(|layer| registry.inject(Rule::new(Fault::StallAt(20)).path(layer)));
    let place = Place::new();
    let mut command = place.command(&["--jobs", "4", &name, "d"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let want: BTreeMap<&str, usize> = [("inflate", 4), ("hash", 4), ("unpack", 4)].into();
    let mut seen = BTreeMap::new();
    for _ in 0..500 {
        seen = confined(&child);
        if want.iter().all(|(thread, count)| seen.get(*thread) == Some(count)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    let _ = child.wait();
    assert!(want.iter().all(|(thread, count)| seen.get(*thread) == Some(count)), "{seen:?}");
    assert_eq!(seen.len(), want.len(), "the network's threads are free: {seen:?}");
    // And what was killed is cleaned up.
    registry.clear_faults();
    place.run(&[&name, "d"]).succeeded();
    assert!(!place.names().iter().any(|n| n.contains("ocipull-")), "{:?}", place.names());
}

/// The names of the threads that can gain no privileges (proc_pid_status(5)), and how many each has.
fn confined(child: &Child) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap() {
        // One that ends meanwhile.
        let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).unwrap_or_default()
        };
        if field("NoNewPrivs:") == "1" {
            *names.entry(field("Name:")).or_default() += 1;
        }
    }
    names
}

#[test]
fn limits_are_raised_and_lowered_by_name() {
    let (registry, name, _) = serve();
    for (limit, words) in [
        ("entries=3", "more than 3 entries"),
        ("total-bytes=4K", "larger than 4096 bytes"),
        ("path-depth=2", "deeper than 2 names"),
    ] {
        let place = Place::new();
        let limited = place.run(&["--limit", limit, &name, "d"]).failed(12, &[words]);
        limited.hints(&format!("--limit {}=", limit.split('=').next().unwrap()));
        common::assert_absent(&place.path("d"));
    }
    let place = Place::new();
    place.run(&["--limit", "size=1", &name, "d"]).failed(2, &["unknown limit"]).hints("entries");
    place.run(&["--limit", "entries=x", &name, "d"]).failed(2, &["want a number"]);
    place.run(&["--limit", "entries=3", "--limit", "entries=1M", &name, "d"]).succeeded();
    // A header longer than anybody's reader takes, where it is asked for.
    let long = LayerBuilder::new().file("a", "").pax("comment", "c".repeat(2 << 20));
    let image = Image::new().layer(long.build(Compression::Gzip));
    image.push(&registry, "app", "long");
    let long = format!("{}/app:long", registry.host());
    place.run(&[&long, "long"]).failed(12, &["is too large"]).hints("--limit header-bytes=");
    place.run(&["--limit", "header-bytes=3M", &long, "long"]).succeeded();
    let run: Run = place.run(&["--jobs", "0", &name, "d"]);
    assert_eq!(run.code, Some(2), "{run}");
}
