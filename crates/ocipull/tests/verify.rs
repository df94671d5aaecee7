//! `ocipull verify`: trees as their images have them, and every kind of change to one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod verify_support;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::Run;
use ctsys::rootdir::{self, FileTime, NodeKind};
use ctsys::xattr;
use testkit::image::Image;
use testkit::images::centos_recorded;
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Fault, Rule};
use testkit::user::TestUser;
use verify_support::{ALL, Setup, Who, keeping_time, oddities};

#[test]
fn a_tree_that_nobody_changed_matches() {
    for who in ALL {
        for image in [common::small_image(), oddities()] {
            Setup::pulled(who, &image).is_clean();
        }
        // Through an index, whose digest the record has as well.
        let setup = Setup::new(who);
        centos_recorded().push(&setup.registry, "app", "v1");
        setup.pull();
        setup.is_clean();
    }
}

#[test]
fn of_a_whole_debian_only_the_changed_byte_is_told() {
    let layout = target().join("test-images/debian");
    assert!(layout.join("complete").exists(), "no {layout:?}: run scripts/test-deps first");
    for who in ALL {
        let setup = Setup::new(who);
        setup.registry.load_oci_layout(&layout, "app", "v1");
        setup.pull();
        keeping_time(&setup.path("d/etc/debian_version"), |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace(|_| true, "x")).unwrap();
        });
        let run = setup.run(&["verify", "d"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), "M etc/debian_version (content)\n"));
    }
}

/// The build directory, which this test's binary is in.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().find(|dir| dir.join("test-images").is_dir()).map_or_else(
        || panic!("no test-images above {own:?}: run scripts/test-deps first"),
        Path::to_path_buf,
    )
}

/// A file for each kind of change, named after it.
fn changeable() -> Image {
    let files = ["mode", "owner", "noted", "content", "size", "time", "type", "removed", "many"];
    let layer = files.iter().fold(LayerBuilder::new().dir("d", 0o755), |layer, name| {
        layer.file(format!("d/{name}"), "content").owner(1, 2)
    });
    let layer = layer
        .dir("d/removed-dir", 0o755)
        .file("d/removed-dir/f", "x")
        .dir("d/type-dir", 0o755)
        .file("d/type-dir/f", "x")
        .symlink("d/target", "one")
        .fifo("d/type-pipe")
        .char_device("d/device", 1, 3)
        .file("d/xattr-added", "x")
        .file("d/xattr-changed", "x")
        .xattr("user.a", "1")
        .file("d/xattr-removed", "x")
        .xattr("user.a", "1")
        .file("d/links-one", "same")
        .mtime(5, 5)
        .hardlink("d/links-two", "d/links-one")
        .file("d/apart-one", "same")
        .mtime(5, 5)
        .file("d/apart-two", "same")
        .mtime(5, 5);
    Image::new().layer(layer.build(Compression::Gzip))
}

/// The directory of a tree of [`changeable`] that everything is changed in.
struct Changing<'a> {
    setup: &'a Setup,
    dir: OwnedFd,
}

const EPOCH: FileTime = FileTime { seconds: 1_700_000_000, nanoseconds: 0 };

impl Changing<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.setup.path("d/d").join(name)
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }

    fn open(&self, name: &str) -> File {
        File::options().write(true).open(self.path(name)).unwrap()
    }

    fn set_time(&self, name: &str, time: FileTime) {
        rootdir::set_times_at(&self.dir, name.as_bytes(), time, time).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Gives something new to whom the image's root is here.
    fn own(&self, name: &str) {
        let (uid, gid) = self.setup.user().map(|u| (u.uid(), u.gid())).unwrap_or_default();
        lchown(self.path(name), Some(uid), Some(gid)).unwrap();
    }

    fn names(&self) {
        fs::write(self.path("added"), "x").unwrap();
        fs::create_dir_all(self.path("added-dir/inner")).unwrap();
        self.remove("removed");
        fs::remove_dir_all(self.path("removed-dir")).unwrap();
    }

    fn metadata(&self) {
        self.set_mode("mode", 0o4711);
        lchown(self.path("owner"), Some(30_000), None).unwrap();
        self.set_time("time", FileTime { nanoseconds: 1, ..EPOCH });
        xattr::set(self.open("xattr-added"), b"user.b", b"2").unwrap();
        xattr::set(self.open("xattr-changed"), b"user.a", b"2").unwrap();
        xattr::remove(self.open("xattr-removed"), b"user.a").unwrap();
        match self.setup.who {
            // Noted as 1:2.
            Who::Single => {
                xattr::set(self.open("noted"), b"user.rootlesscontainers", &[0x08, 1]).unwrap();
            }
            Who::Root => {
                self.remove("device");
                rootdir::make_node_at(&self.dir, b"device", NodeKind::Char(1, 5)).unwrap();
                self.set_mode("device", 0o644);
                self.set_time("device", EPOCH);
            }
            Who::Subuid => {}
        }
    }

    fn content(&self) {
        keeping_time(&self.path("content"), |path| fs::write(path, "CONTENT").unwrap());
        keeping_time(&self.path("size"), |path| fs::write(path, "contents").unwrap());
        fs::write(self.path("many"), "more content").unwrap();
        self.set_mode("many", 0o600);
        self.remove("target");
        symlink("two", self.path("target")).unwrap();
        self.own("target");
        self.set_time("target", EPOCH);
    }

    fn types(&self) {
        self.remove("type");
        fs::create_dir(self.path("type")).unwrap();
        fs::write(self.path("type/inner"), "x").unwrap();
        fs::remove_dir_all(self.path("type-dir")).unwrap();
        symlink("d", self.path("type-dir")).unwrap();
        self.remove("type-pipe");
        drop(std::os::unix::net::UnixListener::bind(self.path("type-pipe")).unwrap());
    }

    /// Alike in all but what else is the same file.
    fn links(&self) {
        self.remove("links-two");
        fs::write(self.path("links-two"), "same").unwrap();
        self.own("links-two");
        self.set_mode("links-two", 0o644);
        self.set_time("links-two", FileTime { seconds: 5, nanoseconds: 5 });
        self.remove("apart-two");
        fs::hard_link(self.path("apart-one"), self.path("apart-two")).unwrap();
    }
}

/// Makes every kind of change in a tree of [`changeable`]; gives what is to be told.
fn change(setup: &Setup) -> Vec<&'static str> {
    let changing = Changing { setup, dir: rootdir::open_dir(&setup.path("d/d")).unwrap() };
    changing.names();
    changing.metadata();
    changing.content();
    changing.types();
    changing.links();
    let mut want = vec![
        "M d/ (mtime)",
        "A d/added",
        "A d/added-dir/",
        "M d/apart-two (links)",
        "M d/content (content)",
        "M d/links-two (links)",
        "M d/many (mode, size, content, mtime)",
        "M d/mode (mode)",
        "M d/owner (owner)",
        "D d/removed",
        "D d/removed-dir/",
        "M d/size (size, content)",
        "M d/target (target)",
        "M d/time (mtime)",
        "M d/type/ (type)",
        "M d/type-dir (type)",
        "M d/type-pipe (type)",
        "M d/xattr-added (xattrs)",
        "M d/xattr-changed (xattrs)",
        "M d/xattr-removed (xattrs)",
    ];
    match setup.who {
        Who::Root => want.insert(5, "M d/device (device)"),
        Who::Single => want.insert(8, "M d/noted (owner)"),
        Who::Subuid => {}
    }
    want
}

#[test]
fn every_kind_of_change_is_told() {
    for who in ALL {
        let setup = Setup::pulled(who, &changeable());
        setup.is_clean();
        let want = change(&setup);
        let run = setup.verify(&[]);
        assert_eq!(run.code, Some(1), "{run}");
        let got: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(got, want, "{who:?}");
        let summary = format!(" at {} paths\n", want.len());
        assert!(run.stderr.ends_with(&summary) && run.stderr.lines().count() == 1, "{run}");

        let run = setup.verify(&["--json"]);
        assert_eq!(run.code, Some(1), "{run}");
        let lines: Vec<serde_json::Value> =
            run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), want.len(), "{run}");
        let told = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
        assert_eq!(
            told("d/added-dir"),
            &serde_json::json!(
                { "change": "added", "path": "d/added-dir", "directory": true }
            )
        );
        assert_eq!(
            told("d/many")["aspects"],
            serde_json::json!(["mode", "size", "content", "mtime"])
        );
        assert_eq!(told("d/removed")["change"], "removed");

        let run = setup.verify(&["-q"]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""));
        // Another pull sets all right.
        setup.run(&["--force", &format!("{}/app:v1", setup.registry.host()), "d"]).succeeded();
        setup.is_clean();
        let run = setup.verify(&["-q"]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    }
}

/// As by an older engine's seccomp filter.
#[test]
fn with_openat2_denied_the_same_is_told() {
    let setup = Setup::pulled(Who::Root, &changeable());
    let want = change(&setup);
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"])
        .args(["-e", "trace=openat2", "-e", "inject=openat2:error=ENOSYS"])
        .args([env!("CARGO_BIN_EXE_ocipull"), "verify", "d"])
        .current_dir(setup.path(""));
    let run = Run::of(command);
    assert_eq!((run.code, run.stdout.lines().collect::<Vec<_>>()), (Some(1), want), "{run}");
}

#[test]
fn changes_behind_closed_modes_are_found() {
    for who in ALL {
        let setup = Setup::pulled(who, &oddities());
        let path = |name: &str| setup.path("d").join(name);
        keeping_time(&path("shadow"), |path| fs::write(path, "root::").unwrap());
        fs::write(path("closed/inner/new"), "").unwrap();
        keeping_time(&path("closed/late"), |path| fs::write(path, "4").unwrap());
        xattr::set(File::open(path("shadow")).unwrap(), b"user.kept", b"no").unwrap();
        let run = setup.verify(&[]);
        let want = "M closed/inner/ (mtime)\nA closed/inner/new\nM closed/late (content)\n\
                    M shadow (content, xattrs)\n";
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), want), "{who:?}: {run}");
    }
}

#[test]
fn names_of_a_link_beyond_the_tree_and_the_time_of_access_do_not_matter() {
    for who in ALL {
        let setup = Setup::pulled(who, &oddities());
        fs::hard_link(setup.path("d/large"), setup.path("backup")).unwrap();
        let file = File::open(setup.path("d/large")).unwrap();
        file.set_times(fs::FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH)).unwrap();
        let run = setup.run(&["verify", "d"]).succeeded();
        assert!(run.stderr.contains(" matches "), "{run}");
    }
}

#[test]
fn no_result_has_a_code_of_its_own() {
    let setup = Setup::pulled(Who::Root, &common::small_image());
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let path = setup.path("d.image.json");
        let text = fs::read(&path).unwrap();
        let mut record = serde_json::from_slice(&text).unwrap();
        change(&mut record);
        fs::write(&path, record.to_string()).unwrap();
        let run = setup.verify(&[]);
        fs::write(&path, text).unwrap();
        run
    };
    edit(&|record| record["layers"][0]["diffId"] = record["layers"][1]["diffId"].clone())
        .failed(7, &["does not belong to image sha256:", "other layers"])
        .hints("--force");
    edit(&|record| record["manifestDigest"] = "sha256:0".into()).failed(7, &["other digest"]);
    edit(&|record| record["canonicalReference"] = "A".into()).failed(7, &["names no image"]);
    edit(&|record| record["ownership"] = "what".into()).failed(7, &["is damaged"]);
    edit(&|record| record["version"] = 99.into()).failed(7, &["version 99"]);
    setup.is_clean();

    setup.run(&["verify"]).failed(2, &["<DEST>"]);
    setup.run(&["verify", "d", "--quiet", "--json"]).failed(2, &["--json"]);
    setup.run(&["verify", "."]).failed(2, &["destination"]);
    setup.run(&["verify", "none"]).failed(7, &["/none\" has no image record"]);
    setup.run(&["verify", "d", "--ca-cert", "none"]).failed(7, &["CA file"]);
    setup.registry.inject(Rule::new(Fault::TruncateAt(9)).path("/blobs/"));
    setup.verify(&["--no-cache", "--retries", "0"]).failed(7, &["closed early"]);
    setup.registry.clear_faults();
    fs::rename(setup.path("d"), setup.path("e")).unwrap();
    setup.run(&["verify", "d"]).failed(7, &["/d\" does not exist"]);
    symlink("e", setup.path("d")).unwrap();
    setup.run(&["verify", "d"]).failed(7, &["symbolic link"]);
}

#[test]
fn the_image_is_asked_for_by_the_digest_in_the_record() {
    let setup = Setup::pulled(Who::Root, &common::small_image());
    // The tag means another image now.
    oddities().push(&setup.registry, "app", "v1");
    setup.registry.clear_requests();
    setup.is_clean();
    let walk = setup.registry.walk();
    assert!(walk.iter().all(|line| !line.contains("manifests/v1")), "{walk:?}");
}

#[test]
fn another_users_record_vouches_for_nothing() {
    let setup = Setup::pulled(Who::Subuid, &common::small_image());
    let verify = |mut command: std::process::Command| {
        command.args(["verify", "d"]).current_dir(setup.path(""));
        Run::of(command).failed(7, &["another user's"]).hints("the user who pulled")
    };
    verify(std::process::Command::new(env!("CARGO_BIN_EXE_ocipull")));
    verify(TestUser::without_subids().command(env!("CARGO_BIN_EXE_ocipull")));
    setup.is_clean();
}

#[test]
fn what_the_host_has_mounted_in_the_tree_is_not_entered() {
    let setup = Setup::pulled(Who::Root, &oddities());
    let script = "mount -t tmpfs tmpfs d/readonly && touch d/readonly/x && \
                  mkdir d/acls/new && mount --bind / d/acls/new && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_ocipull"), "verify", "d"])
        .current_dir(setup.path(""))
        .env("XDG_CACHE_HOME", setup.cache());
    let run = Run::of(command);
    let want = "M acls/ (mtime)\nA acls/new/\nM readonly/ (mount)\n";
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), want), "{run}");
    assert_eq!(setup.names(), ["d", "d.image.json"]);
}

#[test]
fn one_that_is_interrupted_leaves_nothing() {
    for who in ALL {
        let setup = Setup::pulled(who, &common::small_image());
        setup.registry.inject(Rule::new(Fault::StallAt(10)).path("/blobs/").skip(1));
        setup.registry.clear_requests();
        let mut command = setup.program(env!("CARGO_BIN_EXE_ocipull"));
        command.args(["verify", "--no-cache", "d"]).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let mut tries = 0;
        while setup.registry.walk().iter().filter(|line| line.ends_with(" 200")).count() < 3 {
            tries += 1;
            assert!(tries < 1000, "the layer was never asked for: {:?}", setup.registry.walk());
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = child.id().to_string();
        assert!(
            std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success()
        );
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(143), "{output:?}");
        assert_eq!(setup.names(), ["d", "d.image.json"]);
        setup.registry.clear_faults();
        setup.is_clean();
    }
}

/// SIGTERM comes with each piece that is compared, and each takes its time, so that the comparison
/// would go on for longer than the program may take to hear it.
#[test]
fn one_that_is_interrupted_while_it_compares_leaves_nothing() {
    let layer = LayerBuilder::new().file("large", vec![b'x'; 4 << 20]);
    let image = Image::new().layer(layer.build(Compression::Gzip));
    for who in ALL {
        let setup = Setup::pulled(who, &image);
        let inner = setup.program(env!("CARGO_BIN_EXE_ocipull"));
        let mut command = std::process::Command::new("strace");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64"])
            .args(["-e", "inject=pread64:signal=SIGTERM:delay_exit=100ms", "-P"])
            .arg(setup.path("d/large"))
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(["verify", "d"])
            .current_dir(setup.path(""))
            .env_clear()
            .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let run = Run::of(command);
        run.failed(143, &["interrupted by SIGTERM"]);
        assert_eq!(setup.names(), ["d", "d.image.json"], "{who:?}");
        setup.is_clean();
    }
}
