//! Every file of testdata/corpus through the function that its fuzz target runs: what fuzzing once
//! found is tried with every test.
//!
//! `UPDATE_GOLDEN=1 cargo test -p ocipull --test corpus` writes the seeds anew. Files whose name
//! begins with `found-` are inputs that fuzzing found; no code makes them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod corpus_seeds;
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 10] = [
    ("challenge", targets::challenge),
    ("config", targets::config),
    ("decompress", targets::decompress),
    ("document", targets::document),
    ("layer", targets::layer),
    ("names", targets::names),
    ("pax", targets::pax),
    ("reference", targets::reference),
    ("sparse", targets::sparse),
    ("tar", targets::tar),
];

/// A repository that everybody clones is no place for megabytes of rubbish.
const MAX_CORPUS_BYTES: u64 = 300 << 10;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/corpus")
}

/// Writes the seeds where that is asked for, before either test reads them.
fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let seeds = corpus_seeds::all();
        for (target, name, data) in seeds.iter().filter(|_| env::var_os("UPDATE_GOLDEN").is_some())
        {
            let path = corpus().join(target).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, data).unwrap();
        }
    });
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("no corpus in {dir:?}: {e}"));
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_file_of_the_corpus_is_survived() {
    update();
    for (name, run) in TARGETS {
        let dir = corpus().join(name);
        let files = names(&dir);
        assert!(files.len() > 1, "{name}: got the corpus {files:?}");
        for file in files {
            let data = fs::read(dir.join(&file)).unwrap();
            let outcome = std::panic::catch_unwind(|| run(&data));
            // The panic has told its own message.
            assert!(outcome.is_ok(), "testdata/corpus/{name}/{file} breaks its target");
        }
    }
}

#[test]
fn the_seeds_are_those_that_the_code_makes() {
    update();
    let mut made = BTreeSet::new();
    for (target, name, data) in corpus_seeds::all() {
        assert!(TARGETS.iter().any(|(known, _)| *known == target), "no target {target}");
        assert!(made.insert(format!("{target}/{name}")), "two seeds {target}/{name}");
        let path = corpus().join(target).join(&name);
        let on_disk = fs::read(&path);
        let on_disk = on_disk.unwrap_or_else(|e| panic!("{path:?}: {e}; see testdata/README.md"));
        // What a compressor makes of the same data is its own affair and changes with its version.
        let same = on_disk == data || target == "decompress";
        assert!(same, "{path:?} is not what the code makes; see testdata/README.md");
    }
    let mut total = 0;
    for target in names(&corpus()) {
        for file in names(&corpus().join(&target)) {
            let known = file.starts_with("found-") || made.contains(&format!("{target}/{file}"));
            assert!(known, "testdata/corpus/{target}/{file} is neither a seed nor a finding");
            total += fs::metadata(corpus().join(&target).join(&file)).unwrap().len();
        }
    }
    assert!(total <= MAX_CORPUS_BYTES, "got a corpus of {total} bytes, want {MAX_CORPUS_BYTES}");
}
