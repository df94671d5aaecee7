//! What the tests of `ocipull verify` share: a registry with an image, and who pulls it.

#![allow(dead_code, reason = "every test file uses its part")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::image::Image;
use testkit::layers::{Compression, LayerBuilder};
use testkit::registry::{Registry, RegistryOptions};
use testkit::tree::{Options, Tree, assert_same};
use testkit::user::{TestUser, UserDir};

use crate::common::Run;

/// The three kinds of ownership, by who has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    Subuid,
    Single,
}

pub(crate) const ALL: [Who; 3] = [Who::Root, Who::Subuid, Who::Single];

enum Dir {
    Roots(tempfile::TempDir),
    Users(UserDir, TestUser),
}

impl Dir {
    fn path(&self) -> &Path {
        match self {
            Self::Roots(dir) => dir.path(),
            Self::Users(dir, _) => dir.path(),
        }
    }
}

/// A directory of one of them, with a registry.
pub(crate) struct Setup {
    pub(crate) registry: Registry,
    pub(crate) who: Who,
    dir: Dir,
    /// Away from `dir`, whose names are looked at.
    cache: Dir,
}

impl Setup {
    pub(crate) fn new(who: Who) -> Self {
        let users = |user: TestUser| Dir::Users(user.tempdir(), user);
        let dir = || match who {
            Who::Root => Dir::Roots(tempfile::tempdir().unwrap()),
            Who::Subuid => users(TestUser::with_subids()),
            Who::Single => users(TestUser::without_subids()),
        };
        let registry = Registry::start(RegistryOptions::default());
        Self { registry, who, dir: dir(), cache: dir() }
    }

    /// With this image pulled into `d`.
    pub(crate) fn pulled(who: Who, image: &Image) -> Self {
        let setup = Self::new(who);
        image.push(&setup.registry, "app", "v1");
        setup.pull();
        setup
    }

    pub(crate) fn pull(&self) {
        self.run(&[&format!("{}/app:v1", self.registry.host()), "d"]).succeeded();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For `XDG_CACHE_HOME`.
    pub(crate) fn cache(&self) -> &Path {
        self.cache.path()
    }

    pub(crate) fn user(&self) -> Option<&TestUser> {
        match &self.dir {
            Dir::Roots(_) => None,
            Dir::Users(_, user) => Some(user),
        }
    }

    /// A program as this user in this directory.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = match &self.dir {
            Dir::Users(_, user) => user.command(program),
            Dir::Roots(dir) => {
                let mut command = Command::new(program);
                command
                    .env_clear()
                    .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                    .env("HOME", dir.path());
                command
            }
        };
        command.current_dir(self.path("")).env("XDG_CACHE_HOME", self.cache());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.program(env!("CARGO_BIN_EXE_ocipull"));
        command.args(arguments);
        Run::of(command)
    }

    /// Verifies `d`, and sees that this neither changes it nor leaves anything.
    #[track_caller]
    pub(crate) fn verify(&self, options: &[&str]) -> Run {
        let (before, names) = (self.tree(), self.names());
        let run = self.run(&[&["verify", "d"], options].concat());
        assert_same(&before, &self.tree());
        assert_eq!(names, self.names(), "{run}");
        run
    }

    /// Verifies `d`, which is as its image has it.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        let run = self.verify(&[]).succeeded();
        let host = self.registry.host();
        let line = run.stderr.trim_end();
        assert!(
            line.starts_with(&format!(
                "{}/d matches {host}/",
                self.path("").display().to_string().trim_end_matches('/')
            )),
            "{run}"
        );
        assert!(line.contains("@sha256:") && !line.contains('\n'), "{run}");
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::of(&self.path("d"), &Options::default())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// Runs `change` on a file and gives it its time of modification back.
pub(crate) fn keeping_time(path: &Path, change: impl FnOnce(&Path)) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    change(path);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// An access control list (acl(5)) as the kernel has it, with one named user.
pub(crate) fn acl(user: u32) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, rights, id) in
        [(0x01, 6, none), (0x02, 4, user), (0x04, 4, none), (0x10, 4, none), (0x20, 4, none)]
    {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(rights));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

/// Something of all that images have, with modes that keep owners out.
pub(crate) fn oddities() -> Image {
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let lower = LayerBuilder::new()
        .dir("closed", 0o000)
        .owner(100, 200)
        .dir("closed/inner", 0o000)
        .file("closed/f", "1")
        .owner(1000, 1000)
        .mode(0o400)
        .file("shadow", "root:*")
        .mode(0o000)
        .owner(0, 42)
        .xattr("user.kept", "yes")
        .dir("readonly", 0o555)
        .mtime(77, 7)
        .file("readonly/suid", "x")
        .owner(33, 33)
        .mode(0o4755)
        .hardlink("readonly/linked", "readonly/suid")
        .hardlink("also-linked", "readonly/suid")
        .file("ping", "x")
        .mode(0o755)
        .xattr("security.capability", capability)
        .file("acl", "x")
        .xattr("system.posix_acl_access", acl(1000))
        .dir("acls", 0o755)
        .xattr("system.posix_acl_default", acl(1000))
        .file("acls/inside", "x")
        .symlink("link", "closed/f")
        .owner(5, 6)
        .symlink("dangling", "/nowhere")
        .fifo("pipe")
        .mode(0o620)
        .char_device("null", 1, 3)
        .block_device("loop", 7, 0)
        .file("new\nline", "x")
        .file(b"\xff\\", "x")
        .file("empty", "")
        .file("large", vec![b'y'; 300_000])
        .file("old", "before 1970")
        .mtime(-5, 250_000_000)
        .dir("gone", 0o755)
        .file("gone/f", "x");
    let upper = LayerBuilder::new()
        .file("readonly/late", "2")
        .owner(1, 0)
        .file("closed/late", "3")
        .mode(0o000)
        .whiteout("closed/f")
        .whiteout("gone");
    Image::new().layer(lower.build(Compression::Gzip)).layer(upper.build(Compression::Zstd))
}
