//! Owners, modes, times and attributes, as root, and the odd forms that headers come in.

#![allow(clippy::unwrap_used, clippy::panic)]

mod apply_support;

use apply_support::{Scratch, listed, plain, refused};
use testkit::layers::{Entry, LayerBuilder};
use testkit::tree::{Options, Tree};

fn layer() -> LayerBuilder {
    LayerBuilder::new()
}

struct Unpacked {
    tree: Tree,
    warnings: Vec<String>,
}

impl Unpacked {
    /// Whether the entry's line has all the words.
    fn assert_has(&self, path: &str, words: &[&str]) {
        let line =
            self.tree.get(path).unwrap_or_else(|| panic!("no {path}:\n{}", self.tree.text()));
        for word in words {
            let found = line.split(' ').any(|w| w == *word);
            assert!(found, "{path}: want {word}, got {line}");
        }
    }

    fn assert_lacks(&self, path: &str, text: &str) {
        let line = self.tree.get(path).unwrap();
        assert!(!line.contains(text), "{path}: want no {text}, got {line}");
    }
}

fn unpacked(layers: &[LayerBuilder]) -> Unpacked {
    let scratch = Scratch::new();
    let layers: Vec<_> = layers.iter().map(plain).collect();
    let warnings = match scratch.unpack(&layers) {
        Ok(warnings) => warnings,
        Err(error) => panic!("{}", ctsys::report::chain(&error)),
    };
    Unpacked { tree: Tree::of(&scratch.dest(), &Options::default()), warnings }
}

#[test]
fn modes_survive_the_change_of_owner() {
    let got = unpacked(&[layer()
        .file("suid", "x")
        .owner(1000, 2000)
        .mode(0o6755)
        .dir("sticky", 0o1777)
        .dir("sgid", 0o2750)
        .owner(7, 8)
        .file("sgid/inside", "")
        .mode(0o000)
        .fifo("pipe")
        .mode(0o622)
        .owner(5, 6)
        .symlink("link", "suid")
        .owner(3, 4)]);
    got.assert_has("suid", &["mode=6755", "owner=1000:2000"]);
    got.assert_has("sticky", &["mode=1777", "owner=0:0"]);
    got.assert_has("sgid", &["mode=2750", "owner=7:8"]);
    // The set-group-id bit of the directory comes last, so it gives its group to nothing.
    got.assert_has("sgid/inside", &["mode=0000", "owner=0:0"]);
    got.assert_has("pipe", &["mode=0622", "owner=5:6"]);
    got.assert_has("link", &["owner=3:4"]);
    assert_eq!(got.warnings, [""; 0]);
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970_and_of_directories() {
    let got = unpacked(&[
        layer()
            .dir("d", 0o755)
            .mtime(1000, 1)
            .file("d/f", "x")
            .mtime(-1, 500_000_000)
            .symlink("d/l", "f")
            .mtime(2000, 2)
            .fifo("d/p")
            .mtime(3000, 3)
            .dir("d/e", 0o755)
            .mtime(4000, 4)
            .dir(".", 0o755)
            .mtime(5000, 5),
        layer().file("d/late", "").whiteout("d/e/none"),
    ]);
    got.assert_has("d", &["mtime=1000.000000001"]);
    got.assert_has("d/f", &["mtime=-1.500000000"]);
    got.assert_has("d/l", &["mtime=2000.000000002"]);
    got.assert_has("d/p", &["mtime=3000.000000003"]);
    got.assert_has("d/e", &["mtime=4000.000000004"]);
    got.assert_has(".", &["mtime=5000.000000005"]);
}

#[test]
fn a_time_past_what_the_disk_holds_is_no_error() {
    let huge = Entry { base256: true, mtime: 1 << 40, ..Entry::new(b'0', "huge") };
    let got = unpacked(&[layer().entry(huge)]);
    assert!(got.tree.get("huge").is_some());
}

#[test]
fn missing_parents_and_the_root_are_roots_0755_and_of_1970() {
    let got = unpacked(&[layer().file("a/b/c", "")]);
    for path in [".", "a", "a/b"] {
        got.assert_has(path, &["mode=0755", "owner=0:0", "mtime=0.000000000"]);
    }
    // A lower layer's word on a directory stands where the upper one only implies it.
    let got = unpacked(&[layer().dir("a", 0o700).owner(5, 5), layer().file("a/b", "")]);
    got.assert_has("a", &["mode=0700", "owner=5:5"]);
    // But not where the upper one hides it.
    for upper in [layer().whiteout("a").file("a/b", ""), layer().file("a/b", "").whiteout("a")] {
        let got = unpacked(&[layer().dir("a", 0o700).owner(5, 5).xattr("user.x", "1"), upper]);
        got.assert_has("a", &["mode=0755", "owner=0:0", "mtime=0.000000000"]);
        got.assert_lacks("a", "user.x");
    }
}

#[test]
fn the_roots_own_entry_counts() {
    let got = unpacked(&[layer().dir("./", 0o711).owner(3, 4).mtime(9, 0).file("x", "")]);
    got.assert_has(".", &["mode=0711", "owner=3:4", "mtime=9.000000000"]);
    for entry in [Entry::new(b'2', "."), Entry::new(b'0', "/"), Entry::new(b'1', "./")] {
        let message = refused(&[layer().entry(Entry { link: b"x".to_vec(), ..entry })]);
        assert!(message.contains("the root can only be a directory"), "{message}");
    }
}

#[test]
fn a_directory_over_a_directory_has_the_uppers_metadata_alone() {
    let got = unpacked(&[
        layer().dir("d", 0o700).owner(1, 1).xattr("user.lower", "1").file("d/kept", ""),
        layer().dir("d", 0o755).owner(2, 2).mtime(7, 0).xattr("user.upper", "2"),
    ]);
    got.assert_has("d", &["mode=0755", "owner=2:2", "mtime=7.000000000", "xattr=user.upper=2"]);
    got.assert_lacks("d", "user.lower");
    assert!(got.tree.get("d/kept").is_some());
}

/// A version 2 capability set with CAP_NET_RAW (capability.h, `vfs_cap_data`).
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn attributes_are_kept_and_the_hosts_own_dropped() {
    let got = unpacked(&[layer()
        .file("f", "x")
        .owner(1000, 1000)
        .mode(0o755)
        .xattr("user.bytes", b"a\0b\n=")
        .xattr("user.empty", "")
        .xattr("security.capability", CAP_NET_RAW)
        .xattr("security.selinux", "system_u:object_r:etc_t:s0\0")
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.kept", "1")
        .xattr("user.rootlesscontainers", "forged")
        .dir("d", 0o555)
        .xattr("user.d", "1")
        .symlink("l", "f")
        .xattr("trusted.l", "1")]);
    got.assert_has("f", &["owner=1000:1000", "xattr=user.empty=", "xattr=trusted.kept=1"]);
    let line = got.tree.get("f").unwrap();
    assert!(line.contains("xattr=user.bytes=a\\x00b\\x0a="), "{line}");
    assert!(line.contains("xattr=security.capability="), "{line}");
    for dropped in ["selinux", "overlay", "rootlesscontainers"] {
        got.assert_lacks("f", dropped);
    }
    got.assert_has("d", &["xattr=user.d=1", "mode=0555"]);
    got.assert_has("l", &["xattr=trusted.l=1"]);
    assert_eq!(got.warnings, [""; 0]);
}

/// A POSIX access control list (xattr form, version 2): owner rwx, user 1000 rwx, group r-x,
/// mask rwx, others r-x.
fn acl() -> Vec<u8> {
    let mut list = vec![2, 0, 0, 0];
    for (tag, rights, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 7, 1000),
        (4, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 5, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[test]
fn a_default_access_list_is_kept_but_not_passed_on_while_unpacking() {
    let got = unpacked(&[
        layer()
            .dir("d", 0o775)
            .xattr("system.posix_acl_default", acl())
            .xattr("system.posix_acl_access", acl())
            .file("d/f", ""),
        layer().file("d/g", "").dir("d/h", 0o755),
    ]);
    got.assert_has("d", &["mode=0775"]);
    let line = got.tree.get("d").unwrap();
    assert!(line.contains("posix_acl_default") && line.contains("posix_acl_access"), "{line}");
    for path in ["d/f", "d/g", "d/h"] {
        got.assert_lacks(path, "acl");
    }
}

#[test]
fn a_hard_link_takes_no_metadata_of_its_own() {
    let got = unpacked(&[layer()
        .file("a", "x")
        .mode(0o4755)
        .owner(1, 2)
        .mtime(100, 0)
        .hardlink("b", "a")
        .mode(0o600)
        .owner(9, 9)
        .mtime(5, 5)]);
    got.assert_has("a", &["mode=4755", "owner=1:2", "mtime=100.000000000"]);
    got.assert_has("b", &["mode=4755", "owner=1:2", "hardlink-of=a"]);
}

#[test]
fn devices_are_made_by_root() {
    let got = unpacked(&[layer()
        .char_device("null", 1, 3)
        .mode(0o666)
        .owner(1, 2)
        .block_device("disk", 259, 65_536)
        .mode(0o660)]);
    got.assert_has("null", &["device=1:3", "mode=0666", "owner=1:2"]);
    got.assert_has("disk", &["device=259:65536", "mode=0660"]);
}

#[test]
fn large_ids_are_kept_and_impossible_ones_refused() {
    let huge = 4_294_967_294;
    let base256 = |uid| Entry { base256: true, uid, ..Entry::new(b'0', "b") };
    let got = unpacked(&[layer().file("a", "").owner(huge, 3_000_000).entry(base256(huge))]);
    got.assert_has("a", &["owner=4294967294:3000000"]);
    got.assert_has("b", &["owner=4294967294:0"]);
    for uid in [4_294_967_295, 1 << 40] {
        for builder in [layer().file("a", "").owner(uid, 0), layer().entry(base256(uid))] {
            let message = refused(&[builder]);
            assert!(message.contains(&format!("invalid uid: got {uid}")), "{message}");
        }
    }
}

#[test]
fn names_of_any_bytes_and_lengths_are_right() {
    let name = "n".repeat(255);
    let deep = format!("{0}/{0}/{0}", "p".repeat(200));
    for gnu in [false, true] {
        let long = |builder: LayerBuilder| if gnu { builder.gnu_long_names() } else { builder };
        let mut builder = layer().file(b"\xff\xfe", "1");
        builder = long(builder.file(&name, "2"));
        builder = long(builder.file(&deep, "3"));
        builder = long(builder.symlink("l", &deep));
        let got = unpacked(&[builder]);
        for path in ["\\xff\\xfe", &name, &deep] {
            assert!(got.tree.get(path).is_some(), "gnu {gnu}: {path}:\n{}", got.tree.text());
        }
        got.assert_has("l", &[&format!("target={deep}")]);
    }
    let message = refused(&[layer().file("x".repeat(256), "")]);
    assert!(message.contains("ENAMETOOLONG"), "{message}");
}

#[test]
fn directories_of_v7_tar_end_in_a_slash() {
    let v7 = |name: &str| Entry { magic: testkit::layers::V7, mode: 0o755, ..Entry::new(0, name) };
    assert_eq!(listed(&[layer().entry(v7("d/")).entry(v7("f"))]), ["d d", "f f="]);
}

#[test]
fn a_global_header_counts_for_all_that_follows() {
    let got = unpacked(&[layer()
        .file("before", "")
        .mtime(1, 0)
        .global_pax(&[("mtime", "77.5"), ("uid", "42"), ("path", "wrong"), ("size", "999")])
        .file("after", "text")
        .mtime(1, 0)
        .file("own", "")
        .pax("mtime", "5")
        .pax("uid", "6")]);
    got.assert_has("before", &["mtime=1.000000000", "owner=0:0"]);
    got.assert_has("after", &["mtime=77.500000000", "owner=42:0", "size=4"]);
    got.assert_has("own", &["mtime=5.000000000", "owner=6:0"]);
}

#[test]
fn times_at_the_ends_of_what_a_header_can_say_are_no_error() {
    for time in ["9223372036854775807", "-9223372036854775808", "-62135596800.000000001"] {
        let at = |builder: LayerBuilder| builder.pax("mtime", time).pax("atime", time);
        let mut builder = at(layer().dir("d", 0o755));
        builder = at(builder.file("d/f", "x"));
        builder = at(builder.symlink("d/l", "f"));
        let got = unpacked(&[at(builder.fifo("d/p"))]);
        assert_eq!(got.tree.paths().len(), 5, "{time}:\n{}", got.tree.text());
    }
    for bad in ["9223372036854775808", "1e9", "", " 1", "1.x", "0x1"] {
        if bad.is_empty() {
            // Nothing said: the header's own counts.
            let got = unpacked(&[layer().file("f", "").mtime(7, 0).pax("mtime", bad)]);
            got.assert_has("f", &["mtime=7.000000000"]);
        } else {
            let message = refused(&[layer().file("f", "").pax("mtime", bad)]);
            assert!(message.contains("a time that is none"), "{bad}: {message}");
        }
    }
}

/// An attribute of the kernel's or the file system's own that nobody may set so.
#[test]
fn attributes_that_the_kernel_refuses_are_counted_and_those_too_large_are_an_error() {
    let got = unpacked(&[layer()
        .file("f", "")
        .xattr("unheard.of", "1")
        .file("g", "")
        .xattr("system.nonsense", "1")]);
    let told = ["extended attributes cannot be kept here: 2 files, the first \"f\""];
    assert_eq!(got.warnings, told);
    let huge = refused(&[layer().file("f", "").xattr("user.huge", vec![b'x'; 70_000])]);
    assert!(huge.contains("fsetxattr") && huge.contains("70000 bytes"), "{huge}");
    let long = format!("user.{}", "n".repeat(300));
    let message = refused(&[layer().file("f", "").xattr(&long, "1")]);
    assert!(message.contains("fsetxattr"), "{message}");
}
