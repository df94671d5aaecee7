//! Another process of the same user exchanges directories of the tree that is being made for links
//! to a directory of the host, while pulls run. Whatever becomes of the pulls, the host's directory
//! stays as it was.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod pulls;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pulls::{Site, busy_image, old_image};
use testkit::programs::Run;
use testkit::tree::{Options, Tree, assert_same};
use testkit::user::TestUser;

/// Microseconds between two exchanges: a fast attack fails a pull early, a slow one lets it come to
/// its whiteouts, its links and its end.
const PAUSES: [&str; 4] = ["0", "200", "1000", "5000"];

/// Rounds of pull, pull again with --force, rm; for each of the pauses.
const ROUNDS: usize = 3;

/// What a pull must do without: the calls that are denied it.
const DENIED: [&[&str]; 3] = [
    &[],
    &["openat2"],
    &["openat2", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"],
];

static ALONE: Mutex<()> = Mutex::new(());

/// The attacker; killed when dropped.
struct Attacker {
    child: Child,
    exchanges: Arc<AtomicU64>,
}

impl Attacker {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let exchanges = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&exchanges);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                count.fetch_add(line.parse().unwrap(), Ordering::Relaxed);
            }
        });
        Self { child, exchanges }
    }

    fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example that exchanges directories; cargo builds it with the tests.
fn attacker() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/attacker");
    assert!(path.exists(), "{path:?} is not built: build the examples first");
    path
}

/// A host directory with all the names that the image has, so that whatever is made, written,
/// linked or removed by way of a link to it shows.
fn make_host(site: &Site, host: &Path) {
    for dir in [host.to_owned(), host.join("sub"), host.join("dir01"), host.join("dir01/sub")] {
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["f0", "f1", "f2", "f3", "f4", "secret", "large", "kept-apart"] {
            fs::write(dir.join(name), "the host's").unwrap();
            fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
    site.own_tree(host);
}

#[derive(Default, Debug)]
struct Outcome {
    succeeded: usize,
    failed: usize,
    attacked: usize,
}

/// Runs pulls under attack.
fn run(site: &Site, denied: &[&str]) -> Outcome {
    // An attacker never rests: with two of them no processor would be left for the pulls.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let host = site.top().join("host");
    let bait = site.top().join("bait");
    make_host(site, &host);
    fs::create_dir(&bait).unwrap();
    site.own_tree(&bait);
    let before = Tree::of(&host, &Options::default());
    let mut outcome = Outcome::default();
    for pause in PAUSES {
        let mut command = site.command_of(attacker());
        command.arg(site.dir()).arg(&bait).arg(&host).arg(pause);
        let attacker = Attacker::start(command);
        for round in 0..ROUNDS {
            // Names that nothing was left under.
            let dest = format!("d{pause}-{round}");
            let forced = site.pull(&["--force"], "new", &dest);
            for command in [site.pull(&[], "new", &dest), forced, site.remove(&dest)] {
                let exchanges = attacker.exchanges();
                let done = Run::new(without(site, denied, command)).finish();
                assert!(!done.timed_out, "{done}");
                match done.code() {
                    Some(0) => outcome.succeeded += 1,
                    Some(1) => outcome.failed += 1,
                    _ => panic!("neither success nor a failure that is told: {done}"),
                }
                outcome.attacked += usize::from(attacker.exchanges() > exchanges);
                assert_same(&before, &Tree::of(&host, &Options::default()));
            }
        }
    }
    fs::remove_dir_all(&bait).unwrap();
    assert_same(&before, &Tree::of(&host, &Options::default()));
    fs::remove_dir_all(&host).unwrap();
    outcome
}

/// The command, with those calls failing as on a kernel that does not have them.
fn without(site: &Site, denied: &[&str], command: Command) -> Command {
    if denied.is_empty() {
        return command;
    }
    let calls = denied.join(",");
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=ENOSYS"));
    site.traced(&["--seccomp-bpf", "-e", &trace, "-e", &inject], &command).0
}

#[track_caller]
fn assert_raced(outcome: &Outcome) {
    let runs = PAUSES.len() * ROUNDS * 3;
    assert!(outcome.attacked > runs / 6, "of {runs} runs hardly any met an attack: {outcome:?}");
    assert!(outcome.failed > 0, "no attack ever hit: {outcome:?}");
}

#[test]
fn nothing_outside_changes_while_directories_are_exchanged_for_links() {
    let site = Site::root(&old_image(), &busy_image());
    for denied in DENIED {
        assert_raced(&run(&site, denied));
    }
}

#[test]
fn nothing_outside_changes_in_a_users_pull_either() {
    let site = Site::user(TestUser::with_subids(), &old_image(), &busy_image());
    for denied in DENIED {
        assert_raced(&run(&site, denied));
    }
}

#[test]
fn nothing_outside_changes_with_a_single_id_either() {
    let site = Site::user(TestUser::without_subids(), &old_image(), &busy_image());
    assert_raced(&run(&site, DENIED[2]));
}
