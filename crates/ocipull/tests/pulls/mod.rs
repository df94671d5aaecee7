//! Pulls that something disturbs: where they run, as whom, and what may be there afterwards.

#![allow(dead_code, reason = "every test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Registry, RegistryOptions};
use testkit::tree::{Options, Tree};
use testkit::user::TestUser;

use crate::common::Run;

/// A directory to pull into, and who does it.
pub(crate) struct Site {
    home: Home,
    pub(crate) registry: Registry,
    old: Option<Tree>,
    new: Option<Tree>,
}

enum Home {
    Root(tempfile::TempDir),
    User(TestUser, tempfile::TempDir),
}

/// What a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Old,
    New,
}

impl Site {
    /// Root, with the registry's `old` and `new` being these images.
    pub(crate) fn root(old: &Image, new: &Image) -> Self {
        Self::new(Home::Root(scratch()), old, new)
    }

    /// An ordinary user.
    pub(crate) fn user(user: TestUser, old: &Image, new: &Image) -> Self {
        let dir = scratch();
        user.own(dir.path());
        Self::new(Home::User(user, dir), old, new)
    }

    fn new(home: Home, old: &Image, new: &Image) -> Self {
        let registry = Registry::start(RegistryOptions::default());
        old.push(&registry, "app", "old");
        new.push(&registry, "app", "new");
        let mut site = Self { home, registry, old: None, new: None };
        std::fs::create_dir(site.dir()).unwrap();
        site.own_dir();
        for name in ["old", "new"] {
            Run::of(site.pull(&[], name, "d")).succeeded();
            let tree = Some(site.tree());
            if name == "old" {
                site.old = tree
            } else {
                site.new = tree
            }
            site.clear();
        }
        site
    }

    /// Where the destination `d` is: a directory of its own, so that all beside it is seen.
    pub(crate) fn dir(&self) -> PathBuf {
        self.top().join("work")
    }

    /// Gives the directory to who pulls.
    pub(crate) fn own_dir(&self) {
        if let Home::User(user, _) = &self.home {
            user.own(&self.dir());
        }
    }

    /// Gives a tree to who pulls.
    pub(crate) fn own_tree(&self, path: &Path) {
        if let Home::User(user, _) = &self.home {
            user.own_tree(path);
        }
    }

    pub(crate) fn top(&self) -> &Path {
        match &self.home {
            Home::Root(dir) => dir.path(),
            Home::User(_, dir) => dir.path(),
        }
    }

    pub(crate) fn dest(&self) -> PathBuf {
        self.dir().join("d")
    }

    /// `ocipull OPTIONS HOST/app:TAG DEST`.
    pub(crate) fn pull(&self, options: &[&str], tag: &str, dest: &str) -> Command {
        let mut command = self.command_of(env!("CARGO_BIN_EXE_ocipull"));
        let image = format!("{}/app:{tag}", self.registry.host());
        // Never single instead: another tree.
        if let Home::User(user, _) = &self.home
            && user.subuids().is_some()
        {
            command.args(["--ownership", "subuid"]);
        }
        // What is disturbed is a pull off the network, each time.
        command.arg("--no-cache").args(options).arg(image).arg(format!("work/{dest}"));
        command
    }

    /// `ocipull rm DEST`.
    pub(crate) fn remove(&self, dest: &str) -> Command {
        let mut command = self.command_of(env!("CARGO_BIN_EXE_ocipull"));
        command.args(["rm", &format!("work/{dest}")]);
        command
    }

    /// A program run by who pulls, above the directory. Whatever started the tests may have signals
    /// ignored, as nohup(1) does.
    pub(crate) fn command_of(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.home {
            Home::Root(_) => {
                let mut command = Command::new("env");
                command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
                command.env("HOME", self.top()).arg("--default-signal=HUP,INT,TERM");
                command.arg(program.as_ref());
                command
            }
            // It clears signals by itself.
            Home::User(user, _) => user.command(program.as_ref()),
        };
        command.current_dir(self.top()).env("XDG_CACHE_HOME", self.top().join("cache"));
        command.stdin(std::process::Stdio::null());
        command
    }

    /// `command` under strace with these options; what it reports goes to the file that is returned.
    pub(crate) fn traced(&self, options: &[&str], inner: &Command) -> (Command, PathBuf) {
        let log = self.top().join("strace.log");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&log).args(options);
        command.arg(inner.get_program()).args(inner.get_args()).env_clear();
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        if let Some(dir) = inner.get_current_dir() {
            command.current_dir(dir);
        }
        command.stdin(std::process::Stdio::null());
        (command, log)
    }

    /// Removes all in the directory; with `old` puts the old image there.
    pub(crate) fn reset(&self, old: bool) {
        self.clear();
        if old {
            Run::of(self.pull(&[], "old", "d")).succeeded();
        }
    }

    fn clear(&self) {
        for name in self.names() {
            let path = self.dir().join(name);
            if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// What is beside the destination, itself and its record included.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn tree(&self) -> Tree {
        Tree::of(&self.dest(), &Options::default())
    }

    /// What the destination is: one of the two trees, whole, with its own record or none, or
    /// nothing; else the test fails.
    #[track_caller]
    pub(crate) fn found(&self, when: &str) -> Found {
        let record = std::fs::read(ctsys::record::record_path(&self.dest())).ok();
        let record = record.map(|text| {
            let record: serde_json::Value = serde_json::from_slice(&text)
                .unwrap_or_else(|e| panic!("{when}: half a record: {e}"));
            record["reference"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
        });
        let (found, name) = if !self.dest().exists() {
            (Found::Nothing, "nothing")
        } else {
            let tree = self.tree();
            let is = |other: &Option<Tree>| other.as_ref().is_some_and(|other| *other == tree);
            if is(&self.old) {
                (Found::Old, "old")
            } else if is(&self.new) {
                (Found::New, "new")
            } else {
                let difference = testkit::tree::diff(self.new.as_ref().unwrap(), &tree);
                panic!("{when}: neither the old tree nor the new one:\n{difference}");
            }
        };
        let of = record.as_deref();
        assert!(of.is_none_or(|of| of == name), "{when}: {found:?} with the record of {of:?}");
        found
    }

    /// A further pull works, gives the new tree, and leaves nothing beside it.
    #[track_caller]
    pub(crate) fn assert_recovers(&self, when: &str) {
        let run = Run::of(self.pull(&["--force"], "new", "d"));
        assert_eq!(run.code, Some(0), "the next run after {when}: {run}");
        assert_eq!(self.found(when), Found::New, "the next run after {when}: {run}");
        assert_eq!(self.names(), ["d", "d.image.json"], "the next run after {when} left rubbish");
    }

    /// The destination is as it was before a pull that failed by itself, with nothing beside it.
    #[track_caller]
    pub(crate) fn assert_as_before(&self, had_old: bool, when: &str) {
        let found = self.found(when);
        assert_eq!(found, if had_old { Found::Old } else { Found::Nothing }, "{when}");
        let names: &[&str] = if had_old { &["d", "d.image.json"] } else { &[] };
        assert_eq!(self.names(), names, "{when}");
    }
}

/// In memory where there is such a place: hundreds of trees are made and removed.
fn scratch() -> tempfile::TempDir {
    let dir = ["/dev/shm", "/tmp"].into_iter().find_map(|dir| tempfile::tempdir_in(dir).ok());
    let dir = dir.unwrap_or_else(|| tempfile::tempdir().unwrap());
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    dir
}

/// A small image of one layer.
pub(crate) fn old_image() -> Image {
    let layer = LayerBuilder::new().dir("old", 0o755).file("old/f", "old").symlink("l", "old/f");
    Image::new().layer(layer.build(Compression::Gzip))
}

/// One of each: directories, files, links of both kinds, a whiteout, an opaque directory.
pub(crate) fn small_image() -> Image {
    let lower = LayerBuilder::new()
        .dir("a", 0o755)
        .file("a/f", "1")
        .hardlink("a/g", "a/f")
        .symlink("l", "a/f")
        .dir("o", 0o750)
        .owner(3, 4)
        .file("o/x", "1")
        .xattr("user.note", "x");
    let upper = LayerBuilder::new()
        .dir("a", 0o555)
        .whiteout("a/g")
        .dir("o", 0o700)
        .opaque("o")
        .file("o/y", "2")
        .mode(0o4711);
    Image::new().layer(lower.build(Compression::Gzip)).layer(upper.build(Compression::Zstd))
}

/// Three layers with many directories, files and links, which take a while.
pub(crate) fn busy_image() -> Image {
    let dirs = || (0..40).map(|n| format!("dir{n:02}"));
    let mut lower = LayerBuilder::new();
    for dir in dirs() {
        lower = lower.dir(&dir, 0o755).dir(format!("{dir}/sub"), 0o755);
        for n in 0..10 {
            lower = lower.file(format!("{dir}/f{n}"), format!("{dir} {n}").repeat(40));
        }
        lower = lower.file(format!("{dir}/sub/secret"), "image's").mode(0o640);
        lower = lower.hardlink(format!("{dir}/sub/linked"), format!("{dir}/f0"));
        lower = lower.symlink(format!("{dir}/sub/l"), "../f1");
    }
    let noise: Vec<u8> =
        (0..600_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    lower = lower.file("large", noise);
    let mut middle = LayerBuilder::new();
    for (n, dir) in dirs().enumerate() {
        middle = match n % 4 {
            0 => middle.whiteout(&dir),
            1 => middle.whiteout(&format!("{dir}/f3")).whiteout(&format!("{dir}/sub/secret")),
            2 => middle.dir(&dir, 0o750).opaque(&dir).file(format!("{dir}/new"), "2"),
            _ => middle.dir(&dir, 0o711).hardlink(format!("{dir}/again"), format!("{dir}/f2")),
        };
    }
    let mut upper = LayerBuilder::new();
    for dir in dirs() {
        upper = upper.file(format!("{dir}/sub/secret"), "upper").owner(1, 2);
        upper = upper.file(format!("{dir}/kept"), "3").mtime(5, 5);
    }
    Image::new()
        .layer(lower.build(Compression::Gzip))
        .layer(middle.build(Compression::Zstd))
        .layer(upper.build(Compression::Gzip))
}
