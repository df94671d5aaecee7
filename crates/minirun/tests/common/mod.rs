//! Bundles and callers for the tests that drive the real binary.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use testkit::images::busybox_rootfs;
use testkit::programs::{Finished, Run};
use testkit::user::TestUser;

/// Who runs a program: the test itself, which is root, or a real unprivileged user.
pub(crate) enum As {
    Root,
    User(TestUser),
}

impl As {
    pub(crate) fn all() -> [Self; 3] {
        [
            Self::Root,
            Self::User(TestUser::with_subids().isolated()),
            Self::User(TestUser::without_subids().isolated()),
        ]
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Root => "root",
            Self::User(user) => user.name(),
        }
    }

    /// What an image's record says about a tree that this caller unpacked.
    pub(crate) fn ownership(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::User(user) if user.subuids().is_some() => "subuid",
            Self::User(_) => "single",
        }
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match self {
            Self::Root => Command::new(program.as_ref()),
            Self::User(user) => user.command(program.as_ref()),
        };
        // What works on this machine is another network for each caller; tests/network.rs has them.
        command.env("MINIRUN_NET", "none");
        command
    }

    /// Runs `program` in `dir`, on the host as it is, or in a mount namespace that shows one with
    /// the unified cgroup hierarchy only.
    pub(crate) fn run_on(
        &self,
        unified: bool,
        dir: &Path,
        program: &Path,
        args: &[&str],
    ) -> Finished {
        let mut inner = self.command(program);
        inner.args(args).current_dir(dir);
        if !unified {
            return Run::new(inner).finish();
        }
        let mount = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
        let mut outer = Command::new("unshare");
        outer.args(["-m", "sh", "-c", mount, "sh"]).arg(inner.get_program()).args(inner.get_args());
        // A user's command has a cleared environment; what it sets is all that it needs.
        outer.current_dir(dir).envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        Run::new(outer).finish()
    }

    pub(crate) fn minirun(&self, dir: &Path, args: &[&str]) -> Finished {
        let mut command = self.command(testkit::programs::binary("minirun"));
        command.args(args).current_dir(dir);
        Run::new(command).finish()
    }
}

/// A container's name that no other test uses: root's containers are all in one place.
pub(crate) fn unique(word: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{word}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A directory that everybody can reach.
pub(crate) fn tempdir() -> tempfile::TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().permissions(mode).tempdir().unwrap()
}

/// A bundle of the caller's: a busybox root filesystem, and a record when there is an image config.
pub(crate) fn bundle(parent: &Path, name: &str, who: &As, config: Option<Value>) -> PathBuf {
    let dir = parent.join(name);
    busybox_rootfs(&dir.join("rootfs"));
    if let Some(config) = config {
        let record = record(who.ownership(), config);
        std::fs::write(dir.join("rootfs.image.json"), record.to_string()).unwrap();
    }
    give(&dir, who);
    dir
}

/// A record as ocipull leaves it.
pub(crate) fn record(ownership: &str, config: Value) -> Value {
    json!({
        "version": 1,
        "reference": "test", "canonicalReference": "example.org/test:latest",
        "manifestDigest": "sha256:1", "resolvedDigest": "sha256:2",
        "platform": { "os": "linux", "architecture": "amd64" },
        "layers": [],
        "ownership": ownership,
        "config": {
            "os": "linux", "architecture": "amd64", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] },
        },
    })
}

/// Gives a tree to the caller.
pub(crate) fn give(dir: &Path, who: &As) {
    if let As::User(user) = who {
        let owner = format!("{}:{}", user.uid(), user.gid());
        let status = Command::new("chown").arg("-hR").arg(owner).arg(dir).status().unwrap();
        assert!(status.success(), "chown of {dir:?}: {status}");
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}\n{text}"))
}
