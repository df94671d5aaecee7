//! The same tree as umoci's, from the same image.

#![allow(clippy::unwrap_used, clippy::panic, clippy::too_many_lines)]

mod apply_support;

use apply_support::{Scratch, unpack};
use ctsys::record::Ownership;
use testkit::image::Image;
use testkit::layers::{Compression, Layer, LayerBuilder};
use testkit::programs::Run;
use testkit::tree::{Options, Tree, assert_same};

/// What both unpackers see alike: umoci follows lower layers' links where overlayfs shadows them,
/// so no path here goes through one.
fn layers() -> Vec<Layer> {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let one = LayerBuilder::new()
        .dir("./", 0o755)
        .mtime(100, 1)
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .mtime(50, 5)
        .program("usr/bin/su", "setuid")
        .mode(0o4755)
        .owner(0, 12)
        .program("usr/bin/ping", "raw")
        .xattr("security.capability", capability)
        .hardlink("usr/bin/ping6", "usr/bin/ping")
        .symlink("bin", "usr/bin")
        .mtime(3, 4)
        .dir("etc", 0o755)
        .file("etc/passwd", "root")
        .owner(0, 0)
        .mtime(1, 999_999_999)
        .file("etc/shadow", "secret")
        .mode(0o640)
        .owner(0, 42)
        .dir("var", 0o755)
        .dir("var/mail", 0o2775)
        .owner(0, 8)
        .dir("tmp", 0o1777)
        .dir("gone", 0o755)
        .file("gone/a", "1")
        .file("gone/b", "2")
        .dir("opaque", 0o755)
        .file("opaque/old", "1")
        .dir("opaque/sub", 0o755)
        .file("opaque/sub/old", "1")
        .file("to-dir", "1")
        .dir("to-file", 0o755)
        .file("to-file/x", "1")
        .char_device("null", 1, 3)
        .mode(0o666)
        .fifo("pipe")
        .mode(0o600)
        .file("\u{fc}ml\u{e4}ut", "1")
        .file("n".repeat(200), "long");
    let two = LayerBuilder::new()
        .dir("etc", 0o755)
        .mtime(60, 6)
        .file("etc/passwd", "root and more")
        .mtime(7, 7)
        .whiteout("gone/a")
        .dir("opaque", 0o700)
        .mtime(61, 0)
        .opaque("opaque")
        .file("opaque/new", "2")
        .dir("to-dir", 0o750)
        .file("to-dir/x", "2")
        .file("to-file", "2")
        .hardlink("etc/passwd-", "etc/passwd")
        .symlink("abs", "/etc/passwd")
        .dir("home", 0o755)
        .dir("home/u", 0o700)
        .owner(1000, 1000)
        .xattr("user.note", "mine");
    let three = LayerBuilder::new()
        .whiteout("gone")
        .file("usr/bin/su", "replaced")
        .mode(0o755)
        .dir("home", 0o755)
        .file("home/late", "3")
        .mtime(-5, 0);
    vec![one.build(Compression::Gzip), two.build(Compression::Gzip), three.build(Compression::Gzip)]
}

#[test]
fn the_tree_is_the_one_that_umoci_makes() {
    let scratch = Scratch::new();
    let layout = scratch.dir.path().join("layout");
    let mut image = Image::new();
    for layer in layers() {
        image = image.layer(layer);
    }
    image.build().write_oci_layout(&layout, "t");
    let bundle = scratch.dir.path().join("bundle");
    let (from, to) = (format!("{}:t", layout.display()), bundle.display().to_string());
    Run::program("umoci", &["unpack", "--image", &from, &to]).finish().assert_success();
    unpack(&scratch.dest(), &layers(), Ownership::Root, false).unwrap();
    let theirs = Tree::of(&bundle.join("rootfs"), &Options::default());
    assert!(theirs.paths().len() > 25, "umoci unpacked too little:\n{}", theirs.text());
    assert_same(&theirs, &Tree::of(&scratch.dest(), &Options::default()));
}
