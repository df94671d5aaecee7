//! Running the real ocipull, away from the user's own files and variables.

#![allow(dead_code, reason = "every test file uses its part")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::registry::{Registry, RegistryOptions};

/// A directory of the test's own, with a home that holds no credentials.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// Of its own, so that no test finds what another one or the caller pulled.
    cache: tempfile::TempDir,
}

/// A run that ended.
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The cache that the binary uses here.
    pub(crate) fn cache(&self) -> PathBuf {
        self.cache.path().join("ocipull")
    }

    /// The binary, in this directory, with an environment that holds nothing of the caller's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocipull"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.path())
            .env("XDG_CACHE_HOME", self.cache.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    /// Names in the directory that a pull made or left behind.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn record(&self, dest: &str) -> serde_json::Value {
        let path = self.path(&format!("{dest}.image.json"));
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("no record at {path:?}: {e}"));
        serde_json::from_slice(&text).unwrap()
    }
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It worked, and standard output, which is for data, has none.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        self
    }

    /// It failed with this code, one line that holds all of `words`, and at most one hint.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("ocipull: ")).collect();
        assert_eq!(errors.len(), 1, "one line for one failure: {self}");
        for word in words {
            assert!(errors[0].contains(word), "want {word:?} in the error: {self}");
        }
        let hints = self.stderr.lines().filter(|line| line.starts_with("hint: ")).count();
        assert!(hints <= 1, "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn hints(self, word: &str) -> Self {
        let hint = self.stderr.lines().find(|line| line.starts_with("hint: "));
        assert!(hint.is_some_and(|hint| hint.contains(word)), "want a hint with {word:?}: {self}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, word: &str) -> Self {
        assert!(self.stderr.contains(word), "want {word:?}: {self}");
        self
    }

    #[track_caller]
    pub(crate) fn keeps_secret(self, word: &str) -> Self {
        assert!(
            !self.stderr.contains(word) && !self.stdout.contains(word),
            "{word:?} is out: {self}"
        );
        self
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command}\ncode: {code:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}

/// A small image of two layers under `app:v1`, for any platform the tests run on.
pub(crate) fn small_image() -> testkit::image::Image {
    use testkit::layers::{Compression, LayerBuilder};
    let lower = LayerBuilder::new().dir("etc", 0o755).file("etc/name", "lower\n");
    let upper = LayerBuilder::new().dir("etc", 0o755).file("etc/more", "upper\n");
    testkit::image::Image::new()
        .layer(lower.build(Compression::Gzip))
        .layer(upper.build(Compression::Zstd))
        .cmd(&["/bin/sh"])
}

pub(crate) fn serve(options: RegistryOptions) -> (Registry, testkit::image::BuiltImage) {
    let registry = Registry::start(options);
    let built = small_image().push(&registry, "app", "v1");
    (registry, built)
}

pub(crate) fn assert_absent(path: &Path) {
    assert!(!path.exists(), "{path:?} should not exist");
}

/// An address on which nothing listens.
pub(crate) fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Waits for what a process that runs will bring about.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let mut tries = 0;
    while !is_so() {
        tries += 1;
        assert!(tries < 3000, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
