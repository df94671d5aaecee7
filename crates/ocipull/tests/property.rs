//! Random stacks of layers: the tree on disk is that of a plain model in memory.
//!
//! The stacks are the same in every run. `OCIPULL_PROPERTY_SEED=N` starts from another seed, and
//! `OCIPULL_PROPERTY_STACKS=N` tries as many.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;
mod podman;
mod property_draw;
mod property_model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apply_support::{Scratch, unpack, unpack_at_once};
use ctsys::record::Ownership;
use ocipull::apply::name::NameError;
use ocipull::apply::shape::ShapeError;
use ocipull::apply::{ApplyError, EntryError};
use podman::Podman;
use property_draw::{Kinds, Random};
use property_model::{Kind, Meta, Model, Op, Refusal, Stored};
use testkit::image::Image;
use testkit::layers::{Compression, Layer};
use testkit::programs::Run;
use testkit::tree::{Options, Times, Tree};
use testkit::user::TestUser;

const STACKS: u64 = 300;
const STACKS_AT_ONCE: u64 = 150;
const STACKS_OF_A_USER: u64 = 30;
const STACKS_OF_UMOCI: u64 = 10;
const STACKS_OF_PODMAN: u64 = 10;

#[test]
fn stacks_give_the_tree_of_the_model() {
    let mut refused = 0;
    for seed in seeds(STACKS) {
        let stack = property_draw::stack(&mut Random::new(seed), Kinds::All);
        refused += usize::from(Model::of(&stack).is_err());
        if disagreement(&stack).is_some() {
            let smallest = shrink(stack);
            let why = disagreement(&smallest).unwrap();
            panic!("seed {seed}:\n{}\n{why}", shown(&smallest));
        }
    }
    // A draw that makes no errors, or little else, is worth nothing. A few stacks may have none.
    let stacks = seeds(STACKS).count();
    let expected = if stacks < 100 { 0..=stacks } else { stacks / 50..=stacks / 2 };
    assert!(expected.contains(&refused), "got {refused} refused stacks of {stacks}");
}

/// Layers that are unpacked apart and laid over each other are the same as one after the other. How
/// far each gets before its turn differs from run to run, so there are several of each stack; one
/// that links to a lower layer's file is always laid down at that entry.
#[test]
fn stacks_unpacked_at_once_give_the_same_tree() {
    let mut several = 0;
    for seed in seeds(STACKS_AT_ONCE) {
        let stack = property_draw::stack(&mut Random::new(seed), Kinds::All);
        several += usize::from(stack.len() > 1);
        for pause_us in [0, 1000] {
            if let Some(why) = disagreement_at_once(&stack, Duration::from_micros(pause_us)) {
                panic!("seed {seed}, pause {pause_us} us:\n{}\n{why}", shown(&stack));
            }
        }
    }
    assert!(
        several * 2 > seeds(STACKS_AT_ONCE).count(),
        "got {several} stacks of more than one layer"
    );
}

fn disagreement_at_once(stack: &[Vec<Op>], pause: Duration) -> Option<String> {
    held_against_the_model(stack, |scratch, layers| {
        unpack_at_once(&scratch.dest(), layers, Ownership::Root, pause)
    })
    // Which of several errors comes first is a race.
    .filter(|why| !why.starts_with(OTHER_REFUSAL))
}

/// Found by seed 100492: the opaque marker took what the layer itself had linked, as the link to
/// itself was passed over without a note.
#[test]
fn a_hard_link_to_itself_is_its_layers_own_entry() {
    let meta = Meta { mode: 0o644, owner: (0, 0), mtime: (0, 0), xattrs: BTreeMap::new() };
    let lower = vec![Op::Leaf(b"c".to_vec(), Kind::File(b"1".to_vec()), meta)];
    for hiding in [Op::Opaque(Vec::new()), Op::Whiteout(b"c".to_vec())] {
        let stack =
            [lower.clone(), vec![Op::HardLink(b"c".to_vec(), b"./c".to_vec(), None), hiding]];
        assert_eq!(disagreement(&stack), None, "{}", shown(&stack));
        assert!(Model::of(&stack).unwrap().text(Stored::Root).contains("\nc file"));
    }
}

/// Seeds count up, from one that the environment may change.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse().unwrap());
    let first = number("OCIPULL_PROPERTY_SEED").unwrap_or(0);
    first..first + number("OCIPULL_PROPERTY_STACKS").unwrap_or(count)
}

/// How the unpacker's tree or refusal differs from the model's.
fn disagreement(stack: &[Vec<Op>]) -> Option<String> {
    held_against_the_model(stack, Scratch::unpack)
}

const OTHER_REFUSAL: &str = "want refusal";

fn held_against_the_model(
    stack: &[Vec<Op>],
    unpack: impl Fn(&Scratch, &[Layer]) -> Result<Vec<String>, ApplyError>,
) -> Option<String> {
    let want = Model::of(stack);
    let scratch = Scratch::new();
    let got = unpack(&scratch, &layers(stack));
    let left = scratch.beside();
    if !left.is_empty() {
        return Some(format!("left beside the destination: {left:?}"));
    }
    match (want, got) {
        (Ok(want), Ok(_)) => {
            let got = Tree::of(&scratch.dest(), &Options::default());
            difference(&want.text(Stored::Root), &got.text())
        }
        (Err(want), Err(got)) => {
            let class = refusal(&got);
            let message = ctsys::report::chain(&got);
            (class != Some(want)).then(|| format!("{OTHER_REFUSAL} {want:?}, got {message}"))
        }
        (Ok(_), Err(got)) => Some(format!("want a tree, got {}", ctsys::report::chain(&got))),
        (Err(want), Ok(_)) => Some(format!("got a tree, want refusal {want:?}")),
    }
}

fn difference(want: &str, got: &str) -> Option<String> {
    let missing = want.lines().filter(|line| !got.lines().any(|l| l == *line));
    let missing = missing.map(|line| format!("- {line}\n"));
    let added = got.lines().filter(|line| !want.lines().any(|l| l == *line));
    let all: String = missing.chain(added.map(|line| format!("+ {line}\n"))).collect();
    (!all.is_empty()).then(|| format!("- wanted, + got:\n{all}"))
}

fn refusal(error: &ApplyError) -> Option<Refusal> {
    let ApplyError::Entry { source, .. } = error else { return None };
    match source.as_ref() {
        EntryError::Shape(ShapeError::NotADirectory(_)) => Some(Refusal::NotADirectory),
        EntryError::Shape(ShapeError::TooManyLinks) => Some(Refusal::Links),
        EntryError::NoLinkTarget(_) => Some(Refusal::NoTarget),
        EntryError::LinkToDirectory(_) => Some(Refusal::DirTarget),
        EntryError::RootKind => Some(Refusal::Root),
        EntryError::Name(NameError::Escapes) => Some(Refusal::Escapes),
        _ => None,
    }
}

fn layers(stack: &[Vec<Op>]) -> Vec<Layer> {
    let all = [Compression::Gzip, Compression::None, Compression::ZstdFrames];
    let each = stack.iter().zip(all.into_iter().cycle());
    each.map(|(ops, compression)| property_draw::layer(ops, compression)).collect()
}

/// Takes away what is not needed for a disagreement.
fn shrink(mut stack: Vec<Vec<Op>>) -> Vec<Vec<Op>> {
    while let Some(smaller) =
        property_draw::smaller(&stack).into_iter().find(|s| disagreement(s).is_some())
    {
        stack = smaller;
    }
    stack
}

fn shown(stack: &[Vec<Op>]) -> String {
    let path = |p: &[u8]| p.escape_ascii().to_string();
    let line = |op: &Op| match op {
        Op::Dir(at, meta) => format!("  dir {} {meta:?}\n", path(at)),
        Op::Leaf(at, kind, meta) => format!("  leaf {} {kind:?} {meta:?}\n", path(at)),
        Op::HardLink(at, to, _) => format!("  hard link {} to {}\n", path(at), path(to)),
        Op::Whiteout(at) => format!("  whiteout {}\n", path(at)),
        Op::Opaque(at) => format!("  opaque {}\n", path(at)),
    };
    let layer = |(n, ops): (usize, &Vec<Op>)| {
        format!("layer {n}\n{}", ops.iter().map(line).collect::<String>())
    };
    stack.iter().enumerate().map(layer).collect()
}

/// The example that unpacks an OCI layout; cargo builds it with the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/unpack");
    assert!(path.exists(), "{path:?} is not built: build the examples first");
    path
}

fn image(stack: &[Vec<Op>]) -> Image {
    // umoci knows no zstd.
    let layer = |ops: &Vec<Op>| property_draw::layer(ops, Compression::Gzip);
    stack.iter().map(layer).fold(Image::new(), Image::layer)
}

#[test]
fn a_user_gets_the_same_tree_but_for_owners_and_devices() {
    let user = TestUser::without_subids();
    for seed in seeds(STACKS_OF_A_USER) {
        let stack = property_draw::stack(&mut Random::new(seed), Kinds::All);
        let dir = user.tempdir();
        let (layout, dest) = (dir.path().join("layout"), dir.path().join("dest"));
        image(&stack).build().write_oci_layout(&layout, "t");
        let mut command = user.command(program());
        command.arg("single").arg(&layout).arg("t").arg(&dest);
        let done = Run::new(command).finish();
        match Model::of(&stack) {
            Err(_) => assert_ne!(done.code(), Some(0), "seed {seed}: {done}"),
            Ok(want) => {
                assert_eq!(done.code(), Some(0), "seed {seed}: {done}\n{}", shown(&stack));
                let options = Options {
                    ignore_owners: true,
                    ignore_xattrs: vec!["user.rootlesscontainers".into()],
                    ..Options::default()
                };
                let got = Tree::of(&dest, &options).text();
                let difference = difference(&want.text(Stored::Single), &got);
                if let Some(difference) = difference {
                    panic!("seed {seed}:\n{}\n{difference}", shown(&stack));
                }
            }
        }
    }
}

/// Of what umoci does otherwise nothing is drawn: it has no zstd layers; it follows lower layers'
/// links on the way to an entry, a whiteout or a hard link's target, where overlayfs shadows them;
/// parents without an entry have the time at which it runs; AUFS's directory stays; a hard link to itself
/// fails. And a whiteout
/// of a directory that its own layer has gives that directory the time at which umoci runs, so times
/// of directories are left out (the test `apply_umoci` compares them).
#[test]
fn umoci_makes_the_same_trees() {
    for seed in seeds(STACKS_OF_UMOCI) {
        let stack = property_draw::stack(&mut Random::new(seed), Kinds::LikeUmoci);
        let scratch = Scratch::new();
        let (layout, bundle) =
            (scratch.dir.path().join("layout"), scratch.dir.path().join("bundle"));
        image(&stack).build().write_oci_layout(&layout, "t");
        let (from, to) = (format!("{}:t", layout.display()), bundle.display().to_string());
        let done = Run::program("umoci", &["unpack", "--image", &from, &to]).finish();
        assert_eq!(done.code(), Some(0), "seed {seed}: {done}\n{}", shown(&stack));
        unpack(&scratch.dest(), &layers(&stack), Ownership::Root, false).unwrap();
        let options = Options { times: Times::NotDirs, ..Options::default() };
        let tree = |path: &Path| Tree::of(path, &options).text();
        let difference = difference(&tree(&bundle.join("rootfs")), &tree(&scratch.dest()));
        if let Some(difference) = difference {
            panic!("seed {seed}:\n{}\n{difference}", shown(&stack));
        }
    }
}

/// Of what podman (4.3, its vfs driver) does otherwise nothing is drawn: it refuses two entries of one
/// name; puts times before 1970 to it; keeps a lower layer's attributes on a directory that the upper
/// one describes without; gives a file the metadata that a hard link's entry has; makes the directory
/// of a marker that has none; lets a whiteout take what its own layer has; follows links on the way
/// where overlayfs shadows them; and its copy of a lower layer has links to symbolic links apart.
/// Directories have the time at which it runs.
#[test]
fn podman_makes_the_same_trees() {
    let podman = Podman::new();
    for seed in seeds(STACKS_OF_PODMAN) {
        let stack = property_draw::stack(&mut Random::new(seed), Kinds::LikePodman);
        let scratch = Scratch::new();
        let layout = scratch.dir.path().join("layout");
        image(&stack).build().write_oci_layout(&layout, "t");
        let theirs = podman.unpack(&layout, "t");
        let theirs = theirs.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", shown(&stack)));
        unpack(&scratch.dest(), &layers(&stack), Ownership::Root, false).unwrap();
        let options = Options { times: Times::NotDirs, ..Options::default() };
        let tree = |path: &Path| Tree::of(path, &options).text();
        let difference = difference(&tree(&theirs), &tree(&scratch.dest()));
        if let Some(difference) = difference {
            panic!("seed {seed}:\n{}\n{difference}", shown(&stack));
        }
    }
}
