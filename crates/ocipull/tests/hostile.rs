//! Layers that try to reach outside. Each test compares the host's side before and after.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use apply_support::{Scratch, listing, plain, unpack};
use ctsys::record::Ownership;
use testkit::layers::{Entry, Layer, LayerBuilder};
use testkit::tree::{Options, Tree, assert_same};

fn layer() -> LayerBuilder {
    LayerBuilder::new()
}

/// A host side with something to protect, beside the destination.
struct Host {
    scratch: Scratch,
    before: Tree,
}

impl Host {
    fn new() -> Self {
        let scratch = Scratch::new();
        let host = scratch.dir.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("secret"), "secret").unwrap();
        fs::set_permissions(host.join("secret"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::create_dir(host.join("dir")).unwrap();
        fs::write(host.join("dir/kept"), "kept").unwrap();
        let before = Tree::of(&host, &Options::default());
        Self { scratch, before }
    }

    fn path(&self) -> PathBuf {
        self.scratch.dir.path().join("host")
    }

    fn text(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// Unpacks, and asserts that nothing outside of the destination changed.
    fn unpack(&self, layers: &[LayerBuilder]) -> Result<Vec<String>, String> {
        let layers: Vec<Layer> = layers.iter().map(plain).collect();
        let result = self.scratch.unpack(&layers);
        self.assert_unharmed();
        match result {
            Ok(_) => Ok(listing(&self.scratch.dest())),
            Err(error) => {
                assert!(!self.scratch.dest().exists(), "a failed unpacking left a destination");
                Err(ctsys::report::chain(&error))
            }
        }
    }

    fn assert_unharmed(&self) {
        assert_same(&self.before, &Tree::of(&self.path(), &Options::default()));
        assert_eq!(self.scratch.beside(), ["host"], "something was made beside the destination");
    }
}

#[test]
fn a_path_that_leads_out_is_an_error() {
    for path in ["../x", "../host/secret", "a/../../x", "/../x", "./../host/dir", ".."] {
        let host = Host::new();
        let message = host.unpack(&[layer().file(path, "evil")]).unwrap_err();
        assert!(message.contains("leads out of the root"), "{path}: {message}");
        let message = host.unpack(&[layer().dir(path, 0o777)]).unwrap_err();
        assert!(message.contains("leads out of the root"), "{path}: {message}");
    }
    let host = Host::new();
    let message = host.unpack(&[layer().file("../host/.wh.secret", "")]).unwrap_err();
    assert!(message.contains("leads out of the root"), "{message}");
    let message = host.unpack(&[layer().file("../host/dir/.wh..wh..opq", "")]).unwrap_err();
    assert!(message.contains("leads out of the root"), "{message}");
}

#[test]
fn an_absolute_path_is_inside_the_root() {
    let host = Host::new();
    let secret = format!("{}/secret", host.text());
    let lines = host.unpack(&[layer().file(&secret, "inside")]).unwrap();
    let inside = format!("f {}=inside", secret.trim_start_matches('/'));
    assert!(lines.contains(&inside), "{lines:?}");
}

#[test]
fn nothing_is_written_through_a_link() {
    let host = Host::new();
    for target in [host.text(), "../host".into(), "../../../../../../../../..".into()] {
        let one = layer().symlink("l", &target).file("l/secret", "evil").file("l/dir/new", "evil");
        let _ = host.unpack(&[one]);
        let _ = fs::remove_dir_all(host.scratch.dest());
        let two = [layer().symlink("l", &target), layer().file("l/secret", "evil")];
        let lines = host.unpack(&two).unwrap();
        assert_eq!(lines, ["d l", "f l/secret=evil"]);
        fs::remove_dir_all(host.scratch.dest()).unwrap();
    }
    // As the last component.
    let secret = format!("{}/secret", host.text());
    for second in [layer().symlink("s", &secret).file("s", "evil"), layer().file("s", "evil")] {
        let lines = host.unpack(&[layer().symlink("s", &secret), second]).unwrap();
        assert_eq!(lines, ["f s=evil"]);
        fs::remove_dir_all(host.scratch.dest()).unwrap();
    }
}

#[test]
fn no_metadata_is_set_through_a_link() {
    let host = Host::new();
    let (dir, secret) = (format!("{}/dir", host.text()), format!("{}/secret", host.text()));
    // A directory entry over a link, with another mode, owner, time and attribute.
    for apart in [false, true] {
        let lower = layer().symlink("d", &dir).symlink("s", &secret);
        let upper = |b: LayerBuilder| {
            b.dir("d", 0o777).owner(1, 1).mtime(1, 1).xattr("user.evil", "1").dir("s", 0o777)
        };
        let layers = if apart { vec![lower, upper(layer())] } else { vec![upper(lower)] };
        assert_eq!(host.unpack(&layers).unwrap(), ["d d", "d s"]);
        fs::remove_dir_all(host.scratch.dest()).unwrap();
    }
    // A link's own metadata, and a device and a pipe in place of one.
    let links = layer()
        .symlink("s", &secret)
        .owner(5, 5)
        .mtime(9, 9)
        .mode(0o777)
        .xattr("trusted.x", "1")
        .symlink("p", &secret)
        .fifo("p")
        .mode(0o777)
        .symlink("n", &secret)
        .char_device("n", 1, 3)
        .mode(0o777);
    host.unpack(&[links]).unwrap();
}

#[test]
fn no_hard_link_reaches_the_host() {
    let host = Host::new();
    let secret = format!("{}/secret", host.text());
    for target in
        [secret.as_str(), "../host/secret", "../../host/secret", "Cargo.toml", "/etc/passwd"]
    {
        let message = host.unpack(&[layer().hardlink("x", target)]).unwrap_err();
        let told = message.contains("does not exist") || message.contains("leads out");
        assert!(told, "{target}: {message}");
    }
    // By way of the layer's own link, or a lower one's.
    let through = layer().symlink("l", host.text()).hardlink("x", "l/secret");
    host.unpack(&[through]).unwrap_err();
    let lower = layer().symlink("l", host.text());
    host.unpack(&[lower, layer().hardlink("x", "l/secret")]).unwrap_err();
    // A link to a link to the host, then a file in its place.
    let twice = layer().symlink("s", &secret).hardlink("h", "s").file("h", "evil");
    let lines = host.unpack(&[twice]).unwrap();
    assert_eq!(lines[0], "f h=evil");
}

#[test]
fn no_whiteout_removes_anything_outside() {
    let host = Host::new();
    let lower = || layer().symlink("l", host.text()).symlink("up", "../host");
    let want = [format!("l l>{}", host.text()), "l up>../host".to_owned()];
    for upper in [
        layer().whiteout("l/secret").whiteout("up/dir"),
        layer().opaque("l").opaque("up").opaque("l/dir"),
    ] {
        assert_eq!(host.unpack(&[lower(), upper]).unwrap(), want);
        fs::remove_dir_all(host.scratch.dest()).unwrap();
    }
    // Removing the link, or the directory that it stands in, leaves its target.
    let inside = layer().symlink("d/l", host.text()).hardlink("d/h", "d/l");
    assert_eq!(host.unpack(&[inside, layer().whiteout("d")]).unwrap(), [""; 0]);
}

#[test]
fn the_root_is_not_replaced() {
    let host = Host::new();
    for path in [".", "./", "/", "a/.."] {
        let entry = Entry { link: host.text().into_bytes(), ..Entry::new(b'2', path) };
        let layers = [layer().entry(entry), layer().file("secret", "evil")];
        let message = host.unpack(&layers).unwrap_err();
        assert!(message.contains("the root can only be a directory"), "{path}: {message}");
    }
}

#[test]
fn a_link_waiting_at_the_destination_is_refused() {
    for force in [false, true] {
        let host = Host::new();
        symlink(host.path().join("dir"), host.scratch.dest()).unwrap();
        let layers = [plain(&layer().file("kept", "evil"))];
        let error = unpack(&host.scratch.dest(), &layers, Ownership::Root, force).unwrap_err();
        assert!(error.to_string().contains("is a symbolic link"), "{error}");
        host.assert_unharmed();
    }
}

#[test]
fn links_waiting_beside_the_destination_are_not_followed() {
    let host = Host::new();
    let record = host.scratch.dir.path().join("dest.image.json");
    symlink(host.path().join("secret"), &record).unwrap();
    host.unpack(&[layer().file("a", "1")]).unwrap();
    assert!(!fs::symlink_metadata(&record).unwrap().is_symlink(), "the record is still a link");
    // What looks like a leftover of ours, and is not.
    symlink(host.path(), host.scratch.dir.path().join(".dest.ocipull-0")).unwrap();
    let again = [plain(&layer())];
    unpack(&host.scratch.dest(), &again, Ownership::Root, true).unwrap();
    host.assert_unharmed();
}

#[test]
fn paths_too_deep_or_too_long_are_a_bounded_error() {
    let host = Host::new();
    for depth in [10_000, 100_000] {
        let message = host.unpack(&[layer().file("d/".repeat(depth) + "x", "")]).unwrap_err();
        assert!(message.contains("the path is too long"), "{message}");
    }
    let message = host.unpack(&[layer().file("d/".repeat(1000) + "x", "")]).unwrap_err();
    assert!(message.contains("the path is deeper than 1000 names"), "{message}");
    // At the limit it works, and goes away again.
    let deep = "d/".repeat(999) + "x";
    host.scratch.unpack(&[plain(&layer().file(&deep, ""))]).unwrap();
    let layers = [plain(&layer())];
    unpack(&host.scratch.dest(), &layers, Ownership::Root, true).unwrap();
    assert_eq!(listing(&host.scratch.dest()), [""; 0]);
    // Longer and longer, and deeper and deeper, by links.
    let host = Host::new();
    let long = format!("l/{}x", "eee/".repeat(700));
    let message = host.unpack(&[layer().symlink("l", "ddd/".repeat(500)).file(long, "")]);
    assert!(message.unwrap_err().contains("once its links are followed"));
    let deep = format!("l/{}x", "e/".repeat(700));
    let message = host.unpack(&[layer().symlink("l", "d/".repeat(500)).file(deep, "")]);
    assert!(message.unwrap_err().contains("the path is deeper than 1000 names"));
}

#[test]
fn loops_of_links_are_an_error() {
    let host = Host::new();
    for builder in [
        layer().symlink("a", "a").file("a/x", ""),
        layer().symlink("a", "b").symlink("b", "a/c").file("a/x", ""),
        layer().symlink("a", "b").symlink("b", "a").hardlink("x", "a/y"),
    ] {
        let message = host.unpack(&[builder]).unwrap_err();
        assert!(message.contains("symbolic links on the way"), "{message}");
    }
}

#[test]
fn a_message_shows_a_hostile_name_escaped() {
    let host = Host::new();
    let message = host.unpack(&[layer().typed(b'Z', "a\x1b[31m\nforged")]).unwrap_err();
    assert!(message.contains("\"a\\x1b[31m\\nforged\""), "{message}");
}
