//! A real unprivileged user to run as, since root that pretends passes where a user fails.
//!
//! Two users are made on first use and kept: `testkit-sub` has a range of subordinate ids,
//! `testkit-nosub` has none. Several test processes may do so at once.

use rustix::process::geteuid;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How many subordinate ids `testkit-sub` has: those of one ordinary image.
pub const SUBORDINATE_IDS: u32 = 65_536;

/// Held while users are made.
const LOCK: &str = "/run/testkit-users.lock";

/// How long a copy of a program is kept after its last use.
const COPIES_KEPT: Duration = Duration::from_secs(30 * 60);

/// Lowest subordinate id we take, well above what distributions hand out first.
const FIRST_SUBORDINATE: u32 = 1_000_000;

/// An unprivileged user of this machine.
#[derive(Debug)]
pub struct TestUser {
    name: &'static str,
    uid: u32,
    gid: u32,
    home: PathBuf,
    runtime_dir: PathBuf,
    /// Removed when the user value is dropped.
    _own_runtime_dir: Option<UserDir>,
}

impl TestUser {
    /// The user with a range of [`SUBORDINATE_IDS`] subordinate uids and gids.
    pub fn with_subids() -> Self {
        Self::get("testkit-sub", true)
    }

    /// The user without any subordinate ids.
    pub fn without_subids() -> Self {
        Self::get("testkit-nosub", false)
    }

    /// The same user with an `XDG_RUNTIME_DIR` of this value's own, removed when it is dropped: for
    /// tests that list what runs, beside others that do the same.
    pub fn isolated(mut self) -> Self {
        let dir = self.dir_in(&self.home.join("run"), "r", 0o700);
        self.runtime_dir = dir.path().to_owned();
        self._own_runtime_dir = Some(dir);
        self
    }

    /// Login name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// User id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Home directory; tests share it.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What `XDG_RUNTIME_DIR` is set to: mode 0700, the user's own.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// A command that runs as this user in the home directory: no supplementary groups, no
    /// capabilities, an environment of HOME, PATH, USER, LOGNAME, LANG and XDG_RUNTIME_DIR. A program
    /// below a directory that the user cannot enter is copied to where it can be run from.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = self.reachable_program(Path::new(program.as_ref()));
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.gid))
            .args(["--clear-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("USER", self.name)
            .env("LOGNAME", self.name)
            .env("LANG", "C.UTF-8")
            .env("XDG_RUNTIME_DIR", &self.runtime_dir)
            .current_dir(&self.home);
        command
    }

    /// A new directory that the user owns and can reach; removed on drop with root's power, so also
    /// what belongs to subordinate ids or has no permissions.
    pub fn tempdir(&self) -> UserDir {
        self.dir_in(&std::env::temp_dir(), "testkit-", 0o755)
    }

    /// Gives a path to the user (not what is below it, no symlink followed).
    pub fn own(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|e| panic!("cannot chown {}: {e}", path.display()));
    }

    /// Gives a tree to the user, as one that was unpacked by somebody with a single id.
    pub fn own_tree(&self, path: &Path) {
        let owner = format!("{}:{}", self.uid, self.gid);
        run(Command::new("chown").args(["--recursive", "--no-dereference", &owner]).arg(path));
    }

    /// The first subordinate uid and how many there are.
    pub fn subuids(&self) -> Option<(u32, u32)> {
        ranges("/etc/subuid", self.name).into_iter().next()
    }

    /// The first subordinate gid and how many there are.
    pub fn subgids(&self) -> Option<(u32, u32)> {
        ranges("/etc/subgid", self.name).into_iter().next()
    }

    fn get(name: &'static str, subids: bool) -> Self {
        assert!(
            geteuid().is_root(),
            "this test runs programs as the user {name}, which only root can do: run it as root",
        );
        // Held to the end of the function: no other test process sees a user half made.
        let lock = File::create(LOCK).unwrap_or_else(|e| panic!("cannot create {LOCK}: {e}"));
        lock.lock().unwrap_or_else(|e| panic!("cannot lock {LOCK}: {e}"));
        let (uid, gid, home) = passwd(name).unwrap_or_else(|| {
            run(Command::new("useradd")
                .args(["--create-home", "--user-group", "--shell", "/bin/sh"])
                .args(["--comment", "made by testkit for tests", name]));
            passwd(name).unwrap_or_else(|| panic!("useradd made no user {name}"))
        });
        settle_ranges(name, subids);
        let runtime_dir = home.join("run");
        if !runtime_dir.exists() {
            fs::create_dir(&runtime_dir).unwrap();
            chown(&runtime_dir, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&runtime_dir, Permissions::from_mode(0o700)).unwrap();
        }
        Self { name, uid, gid, home, runtime_dir, _own_runtime_dir: None }
    }

    fn dir_in(&self, parent: &Path, prefix: &str, mode: u32) -> UserDir {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(parent).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        chown(dir.path(), Some(self.uid), Some(self.gid)).unwrap();
        UserDir(dir)
    }

    /// The program itself, or a copy below the user's home when a directory on the way is closed.
    fn reachable_program(&self, program: &Path) -> PathBuf {
        let open = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 != 0);
        if !program.is_absolute() || program.ancestors().skip(1).all(open) {
            return program.to_owned();
        }
        if program.starts_with(&self.home) {
            return program.to_owned();
        }
        let meta = fs::metadata(program)
            .unwrap_or_else(|e| panic!("no program {}: {e}", program.display()));
        let key = format!("{}-{}-{}", meta.ino(), meta.mtime_nsec(), meta.len());
        let copies = self.home.join("bin");
        let dir = copies.join(key);
        let copy = dir.join(program.file_name().unwrap());
        if !copy.exists() {
            fs::create_dir_all(&dir).unwrap();
            let part = tempfile::NamedTempFile::new_in(&dir).unwrap().into_temp_path();
            fs::copy(program, &part).unwrap();
            fs::set_permissions(&part, Permissions::from_mode(0o755)).unwrap();
            part.persist(&copy).unwrap();
        }
        // The mark of use that remove_unused looks at.
        let _ = File::open(&dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        remove_unused(&copies);
        copy
    }
}

/// A directory owned by a test user, removed on drop.
#[derive(Debug)]
pub struct UserDir(TempDir);

impl UserDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl AsRef<Path> for UserDir {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

/// uid, gid and home of a user in /etc/passwd: static binaries have no NSS.
fn passwd(name: &str) -> Option<(u32, u32, PathBuf)> {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap(), fields[5].into()))
}

/// Start and length of the ranges that a user has in a file like /etc/subuid.
fn ranges(file: &str, name: &str) -> Vec<(u32, u32)> {
    all_ranges(file).into_iter().filter(|(n, _, _)| n == name).map(|(_, s, l)| (s, l)).collect()
}

fn all_ranges(file: &str) -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(parse).collect()
}

/// Gives the user one range, or takes away what useradd granted.
fn settle_ranges(name: &str, wanted: bool) {
    for (file, kind) in [("/etc/subuid", "subuids"), ("/etc/subgid", "subgids")] {
        let have = ranges(file, name);
        if !wanted {
            for (start, len) in have {
                let range = format!("{start}-{}", start + len - 1);
                run(Command::new("usermod").args([&format!("--del-{kind}"), &range, name]));
            }
        } else if !have.iter().any(|(_, len)| *len >= SUBORDINATE_IDS) {
            let ends = all_ranges(file).into_iter().map(|(_, start, len)| start + len);
            let start = ends.max().unwrap_or(0).max(FIRST_SUBORDINATE);
            let range = format!("{start}-{}", start + SUBORDINATE_IDS - 1);
            run(Command::new("usermod").args([&format!("--add-{kind}"), &range, name]));
        }
    }
}

/// Removes copies that nobody asked for in a while: every build makes new ones.
fn remove_unused(copies: &Path) {
    let is_old = |path: &Path| {
        let used = fs::metadata(path).and_then(|m| m.modified());
        used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > COPIES_KEPT))
    };
    for entry in fs::read_dir(copies).into_iter().flatten().flatten() {
        if is_old(&entry.path()) {
            // Another test may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(user: &TestUser, script: &str) -> String {
        let output = user.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn runs_as_the_user_and_as_nothing_more() {
        for user in [TestUser::with_subids(), TestUser::without_subids()] {
            let id = format!("{} {} {}", user.uid(), user.gid(), user.gid());
            assert_eq!(sh(&user, "echo $(id -u) $(id -g) $(id -G)"), id);
            assert!(user.uid() != 0);
            let caps = sh(&user, "grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '\\t'");
            assert!(caps.lines().all(|l| l.ends_with(":0000000000000000")), "{caps}");
            assert_eq!(sh(&user, "touch $XDG_RUNTIME_DIR/x; stat -c %a:%u $XDG_RUNTIME_DIR"), {
                format!("700:{}", user.uid())
            });
            assert_eq!(sh(&user, "pwd; env | cut -d= -f1 | sort | xargs"), {
                let vars = "HOME LANG LOGNAME PATH PWD USER XDG_RUNTIME_DIR";
                format!("{}\n{vars}", user.home().display())
            });
        }
    }

    #[test]
    fn only_one_of_them_has_subordinate_ids() {
        let (with, without) = (TestUser::with_subids(), TestUser::without_subids());
        let (start, len) = with.subuids().unwrap();
        assert!(start >= 65_536 && len >= SUBORDINATE_IDS, "{start} {len}");
        assert!(with.subgids().is_some());
        assert_eq!((without.subuids(), without.subgids()), (None, None));
        // The set-uid helper agrees.
        let script = "unshare --user sleep 60 & pid=$!; ns() { readlink /proc/$1/ns/user; }; \
                      while [ $(ns $pid) = $(ns self) ]; do sleep 0.02; done; \
                      newuidmap $pid 0 $(id -u) 1 1 $0 65536; code=$?; kill $pid; exit $code";
        let map = |user: &TestUser| {
            let start = start.to_string();
            user.command("sh").args(["-c", script, &start]).output().unwrap()
        };
        let output = map(&with);
        assert!(output.status.success(), "{output:?}");
        assert!(!map(&without).status.success());
    }

    #[test]
    fn a_tempdir_is_the_users_and_goes_whole() {
        let user = TestUser::with_subids();
        let dir = user.tempdir();
        let path = dir.path().to_owned();
        sh(&user, &format!("cd {}; mkdir -p a/b; touch a/b/c; chmod 0 a/b", path.display()));
        fs::write(path.join("roots"), "").unwrap();
        user.own_tree(&path);
        sh(&user, &format!("rm {}/roots", path.display()));
        std::os::unix::fs::lchown(path.join("a/b/c"), Some(1_000_001), None).unwrap();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn isolated_users_have_their_own_runtime_dir() {
        let (a, b) = (TestUser::without_subids().isolated(), TestUser::without_subids().isolated());
        assert_ne!(a.runtime_dir(), b.runtime_dir());
        assert_eq!(sh(&a, "touch $XDG_RUNTIME_DIR/x; stat -c %n:%a $XDG_RUNTIME_DIR"), {
            format!("{}:700", a.runtime_dir().display())
        });
        let path = a.runtime_dir().to_owned();
        drop(a);
        assert!(!path.exists());
    }

    #[test]
    fn a_program_behind_a_closed_directory_runs_all_the_same() {
        let user = TestUser::with_subids();
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), Permissions::from_mode(0o700)).unwrap();
        let program = closed.path().join("true");
        fs::copy("/bin/true", &program).unwrap();
        assert!(user.command(&program).status().unwrap().success());
    }
}
