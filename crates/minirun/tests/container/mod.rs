//! One bundle, one caller, and what is run with them.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::programs::{Background, Finished, Run, binary};
use testkit::user::TestUser;

use super::common::{As, bundle, give, read_json, tempdir, unique};

/// A bundle with a busybox root filesystem, and its owner.
pub(crate) struct Container {
    pub(crate) who: As,
    pub(crate) bundle: PathBuf,
    pub(crate) name: String,
    _dir: tempfile::TempDir,
}

/// The config of `minirun spec --rootless` without a terminal, for its owner to be changed.
pub(crate) type Change = fn(&mut Value);

impl Container {
    pub(crate) fn new(who: As) -> Self {
        let dir = tempdir();
        let name = unique("c");
        let bundle = bundle(dir.path(), &name, &who, None);
        Self { who, bundle, name, _dir: dir }
    }

    /// For the user without subordinate ids: the usual case.
    pub(crate) fn single() -> Self {
        Self::new(As::User(TestUser::without_subids().isolated()))
    }

    /// For root and both kinds of users.
    pub(crate) fn all() -> [Self; 3] {
        As::all().map(Self::new)
    }

    /// Writes a config.json: runc's rootless one, changed.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bundle.join("config.json");
        let _ = std::fs::remove_file(&path);
        self.minirun(&["spec", "--rootless"]).assert_success();
        let mut config = read_json(&path);
        config["process"]["terminal"] = false.into();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        give(&path, &self.who);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.who.command(binary("minirun"));
        command.args(args).current_dir(&self.bundle);
        command
    }

    pub(crate) fn minirun(&self, args: &[&str]) -> Finished {
        Run::new(self.command(args)).finish()
    }

    /// Runs a shell script as the container's command.
    pub(crate) fn sh(&self, script: &str) -> Finished {
        self.minirun(&["--rootless", "--", "/bin/sh", "-c", script])
    }

    pub(crate) fn start(&self, script: &str) -> Background {
        Run::new(self.command(&["--rootless", "--", "/bin/sh", "-c", script])).spawn()
    }

    /// Runs it in the background, for as long as the result lives.
    pub(crate) fn detach(&self, script: &str) -> Detached<'_> {
        let args = ["--rootless", "-d", "--", "/bin/sh", "-c", script];
        self.minirun(&args).assert_code(0).assert_stdout(&format!("{}\n", self.name));
        Detached(self)
    }

    /// The container as `minirun state` has it.
    pub(crate) fn state(&self) -> Value {
        let done = self.minirun(&["state", &self.name]);
        done.assert_success();
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{done}"))
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub(crate) fn init_pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    /// The container's state directory.
    pub(crate) fn state_dir(&self) -> PathBuf {
        let root = match &self.who {
            As::Root => PathBuf::from("/run"),
            As::User(user) => user.runtime_dir().to_owned(),
        };
        root.join("minirun").join(&self.name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.state_dir().join("log")).unwrap()
    }
}

/// A container in the background, removed at the end of its test, however that ends.
pub(crate) struct Detached<'a>(pub(crate) &'a Container);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        self.0.minirun(&["delete", "--force", &self.0.name]);
    }
}

/// Waits until it is so; panics when it is not within a time that no working program needs.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited 30 s for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One line that says what failed, one hint, the code.
#[track_caller]
pub(crate) fn assert_refused(done: &Finished, code: i32, says: &str, hint: &str) {
    done.assert_code(code).assert_stderr(says).assert_stderr(hint);
    let text = done.stderr_text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("minirun: "), "{done}");
    assert!(lines[1].starts_with("hint: "), "{done}");
}
