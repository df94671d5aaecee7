//! `--sync`: which system calls wait for the disk, in which order, and what a disk that fails does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::fs;

use common::{Place, Run, serve};
use testkit::registry::{Registry, RegistryOptions};
use testkit::tree::{Options, Tree, assert_same};

/// All calls that wait for a disk, and those that give names.
const TRACED: &str = "trace=sync,syncfs,fsync,fdatasync,?sync_file_range,?sync_file_range2,msync,\
                      ?rename,renameat,renameat2";

/// Runs ocipull under strace; the calls come with the paths of their descriptors.
fn traced(place: &Place, more: &[&str], arguments: &[&str]) -> (Run, Vec<String>) {
    let inner = place.command(&[&["--no-cache"], arguments].concat());
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "--seccomp-bpf", "-o", "trace", "-e", TRACED])
        .args(more)
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(place.path(""))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", place.path(""));
    let run = Run::of(command);
    let trace = fs::read_to_string(place.path("trace")).unwrap();
    fs::remove_file(place.path("trace")).unwrap();
    // Without the number of the thread.
    let call = |line: &str| line.split_once(' ').map(|(_, call)| call.trim().to_owned());
    // Layers that are laid over the tree move their files from one staging directory to another.
    let is_merge = |call: &String| {
        let from = call.strip_prefix("renameat(").and_then(|rest| rest.split(',').next());
        from.is_some_and(|from| from.contains("/.d.ocipull-"))
    };
    (run, trace.lines().filter_map(call).filter(|call| !is_merge(call)).collect())
}

/// The calls as one word each, with what they are about.
fn steps(place: &Place, calls: &[String]) -> Vec<String> {
    let here = place.path("").display().to_string();
    let here = here.trim_end_matches('/');
    let step = |call: &String| {
        let (name, rest) = call.split_once('(').unwrap_or((call, ""));
        let about = match name {
            "syncfs" | "fsync" if rest.contains(&format!("<{here}>)")) => "parent",
            "syncfs" if rest.contains("/.d.ocipull-") => "tree",
            "fsync" if rest.contains(".json>)") => "record",
            _ if rest.contains("\"d.image.json\", ") => "old record",
            _ if rest.contains(", \"d.image.json\"") => "record",
            _ if rest.contains(", \"d\"") => "tree",
            _ => rest,
        };
        let result = if call.contains("= 0") { "" } else { " failed" };
        format!("{name} {about}{result}")
    };
    calls.iter().map(step).collect()
}

fn setup() -> (Registry, Place, String) {
    let (registry, _) = serve(RegistryOptions::default());
    let image = format!("{}/app:v1", registry.host());
    (registry, Place::new(), image)
}

#[test]
fn the_disk_has_all_before_the_names_change_and_the_names_before_the_end() {
    let (_registry, place, image) = setup();
    let (run, calls) = traced(&place, &[], &["--sync", &image, "d"]);
    run.succeeded();
    let first = ["syncfs tree", "fsync record", "renameat old record failed"];
    let last = ["renameat record", "fsync parent"];
    let want = [&first[..], &["renameat tree"], &last].concat();
    assert_eq!(steps(&place, &calls), want, "{calls:#?}");

    let (run, calls) = traced(&place, &[], &["--sync", "--force", &image, "d"]);
    run.succeeded();
    let first = ["syncfs tree", "fsync record", "renameat old record"];
    let want = [&first[..], &["renameat2 tree"], &last].concat();
    assert_eq!(steps(&place, &calls), want, "{calls:#?}");

    // One that is there already need not be on the disk yet.
    let (run, calls) = traced(&place, &[], &["--sync", &image, "d"]);
    run.succeeded().says("up to date");
    assert_eq!(steps(&place, &calls), ["syncfs parent"], "{calls:#?}");

    fs::create_dir(place.path("empty")).unwrap();
    place.run(&["--sync", &image, "empty"]).succeeded();
    assert_eq!(place.names(), ["d", "d.image.json", "empty", "empty.image.json"]);
}

#[test]
fn without_it_nothing_waits_for_the_disk() {
    let (_registry, place, image) = setup();
    for arguments in [&[image.as_str(), "d"][..], &["--force", &image, "d"], &[&image, "d"]] {
        let (run, calls) = traced(&place, &[], arguments);
        run.succeeded();
        let waits: Vec<&String> = calls.iter().filter(|call| call.contains("sync")).collect();
        assert!(waits.is_empty(), "{arguments:?}: {waits:?}");
    }
}

/// Every call that waits, one after the other, says that the disk failed.
#[test]
fn a_disk_that_fails_leaves_everything_as_it_was() {
    let (registry, place, image) = setup();
    let failures = [
        "inject=syncfs:error=EIO",
        "inject=fsync:error=EIO:when=1",
        "inject=fsync:error=EIO:when=2",
    ];
    // Where there was nothing, an empty directory with a mode of its own, and a tree.
    for failure in failures {
        let (run, _) = traced(&place, &["-e", failure], &["--sync", &image, "d"]);
        run.failed(1, &["/d\"", "sync", "EIO"]);
        assert!(place.names().is_empty(), "{failure}: {:?}", place.names());
    }
    fs::create_dir(place.path("d")).unwrap();
    let mode = || fs::metadata(place.path("d")).unwrap().permissions();
    fs::set_permissions(place.path("d"), std::os::unix::fs::PermissionsExt::from_mode(0o2710))
        .unwrap();
    let before = mode();
    for failure in failures {
        let (run, _) = traced(&place, &["-e", failure], &["--sync", &image, "d"]);
        run.failed(1, &["/d\"", "sync", "EIO"]);
        assert_eq!(place.names(), ["d"], "{failure}");
        assert_eq!(mode(), before);
    }
    place.run(&[&image, "d"]).succeeded();
    let other = testkit::layers::LayerBuilder::new().file("other", "image");
    let other = other.build(testkit::layers::Compression::Gzip);
    testkit::image::Image::new().layer(other).push(&registry, "app", "v2");
    let image = format!("{}/app:v2", registry.host());
    let tree = || Tree::of(&place.path("d"), &Options::default());
    let (before, record) = (tree(), place.record("d"));
    for failure in failures {
        let (run, _) = traced(&place, &["-e", failure], &["--sync", "--force", &image, "d"]);
        run.failed(1, &["/d\"", "sync", "EIO"]);
        assert_same(&before, &tree());
        assert_eq!(place.record("d"), record, "{failure}");
        assert_eq!(place.names(), ["d", "d.image.json"], "{failure}");
    }
    let (run, _) = traced(&place, &[], &["--sync", "--force", &image, "d"]);
    run.succeeded();
    assert!(place.path("d/other").exists());
}
