//! The container's PID 1: reaps, passes signals on, cannot be looked into, ends with its launcher.

mod common;
mod container;

use container::{Container, wait_until};
use rustix::process::Signal;
use testkit::programs::process_runs;

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
fn signals_reach_the_main_command() {
    let c = Container::single();
    for (name, signal) in [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("TERM", Signal::TERM),
        ("WINCH", Signal::WINCH),
        ("ALRM", Signal::ALARM),
    ] {
        let running = c.start(&format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
        ));
        running.wait_stdout("ready");
        running.signal(signal);
        running.finish().assert_code(9).assert_stdout(&format!("ready\ngot {name}\n"));
    }
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
        // What it could not remove itself counts as stopped, and can be removed.
        assert_eq!(c.status(), "stopped");
        c.minirun(&["delete", &c.name]).assert_success();
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
