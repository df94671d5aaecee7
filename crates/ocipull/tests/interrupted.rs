//! A pull that is stopped at any moment, by SIGKILL or by a call that fails. The destination is the old
//! tree or the new one, and the next run finds no rubbish.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod pulls;

use std::collections::{BTreeSet, HashMap};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Run;
use pulls::{Found, Site, busy_image, old_image, small_image};
use testkit::registry::{Fault, Rule};
use testkit::user::TestUser;

/// Points in time at which a pull is killed, as root and in either process of a user's.
const KILLS: u32 = 36;
const KILLS_OF_A_USER: u32 = 16;

/// The calls by which a pull changes anything, or keeps others from it. Not write(2): tokio has its
/// own, which never fail; files' are made to fail by a full disk.
const CALLS: [&str; 17] = [
    "open",
    "openat",
    "openat2",
    "mkdirat",
    "fchown",
    "fchownat",
    "fchmod",
    "utimensat",
    "fsetxattr",
    "fremovexattr",
    "linkat",
    "symlinkat",
    "unlinkat",
    "renameat",
    "renameat2",
    "flock",
    "getdents64",
];

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn kill(signal: &str, pid: u32) {
    // It may have ended by itself.
    let done = Command::new("kill").args([signal, &pid.to_string()]).output().unwrap();
    drop(done);
}

/// How long a whole pull takes here and now, with answers that come a bit late: else most of the
/// moments are those in which a busy machine starts the program.
fn duration(site: &Site) -> Duration {
    let delay = Fault::Delay(Duration::from_millis(30));
    site.registry.inject(Rule::new(delay).path("/v2/"));
    let mut times = [Duration::ZERO; 3];
    for time in &mut times {
        site.reset(false);
        let start = Instant::now();
        Run::of(site.pull(&[], "new", "d")).succeeded();
        *time = start.elapsed();
    }
    times.sort();
    times[1]
}

/// Points spread over `whole` and a little beyond: one a slice, at another place in each.
fn moments(count: u32, whole: Duration) -> impl Iterator<Item = Duration> {
    let slice = whole.mul_f64(1.1) / count;
    // The golden ratio's multiples, which never come close to each other.
    (0..count).map(move |n| slice * n + slice.mul_f64(f64::from(n) * 0.618_034 % 1.0))
}

fn child_of(pid: u32) -> Option<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Waits until all threads of a process have ended: its files are closed, its locks free.
fn wait_for_end_of(pid: u32) {
    let has_ended = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // A zombie where nobody reaps it: the state follows the name (proc_pid_stat(5)).
        !matches!(stat.rsplit_once(") "), Some((_, rest)) if !rest.starts_with(['Z', 'X']))
    };
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let end = Instant::now() + Duration::from_secs(20);
    while !threads().all(has_ended) {
        assert!(Instant::now() < end, "the process inside the namespace outlives the one outside");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How often each outcome was seen; a test that never stopped a pull in its middle shows nothing.
#[derive(Default, Debug)]
struct Seen {
    in_the_middle: u32,
}

impl Seen {
    fn look(&mut self, site: &Site) {
        self.in_the_middle += u32::from(site.names().iter().any(|n| n.starts_with(".d.ocipull-")));
    }
}

#[test]
fn killed_at_any_time_a_pull_leaves_the_old_tree_or_the_new() {
    let site = Site::root(&old_image(), &busy_image());
    let whole = duration(&site);
    let mut seen = Seen::default();
    for (n, moment) in moments(KILLS, whole).enumerate() {
        let had_old = n % 2 == 0;
        site.reset(had_old);
        let options: &[&str] = if had_old { &["--force"] } else { &[] };
        let mut child = start(site.pull(options, "new", "d"));
        std::thread::sleep(moment);
        kill("-KILL", child.id());
        child.wait().unwrap();
        let when = format!("SIGKILL after {moment:?} of {whole:?}, old tree {had_old}");
        seen.look(&site);
        let found = site.found(&when);
        assert!(!had_old || found != Found::Nothing, "{when}: the old tree is gone");
        assert!(had_old || found != Found::Old, "{when}");
        site.assert_recovers(&when);
    }
    assert!(seen.in_the_middle > KILLS / 4, "of {KILLS} kills: {seen:?}");
}

#[test]
fn killed_outside_or_inside_its_namespace_a_pull_leaves_the_old_tree_or_the_new() {
    let site = Site::user(TestUser::with_subids(), &old_image(), &busy_image());
    let whole = duration(&site);
    let mut seen = Seen::default();
    for (n, moment) in moments(KILLS_OF_A_USER, whole).enumerate() {
        let (had_old, outside) = (n % 2 == 0, n % 4 < 2);
        site.reset(had_old);
        let options: &[&str] = if had_old { &["--force"] } else { &[] };
        let mut parent = start(site.pull(options, "new", "d"));
        std::thread::sleep(moment);
        let child = child_of(parent.id());
        kill("-KILL", if outside { parent.id() } else { child.unwrap_or(parent.id()) });
        let status = parent.wait().unwrap();
        let when = format!("SIGKILL after {moment:?} of {whole:?}, outside {outside}: {status}");
        if let Some(child) = child {
            wait_for_end_of(child);
        }
        seen.look(&site);
        let found = site.found(&when);
        assert!(!had_old || found != Found::Nothing, "{when}: the old tree is gone");
        site.assert_recovers(&when);
    }
    assert!(seen.in_the_middle > KILLS_OF_A_USER / 4, "of {KILLS_OF_A_USER} kills: {seen:?}");
}

/// How a destination is pulled to: with what before it, and which options.
#[derive(Clone, Copy, Debug)]
struct Case {
    had_old: bool,
    options: &'static [&'static str],
}

const CASES: [Case; 2] =
    [Case { had_old: false, options: &[] }, Case { had_old: true, options: &["--force"] }];

/// Which of a pull's calls of that name concern the destination's directory, by their number among
/// those of their thread: strace counts so.
fn numbers(site: &Site, case: Case, call: &str) -> BTreeSet<u32> {
    site.reset(case.had_old);
    let trace = format!("trace={call}");
    let (mut command, log) =
        site.traced(&["--seccomp-bpf", "-y", "-e", &trace], &site.pull(case.options, "new", "d"));
    let output = command.output().unwrap_or_else(|e| panic!("cannot run strace: {e}"));
    assert!(output.status.success(), "{output:?}");
    let mut threads: HashMap<String, u32> = HashMap::new();
    let mut numbers = BTreeSet::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        // `PID call(…)`; the second half of a call that was overtaken is `PID <... call resumed>`.
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        if rest.trim_start().starts_with(&format!("{call}(")) {
            let number = threads.entry(thread.into()).or_default();
            *number += 1;
            if concerns(site, line) {
                numbers.insert(*number);
            }
        }
    }
    numbers
}

fn concerns(site: &Site, line: &str) -> bool {
    line.contains(site.dir().to_str().unwrap())
}

/// A pull whose call of that number is disturbed.
fn disturbed(site: &Site, case: Case, call: &str, how: &str, number: u32) -> (Run, String) {
    site.reset(case.had_old);
    let inject = format!("inject={call}:{how}:when={number}");
    let trace = format!("trace={call}");
    // With its filter in the kernel strace 6.1 sends no signal.
    let filter: &[&str] = if how.starts_with("signal") { &[] } else { &["--seccomp-bpf"] };
    let options = [filter, &["-y", "-e", &trace, "-e", &inject]].concat();
    let (command, log) = site.traced(&options, &site.pull(case.options, "new", "d"));
    (Run::of(command), std::fs::read_to_string(log).unwrap_or_default())
}

#[test]
fn killed_at_any_of_its_calls_a_pull_leaves_the_old_tree_or_the_new() {
    let site = Site::root(&old_image(), &small_image());
    let mut kills = 0;
    for (case, call) in CASES.iter().flat_map(|case| CALLS.map(|call| (*case, call))) {
        for number in numbers(&site, case, call) {
            let (run, _) = disturbed(&site, case, call, "signal=SIGKILL", number);
            let when = format!("SIGKILL at {call} number {number}, {case:?}");
            let found = site.found(&when);
            assert!(!case.had_old || found != Found::Nothing, "{when}: the old tree is gone");
            match run.code {
                None => kills += 1,
                // Another run of threads, in which none has so many.
                code => assert_eq!((code, found), (Some(0), Found::New), "{when}: {run}"),
            }
            site.assert_recovers(&when);
        }
    }
    assert!(kills > 50, "only {kills} kills");
}

#[test]
fn a_call_that_fails_is_told_in_one_line_and_changes_nothing() {
    let site = Site::root(&old_image(), &small_image());
    let mut failures = 0;
    for (case, call) in CASES.iter().flat_map(|case| CALLS.map(|call| (*case, call))) {
        for number in numbers(&site, case, call) {
            let (run, log) = disturbed(&site, case, call, "error=EIO", number);
            let injected: Vec<&str> = log.lines().filter(|l| l.contains("(INJECTED)")).collect();
            let when = format!("EIO, {case:?}: {}\n{run}", injected.join("\n"));
            if !injected.iter().all(|line| concerns(&site, line)) {
                // Another run of threads, in which the number is that of some other file's call.
                site.found(&when);
            } else if run.code == Some(0) {
                // Beside the point, as a look for mounts, or after it: removing the old tree.
                assert_eq!(site.found(&when), Found::New, "{when}");
                let told = run.stderr.contains("cannot remove the replaced tree");
                assert_eq!(told, site.names().len() > 2, "{when}");
            } else {
                run.failed(1, &["(EIO)"]).hints("dmesg");
                // One that strikes the clean-up as well leaves it to the next run.
                if injected.len() == 1 {
                    site.assert_as_before(case.had_old, &when);
                }
                failures += 1;
            }
            site.assert_recovers(&when);
        }
    }
    assert!(failures > 50, "only {failures} failures");
}
