//! `ocipull verify` over random stacks of layers, and against the trees as `testkit::tree` reads
//! them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;
mod common;
#[allow(dead_code, reason = "another test uses the rest")]
mod property_draw;
#[allow(dead_code, reason = "another test uses the rest")]
mod property_model;
mod verify_support;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use apply_support::unpack;
use ctsys::record::Ownership;
use ctsys::rootdir;
use ocipull::compare::{self, Aspect, Change, Difference, Listener};
use property_draw::{Kinds, Random};
use property_model::Op;
use testkit::image::Image;
use testkit::layers::Compression;
use testkit::tree::{Options, Tree, escape};
use verify_support::{ALL, Setup, Who};

/// Enough that every kind of entry meets every other; a run of the program takes a moment.
const STACKS: u64 = 25;
const PAIRS: u64 = 150;

fn stack(seed: u64) -> Vec<Vec<Op>> {
    property_draw::stack(&mut Random::new(seed), Kinds::All)
}

#[test]
fn every_tree_matches_right_after_its_pull() {
    for who in ALL {
        let setup = Setup::new(who);
        let mut pulled = 0;
        for seed in 0..STACKS {
            let layers = stack(seed);
            let layers = layers.iter().map(|ops| property_draw::layer(ops, Compression::Gzip));
            layers.fold(Image::new(), Image::layer).push(&setup.registry, "app", "v1");
            let image = format!("{}/app:v1", setup.registry.host());
            // Some stacks are refused, and with subordinate ids those with an owner beyond.
            if setup.run(&["--force", &image, "d"]).code != Some(0) {
                continue;
            }
            pulled += 1;
            let run = setup.run(&["verify", "d"]);
            assert!(run.code == Some(0) && run.stdout.is_empty(), "{who:?}, seed {seed}: {run}");
        }
        let least = if who == Who::Subuid { STACKS / 5 } else { STACKS / 2 };
        assert!(pulled >= least, "{who:?}: only {pulled} of {STACKS} stacks were pulled");
    }
}

struct All(BTreeMap<String, Difference>);

impl Listener for All {
    fn found(&mut self, difference: &Difference) -> io::Result<()> {
        let path = match difference.path.as_slice() {
            b"" => ".".to_owned(),
            path => path.split(|&b| b == b'/').map(escape).collect::<Vec<_>>().join("/"),
        };
        let before = self.0.insert(path, difference.clone());
        assert_eq!(before, None, "told twice");
        Ok(())
    }
}

/// Two trees of other images, compared here and as text: the same paths differ.
#[test]
fn what_is_told_is_what_another_reader_of_trees_sees() {
    let temp = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for seed in 0..PAIRS {
        let dests = [temp.path().join("one"), temp.path().join("two")];
        let made = dests.each_ref().map(|dest| {
            // The second has a layer more, so that much of it stays the same.
            let mut layers = stack(seed);
            if dest.ends_with("two") {
                layers.extend(stack(seed + 10_000));
            }
            let layers = layers.iter().map(|ops| property_draw::layer(ops, Compression::None));
            unpack(dest, &layers.collect::<Vec<_>>(), Ownership::Root, true).is_ok()
        });
        if made != [true, true] {
            continue;
        }
        compared += 1;
        let [one, two] = dests;
        let open = |path: &Path| rootdir::open_dir(path).unwrap();
        let mut told = All(BTreeMap::new());
        compare::compare(open(&one), open(&two), &mut told).unwrap();
        // Which of several names is told when links differ is a matter of words.
        told.0.retain(|_, difference| difference.change != Change::Changed(vec![Aspect::Links]));
        assert_eq!(paths_of(&told.0), paths_of_text(&one, &two), "seed {seed}");
    }
    assert!(compared >= PAIRS / 2, "only {compared} of {PAIRS} pairs were unpacked");
}

fn paths_of(told: &BTreeMap<String, Difference>) -> BTreeSet<String> {
    let letter = |difference: &Difference| match difference.change {
        Change::Added => 'A',
        Change::Changed(_) => 'M',
        Change::Removed => 'D',
    };
    told.iter().map(|(path, difference)| format!("{} {path}", letter(difference))).collect()
}

fn paths_of_text(one: &Path, two: &Path) -> BTreeSet<String> {
    let lines = |path| {
        let text = Tree::of(path, &Options::default()).text();
        let line = |line: &str| {
            let (path, rest) = line.split_once(' ').unwrap();
            let rest = rest.split(" hardlink-of=").next().unwrap_or_default();
            (path.to_owned(), rest.to_owned())
        };
        text.lines().map(line).collect::<BTreeMap<_, _>>()
    };
    let (one, two) = (lines(one), lines(two));
    let is_dir = |tree: &BTreeMap<String, String>, path: &str| {
        tree.get(path).is_some_and(|line| line.starts_with("dir "))
    };
    let is_below_one_line = |path: &str| {
        let ends = path.match_indices('/').map(|(at, _)| &path[..at]);
        ends.into_iter().any(|outer| !(is_dir(&one, outer) && is_dir(&two, outer)))
    };
    let all: BTreeSet<&String> = one.keys().chain(two.keys()).collect();
    let letter = |path: &&String| match (one.get(*path), two.get(*path)) {
        (None, Some(_)) => Some('A'),
        (Some(_), None) => Some('D'),
        (a, b) => (a != b).then_some('M'),
    };
    let told = all.into_iter().filter(|path| !is_below_one_line(path));
    told.filter_map(|path| letter(&path).map(|letter| format!("{letter} {path}"))).collect()
}
