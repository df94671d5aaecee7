//! The destination: when it may be replaced, that failures leave it, what is cleaned up.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use apply_support::{Scratch, apply, apply_from, listing, plain, record, unpack};
use ctsys::record::{ImageRecord, Ownership};
use ctsys::report::Explain;
use ocipull::apply::{ApplyError, ApplyOptions, Staging, remove};
use testkit::layers::{Layer, LayerBuilder};
use testkit::tree::{Options, Tree, assert_same};

const ROOT: ApplyOptions = ApplyOptions::new(Ownership::Root, false);
const FORCED: ApplyOptions = ApplyOptions::new(Ownership::Root, true);

fn one(text: &str) -> Layer {
    plain(&LayerBuilder::new().file("f", text))
}

fn broken() -> Layer {
    plain(&LayerBuilder::new().file("f", "new").typed(b'Z', "x"))
}

#[test]
fn an_absent_or_empty_destination_is_filled_and_a_full_one_is_not() {
    let scratch = Scratch::new();
    scratch.unpack(&[one("1")]).unwrap();
    let error = scratch.unpack(&[one("2")]).unwrap_err();
    assert!(matches!(error, ApplyError::Exists { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(listing(&scratch.dest()), ["f f=1"]);
    fs::remove_file(scratch.dest().join("f")).unwrap();
    scratch.unpack(&[one("3")]).unwrap();
    assert_eq!(listing(&scratch.dest()), ["f f=3"]);
    assert_eq!(scratch.beside(), [""; 0]);
}

#[test]
fn force_replaces_the_whole_tree_and_its_record() {
    let scratch = Scratch::new();
    let old = plain(&LayerBuilder::new().file("old", "1").dir("closed", 0o000));
    scratch.unpack(&[old]).unwrap();
    let mut staging = Staging::create(&scratch.dest(), FORCED).unwrap();
    apply(&mut staging, &one("2")).unwrap();
    staging.commit(&record(Ownership::Root, "sha256:new")).unwrap();
    assert_eq!(listing(&scratch.dest()), ["f f=2"]);
    let record = ImageRecord::read(&scratch.dest()).unwrap().unwrap();
    assert_eq!(record.manifest_digest, "sha256:new");
    assert_eq!(scratch.beside(), [""; 0]);
}

#[test]
fn a_failure_leaves_the_destination_and_its_record_as_they_were() {
    let scratch = Scratch::new();
    scratch.unpack(&[one("1")]).unwrap();
    let before = Tree::of(&scratch.dest(), &Options::default());
    let record_path = ctsys::record::record_path(&scratch.dest());
    let record = fs::read(&record_path).unwrap();
    let wrong = Layer { diff_id: testkit::digest(b"else"), ..one("2") };
    for layer in [broken(), wrong] {
        unpack(&scratch.dest(), &[one("2"), layer], Ownership::Root, true).unwrap_err();
        assert_same(&before, &Tree::of(&scratch.dest(), &Options::default()));
        assert_eq!(fs::read(&record_path).unwrap(), record);
        assert_eq!(scratch.beside(), [""; 0]);
    }
}

#[test]
fn a_dropped_staging_removes_itself_and_the_parents_it_made() {
    let scratch = Scratch::new();
    let dest = scratch.dir.path().join("a/b/dest");
    let mut staging = Staging::create(&dest, ROOT).unwrap();
    apply(&mut staging, &one("1")).unwrap();
    drop(staging);
    assert!(!scratch.dir.path().join("a").exists());
    unpack(&dest, &[broken()], Ownership::Root, false).unwrap_err();
    assert!(!scratch.dir.path().join("a").exists());
    unpack(&dest, &[one("1")], Ownership::Root, false).unwrap();
    assert_eq!(listing(&dest), ["f f=1"]);
    assert!(scratch.dir.path().join("a/b/dest.image.json").exists());
}

#[test]
fn what_is_no_directory_is_named() {
    let scratch = Scratch::new();
    fs::write(scratch.dest(), "mine").unwrap();
    for options in [ROOT, FORCED] {
        let error = Staging::create(&scratch.dest(), options).unwrap_err();
        assert!(error.to_string().ends_with("is a file, want a directory or nothing"), "{error}");
    }
    assert_eq!(fs::read_to_string(scratch.dest()).unwrap(), "mine");
    for dest in ["/", ".", "..", "a/.."] {
        let error = Staging::create(Path::new(dest), ROOT).unwrap_err();
        assert!(matches!(error, ApplyError::Unnamed { .. }), "{dest}: {error}");
    }
    let below = scratch.dest().join("x/y");
    let error = Staging::create(&below, ROOT).unwrap_err();
    assert!(ctsys::report::chain(&error).contains("ENOTDIR"), "{error}");
    let error = Staging::create(Path::new("/proc"), FORCED).unwrap_err();
    assert!(matches!(error, ApplyError::MountPoint { .. }), "{error}");
}

#[test]
fn leftovers_of_killed_runs_go_and_those_of_living_ones_stay() {
    let scratch = Scratch::new();
    let leftover = scratch.dir.path().join(".dest.ocipull-00ff");
    fs::create_dir_all(leftover.join("deep/er")).unwrap();
    fs::set_permissions(&leftover, PermissionsExt::from_mode(0o000)).unwrap();
    fs::write(scratch.dir.path().join(".dest.ocipull-01.json"), "{}").unwrap();
    fs::create_dir(scratch.dir.path().join(".other.ocipull-00ff")).unwrap();
    let mut living = Staging::create(&scratch.dest(), ROOT).unwrap();
    apply(&mut living, &one("living")).unwrap();
    assert_eq!(scratch.beside().len(), 2, "{:?}", scratch.beside());
    scratch.unpack(&[one("second")]).unwrap();
    // The first one finds a full destination now, which it was not told to replace.
    let error = living.commit(&record(Ownership::Root, "sha256:1")).unwrap_err();
    assert!(matches!(error, ApplyError::Exists { .. }), "{error}");
    assert_eq!(listing(&scratch.dest()), ["f f=second"]);
    assert_eq!(scratch.beside(), [".other.ocipull-00ff"]);
}

/// What one run has on its way another must not take for a leftover, nor may one's record come to
/// stand beside the other's tree.
#[test]
fn runs_that_replace_one_destination_together_leave_a_tree_with_its_own_record() {
    let scratch = Scratch::new();
    scratch.unpack(&[one("first")]).unwrap();
    let dest = scratch.dest();
    let pull = |text: &str| {
        for _ in 0..100 {
            let mut staging = Staging::create(&dest, FORCED).unwrap();
            apply(&mut staging, &one(text)).unwrap();
            staging.commit(&record(Ownership::Root, text)).unwrap();
        }
    };
    for _ in 0..2 {
        std::thread::scope(|scope| {
            for text in ["a", "b", "c"] {
                scope.spawn(move || pull(text));
            }
        });
        let record = ImageRecord::read(&dest).unwrap().unwrap();
        assert_eq!(listing(&dest), [format!("f f={}", record.manifest_digest)]);
        assert_eq!(scratch.beside(), [""; 0]);
    }
}

#[test]
fn a_removal_takes_no_record_of_a_tree_that_comes_meanwhile() {
    let scratch = Scratch::new();
    let dest = scratch.dest();
    // Many, so that the removal is not over when the next tree comes.
    let files = (0..5000).fold(LayerBuilder::new(), |layer, n| layer.file(format!("f{n}"), ""));
    scratch.unpack(&[plain(&files)]).unwrap();
    let mut next = Staging::create(&dest, FORCED).unwrap();
    apply(&mut next, &one("next")).unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| remove(&dest));
        while dest.exists() {
            std::thread::yield_now();
        }
        next.commit(&record(Ownership::Root, "sha256:next")).unwrap();
        removal.join().unwrap().unwrap();
    });
    assert_eq!(listing(&dest), ["f f=next"]);
    let record = ImageRecord::read(&dest).unwrap().expect("the new tree's record");
    assert_eq!(record.manifest_digest, "sha256:next");
    assert_eq!(scratch.beside(), [""; 0]);
}

#[test]
fn a_staging_is_closed_to_others_until_it_is_done() {
    let scratch = Scratch::new();
    let mut staging = Staging::create(&scratch.dest(), ROOT).unwrap();
    let suid = plain(&LayerBuilder::new().dir(".", 0o755).program("s", "x").mode(0o4755));
    apply(&mut staging, &suid).unwrap();
    let name = scratch.beside().remove(0);
    let mode = fs::metadata(scratch.dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    staging.commit(&record(Ownership::Root, "sha256:1")).unwrap();
    let mode = fs::metadata(scratch.dest()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn remove_takes_tree_and_record_and_only_what_has_one() {
    let scratch = Scratch::new();
    scratch.unpack(&[one("1")]).unwrap();
    remove(&scratch.dest()).unwrap();
    assert_eq!(fs::read_dir(scratch.dir.path()).unwrap().count(), 0);
    assert!(matches!(remove(&scratch.dest()), Err(ApplyError::Missing { .. })));
    assert!(matches!(remove(&scratch.dest().join("a/b")), Err(ApplyError::Missing { .. })));
    fs::create_dir(scratch.dest()).unwrap();
    assert!(matches!(remove(&scratch.dest()), Err(ApplyError::NoRecord { .. })));
    fs::remove_dir(scratch.dest()).unwrap();
    // A record whose tree somebody removed by hand.
    scratch.unpack(&[one("1")]).unwrap();
    fs::remove_dir_all(scratch.dest()).unwrap();
    remove(&scratch.dest()).unwrap();
    assert_eq!(fs::read_dir(scratch.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_destination_with_the_longest_name_and_a_trailing_slash_works() {
    let scratch = Scratch::new();
    // The record's name has eleven bytes more.
    let name = "n".repeat(244);
    let dest = scratch.dir.path().join(&name).join("");
    unpack(&dest, &[one("1")], Ownership::Root, false).unwrap();
    unpack(&dest, &[one("2")], Ownership::Root, true).unwrap();
    assert_eq!(listing(&dest), ["f f=2"]);
    assert!(scratch.dir.path().join(format!("{name}.image.json")).exists());
    let before = Tree::of(&dest, &Options::default());
    assert_same(&before, &Tree::of(&scratch.dir.path().join(&name), &Options::default()));
}

/// As with a signal while a blob is read that is on this machine: there is no download to end.
#[test]
fn a_layer_that_nobody_wants_any_more_ends_in_the_middle() {
    struct Stopping<'a> {
        bytes: &'a [u8],
        staging: &'a Staging,
    }
    impl Read for Stopping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            // More has come than waits between the threads, so the layer is being written.
            if self.bytes.len() < 8 << 20 {
                self.staging.stop();
            }
            self.bytes.read(buffer)
        }
    }
    let scratch = Scratch::new();
    let layer = plain(&LayerBuilder::new().file("large", vec![b'x'; 16 << 20]));
    let staging = Staging::create(&scratch.dest(), ROOT).unwrap();
    let mut blob = Stopping { bytes: layer.bytes.as_ref(), staging: &staging };
    let error = apply_from(&staging, &layer, &mut blob).unwrap_err();
    assert!(error.is_consequence(), "{error}");
    drop(staging);
    assert!(!scratch.dest().exists());
    assert_eq!(scratch.beside(), [""; 0]);
}
