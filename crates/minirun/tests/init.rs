//! The container's PID 1: reaps, passes signals on, cannot be looked into, ends with its launcher.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use std::process::Command;

use container::{Container, wait_until};
use rustix::process::Signal;
use testkit::programs::{Run, process_runs};

#[test]
fn orphans_are_reaped() {
    for c in Container::all() {
        let done = c.sh("i=0; while [ $i -lt 300 ]; do (true & ); i=$((i+1)); done; \
             n=0; while grep -qs '^State:.Z' /proc/[0-9]*/status && [ $n -lt 200 ]; do \
             sleep 0.05; n=$((n+1)); done; \
             cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'; cat /proc/1/comm");
        assert_eq!(done.stdout_text(), "0\nminirun\n", "{done}");
    }
}

#[test]
fn the_inits_command_line_says_nothing_of_the_host() {
    for c in Container::all() {
        let done =
            c.sh("for p in 1 $$; do tr -d '\\000' < /proc/$p/cmdline | head -c 1 | wc -c; done");
        assert_eq!(done.stdout_text(), "0\n1\n", "{done}");
    }
}

#[test]
fn the_init_ends_with_the_main_command_and_takes_the_rest_along() {
    let c = Container::single();
    let done = c.sh("sleep 1000 & setsid sleep 1000 & exit 5");
    done.assert_code(5);
    assert!(!done.held_open, "a process of the container lives on\n{done}");
}

#[test]
fn ten_thousand_orphans_leave_no_zombie_and_take_no_memory() {
    let c = Container::single();
    let memory = "grep RssAnon /proc/1/status | tr -dc 0-9; echo";
    let done = c.sh(&format!(
        "(: &); {memory}; i=0; while [ $i -lt 10000 ]; do (: &); i=$((i+1)); done; n=0; \
         while grep -qs '^State:.Z' /proc/[0-9]*/status && [ $n -lt 400 ]; do sleep 0.05; \
         n=$((n+1)); done; {memory}; cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'"
    ));
    let text = done.stdout_text();
    let numbers: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let &[before, after, zombies] = &numbers[..] else { panic!("{done}") };
    assert!(after <= before + 64 && zombies == 0, "{done}");
}

#[test]
fn all_exit_codes_are_the_containers() {
    let c = Container::single();
    for code in 0..=255 {
        c.sh(&format!("exit {code}")).assert_code(code);
    }
}

/// No handler stands for them, and the default action ends the process. 32 and 33 are the C
/// library's own.
fn deadly() -> impl Iterator<Item = i32> {
    let harmless = [17, 18, 19, 20, 21, 22, 23, 28, 32, 33];
    (1..=64).filter(move |signal| !harmless.contains(signal))
}

#[test]
fn a_command_that_dies_of_a_signal_ends_the_container_with_128_and_its_number() {
    let c = Container::single();
    // No shell: it has handlers.
    std::fs::write(c.bundle.join("rootfs/tmp/file"), "ready\n").unwrap();
    for signal in deadly() {
        let args = ["--rootless", "--", "tail", "-f", "/tmp/file"];
        let running = Run::new(c.command(&args)).spawn();
        running.wait_stdout("ready");
        c.minirun(&["kill", &c.name, &signal.to_string()]).assert_success();
        running.finish().assert_code(128 + signal);
    }
}

/// Through the minirun outside, and by `minirun kill` for those that it does not take itself.
#[test]
fn every_signal_reaches_the_main_command() {
    let c = Container::single();
    let kept = [9, 17, 19, 32, 33];
    let own = [4, 5, 6, 7, 8, 11, 13, 20, 21, 22, 31];
    let running = c.start(
        "for n in $(seq 1 64); do case $n in 9|17|19|32|33) ;; *) trap \"echo got $n\" $n;; \
         esac; done; echo ready; while :; do sleep 0.05; done",
    );
    let mut want = String::from("ready\n");
    running.wait_stdout(&want);
    for signal in (1..=64).filter(|signal| !kept.contains(signal)) {
        let number = signal.to_string();
        if own.contains(&signal) {
            c.minirun(&["kill", &c.name, &number]).assert_success();
        } else {
            let pid = running.pid().to_string();
            Run::program("kill", &[&format!("-{number}"), &pid]).finish().assert_success();
        }
        want += &format!("got {signal}\n");
        running.wait_stdout(&want);
    }
    running.signal(Signal::KILL);
    running.finish();
}

/// tini's care: nothing that the caller blocks or ignores is so inside, and the group is its own.
#[test]
fn the_main_command_has_signals_as_new_and_a_group_of_its_own() {
    let c = Container::single();
    let inner = c.command(&["--rootless", "--", "grep", "^Sig[BIC]", "/proc/self/status"]);
    let mut command = Command::new("env");
    command.arg("--ignore-signal=HUP").arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(&c.bundle);
    let done = Run::new(command).finish();
    let text = done.stdout_text();
    let masks =
        text.lines().filter_map(|line| u64::from_str_radix(line.split('\t').nth(1)?, 16).ok());
    // 32 and 33 are the C library's: no program can change them by it.
    let masks: Vec<u64> = masks.map(|mask| mask & !(3 << 31)).collect();
    assert_eq!(masks, [0, 0, 0], "{done}");
    c.sh("read stat </proc/$$/stat; set -- $stat; echo $1 $5 $6").assert_stdout("2 2 2\n");
}

#[test]
fn a_command_without_a_handler_dies_of_the_signal() {
    // As PID 1 it would live on: the kernel spares an init what it has no handler for.
    let c = Container::single();
    let running = c.start("echo ready; exec sleep 1000");
    running.wait_stdout("ready");
    running.signal(Signal::TERM);
    running.finish().assert_code(128 + 15);
}

#[test]
fn not_even_root_with_all_capabilities_looks_into_the_init() {
    for c in Container::all() {
        c.configure(|config| {
            let all: Vec<String> =
                caps::all().iter().map(|capability| capability.to_string()).collect();
            let sets = ["bounding", "effective", "permitted"].map(|set| (set, all.clone()));
            config["process"]["capabilities"] = sets.into_iter().collect();
            config["process"]["noNewPrivileges"] = false.into();
        });
        let done = c.sh("grep CapEff /proc/self/status | grep -q 1ff || exit 7; \
             for f in exe root cwd; do readlink /proc/1/$f && echo open: $f; done; \
             for f in maps environ mem auxv; do head -c1 /proc/1/$f && echo open: $f; done; \
             for n in user mnt pid net; do readlink /proc/1/ns/$n && echo open: $n; done; \
             find /proc/1/fd /proc/1/map_files -mindepth 1; \
             readlink /proc/$$/exe");
        done.assert_code(0).assert_stdout("/bin/busybox\n");
    }
}

#[test]
fn nothing_is_left_when_the_launcher_is_killed() {
    for c in Container::all() {
        let running = c.start("(sleep 1000 &); echo ready; sleep 1000");
        running.wait_stdout("ready");
        // The command may speak before the record says that it runs.
        wait_until("the record", || c.status() == "running");
        let init = c.init_pid();
        running.signal(Signal::KILL);
        let done = running.finish();
        assert_eq!(done.signal(), Some(9), "{done}");
        assert!(!done.held_open, "a process of the container lives on\n{done}");
        wait_until("the end of the init", || !process_runs(init));
        // What it could not remove itself is removed by the next call, of whichever test: root's
        // containers are all in one place.
        c.minirun(&["list"]).assert_success();
        wait_until("the end of the record", || c.minirun(&["state", &c.name]).code() == Some(1));
    }
}

#[test]
fn an_init_that_is_killed_ends_the_container_with_its_code() {
    let c = Container::single();
    let running = c.start("echo ready; sleep 1000");
    running.wait_stdout("ready");
    wait_until("the record", || c.status() == "running");
    c.minirun(&["kill", &c.name, "KILL"]).assert_success();
    running.finish().assert_code(137);
}
