//! The init alone: `minirun init`, and by the name of tini beside Debian's.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use testkit::programs::{Background, Finished, Run, binary, process_runs};

const DEBIANS: &str = "/usr/bin/tini";

/// minirun by the name of tini.
fn tini(args: &[&str]) -> Command {
    let mut command = Command::new(binary("minirun"));
    command.arg0("tini").args(args);
    command
}

fn init(args: &[&str]) -> Command {
    let mut command = Command::new(binary("minirun"));
    command.arg("init").args(args);
    command
}

/// Debian's tini or ours, by the name `name`. Debian's keeps what it says until its end, and its
/// child a copy of that: stdbuf(1) has it write line by line.
fn by_name(program: &str, name: &str, args: &[&str], env: &[(&str, &str)]) -> Finished {
    assert!(std::path::Path::new(DEBIANS).exists(), "no {DEBIANS}: run scripts/test-deps");
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "bash", "-c", "exec -a \"$0\" \"$@\"", name, program]).args(args);
    command.envs(env.iter().copied());
    Run::new(command).finish()
}

/// Without numbers of processes, and the name of this program in tini's version.
fn comparable(text: &str) -> Vec<String> {
    let own = concat!(" - minirun.", env!("CARGO_PKG_VERSION"));
    let mut text = text.replace(own, "");
    for mark in ["tini (", "pid '", "pid: '", "pid="] {
        let mut parts = text.split(mark);
        let first = parts.next().unwrap_or_default().to_owned();
        text = parts.fold(first, |all, part| {
            all + mark + part.trim_start_matches(|c: char| c.is_ascii_digit())
        });
    }
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    // The child's line and its parent's come in either order.
    if text.contains("tcsetpgrp") {
        lines.sort();
    }
    lines
}

/// Arguments, and what is in the environment.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// A command that leaves a process behind.
const BUSY: &str = "(sleep 0.1; :) & exit 0";
/// One whose grandchild is reaped before its own end.
const ORPHAN: &str = "setsid sh -c '(: &) ; exit' ; sleep 0.2; exit 5";

const CASES: &[Case] = &[
    (&[], &[]),
    (&["--"], &[]),
    (&["--version"], &[]),
    (&["--version", "x"], &[]),
    (&["-h"], &[]),
    (&["-sh"], &[]),
    (&["--help"], &[]),
    (&["-x"], &[]),
    (&["-sx", "true"], &[]),
    (&["-e"], &[]),
    (&["-p"], &[]),
    (&["-", "x"], &[]),
    (&["true"], &[]),
    (&["--", "true"], &[]),
    (&["-s", "--", "true"], &[]),
    (&["-s", "true", "-v"], &[]),
    (&["-s", "true", "-v"], &[("POSIXLY_CORRECT", "1")]),
    (&["-s", "echo", "a", "--", "-x"], &[]),
    (&["-v", "true"], &[]),
    (&["-vv", "--", "true"], &[]),
    (&["-svvv", "--", "true"], &[]),
    (&["-svvv", "--", "sh", "-c", "kill -9 $$"], &[]),
    (&["-svvv", "--", "sh", "-c", "kill -40 $$"], &[]),
    (&["-svv", "--", "nosuch"], &[]),
    (&["-s", "/etc"], &[]),
    (&["-s", "/etc/passwd/x"], &[]),
    (&["-s", "--", "sh", "-c", "exit 7"], &[]),
    (&["-s", "-e", "7", "-e143", "--", "sh", "-c", "exit 7"], &[]),
    (&["-s", "-e", "143", "--", "sh", "-c", "kill -15 $$"], &[]),
    (&["-s", "-e", "", "--", "false"], &[]),
    (&["-s", "-e", " +1", "--", "false"], &[]),
    (&["-s", "-e", "1x", "--", "false"], &[]),
    (&["-s", "-e", "256", "--", "false"], &[]),
    (&["-s", "-e", "-1", "--", "false"], &[]),
    (&["-s", "-e", "99999999999999999999", "--", "false"], &[]),
    (&["-p", "SIGKILL", "-s", "true"], &[]),
    (&["-p", "KILL", "-s", "true"], &[]),
    (&["-p", "9", "-s", "true"], &[]),
    (&["-p", "SIGPWR", "-s", "true"], &[]),
    (&["-s", "-w", "--", "sh", "-c", ORPHAN], &[]),
    (&["-s", "--", "sh", "-c", BUSY], &[]),
    (&["true"], &[("TINI_SUBREAPER", "")]),
    (&["true"], &[("TINI_VERBOSITY", "0")]),
    (&["-vvv", "true"], &[("TINI_VERBOSITY", "2")]),
    (&["-s", "true"], &[("TINI_VERBOSITY", "-1")]),
    (&["-s", "true"], &[("TINI_VERBOSITY", "x")]),
    (&["-x"], &[("TINI_VERBOSITY", "0")]),
];

#[test]
fn by_its_name_it_says_and_does_what_debians_does() {
    let ours = binary("minirun").to_string_lossy().into_owned();
    for (args, env) in CASES {
        for name in ["tini", "/opt/tini-static"] {
            let [theirs, mine] = [DEBIANS, &ours].map(|program| by_name(program, name, args, env));
            let what = |done: &Finished| {
                let texts = [done.stdout_text(), done.stderr_text()];
                (done.code(), texts.map(|text| comparable(&text)))
            };
            assert_eq!(what(&mine), what(&theirs), "{args:?} {env:?}\n{mine}\n{theirs}");
        }
    }
}

#[test]
fn its_license_is_its_own() {
    let done = Run::new(tini(&["-l"])).finish();
    done.assert_code(0);
    assert!(done.stdout_text().contains("the authors of ocipull, minirun and pfwd"), "{done}");
}

/// The environment blocks one and ignores another; what runs is no shell, which would change them.
#[test]
fn the_child_has_the_signals_as_they_were() {
    let run = |program: &str| {
        let mut command = Command::new("env");
        command.args(["--block-signal=USR1", "--ignore-signal=HUP", program, "-s", "--"]);
        command.args(["grep", "^Sig[BIC]", "/proc/self/status"]);
        Run::new(command).finish()
    };
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("tini");
    std::os::unix::fs::symlink(binary("minirun"), &ours).unwrap();
    let [theirs, mine] = [DEBIANS, &ours.to_string_lossy()].map(run);
    assert_eq!(mine.stdout_text(), theirs.stdout_text(), "{mine}\n{theirs}");
    let text = mine.stdout_text();
    let mask = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // USR1 is 10, HUP 1.
    assert_eq!((mask("SigBlk:") >> 9 & 1, mask("SigIgn:") & 1), (1, 1), "{mine}");
}

#[test]
fn the_child_leads_a_group_of_its_own_and_the_init_is_not_stopped_in_the_background() {
    // Process and group are fields 1 and 5 of proc_pid_stat(5); SIGTTIN and SIGTTOU 21 and 22.
    let script = "read stat </proc/$$/stat; set -- $stat; [ $1 = $5 ] && echo leads; \
         while read name value; do [ $name != SigIgn: ] || echo $(( (0x$value >> 20) & 3 )); \
         done </proc/$PPID/status";
    let done = Run::new(init(&["-s", "sh", "-c", script])).finish();
    done.assert_code(0).assert_stdout("leads\n3\n");
}

#[test]
fn on_a_terminal_the_child_has_the_foreground() {
    let script = "read stat </proc/$$/stat; set -- $stat; [ $5 = $8 ] && echo in front";
    let program = binary("minirun").to_string_lossy().into_owned();
    for start in [&["tini", &program, "-s", "--"][..], &["minirun", &program, "init", "-s"]] {
        let mut command = Command::new("bash");
        command.args(["-c", "exec -a \"$0\" \"$@\""]).args(start).args(["sh", "-c", script]);
        let done = testkit::pty::Session::start(command, 20, 40).finish();
        assert_eq!((done.code, done.shown.as_str()), (Some(0), "in front\n"), "{done:?}");
    }
}

#[test]
fn all_exit_codes_pass() {
    for code in 0..=255 {
        let script = format!("exit {code}");
        Run::new(tini(&["-s", "--", "sh", "-c", &script])).finish().assert_code(code);
        // Only one that is named becomes 0.
        let (this, next) = (code.to_string(), ((code + 1) % 256).to_string());
        let args = ["-s", "-e", &next, "-e", &this, "--", "sh", "-c", &script];
        Run::new(init(&args)).finish().assert_code(0);
        let args = ["-s", "-e", &next, "--", "sh", "-c", &script];
        Run::new(init(&args)).finish().assert_code(code);
    }
}

/// What no shell can die of: ended by no default action, or kept by the C library for itself.
const NOT_DEADLY: &[i32] = &[17, 18, 19, 20, 21, 22, 23, 28, 32, 33];

#[test]
fn a_command_that_dies_of_a_signal_ends_with_128_and_its_number() {
    for signal in (1..=64).filter(|signal| !NOT_DEADLY.contains(signal)) {
        let script = format!("ulimit -c 0; kill -{signal} $$");
        let done = Run::new(init(&["-s", "--", "sh", "-c", &script])).finish();
        done.assert_code(128 + signal);
    }
}

/// Waits for every signal that can be waited for, and names it.
const TELLER: &str = "import signal as s\n\
     all = set(range(1, 65)) - {9, 17, 19, 32, 33}\n\
     s.pthread_sigmask(s.SIG_BLOCK, all)\n\
     print('ready', flush=True)\n\
     while True: print('got', s.sigwait(all), flush=True)";

fn send(running: &Background, signal: i32) {
    let pid = running.pid().to_string();
    Run::program("kill", &[&format!("-{signal}"), &pid]).finish().assert_success();
}

#[test]
fn every_signal_that_is_the_childs_reaches_it() {
    let running = Run::new(init(&["-s", "--", "python3", "-c", TELLER])).spawn();
    running.wait_stdout("ready");
    // Its own faults and SIGCHLD are the init's; SIGTTIN and SIGTTOU it ignores.
    let own = [4, 5, 6, 7, 8, 9, 11, 17, 19, 21, 22, 31, 32, 33];
    let passed: Vec<i32> = (1..=64).filter(|signal| !own.contains(signal)).collect();
    assert_eq!(passed.len(), 50);
    let mut want = String::from("ready\n");
    for signal in passed {
        send(&running, signal);
        want += &format!("got {signal}\n");
        running.wait_stdout(&want);
    }
    running.signal(Signal::KILL);
    running.finish();
}

#[test]
fn signals_go_to_the_whole_group_where_that_is_asked_for() {
    let script = "sh -c 'trap \"echo child; exit\" USR1; echo one; while :; do sleep 0.05; done' & \
         trap 'echo main; wait; exit 6' USR1; echo two; while :; do sleep 0.05; done";
    let no_env: &[(&str, &str)] = &[];
    for (option, env) in [(Some("-g"), no_env), (None, &[("TINI_KILL_PROCESS_GROUP", "")][..])] {
        let mut command = tini(&["-s"]);
        command.args(option).args(["--", "sh", "-c", script]).envs(env.iter().copied());
        let running = Run::new(command).spawn();
        running.wait_stdout("one");
        running.wait_stdout("two");
        running.signal(Signal::USR1);
        let done = running.finish();
        done.assert_code(6);
        let text = done.stdout_text();
        assert!(text.contains("main\n") && text.contains("child\n"), "{done}");
    }
}

#[test]
fn the_end_of_the_parent_is_told() {
    let script = "\"$0\" init -s -p USR1 -- sh -c 'trap \"echo told; exit\" USR1; echo ready; \
         while :; do sleep 0.05; done' & wait";
    let mut parent = Command::new("bash");
    parent.args(["-c", script]).arg(binary("minirun"));
    let running = Run::new(parent).spawn();
    running.wait_stdout("ready\n");
    running.signal(Signal::KILL);
    running.wait_stdout("ready\ntold\n");
    running.finish();
}

#[test]
fn ten_thousand_orphans_leave_no_zombie_and_take_no_memory() {
    let memory = "grep RssAnon /proc/$PPID/status | tr -dc 0-9; echo";
    let script = format!(
        "(: &); {memory}; i=0; while [ $i -lt 10000 ]; do (: &); i=$((i+1)); done; \
         for s in $(cat /proc/$PPID/task/$PPID/children); do [ $s = $$ ] || echo left $s; done; \
         {memory}"
    );
    let done = Run::new(init(&["-s", "-w", "--", "dash", "-c", &script])).finish();
    done.assert_code(0);
    let reaped = done.stderr_text().matches("Reaped zombie").count();
    // The last ones may be on their way still.
    assert!((9_900..=10_001).contains(&reaped), "{reaped} reaped");
    let sizes: Vec<u64> = done.stdout_text().lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(sizes.len(), 2, "{:?}", done.stdout_text());
    assert!(sizes[1] <= sizes[0] + 64, "{sizes:?} kB");
}

/// A child of the command's that goes on working after a demand to stop.
const WORKER: &str =
    "sh -c 'trap \"echo asked; WORK\" TERM; echo w; while :; do sleep 0.05; done' & ";

fn with_worker(first: &str, work: &str, rest: &str) -> String {
    first.to_owned() + &WORKER.replace("WORK", work) + rest
}

#[test]
fn on_demand_the_rest_may_end_its_work() {
    let work = "sleep 0.3; echo done; exit";
    let script = with_worker("trap 'exit 3' TERM INT; ", work, "while :; do sleep 0.05; done");
    for signal in [Signal::TERM, Signal::INT] {
        let running = Run::new(init(&["--wait=-1", "--", "sh", "-c", &script])).spawn();
        running.wait_stdout("w\n");
        running.signal(signal);
        running.finish().assert_code(3).assert_stdout("w\nasked\ndone\n");
    }
}

#[test]
fn without_the_option_the_rest_is_left_to_itself() {
    let script = "trap 'exit 3' TERM; sh -c 'echo $$; exec sleep 1000' & \
         while :; do sleep 0.05; done";
    let running = Run::new(init(&["-s", "--", "sh", "-c", script])).spawn();
    let pid = running.wait_stdout("\n").trim().parse().unwrap();
    running.signal(Signal::TERM);
    running.finish().assert_code(3);
    assert!(process_runs(pid));
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn the_rest_is_killed_when_its_time_is_over_or_somebody_has_had_enough() {
    // It has a child of its own, which is in nobody's list but its parent's.
    let worker = "trap 'exit 3' TERM; sh -c 'trap \"echo asked\" TERM; setsid sh -c \"trap : TERM; echo \\$\\$; \
         while :; do sleep 0.05; done\" & while :; do sleep 0.05; done' & \
         while :; do sleep 0.05; done";
    for (option, enough) in [("--wait=1", None), ("--wait=-1", Some(Signal::INT))] {
        let running = Run::new(init(&[option, "--", "sh", "-c", worker])).spawn();
        let grandchild = running.wait_stdout("\n").trim().parse().unwrap();
        running.signal(Signal::TERM);
        running.wait_stdout("asked");
        if let Some(signal) = enough {
            running.signal(signal);
        }
        let done = running.finish();
        done.assert_code(3);
        assert!(!done.held_open && !process_runs(grandchild), "{done}");
    }
}

#[test]
fn a_command_that_ends_by_itself_is_the_end() {
    let script = with_worker("", "exit", "sleep 0.1; exit 4");
    let running = Run::new(init(&["--wait", "--", "sh", "-c", &script])).spawn();
    let done = running.finish();
    done.assert_code(4);
    assert!(!done.stdout_text().contains("asked"), "{done}");
}

#[test]
fn what_makes_no_sense_is_told() {
    for (args, says) in [
        (&[][..], "no command"),
        (&["-x", "true"][..], "unknown option -x"),
        (&["--wait=x", "true"][..], "--wait: got \"x\""),
        (&["-e", "300", "true"][..], "-e: got \"300\""),
        (&["-p", "FOO", "true"][..], "-p: got \"FOO\""),
        (&["-e"][..], "-e needs an argument"),
    ] {
        let done = Run::new(init(args)).finish();
        done.assert_code(125).assert_stderr(says).assert_stderr("\nhint: see minirun init --help");
        assert_eq!(done.stderr_text().lines().count(), 2, "{done}");
    }
    Run::new(init(&["-s", "nosuch"])).finish().assert_code(127).assert_stderr("\nhint: ");
    Run::new(init(&["-s", "/etc"])).finish().assert_code(126).assert_stderr("\nhint: ");
    let done = Run::new(init(&["--help"])).finish();
    done.assert_code(0);
    assert!(done.stdout_text().contains("--wait") && done.stderr.is_empty(), "{done}");
}
