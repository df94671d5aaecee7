//! The three kinds of ownership, each as the user it is for, by a real process of that user.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::image::Image;
use testkit::layers::{Compression, Entry, LayerBuilder};
use testkit::programs::{Finished, Run};
use testkit::tree::{IdMap, Options, Tree, assert_same};
use testkit::user::TestUser;

/// The example that unpacks an OCI layout; cargo builds it with the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/unpack");
    assert!(path.exists(), "{path:?} is not built: build the examples first");
    path
}

/// An image with owners, modes and files of every kind that a user can have.
fn image() -> Image {
    let lower = LayerBuilder::new()
        .dir("closed", 0o000)
        .owner(100, 200)
        .file("closed/f", "1")
        .owner(1000, 1000)
        .mode(0o400)
        .dir("readonly", 0o555)
        .mtime(77, 7)
        .file("readonly/suid", "x")
        .owner(33, 33)
        .mode(0o4755)
        .hardlink("readonly/linked", "readonly/suid")
        .symlink("link", "closed/f")
        .owner(5, 6)
        .fifo("pipe")
        .mode(0o620)
        .owner(7, 8)
        .file("plain", "root's")
        .xattr("user.kept", "yes");
    let upper = LayerBuilder::new()
        .file("readonly/late", "2")
        .owner(1, 0)
        .file("closed/late", "3")
        .mode(0o000)
        .whiteout("closed/f");
    Image::new().layer(lower.build(Compression::Gzip)).layer(upper.build(Compression::Zstd))
}

struct Setup {
    dir: testkit::user::UserDir,
    user: TestUser,
}

impl Setup {
    fn new(user: TestUser, image: &Image) -> Self {
        let dir = user.tempdir();
        let layout = dir.path().join("layout");
        image.build().write_oci_layout(&layout, "t");
        Self { dir, user }
    }

    fn dest(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unpack(&self, choice: &str, dest: &str) -> Finished {
        let mut command = self.user.command(program());
        command.arg(choice).arg(self.dest("layout")).arg("t").arg(self.dest(dest));
        Run::new(command).finish()
    }

    fn unpack_as_root(&self, dest: &str) {
        let [layout, dest] = [self.dest("layout"), self.dest(dest)].map(path_text);
        let done = Run::program(program(), &["root", &layout, "t", &dest]).finish();
        done.assert_success();
    }

    fn remove(&self, choice: &str, dest: &str) -> Finished {
        let mut command = self.user.command(program());
        command.args([choice, "rm"]).arg(self.dest(dest));
        Run::new(command).finish()
    }

    /// The tree with the owners that the user namespace shows.
    fn tree_inside(&self, dest: &Path) -> Tree {
        let map = |own, (first, count)| {
            vec![
                IdMap { inside: 0, outside: own, count: 1 },
                IdMap { inside: 1, outside: first, count },
            ]
        };
        let options = Options {
            uid_map: map(self.user.uid(), self.user.subuids().unwrap()),
            gid_map: map(self.user.gid(), self.user.subgids().unwrap()),
            ..Options::default()
        };
        Tree::of(dest, &options)
    }
}

fn path_text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

#[test]
fn subuid_has_inside_what_root_has_outside_and_is_the_first_choice() {
    let setup = Setup::new(TestUser::with_subids(), &image());
    setup.unpack_as_root("root");
    for choice in ["subuid", "auto"] {
        let done = setup.unpack(choice, choice);
        done.assert_success().assert_stderr("ownership: Subuid");
        assert!(!done.stderr_text().contains("warning"), "{done}");
        let root = Tree::of(&setup.dest("root"), &Options::default());
        assert_same(&root, &setup.tree_inside(&setup.dest(choice)));
    }
}

#[test]
fn a_file_capability_is_kept_inside_the_namespace() {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = LayerBuilder::new().file("ping", "x").xattr("security.capability", capability);
    let image = Image::new().layer(layer.build(Compression::Gzip));
    let setup = Setup::new(TestUser::with_subids(), &image);
    let done = setup.unpack("subuid", "dest");
    done.assert_success();
    assert!(!done.stderr_text().contains("warning"), "{done}");
    let tree = Tree::of(&setup.dest("dest"), &Options::default());
    let line = tree.get("ping").unwrap();
    assert!(line.contains("security.capability"), "{line}");
}

#[test]
fn a_file_capability_without_a_namespace_is_left_out_with_one_warning() {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = ["ping", "arping"].into_iter().fold(LayerBuilder::new(), |layer, name| {
        let layer = layer.program(name, "x").xattr("security.capability", capability);
        layer.xattr("security.selinux", "l").xattr("trusted.x", "1").xattr("user.kept", "1")
    });
    let image = Image::new().layer(layer.build(Compression::Gzip));
    let setup = Setup::new(TestUser::without_subids(), &image);
    let done = setup.unpack("single", "dest");
    done.assert_success();
    done.assert_stderr("file capabilities cannot be kept without root: 2 files");
    assert_eq!(done.stderr_text().matches("warning").count(), 1, "{done}");
    let tree = Tree::of(&setup.dest("dest"), &Options::default());
    let line = tree.get("ping").unwrap();
    assert!(line.contains("xattr=user.kept=1") && line.contains("mode=0755"), "{line}");
    assert!(!line.contains("security.") && !line.contains("trusted."), "{line}");
}

#[test]
fn an_id_outside_of_the_range_is_an_error_that_names_it() {
    let layer = LayerBuilder::new().file("etc/far", "x").owner(70_000, 5);
    let image = Image::new().layer(layer.build(Compression::Gzip));
    let setup = Setup::new(TestUser::with_subids(), &image);
    let done = setup.unpack("subuid", "dest");
    assert_ne!(done.code(), Some(0), "{done}");
    let text = done.stderr_text();
    assert!(text.contains("70000") && text.contains("etc/far"), "{done}");
    assert!(!setup.dest("dest").exists());
    assert_eq!(std::fs::read_dir(setup.dir.path()).unwrap().count(), 1, "more than the layout");
}

#[test]
fn single_keeps_owners_as_attributes_and_counts_what_it_cannot_keep() {
    for user in [TestUser::without_subids(), TestUser::with_subids()] {
        let setup = Setup::new(user, &image());
        let done = setup.unpack("single", "dest");
        done.assert_success().assert_stderr("ownership: Single");
        done.assert_stderr("owners cannot be kept: 2 files, the first \"link\"");
        let tree = Tree::of(&setup.dest("dest"), &Options::default());
        let own = format!("owner={}:{}", setup.user.uid(), setup.user.gid());
        for path in tree.paths() {
            let line = tree.get(path).unwrap();
            assert!(line.contains(&own), "{path}: want {own}, got {line}");
        }
        for (path, want) in [
            ("closed", "mode=0000 "),
            ("closed", "xattr=user.rootlesscontainers=\\x08d\\x10\\xc8\\x01"),
            ("readonly", "mode=0555 "),
            ("readonly", "mtime=77.000000007"),
            ("readonly/suid", "mode=4755 "),
            ("readonly/suid", "xattr=user.rootlesscontainers=\\x08!\\x10!"),
            ("readonly/linked", "hardlink-of=readonly/suid"),
            ("readonly/suid", "file "),
            ("readonly/late", "xattr=user.rootlesscontainers=\\x08\\x01"),
            ("closed/late", "mode=0000 "),
            ("pipe", "mode=0620 "),
            ("plain", "xattr=user.kept=yes"),
        ] {
            let line = tree.get(path).unwrap_or_else(|| panic!("no {path}:\n{}", tree.text()));
            let linked = want.starts_with("hardlink-of") || path == "readonly/suid";
            assert!(linked || line.contains(want), "{path}: want {want}, got {line}");
        }
        assert!(!tree.get("plain").unwrap().contains("rootlesscontainers"));
        assert!(tree.get("closed/f").is_none());
    }
}

#[test]
fn devices_become_placeholders_with_one_warning() {
    let layer = LayerBuilder::new()
        .char_device("dev/null", 1, 3)
        .mode(0o666)
        .block_device("dev/disk", 8, 0)
        .mode(0o660)
        .mtime(5, 0);
    let image = Image::new().layer(layer.build(Compression::Gzip));
    for (user, choice) in
        [(TestUser::with_subids(), "subuid"), (TestUser::without_subids(), "single")]
    {
        let setup = Setup::new(user, &image);
        let done = setup.unpack(choice, "dest");
        done.assert_success().assert_stderr("2 files, the first \"dev/null\"");
        assert_eq!(done.stderr_text().matches("warning").count(), 1, "{done}");
        let tree = Tree::of(&setup.dest("dest"), &Options::default());
        let disk = tree.get("dev/disk").unwrap();
        for word in ["file ", "mode=0660", "mtime=5.000000000", "size=0"] {
            assert!(disk.contains(word), "want {word}, got {disk}");
        }
    }
}

#[test]
fn a_user_without_ids_gets_single_and_is_told_when_asking_for_more() {
    let setup = Setup::new(TestUser::without_subids(), &image());
    setup.unpack("auto", "dest").assert_success().assert_stderr("ownership: Single");
    let done = setup.unpack("subuid", "other");
    assert_ne!(done.code(), Some(0), "{done}");
    done.assert_stderr("needs subordinate ids");
    let done = setup.unpack("root", "other");
    assert_ne!(done.code(), Some(0), "{done}");
    done.assert_stderr("needs root");
    assert!(!setup.dest("other").exists());
}

#[test]
fn remove_takes_trees_of_either_kind() {
    let setup = Setup::new(TestUser::with_subids(), &image());
    for choice in ["subuid", "single"] {
        setup.unpack(choice, "dest").assert_success();
        setup.remove(choice, "dest").assert_success();
        assert_eq!(std::fs::read_dir(setup.dir.path()).unwrap().count(), 1, "{choice}");
    }
}

#[test]
fn the_child_ends_with_its_parent_and_the_next_run_cleans_up() {
    let layer = LayerBuilder::new().file("first", "1").build(Compression::Gzip);
    let setup = Setup::new(TestUser::with_subids(), &Image::new().layer(layer.clone()));
    // A blob that never comes: opening a pipe waits for somebody who writes.
    let blob = setup.dest("layout/blobs/sha256").join(layer.digest.trim_start_matches("sha256:"));
    std::fs::remove_file(&blob).unwrap();
    Run::program("mkfifo", &[blob.to_str().unwrap()]).finish().assert_success();
    setup.user.own(&blob);
    for (signal, code) in [("-TERM", Some(128 + 15)), ("-KILL", None)] {
        let before = beside_layout(&setup);
        let mut command = setup.user.command(program());
        command.arg("subuid").arg(setup.dest("layout")).arg("t").arg(setup.dest("dest"));
        let run = Run::new(command).spawn();
        wait_until("a staging directory", || {
            beside_layout(&setup).iter().any(|name| !before.contains(name))
        });
        let children = children_of(run.pid());
        assert_eq!(children.len(), 1, "one child inside the namespace");
        Run::program("kill", &[signal, &run.pid().to_string()]).finish().assert_success();
        let done = run.finish();
        assert!(!done.timed_out, "{done}");
        assert_eq!(done.code(), code, "{signal}: {done}");
        wait_until("the child's end", || !testkit::programs::process_runs(children[0]));
    }
    assert_eq!(beside_layout(&setup).len(), 1, "what the killed run left");
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, &layer.bytes).unwrap();
    setup.unpack("subuid", "dest").assert_success();
    assert_eq!(beside_layout(&setup), ["dest", "dest.image.json"]);
}

fn beside_layout(setup: &Setup) -> Vec<String> {
    let names = std::fs::read_dir(setup.dir.path()).unwrap();
    let mut names: Vec<String> =
        names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "layout");
    names.sort();
    names
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..500 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not come within ten seconds");
}

fn children_of(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_ascii_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn an_entry_type_error_inside_ends_both_with_its_code() {
    let layer = LayerBuilder::new().entry(Entry::new(b'Z', "odd"));
    let image = Image::new().layer(layer.build(Compression::Gzip));
    let setup = Setup::new(TestUser::with_subids(), &image);
    let done = setup.unpack("subuid", "dest");
    done.assert_code(1).assert_stderr("unknown entry type 'Z'");
}
