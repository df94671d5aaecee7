//! `ocipull verify` of trees that somebody made to harm who looks at them: it ends, it stays inside,
//! and it writes nothing that a terminal would obey.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod verify_support;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use ctsys::rootdir::{self, NodeKind};
use ocipull::compare::{self, Change, Difference, Listener};
use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::programs;
use verify_support::{ALL, Setup, Who};

/// Longest that any of these takes, far above what it takes on a busy machine: one that waits for a
/// pipe waits for ever.
const LIMIT: Duration = Duration::from_secs(120);

fn victim() -> Image {
    let layer = LayerBuilder::new()
        .dir("etc", 0o755)
        .file("etc/passwd", "root")
        .file("etc/large", vec![b'x'; 100_000])
        .dir("dir", 0o755)
        .file("dir/secret", "the host's")
        .mtime(5, 5);
    Image::new().layer(layer.build(Compression::Gzip))
}

/// Verifies within the time, and gives standard output; everything stays as it was.
fn verify(setup: &Setup) -> String {
    let before = setup.tree();
    let mut command = setup.program(env!("CARGO_BIN_EXE_ocipull"));
    command.args(["verify", "d"]);
    let done = programs::Run::new(command).limit(LIMIT).finish();
    assert!(!done.timed_out, "{done}");
    assert_eq!(done.code(), Some(1), "{done}");
    testkit::tree::assert_same(&before, &setup.tree());
    done.stdout_text()
}

#[test]
fn links_to_the_outside_are_links() {
    for who in ALL {
        let setup = Setup::pulled(who, &victim());
        // Alike in name and content to what the image has there.
        fs::create_dir(setup.path("outside")).unwrap();
        fs::copy(setup.path("d/dir/secret"), setup.path("outside/secret")).unwrap();
        fs::remove_dir_all(setup.path("d/dir")).unwrap();
        symlink(setup.path("outside"), setup.path("d/dir")).unwrap();
        fs::remove_file(setup.path("d/etc/passwd")).unwrap();
        symlink("/etc/passwd", setup.path("d/etc/passwd")).unwrap();
        assert_eq!(
            verify(&setup),
            "M ./ (mtime)\nM dir (type)\nM etc/ (mtime)\nM etc/passwd (type)\n"
        );
    }
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let setup = Setup::pulled(Who::Root, &victim());
    let dir = rootdir::open_dir(&setup.path("d/etc")).unwrap();
    for name in [&b"passwd"[..], b"large"] {
        rootdir::unlink_at(&dir, name).unwrap();
    }
    rootdir::make_node_at(&dir, b"passwd", NodeKind::Fifo).unwrap();
    // The console of a virtual machine, or nothing: whoever opened it would hang or fail.
    rootdir::make_node_at(&dir, b"large", NodeKind::Char(229, 0)).unwrap();
    rootdir::make_node_at(&dir, b"more", NodeKind::Fifo).unwrap();
    let want = "M etc/ (mtime)\nM etc/large (type)\nA etc/more\nM etc/passwd (type)\n";
    assert_eq!(verify(&setup), want);
}

#[test]
fn deep_and_wide_trees_cost_a_line() {
    for who in ALL {
        let setup = Setup::pulled(who, &victim());
        // Deeper than a path or a stack of descriptors reaches.
        let mut dir = rootdir::open_dir(&setup.path("d")).unwrap();
        for _ in 0..3000 {
            rootdir::make_dir_at(&dir, b"x").unwrap();
            dir = rootdir::open_dir_at(&dir, b"x").unwrap();
        }
        fs::create_dir(setup.path("d/dir/wide")).unwrap();
        for name in 0..3000 {
            fs::write(setup.path("d/dir/wide").join(name.to_string()), "").unwrap();
        }
        let mut command = setup.program("sh");
        command.args(["-c", "ulimit -n 64 && exec \"$@\"", "sh"]).arg(reachable(&setup));
        command.args(["verify", "d"]);
        let done = programs::Run::new(command).limit(LIMIT).finish();
        assert_eq!(done.code(), Some(1), "{done}");
        let want = "M ./ (mtime)\nM dir/ (mtime)\nA dir/wide/\nA x/\n";
        assert_eq!(done.stdout_text(), want, "{done}");
    }
}

#[test]
fn an_image_as_deep_as_paths_go_is_walked() {
    let deep = vec!["d"; 2000].join("/");
    let layer = LayerBuilder::new().file(format!("{deep}/f"), "x");
    let image = Image::new().layer(layer.build(Compression::Gzip));
    let setup = Setup::new(Who::Root);
    image.push(&setup.registry, "app", "v1");
    let limit = ["--limit", "path-depth=3000"];
    let name = format!("{}/app:v1", setup.registry.host());
    setup.run(&[&limit[..], &[&name, "d"]].concat()).succeeded();
    let verify = [&["verify"], &limit[..], &["d"]].concat();
    setup.run(&verify).succeeded();
    fs::write(setup.path("d").join(&deep).join("f"), "y").unwrap();
    let run = setup.run(&verify);
    assert_eq!(run.stdout, format!("M {deep}/f (content, mtime)\n"), "{run}");
}

#[test]
fn names_do_not_reach_the_terminal_as_they_are() {
    let setup = Setup::pulled(Who::Root, &victim());
    let names: [&[u8]; 4] = [b"\x1b[2J\x07", b"a\nD etc", b"\xff\xfe", "\u{202e}txt".as_bytes()];
    for name in names {
        fs::write(setup.path("d").join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let out = verify(&setup);
    assert!(out.chars().all(|c| c == '\n' || !c.is_control()), "{out:?}");
    let want = "M ./ (mtime)\nA \\u{1b}[2J\\u{7}\nA a\\nD etc\nA \\u{202e}txt\nA \\xff\\xfe\n";
    assert_eq!(out, want);
}

/// What stands at `path` becomes something else as soon as the difference at `when` is told.
struct Swap<'a> {
    when: &'a [u8],
    swap: &'a mut dyn FnMut(),
    told: Vec<Difference>,
}

impl Listener for Swap<'_> {
    fn found(&mut self, difference: &Difference) -> io::Result<()> {
        if difference.path == self.when {
            (self.swap)();
        }
        self.told.push(difference.clone());
        Ok(())
    }
}

#[test]
fn a_directory_that_becomes_a_link_under_the_walk_does_not_lead_it_out() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for tree in ["image", "tree", "outside"] {
        fs::create_dir_all(path(tree).join("a/b/c")).unwrap();
        for file in ["a/b/c/f", "a/b/z", "a/y", "a/y2"] {
            fs::write(path(tree).join(file), tree).unwrap();
        }
    }
    // The first difference is told while the walk is in a/b/c; on its way back it looks for a/b.
    for swapped in ["a", "a/b"] {
        let whole = path("tree").join(swapped);
        let mut swap = || {
            fs::rename(&whole, path("aside")).unwrap();
            symlink(path("outside").join(swapped), &whole).unwrap();
        };
        let mut listener = Swap { when: b"a/b/c/f", swap: &mut swap, told: Vec::new() };
        let open = |name: &str| rootdir::open_dir(&path(name)).unwrap();
        let accessed = |file: &str| fs::metadata(path("outside").join(file)).unwrap().accessed();
        let before = ["a/b/z", "a/y"].map(|file| accessed(file).unwrap());
        compare::compare(open("image"), open("tree"), &mut listener).unwrap();
        assert_eq!(before, ["a/b/z", "a/y"].map(|file| accessed(file).unwrap()), "{swapped}");
        let told = |at: &[u8]| {
            let found = listener.told.iter().find(|difference| difference.path == at);
            found.map(|difference| difference.change.clone())
        };
        assert_eq!(told(b"a/b/z"), Some(Change::Removed), "{swapped}");
        let outer = told(b"a/y");
        match swapped {
            "a" => assert_eq!(outer, Some(Change::Removed)),
            _ => assert!(matches!(outer, Some(Change::Changed(_))), "{outer:?}"),
        }
        fs::remove_file(&whole).unwrap();
        fs::rename(path("aside"), &whole).unwrap();
    }
}

/// Exchanges a directory with a link to the outside, and a file with a pipe, all the time.
#[test]
fn a_tree_that_changes_all_the_time_is_survived() {
    let setup = Setup::pulled(Who::Root, &victim());
    fs::create_dir(setup.path("outside")).unwrap();
    fs::write(setup.path("outside/secret"), "host").unwrap();
    symlink(setup.path("outside"), setup.path("link")).unwrap();
    let parent = rootdir::open_dir(&setup.path("")).unwrap();
    rootdir::make_node_at(&parent, b"pipe", NodeKind::Fifo).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange =
                |one: &[u8], other: &[u8]| rootdir::exchange_at(&parent, one, other).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                exchange(b"d/dir", b"link");
                exchange(b"d/etc/large", b"pipe");
            }
        });
        for _ in 0..20 {
            let mut command = setup.program(env!("CARGO_BIN_EXE_ocipull"));
            command.args(["verify", "d"]);
            let done = programs::Run::new(command).limit(LIMIT).finish();
            let is_told = matches!(done.code(), Some(0 | 1));
            let leaked = done.stdout_text().contains("secret (");
            if done.timed_out || !is_told || leaked {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("{done}");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_to_string(setup.path("outside/secret")).unwrap(), "host");
}

#[test]
fn a_tree_closed_to_its_owner_without_user_namespaces_is_an_error() {
    let setup = Setup::pulled(Who::Single, &victim());
    let closed: &Path = &setup.path("d/etc/large");
    fs::set_permissions(closed, PermissionsExt::from_mode(0o000)).unwrap();
    // As root of a namespace without any power, one is as far as where there are no namespaces.
    let mut command = setup.program("unshare");
    command
        .args(["--map-root-user", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"])
        .arg(reachable(&setup))
        .args(["verify", "d"]);
    common::Run::of(command)
        .failed(7, &["cannot look at \"/etc/large\" of the tree", "EACCES"])
        .hints("user namespaces");
    assert_eq!(setup.names(), ["d", "d.image.json"]);
}

/// The program where the user can run it from.
fn reachable(setup: &Setup) -> OsString {
    let program = env!("CARGO_BIN_EXE_ocipull");
    let command = setup.user().map(|user| user.command(program));
    command.map_or(program.into(), |command| command.get_args().last().unwrap().into())
}
