//! Every system call of a start refused, and every process of one killed at each of its steps: what
//! fails says so with a remedy, and nothing stays that the next call cannot clean up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::As;
use container::Container;
use rustix::io::Errno;
use testkit::programs::{Finished, Run, binary};
use testkit::user::TestUser;

/// A start with all its faults takes a fraction of a second; one that hangs is found out by this.
const LIMIT: Duration = Duration::from_secs(30);

/// How `fault` ends where the call was not made: how often it is waited and looked depends on the
/// machine.
const NOT_REACHED: i32 = 254;
const FEW: usize = 10;

const WRITE: u32 = 1;

/// Calls by which the language's runtime manages memory, threads, signals and descriptors: it
/// aborts where they fail, and they change nothing that lasts. By their numbers on x86-64:
/// close, mmap, mprotect, munmap, brk, rt_sigaction, getpid, exit, fcntl, sigaltstack, arch_prctl,
/// gettid, futex, sched_getaffinity, set_tid_address, exit_group, set_robust_list, prlimit64,
/// getrandom, rseq. And those that never fail: umask, getuid, getgid, geteuid, getegid, and what a
/// PID 1 waits with: wait4, rt_sigtimedwait.
const OF_THE_RUNTIME: &[u32] = &[
    3, 9, 10, 11, 12, 13, 39, 60, 72, 131, 158, 186, 202, 204, 218, 231, 273, 302, 318, 334, 95,
    102, 104, 107, 108, 61, 128,
];
/// Calls that only look, so that being killed at the next one is the same: read, fstat, poll, lseek,
/// ioctl, access, getcwd, readlink, statfs, getdents64, newfstatat, statx.
const THAT_ONLY_LOOK: &[u32] = &[0, 5, 7, 8, 16, 21, 79, 89, 137, 217, 262, 332];

/// A call of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    process: usize,
    number: u32,
    /// Which of that process's calls of that number.
    nth: usize,
}

impl Call {
    /// Not one of the runtime's own; the first poll looks whether the standard streams are open.
    fn is_ours(&self) -> bool {
        let first_poll = self.number == 7 && self.process == 0 && self.nth == 0;
        !OF_THE_RUNTIME.contains(&self.number) && !first_poll
    }
}

/// One start that is tried with faults.
struct Start {
    container: Container,
    flags: &'static [&'static str],
    calls: Vec<Call>,
}

impl Start {
    fn new(container: Container, flags: &'static [&'static str]) -> Self {
        let list = container.bundle.join("calls");
        let mut start = Self { container, flags, calls: Vec::new() };
        // The first one makes mount points and config.json.
        start.plain();
        start.assert_ran(&start.with_fault("--list", list.to_str().unwrap()));
        let text = std::fs::read_to_string(&list).unwrap();
        let calls = text.lines().map(|line| {
            let numbers: Vec<usize> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            let number = u32::try_from(numbers[1]).unwrap();
            Call { process: numbers[0], number, nth: numbers[2] }
        });
        start.calls = calls.collect();
        // The processes take turns; each one's calls stay in their order.
        start.calls.sort_by_key(|call| call.process);
        assert!(start.calls.iter().any(|call| call.process == 2), "{text}");
        start
    }

    fn command(&self) -> Command {
        let name = &self.container.name;
        let common = ["--rootless", "--name", name, "--", "/bin/sh", "-c", "echo ran"];
        self.container.command(&[self.flags, &common[..]].concat())
    }

    /// A start without a fault, which has to succeed whatever the one before has left.
    fn plain(&self) {
        let done = Run::new(self.command()).limit(LIMIT).finish();
        self.assert_ran(&done);
        self.clean();
    }

    fn assert_ran(&self, done: &Finished) {
        let name = format!("{}\n", self.container.name);
        let want = if self.flags.contains(&"-d") { name.as_str() } else { "ran\n" };
        done.assert_code(0).assert_stdout(want);
    }

    /// Removes what a container in the background leaves on purpose.
    fn clean(&self) {
        if self.flags.contains(&"-d") {
            self.container.minirun(&["delete", "--force", &self.container.name]).assert_success();
        }
    }

    fn with_fault(&self, fault: &str, how: &str) -> Finished {
        let inner = self.command();
        let mut command = Command::new(binary("fault"));
        command.args([fault, how, "minirun", "--"]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(&self.container.bundle).env_clear();
        command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let done = Run::new(command).limit(LIMIT).finish();
        assert!(!done.timed_out && !done.held_open, "a process is left: {fault} {how}\n{done}");
        done
    }

    /// Those of a row of the same calls that say something of their own: the first and the last.
    fn without_rows(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        let calls: Vec<Call> = self.calls.iter().copied().filter(wanted).collect();
        let same = |a: Option<&Call>, b: &Call| {
            a.is_some_and(|a| a.process == b.process && a.number == b.number)
        };
        let inner = |at: usize| {
            at > 0 && same(calls.get(at - 1), &calls[at]) && same(calls.get(at + 1), &calls[at])
        };
        (0..calls.len()).filter(|&at| !inner(at)).map(|at| calls[at]).collect()
    }

    /// The container's record, where there is one.
    fn record(&self) -> Option<PathBuf> {
        Some(self.container.state_dir()).filter(|dir| dir.exists())
    }

    /// The next call sees the container as ended if at all, and the next start of that name works.
    fn assert_recovers(&self, call: Call, done: &Finished) {
        if self.record().is_some() {
            let list = self.container.minirun(&["list", "--json"]);
            list.assert_success();
            assert!(!list.stdout_text().contains("running"), "{call:?}\n{done}\n{list}");
            self.plain();
        }
        assert_eq!(self.record(), None, "{call:?}\n{done}");
    }
}

/// One line that names step and object, one hint. Notes may stand before.
fn assert_told(call: Call, done: &Finished) {
    let text = done.stderr_text();
    let lines: Vec<_> = text.lines().filter(|l| !l.starts_with("minirun: note: ")).collect();
    let [what, hint] = lines[..] else { panic!("want two lines: {call:?}\n{done}") };
    let said = what.strip_prefix("minirun: ").unwrap_or_default().to_lowercase();
    assert!(said.contains(": ") && !said.starts_with("operation not"), "{call:?}\n{done}");
    assert!(hint.strip_prefix("hint: ").is_some_and(|h| h.len() > 10), "{call:?}\n{done}");
}

fn refuse_each(start: &Start, wanted: impl Fn(&Call) -> bool) {
    let (mut told, mut not_reached) = (0, 0);
    for call in start.without_rows(|call| call.is_ours() && wanted(call)) {
        let eperm = Errno::PERM.raw_os_error();
        let how = format!("{}:{}:{}:{eperm}", call.process, call.number, call.nth);
        let done = start.with_fault("--error", &how);
        match done.code() {
            // What is only looked at may be refused; a record that could not be removed is told of,
            // or stays for the next call to find.
            Some(0) => {
                // A reader that has gone away is not missed.
                if call.number != WRITE {
                    start.assert_ran(&done);
                }
                start.clean();
            }
            Some(125..=127) => {
                assert_told(call, &done);
                told += 1;
            }
            Some(NOT_REACHED) => not_reached += 1,
            _ => panic!("{call:?}\n{done}"),
        }
        start.assert_recovers(call, &done);
    }
    assert!(told > 20, "only {told} calls were needed");
    assert!(not_reached < FEW, "{not_reached} calls were not made again");
}

fn kill_at_each(start: &Start, wanted: impl Fn(&Call) -> bool) {
    let steps =
        |call: &Call| call.is_ours() && !THAT_ONLY_LOOK.contains(&call.number) && wanted(call);
    let mut not_reached = 0;
    for call in start.without_rows(steps) {
        let how = format!("{}:{}:{}", call.process, call.number, call.nth);
        let done = start.with_fault("--kill", &how);
        match done.code() {
            Some(125) => assert_told(call, &done),
            Some(0 | 137) => {}
            Some(NOT_REACHED) => not_reached += 1,
            _ => panic!("{call:?}\n{done}"),
        }
        if done.code() == Some(0) {
            start.clean();
        }
        start.assert_recovers(call, &done);
    }
    assert!(not_reached < FEW, "{not_reached} calls were not made again");
}

#[test]
fn every_call_of_a_start_that_is_refused_is_told_with_a_remedy() {
    refuse_each(&Start::new(Container::single(), &[]), |_| true);
}

#[test]
fn whoever_is_killed_in_a_start_leaves_nothing_that_stays() {
    kill_at_each(&Start::new(Container::single(), &[]), |_| true);
}

/// The init and the command are as in the foreground; the launcher and the monitor are not.
#[test]
fn a_start_in_the_background_fails_as_well() {
    let start = Start::new(Container::single(), &["-d"]);
    refuse_each(&start, |call| call.process < 2);
    kill_at_each(&start, |call| call.process < 2);
}

/// What the set-uid helpers add is done by the launcher.
#[test]
fn a_start_with_subordinate_ids_fails_as_well() {
    let container = Container::new(As::User(TestUser::with_subids().isolated()));
    let record = common::record(container.who.ownership(), serde_json::json!({}));
    let path = container.bundle.join("rootfs.image.json");
    std::fs::write(&path, record.to_string()).unwrap();
    let start = Start::new(container, &[]);
    refuse_each(&start, |call| call.process == 0);
    kill_at_each(&start, |call| call.process == 0);
}
