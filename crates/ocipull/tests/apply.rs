//! What layers mean: every case of whiteouts, type changes and links, with its exact result.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use std::time::Duration;

use apply_support::{Scratch, apply, listed, listing, plain, record, refused, unpack_at_once};
use ctsys::record::Ownership;
use ocipull::apply::{ApplyOptions, Staging};
use testkit::layers::LayerBuilder;

fn layer() -> LayerBuilder {
    LayerBuilder::new()
}

/// A lower layer with a bit of everything.
fn base() -> LayerBuilder {
    layer()
        .dir("d", 0o755)
        .file("d/a", "1")
        .file("d/b", "1")
        .dir("d/sub", 0o755)
        .file("d/sub/x", "1")
        .file("f", "1")
        .symlink("l", "d")
}

const BASE: [&str; 7] = ["d d", "f d/a=1", "f d/b=1", "d d/sub", "f d/sub/x=1", "f f=1", "l l>d"];

/// The base's listing without what begins like one of `gone`, and with `added`.
fn base_with(gone: &[&str], added: &[&str]) -> Vec<String> {
    let path = |line: &str| line[2..].split(['=', '>']).next().unwrap().to_owned();
    let is_gone = |line: &&str| {
        let path = path(line);
        gone.iter().any(|g| path == *g || path.starts_with(&format!("{g}/")))
    };
    let kept = BASE.into_iter().filter(|line| !is_gone(line));
    let mut lines: Vec<String> = kept.chain(added.iter().copied()).map(str::to_owned).collect();
    lines.sort_by_key(|line| path(line));
    lines
}

#[test]
fn no_layers_are_an_empty_root_and_so_are_empty_ones() {
    assert_eq!(listed(&[]), [""; 0]);
    assert_eq!(listed(&[layer(), layer()]), [""; 0]);
    assert_eq!(listed(&[base()]), BASE);
    assert_eq!(listed(&[base(), base(), layer()]), BASE);
}

#[test]
fn a_whiteout_hides_files_links_and_whole_directories() {
    assert_eq!(listed(&[base(), layer().whiteout("f")]), base_with(&["f"], &[]));
    assert_eq!(listed(&[base(), layer().whiteout("l")]), base_with(&["l"], &[]));
    assert_eq!(listed(&[base(), layer().whiteout("d")]), base_with(&["d"], &[]));
    assert_eq!(listed(&[base(), layer().whiteout("d/sub/x")]), base_with(&["d/sub/x"], &[]));
}

#[test]
fn a_whiteout_keeps_what_its_own_layer_has_in_both_orders() {
    let want = base_with(&["f"], &["f f=2"]);
    assert_eq!(listed(&[base(), layer().whiteout("f").file("f", "2")]), want);
    assert_eq!(listed(&[base(), layer().file("f", "2").whiteout("f")]), want);
    let want = base_with(&["d"], &["d d", "f d/n=2"]);
    assert_eq!(listed(&[base(), layer().whiteout("d").dir("d", 0o755).file("d/n", "2")]), want);
    assert_eq!(listed(&[base(), layer().dir("d", 0o755).file("d/n", "2").whiteout("d")]), want);
    assert_eq!(listed(&[base(), layer().file("d/n", "2").whiteout("d")]), want);
    let want = base_with(&["d"], &["d d", "d d/sub", "f d/sub/n=2"]);
    assert_eq!(listed(&[base(), layer().file("d/sub/n", "2").whiteout("d")]), want);
    assert_eq!(listed(&[base(), layer().whiteout("d").file("d/sub/n", "2")]), want);
}

#[test]
fn a_whiteout_of_nothing_or_through_a_link_does_nothing() {
    assert_eq!(listed(&[base(), layer().whiteout("none")]), BASE);
    assert_eq!(listed(&[base(), layer().whiteout("no/such/dir")]), BASE);
    assert_eq!(listed(&[base(), layer().whiteout("l/a")]), BASE);
    assert_eq!(listed(&[base(), layer().whiteout("f/a")]), BASE);
    assert_eq!(listed(&[layer().whiteout("x"), base()]), BASE);
    // A link of the same layer is none to delete through either.
    let own = layer().symlink("l2", "d").whiteout("l2/a");
    assert_eq!(listed(&[base(), own]), base_with(&[], &["l l2>d"]));
}

#[test]
fn an_opaque_marker_hides_lower_layers_only_in_both_orders() {
    let want = base_with(&["d"], &["d d", "f d/n=2"]);
    assert_eq!(listed(&[base(), layer().dir("d", 0o755).opaque("d").file("d/n", "2")]), want);
    assert_eq!(listed(&[base(), layer().dir("d", 0o755).file("d/n", "2").opaque("d")]), want);
    let want = base_with(&["d"], &["d d", "d d/sub", "f d/sub/n=2"]);
    assert_eq!(listed(&[base(), layer().file("d/sub/n", "2").opaque("d")]), want);
    assert_eq!(listed(&[base(), layer().opaque("d").file("d/sub/n", "2")]), want);
    assert_eq!(listed(&[base(), layer().opaque("d")]), base_with(&["d"], &["d d"]));
    assert_eq!(listed(&[base(), layer().file("n", "2").opaque(".")]), ["f n=2"]);
    assert_eq!(listed(&[base(), layer().opaque("l")]), BASE);
    assert_eq!(listed(&[base(), layer().opaque("none")]), BASE);
    let again = layer().file("d/late", "3");
    let want = base_with(&["d"], &["d d", "f d/late=3"]);
    assert_eq!(listed(&[base(), layer().opaque("d"), again]), want);
}

#[test]
fn a_whiteout_that_names_nothing_is_refused() {
    for name in [".wh.", "d/.wh.", ".wh..", ".wh..."] {
        let message = refused(&[base(), layer().file(name, "")]);
        assert!(message.contains("a whiteout that names nothing"), "{name}: {message}");
    }
    let message = refused(&[base(), layer().file(".wh.d/x", "")]);
    assert!(message.contains("a whiteout used as a directory"), "{message}");
}

#[test]
fn what_aufs_kept_is_skipped_but_its_link_targets_serve() {
    let aufs = layer()
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.orph", 0o700)
        .file(".wh..wh.orph/x", "")
        .dir(".wh..wh.plnk", 0o700)
        .file(".wh..wh.plnk/12.34", "linked")
        .hardlink("one", ".wh..wh.plnk/12.34")
        .hardlink("two", ".wh..wh.plnk/12.34");
    assert_eq!(listed(&[aufs]), ["f one=linked", "f two=linked (one)"]);
}

#[test]
fn a_type_change_goes_both_ways() {
    let cases: [(&str, LayerBuilder, &[&str]); 9] = [
        ("d", layer().file("d", "2"), &["f d=2"]),
        ("d", layer().symlink("d", "f"), &["l d>f"]),
        ("d", layer().fifo("d"), &["p d"]),
        ("f", layer().dir("f", 0o755), &["d f"]),
        ("f", layer().file("f/x", "2"), &["d f", "f f/x=2"]),
        ("f", layer().symlink("f", "d"), &["l f>d"]),
        ("l", layer().file("l", "2"), &["f l=2"]),
        ("l", layer().dir("l", 0o755), &["d l"]),
        ("l", layer().symlink("l", "f"), &["l l>f"]),
    ];
    for (path, upper, want) in cases {
        assert_eq!(listed(&[base(), upper]), base_with(&[path], want), "{path} -> {want:?}");
    }
}

#[test]
fn a_lower_layers_link_is_shadowed_and_the_own_one_followed() {
    let usr = || layer().file("usr/lib/libc", "1").symlink("lib", "usr/lib");
    // A directory entry over a link, and a path through it, make a real directory.
    let real = ["d lib", "f lib/x=2", "d usr", "d usr/lib", "f usr/lib/libc=1"];
    assert_eq!(listed(&[usr(), layer().dir("lib", 0o755).file("lib/x", "2")]), real);
    assert_eq!(listed(&[usr(), layer().file("lib/x", "2")]), real);
    // Within one layer it leads where it points, absolute or not.
    let followed = ["l lib>usr/lib", "d usr", "d usr/lib", "f usr/lib/libc=1", "f usr/lib/x=2"];
    assert_eq!(listed(&[usr().file("lib/x", "2")]), followed);
    let absolute = layer().symlink("lib", "/usr/lib").file("lib/x", "2");
    assert_eq!(listed(&[absolute]), ["l lib>/usr/lib", "d usr", "d usr/lib", "f usr/lib/x=2"]);
    // The lower layer's directory is met where the own link leads to it.
    let upper = layer().symlink("lib64", "usr/lib").file("lib64/y", "2");
    let both = [
        "l lib>usr/lib",
        "l lib64>usr/lib",
        "d usr",
        "d usr/lib",
        "f usr/lib/libc=1",
        "f usr/lib/y=2",
    ];
    assert_eq!(listed(&[usr(), upper]), both);
}

/// As umoci and rsync have it with the option of this name.
#[test]
fn with_keep_dirlinks_a_lower_layers_link_to_a_directory_stays() {
    let keeping = |layers: &[LayerBuilder]| {
        let scratch = Scratch::new();
        let options =
            ApplyOptions { keep_dirlinks: true, ..ApplyOptions::new(Ownership::Root, false) };
        let mut staging = Staging::create(&scratch.dest(), options).unwrap();
        layers.iter().for_each(|layer| apply(&mut staging, &plain(layer)).unwrap());
        staging.commit(&record(Ownership::Root, "sha256:0")).unwrap();
        (listing(&scratch.dest()), scratch)
    };
    let usr = || {
        layer()
            .file("usr/lib/libc", "1")
            .symlink("lib", "usr/lib")
            .symlink("lib64", "../lib")
            .symlink("root", "/")
            .symlink("nowhere", "none")
            .symlink("loop", "loop")
            .symlink("file", "usr/lib/libc")
    };
    let links = ["l lib64>../lib", "l lib>usr/lib", "l loop>loop", "l nowhere>none", "l root>/"];
    let with = |more: &[&str]| {
        let files = ["d usr", "d usr/lib", "f usr/lib/libc=1", "l file>usr/lib/libc"];
        let mut all: Vec<String> =
            links.iter().chain(&files).chain(more).map(|line| (*line).to_owned()).collect();
        all.sort_by(|a, b| a[2..].cmp(&b[2..]));
        all
    };
    let sorted = |layers: &[LayerBuilder]| {
        let (mut all, _) = keeping(layers);
        all.sort_by(|a, b| a[2..].cmp(&b[2..]));
        all
    };
    // By a path through it, by an entry of its own, over several links, and from the root on.
    assert_eq!(sorted(&[usr(), layer().file("lib/x", "2")]), with(&["f usr/lib/x=2"]));
    let explicit = layer().dir("lib", 0o700).file("lib/x", "2");
    assert_eq!(sorted(&[usr(), explicit]), with(&["f usr/lib/x=2"]));
    assert_eq!(
        sorted(&[usr(), layer().file("lib64/d/x", "2")]),
        with(&["d usr/lib/d", "f usr/lib/d/x=2"])
    );
    assert_eq!(sorted(&[usr(), layer().file("root/root/x", "2")]), with(&["f x=2"]));
    // The entry's metadata is that of the directory behind the link.
    let (_, scratch) = keeping(&[usr(), layer().dir("lib", 0o700)]);
    let mode = std::fs::metadata(scratch.dest().join("usr/lib")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777, 0o700);
    // What leads to no directory gives way, as without the option.
    for name in ["nowhere", "loop", "file"] {
        let (all, _) = keeping(&[usr(), layer().dir(name, 0o755)]);
        assert!(all.contains(&format!("d {name}")), "{all:?}");
    }
    // A file takes the place of a link all the same.
    let (all, _) = keeping(&[usr(), layer().file("lib", "2")]);
    assert!(all.contains(&"f lib=2".to_owned()), "{all:?}");
}

#[test]
fn the_last_of_equal_paths_wins() {
    assert_eq!(listed(&[layer().file("x", "1").file("x", "2")]), ["f x=2"]);
    assert_eq!(listed(&[layer().file("x", "1").dir("x", 0o755)]), ["d x"]);
    assert_eq!(listed(&[layer().file("x/y", "1").file("x", "2")]), ["f x=2"]);
    assert_eq!(
        listed(&[layer().symlink("x", "y").dir("x", 0o755).file("x/z", "1")]),
        ["d x", "f x/z=1"]
    );
    assert_eq!(listed(&[layer().file("x", "1").symlink("x", "y")]), ["l x>y"]);
    let replaced = layer().file("x/y", "1").file("x", "2").dir("x", 0o755).file("x/z", "3");
    assert_eq!(listed(&[replaced]), ["d x", "f x/z=3"]);
    let relinked = layer().symlink("l", "a").file("l/1", "").symlink("l", "b").file("l/2", "");
    assert_eq!(listed(&[relinked]), ["d a", "f a/1=", "d b", "f b/2=", "l l>b"]);
}

#[test]
fn hard_links_link_within_and_across_layers() {
    let two = ["f a=1", "f b=1 (a)"];
    assert_eq!(listed(&[layer().file("a", "1").hardlink("b", "a")]), two);
    assert_eq!(listed(&[layer().file("a", "1").hardlink("b", "/a")]), two);
    assert_eq!(listed(&[layer().file("a", "1").hardlink("b", "./a")]), two);
    assert_eq!(listed(&[layer().file("a", "1"), layer().hardlink("b", "a")]), two);
    // To a link: the link itself.
    let link = layer().symlink("a", "/nowhere").hardlink("b", "a");
    assert_eq!(listed(&[link]), ["l a>/nowhere", "l b>/nowhere (a)"]);
    // Which is then followed like the first.
    let through = layer().symlink("a", "t").hardlink("b", "a").file("b/x", "1");
    assert_eq!(listed(&[through]), ["l a>t", "l b>t (a)", "d t", "f t/x=1"]);
    let below = layer().symlink("a", "t");
    let through = layer().hardlink("b", "a").file("b/x", "1");
    assert_eq!(listed(&[below, through]), ["l a>t", "l b>t (a)", "d t", "f t/x=1"]);
    // Over something, also over itself.
    let over = layer().file("a", "1").file("b/c", "2").hardlink("b", "a").hardlink("a", "a");
    assert_eq!(listed(&[over]), two);
    // Through the layer's own link.
    let parent = layer().file("d/a", "1").symlink("l", "d").hardlink("b", "l/a");
    assert_eq!(listed(&[parent]), ["f b=1", "d d", "f d/a=1 (b)", "l l>d"]);
}

#[test]
fn one_of_several_hard_links_is_replaced_alone() {
    let linked = layer().file("a", "1").hardlink("b", "a").hardlink("c", "a");
    let want = ["f a=1", "f b=2", "f c=1 (a)"];
    assert_eq!(listed(&[linked.clone(), layer().file("b", "2")]), want);
    assert_eq!(listed(&[linked.clone().file("b", "2")]), want);
    assert_eq!(listed(&[linked, layer().whiteout("a")]), ["f b=1", "f c=1 (b)"]);
}

#[test]
fn a_hard_link_to_nothing_or_a_directory_is_refused() {
    for upper in [
        layer().hardlink("x", "none"),
        layer().hardlink("x", "no/such/dir"),
        layer().hardlink("x", "l/a"),
        layer().whiteout("f").hardlink("x", "f"),
        layer().hardlink("d", "d/a"),
    ] {
        let message = refused(&[base(), upper]);
        assert!(message.contains("does not exist"), "{message}");
    }
    let message = refused(&[base(), layer().hardlink("x", "d")]);
    assert!(message.contains("which is a directory"), "{message}");
    let message = refused(&[base(), layer().hardlink("x", ".")]);
    assert!(message.contains("which is a directory"), "{message}");
}

#[test]
fn an_unknown_type_and_a_file_below_a_file_are_refused() {
    let message = refused(&[layer().typed(b'Z', "x")]);
    assert!(message.contains("unknown entry type 'Z'"), "{message}");
    let message = refused(&[layer().file("x", "").file("x/y", "")]);
    assert!(message.contains("\"x\" in the same layer is not a directory"), "{message}");
    let message = refused(&[layer().symlink("a", "b").symlink("b", "a").file("a/x", "")]);
    assert!(message.contains("symbolic links on the way"), "{message}");
}

#[test]
fn a_global_header_makes_no_file() {
    let global = layer().global_pax(&[("comment", "a commit")]).file("x", "1");
    assert_eq!(listed(&[global]), ["f x=1"]);
}

/// What a layer may take is its own matter: else each of several at once could take what all layers'
/// entries allow, and whether one may would depend on which come first.
#[test]
fn the_many_entries_of_one_layer_are_no_room_for_another_ones_deep_paths() {
    let many = (0..8000).fold(LayerBuilder::new(), |layer, n| layer.file(format!("f{n}"), ""));
    let deep = |n: usize| format!("{n}/") + &"d/".repeat(990) + "x";
    let deep = (0..7).fold(LayerBuilder::new(), |layer, n| layer.file(deep(n), ""));
    let layers = [plain(&many), plain(&deep)];
    let scratch = Scratch::new();
    let one_by_one = scratch.unpack(&layers).unwrap_err();
    let at_once =
        unpack_at_once(&scratch.dest(), &layers, Ownership::Root, Duration::ZERO).unwrap_err();
    for error in [one_by_one, at_once] {
        let text = ctsys::report::chain(&error);
        assert!(text.contains("the paths together are longer"), "{text}");
    }
}
